"""The files of Save Panorama and Maps, written by the node itself, can be measured directly."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_omnix.graph.pictures import VALUES, encodings
from comfyui_omnix.mapfiles.trees import side
from map_trees import box_room, maps, run, write_maps

KINDS = ("depth", "normal", "albedo", "roughness", "metallic", "semantic")


def image(values: Any) -> torch.Tensor:
    array = np.asarray(values, dtype=np.float32)
    return torch.from_numpy(array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=-1))


def pictures() -> dict[str, torch.Tensor]:
    """A room as the nodes give it out: every map a picture in [0, 1]."""
    found, room = maps(0, 32), box_room(32)
    return {
        "panorama": image(found["rgb"]),
        "depth": image(room.depth / 8),
        "normal": image(room.normal * 0.5 + 0.5),
        **{name: image(found[name]) for name in ("albedo", "roughness", "metallic")},
        "semantic": image(found["semantic"] / 255),
    }


def save(folder: Path, stem: str, values: str, given: dict[str, torch.Tensor]) -> None:
    """Write as the node does: each map's files by their endings."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in given.items():
        for part, content in encodings(name, picture, name in VALUES[values], {}):
            (folder / f"{stem}_{part}").write_bytes(content)


@pytest.mark.parametrize("values", ["depth", "every map"])
def test_a_folder_of_one_run_meets_its_truth(values: str, tmp_path: Path) -> None:
    """The numbers that the node counts with are not the truth's names: one room each is a pair."""
    save(tmp_path / "saved", "room_00001", values, pictures())
    write_maps(
        tmp_path / "true", "0000", {k: v for k, v in (maps(0, 32) | box_room(32)._asdict()).items() if k != "rgb"}
    )
    done = run(tmp_path / "saved", tmp_path / "true", "--json")
    assert done.returncode == 0 and "contradict" not in done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert tuple(found) == KINDS
    assert found["depth"]["scale_by_median"]["unweighted"]["abs_rel"] < 1e-6
    assert found["normal"]["unweighted"]["mean"] < 0.6 and found["semantic"]["unweighted"]["accuracy"] == 1
    assert all(psnr is None or psnr > 50 for psnr in (found[kind]["unweighted"]["psnr"] for kind in KINDS[2:5]))


def test_the_best_file_of_each_is_read(tmp_path: Path) -> None:
    save(tmp_path, "my_room_00012", "every map", pictures())
    found = side(tmp_path, None).maps
    names = {kind: files["my_room_00012"].name.removeprefix("my_room_00012_") for kind, files in found.items()}
    assert names == {
        "rgb": "panorama.png",
        "depth": "depth_float.exr",
        "normal": "normal_float.exr",
        "semantic": "semantic.png",
        **{kind: f"{kind}_16bit.png" for kind in ("albedo", "roughness", "metallic")},
    }


def test_depth_is_read_from_16_bits_and_never_from_the_view(tmp_path: Path) -> None:
    given = pictures()
    save(tmp_path / "saved", "room_00001", "depth", given)
    (tmp_path / "saved" / "room_00001_depth_float.exr").unlink()
    found = side(tmp_path / "saved", None)
    values = found.read(found.maps["depth"]["room_00001"], "depth")
    np.testing.assert_allclose(values, given["depth"][..., 0], atol=1e-5)
    save(tmp_path / "bare", "room_00001", "none", {"depth": given["depth"]})
    done = run(tmp_path / "bare", tmp_path / "bare")
    assert done.returncode == 1 and "no maps found" in done.stderr


def test_several_rooms_are_paired_by_prefix_and_number(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        for number in (1, 2):
            save(tmp_path / folder, f"room_{number:05}", "depth", pictures())
    done = run(tmp_path / "a", tmp_path / "b", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["normal"]["pixels"] == 2 * 32 * 64


def test_single_files_are_what_their_names_say(tmp_path: Path) -> None:
    save(tmp_path, "room_00001", "every map", pictures())
    write_maps(tmp_path / "true", "x", {"normal": box_room(32).normal})
    done = run(tmp_path / "room_00001_normal_float.exr", tmp_path / "true" / "normal" / "x.png", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["normal"]["unweighted"]["mean"] < 0.1
