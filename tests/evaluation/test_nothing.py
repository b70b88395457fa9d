"""Depth values that mean "no surface" are not distances, from any program; and they are counted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_omnix.mapfiles import layout
from comfyui_omnix.mapfiles.nothing import without_far_plane
from map_trees import box_room, run, write_maps

ROOM = box_room(32).depth


def depth_of(predicted: Any, true: Any, tmp_path: Path, dtype: type = np.float32) -> tuple[dict[str, Any], str]:
    """Measure two depths as EXR files; return the figures without alignment, and what was said."""
    for side, values in (("predicted", predicted), ("true", true)):
        layout.save(tmp_path / side / "depth" / "1.exr", np.asarray(values).astype(dtype))
    done = run(tmp_path / "predicted", tmp_path / "true", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["depth"]["none"], done.stderr


@pytest.mark.parametrize("value", [1e10, 1e9, 3.4e38, 65504.0, np.inf, 0.0, -1.0])
def test_values_that_renderers_write(value: float, tmp_path: Path) -> None:
    true = ROOM.copy()
    true[:5] = value
    found, said = depth_of(ROOM + 0.5, true, tmp_path)
    assert found["unweighted"]["mae"] == pytest.approx(0.5, abs=1e-6)
    assert (found["invalid"], found["nothing_true"], found["nothing_predicted"]) == (5 * 64, 5 * 64, 0)
    assert said == ""


@pytest.mark.parametrize("far", [100.0, 1000.0, 25.0])
def test_a_far_plane_is_left_out_of_the_truth_and_said(far: float, tmp_path: Path) -> None:
    true = ROOM.copy()
    true[3, 4:9] = far
    found, said = depth_of(ROOM + 0.5, true, tmp_path)
    assert found["unweighted"]["mae"] == pytest.approx(0.5, abs=1e-6) and found["nothing_true"] == 5
    assert "depth of 1: many pixels of the truth share its largest depth" in said


def test_a_prediction_is_not_excused_by_a_far_plane(tmp_path: Path) -> None:
    predicted = ROOM.copy()
    predicted[3, 4:9] = 1000
    found, said = depth_of(predicted, ROOM, tmp_path)
    assert found["unweighted"]["mae"] > 1 and found["invalid"] == 0 and said == ""


@pytest.mark.parametrize("case", ["one pixel", "clipped", "same everywhere", "not much farther", "relative"])
def test_what_is_no_far_plane(case: str) -> None:
    """A single far thing, a sensor's limit that the room reaches, a plane picture, a wall behind a door, a window."""
    depth = ROOM.astype(np.float32)
    changed = {
        "one pixel": np.where(np.arange(depth.size).reshape(depth.shape) == 77, 100, depth),
        "clipped": np.minimum(depth, 2.5),
        "same everywhere": np.full_like(depth, 3),
        "relative": np.where(depth > 3, 1, depth / 10),
        "not much farther": np.where(depth > 3, depth.max() * 1.5, depth),
    }[case]
    kept, pixels = without_far_plane(changed)
    assert pixels == 0 and kept is changed


def test_the_largest_number_of_16_bits_is_none(tmp_path: Path) -> None:
    """Half floats end at 65504, where numbers that are too large end too; PNG at 65535."""
    layout.save(tmp_path / "a.png", np.array([[65535, 65534, 0, 1500]], dtype=np.uint16))
    np.testing.assert_allclose(layout.read(tmp_path / "a.png", "depth"), [[np.nan, 65.534, np.nan, 1.5]], rtol=1e-6)
    true = ROOM.copy()
    true[0] = 65504
    layout.save(tmp_path / "half.exr", true.astype(np.float16))
    assert np.isnan(layout.read(tmp_path / "half.exr", "depth")).sum() == 64


def test_the_table_counts_them(tmp_path: Path) -> None:
    true = ROOM.copy()
    true[0] = 1e10
    for side, values in (("predicted", ROOM), ("true", true)):
        layout.save(tmp_path / side / "depth" / "1.exr", values.astype(np.float32))
    for form in ("--markdown", "--map=depth"):
        words = run(tmp_path / "predicted", tmp_path / "true", form).stdout
        assert "no surface: 0 predicted pixels, 64 true ones" in words


def test_maps_that_are_written_never_mean_nothing_by_chance(tmp_path: Path) -> None:
    write_maps(tmp_path, "1", {"depth": ROOM * 100})
    np.testing.assert_allclose(layout.read(tmp_path / "depth" / "1.exr", "depth"), ROOM * 100, rtol=1e-6)
