"""The layouts of public data sets, built as their own pages describe them, against predictions in the plain layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_omnix.mapfiles import layout
from comfyui_omnix.mapfiles.trees import side
from map_trees import box_room, maps, run, write_maps
from PIL import Image

# NYUv2's number -> colour of ScanNet's tools: wall, floor, door, window, curtain, ceiling, otherprop.
SCANNET = {
    1: (174, 199, 232),
    2: (152, 223, 138),
    8: (214, 39, 40),
    9: (197, 176, 213),
    16: (219, 219, 141),
    22: (78, 71, 183),
    40: (100, 85, 144),
}


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
    # Red is the look-at, green is up, and blue the rest of a left-handed system, which is left (the author, issue 61).
    save8(folder / "normal.png", np.clip(np.rint(128 * (1 + found["normal"])), 0, 255))
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
    """A floor is green there; the wall that the panorama looks at is without red, the wall on the left without blue."""
    folder = tmp_path / "set" / "scene_00000" / "2D_rendering" / "1" / "panorama" / "full"
    save8(folder / "normal.png", [[[128, 255, 128], [0, 128, 128], [128, 128, 0], [128, 0, 128]]])
    found = side(tmp_path / "set", None)
    normals = found.read(found.maps["normal"]["scene_00000_1"], "normal")
    np.testing.assert_allclose(normals[0], [[0, 1, 0], [-1, 0, 0], [0, 0, -1], [0, -1, 0]], atol=1e-6)


def test_structured3d_agrees_with_the_slope_of_its_depth(tmp_path: Path) -> None:
    """A whole room, whose walls, floor and ceiling are known in closed form: nothing is said, and no degree is lost."""
    room = box_room(64)
    structured3d(tmp_path / "set", "scene_00000", "1", maps(0, 64) | room._asdict())
    write_maps(tmp_path / "predicted", "scene_00000_1", room._asdict())
    done = run(tmp_path / "predicted", tmp_path / "set", "--map", "normal", "--json")
    assert done.returncode == 0 and "contradict" not in done.stderr
    assert json.loads(done.stdout)["normal"]["unweighted"]["mean"] < 0.3


def test_class_numbers_of_structured3d(tmp_path: Path) -> None:
    """One channel of 8 bits, as the set's page says: a prediction in ScanNet's colours is right; 41 is no class."""
    colours = np.zeros((41, 3), dtype=np.uint8)
    for number, colour in SCANNET.items():
        colours[number] = colour
    numbers = np.random.default_rng(0).choice([0, *SCANNET], (16, 32))
    structured3d(tmp_path / "set", "scene_00000", "1", maps(0))
    path = tmp_path / "set/scene_00000/2D_rendering/1/panorama/full/semantic.png"
    save8(path, numbers)
    write_maps(tmp_path / "predicted", "scene_00000_1", {"semantic": colours[numbers], "depth": maps(0)["depth"]})
    found = measured(tmp_path / "predicted", tmp_path / "set")
    assert found["semantic"]["unweighted"] == {"accuracy": 1.0, "miou": 1.0}
    assert found["semantic"]["invalid"] == np.count_nonzero(numbers == 0) and "depth" in found
    numbers[2, 2] = 41
    save8(path, numbers)
    done = run(tmp_path / "predicted", tmp_path / "set", "--json")
    assert done.returncode == 1 and list(json.loads(done.stdout)) == ["depth"]
    assert "not measured: semantic of scene_00000_1" in done.stderr and "up to 40, got 41" in done.stderr


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


@pytest.mark.parametrize("rgb", ["rgb_", "rgb"])
def test_stanford2d3d_as_others_list_it(rgb: str, tmp_path: Path) -> None:
    """UniFuse and DA360 keep it as area_5a/rgb_/*_rgb.png and area_5a/depth/*_depth.png; 65535 means none here too."""
    depth = np.rint(maps(0)["depth"] * 512)
    depth[3, :7] = 65535
    for area, name in (
        ("area_1", "camera_a_office_1_frame_equirectangular_domain"),
        ("area_5a", "camera_b_hall_domain"),
    ):
        save16(tmp_path / "set" / area / "depth" / f"{name}_depth.png", depth)
        save8(tmp_path / "set" / area / rgb / f"{name}_rgb.png", maps(0)["rgb"] * 255)
        write_maps(tmp_path / "predicted", name, {"depth": np.minimum(depth / 512, 20)})
    found = measured(tmp_path / "predicted", tmp_path / "set")["depth"]["none"]
    assert found["unweighted"]["mae"] < 1e-6 and found["invalid"] == found["nothing_true"] == 14
    assert len(side(tmp_path / "set", None).maps["rgb"]) == 2


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
