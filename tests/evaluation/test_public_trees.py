"""The trees of public sets, built as their own pages describe them, against predictions in the plain layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from comfyui_omnix.evaluation import layout
from map_trees import maps, run, write_maps
from PIL import Image


def save16(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values).astype(np.uint16)).save(path)


def save8(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values).astype(np.uint8)).save(path)


def measured(predicted: Path, truth: Path) -> Any:
    done = run(predicted, truth, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def structured3d(root: Path, scene: str, room: str, found: dict[str, Any]) -> None:
    folder = root / scene / "2D_rendering" / room / "panorama" / "full"
    depth = np.rint(found["depth"] * 1000)
    depth[0, :4] = 0
    save16(folder / "depth.png", depth)
    front, up, left = np.moveaxis(found["normal"], -1, 0)
    world = np.stack([-left, front, up], axis=-1)
    save8(folder / "normal.png", np.clip(np.rint(128 * (1 + world)), 0, 255))
    save8(folder / "rgb_rawlight.png", found["rgb"] * 255)
    save8(folder / "albedo.png", np.rint(found["albedo"] * 255))
    labels = found["semantic"].copy()
    labels[1, :6] = 0
    save8(folder / "semantic.png", labels)


def test_structured3d(tmp_path: Path) -> None:
    for number, (scene, room) in enumerate(
        (("scene_00000", "485142"), ("scene_00000", "490854"), ("scene_00001", "7"))
    ):
        found = maps(number)
        structured3d(tmp_path / "set", scene, room, found)
        write_maps(
            tmp_path / "predicted",
            f"{scene}_{room}",
            {k: v for k, v in found.items() if k not in ("rgb", "roughness", "metallic")},
        )
    found = measured(tmp_path / "predicted", tmp_path / "set")
    assert list(found) == ["depth", "normal", "albedo", "semantic"]
    assert found["depth"]["none"]["unweighted"]["mae"] < 0.0006 and found["depth"]["none"]["invalid"] == 12
    assert found["normal"]["unweighted"]["mean"] < 0.5 and found["normal"]["unweighted"]["within_5"] == 1
    assert found["albedo"]["unweighted"]["psnr"] is None
    assert found["semantic"]["unweighted"]["accuracy"] == 1 and found["semantic"]["invalid"] == 18


def test_up_is_up_in_structured3d(tmp_path: Path) -> None:
    """A floor's normal is (0, 0, 1) there and (0, 1, 0) here; the wall that the panorama looks at faces back, -y."""
    folder = tmp_path / "set" / "scene_00000" / "2D_rendering" / "1" / "panorama" / "full"
    save8(folder / "normal.png", [[[128, 128, 255], [128, 0, 128], [0, 128, 128], [128, 128, 0]]])
    from comfyui_omnix.evaluation.trees import side

    found = side(tmp_path / "set", None)
    normals = found.read(found.maps["normal"]["scene_00000_1"], "normal")
    np.testing.assert_allclose(normals[0], [[0, 1, 0], [-1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-6)


def test_stanford2d3d(tmp_path: Path) -> None:
    name = "camera_00d10d86db1e435081a837ced388375f_office_24_frame_equirectangular_domain"
    found = maps(0)
    depth = np.rint(found["depth"] * 512)
    depth[3, :7] = 65535
    pano = tmp_path / "set" / "area_1" / "pano"
    save16(pano / "depth" / f"{name}_depth.png", depth)
    save8(pano / "rgb" / f"{name}_rgb.png", found["rgb"] * 255)
    save8(pano / "normal" / f"{name}_normals.png", found["rgb"] * 255)
    write_maps(tmp_path / "predicted", name, {"depth": depth / 512})
    measure = measured(tmp_path / "predicted", tmp_path / "set")["depth"]["none"]
    assert measure["unweighted"]["mae"] < 1e-6 and measure["invalid"] == 7


def test_matterport3d(tmp_path: Path) -> None:
    found = maps(0)
    depth = np.rint(found["depth"] * 4000)
    depth[5, 5] = 0
    for scan, stem in (
        ("17DRP5sb8fy", "00ebbf3782c64d74aaf7dd39cd561175"),
        ("1LXtFkjw3qL", "0b22fa63d0f54a529c525afbf2e8bb25"),
    ):
        save16(tmp_path / "set" / scan / "pano_depth" / f"{stem}.png", depth)
        save8(tmp_path / "set" / scan / "pano_skybox_color" / f"{stem}.jpg", found["rgb"] * 255)
        write_maps(tmp_path / "predicted", stem, {"depth": found["depth"]})
    measure = measured(tmp_path / "predicted", tmp_path / "set")["depth"]["none"]
    assert measure["unweighted"]["mae"] < 0.0002 and measure["invalid"] == 2


def test_a_tree_of_a_set_with_a_wrong_depth_and_twins(tmp_path: Path) -> None:
    write_maps(tmp_path / "predicted", "a", {"depth": maps(0)["depth"]})
    save8(tmp_path / "set" / "scan" / "pano_depth" / "a.png", np.ones((16, 32)))
    done = run(tmp_path / "predicted", tmp_path / "set")
    assert done.returncode == 1 and "expected uint16, got uint8" in done.stderr
    save16(tmp_path / "set" / "other" / "pano_depth" / "a.png", np.ones((16, 32)))
    done = run(tmp_path / "predicted", tmp_path / "set")
    assert done.returncode == 1 and "has the same stem, a" in done.stderr


def test_a_set_can_be_the_prediction_too(tmp_path: Path) -> None:
    structured3d(tmp_path / "set", "scene_00000", "1", maps(0))
    found = measured(tmp_path / "set", tmp_path / "set")
    assert found["normal"]["unweighted"]["mean"] == 0 and layout.kinds(tmp_path / "set") == ()
