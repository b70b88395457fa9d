"""Maps of two sizes: refused with advice, or resized to the smaller size with the right filter for each kind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_omnix.evaluation.run import FILTERS, area, nearest, to_one_size
from comfyui_omnix.mapfiles import layout
from map_trees import box_room, maps, run, write_maps
from PIL import Image

KINDS = ("depth", "normal", "albedo", "roughness", "metallic", "semantic")


def sides(tmp_path: Path, ours: int, true: int) -> tuple[Path, Path]:
    for side, height in (("predicted", ours), ("true", true)):
        found = {kind: values for kind, values in maps(0, height).items() if kind != "rgb"}
        write_maps(tmp_path / side, "a", found | box_room(height)._asdict())
    return tmp_path / "predicted", tmp_path / "true"


def test_without_it_every_map_says_how(tmp_path: Path) -> None:
    done = run(*sides(tmp_path, 16, 32))
    words = "the prediction is 32x16 but the truth is 64x32; resize one to match the other, or use --resize."
    assert done.returncode == 1 and done.stdout == "" and words in done.stderr


@pytest.mark.parametrize(("ours", "true", "shrunk"), [(16, 48, "truth"), (48, 16, "prediction"), (24, 40, "truth")])
def test_with_it_all_are_measured_and_the_filters_are_said(ours: int, true: int, shrunk: str, tmp_path: Path) -> None:
    predicted, truth = sides(tmp_path, ours, true)
    done = run(predicted, truth, "--resize", "--json", "--sheet", tmp_path / "sheet.png")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and tuple(found) == KINDS and (tmp_path / "sheet.png").is_file()
    small, large = sorted((ours, true))
    assert found["albedo"]["pixels"] == 2 * small * small
    for kind in KINDS:
        way = f"the {shrunk} was resized from {2 * large}x{large} to {2 * small}x{small} ({FILTERS[kind].name})."
        assert f"omnix-evaluate: {kind} of a: {way}" in done.stderr
    assert found["depth"]["none"]["unweighted"]["abs_rel"] < 0.1 and found["normal"]["unweighted"]["mean"] < 15


def test_maps_of_one_size_are_left_alone(tmp_path: Path) -> None:
    predicted, truth = sides(tmp_path, 16, 16)
    plain, resized = (run(predicted, truth, *more, "--json") for more in ((), ("--resize",)))
    assert plain.stdout == resized.stdout and resized.stderr == ""


def test_maps_of_other_shapes_are_still_refused() -> None:
    wide, square = np.ones((8, 16)), np.ones((16, 16))
    assert to_one_size("depth", wide, square) == (wide, square, "")


@pytest.mark.parametrize("size", [(4, 8), (5, 10), (7, 13), (16, 32)])
def test_the_mean_of_the_area_is_pillows(size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).uniform(0, 1, (16, 32)).astype(np.float32)
    theirs = np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.BOX))
    if 16 % size[0] == 0:  # elsewhere Pillow counts whole pixels where this counts parts of them
        np.testing.assert_allclose(area(values, size), theirs, atol=1e-6)
    fine = np.kron(values, np.ones(size)).astype(np.float32)
    blocks = fine.reshape(size[0], 16, size[1], 32).mean(axis=(1, 3))
    np.testing.assert_allclose(area(values, size), blocks, atol=1e-6)


def test_nearest_makes_no_value_up() -> None:
    values: Any = np.arange(12 * 24).reshape(12, 24)
    for size in ((4, 8), (5, 10), (11, 22), (12, 24)):
        wanted = [
            [values[int((i + 0.5) * 12 / size[0]), int((j + 0.5) * 24 / size[1])] for j in range(size[1])]
            for i in range(size[0])
        ]
        np.testing.assert_array_equal(nearest(values, size), wanted)


def test_normals_stay_unit_and_holes_do_not_spread(tmp_path: Path) -> None:
    normal = box_room(32).normal.astype(np.float32)
    normal[0:2, 0:2] = np.nan
    normal[4, 4] = np.nan
    _, small, _ = to_one_size("normal", np.ones((16, 32, 3), np.float32), normal)
    length = np.linalg.norm(small, axis=-1)
    assert np.isnan(length[0, 0]) and np.isnan(length).sum() == 1
    np.testing.assert_allclose(length[np.isfinite(length)], 1, atol=1e-6)


def test_a_saved_layout_is_left_as_it_was(tmp_path: Path) -> None:
    predicted, truth = sides(tmp_path, 16, 32)
    before = layout.find(truth, "depth", "a").read_bytes()
    assert run(predicted, truth, "--resize").returncode == 0
    assert layout.find(truth, "depth", "a").read_bytes() == before
