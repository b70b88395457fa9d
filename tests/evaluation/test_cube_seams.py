"""PaGeR's seam figures: against loops over the pixels, against the geometry of a cube, and by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_omnix.evaluation.compare import compare
from comfyui_omnix.evaluation.depth import faces, seams
from comfyui_omnix.evaluation.report import summary
from map_trees import box_room, run, write_maps


def oracle(depth: Any) -> dict[str, float]:
    """The definitions, one pair of pixels at a time."""
    height, width = depth.shape
    low, high = np.quantile(depth, 0.01), np.quantile(depth, 0.99)
    shown = [[min(1.0, max(0.0, (value - low) / (high - low))) for value in row] for row in depth.tolist()]
    steps: dict[frozenset[int], list[float]] = {}
    for i in range(height):
        for j in range(width):
            for k, m in ((i, (j + 1) % width), (i + 1, j)):
                if k < height and (one := face_of(i, j, height, width)) != (other := face_of(k, m, height, width)):
                    steps.setdefault(frozenset((one, other)), []).append(abs(shown[i][j] - shown[k][m]))
    every = [step for each in steps.values() for step in each]
    return {
        "seam_defect_density": sum(step > 0.010 for step in every) / len(every),
        "seam_severity": sum(sum(each) / len(each) > 0.008 for each in steps.values()) / len(steps),
        "seam_prevalence": sum(sum(s > 0.010 for s in each) / len(each) > 0.05 for each in steps.values()) / len(steps),
    }


def face_of(i: int, j: int, height: int, width: int) -> int:
    """The face of a pixel: a quarter of the columns each, and above and below the arc of the cube's upper edge."""
    quarter, eighth = width // 4, width // 8
    column = (j - 3 * eighth) % width
    angle = (-math.pi + 2 * math.pi * (column % quarter) / (quarter - 1)) / 4
    arc = round(height / 2 - math.atan(math.cos(angle)) * height / math.pi)
    down = height - 1 - i < arc
    return 5 if down else 4 if i < arc else column // quarter


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("height", [16, 28, 32])
def test_they_are_the_oracles(height: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth = box_room(height).depth * (1 + 0.01 * seed * rng.normal(size=(height, 2 * height)))
    found = seams(depth.astype(np.float32))
    assert found == pytest.approx(oracle(depth.astype(np.float32)), abs=1e-12)
    assert seed == 0 or found["seam_defect_density"] > 0.1


def test_faces_are_those_of_a_cube() -> None:
    """The largest part of a direction names its face, except for a row or column at an edge, because of rounding."""
    height = 128
    face = faces(height, 2 * height)
    rows, columns = np.meshgrid(np.arange(height), np.arange(2 * height), indexing="ij")
    latitude, longitude = np.pi / 2 - (rows + 0.5) * np.pi / height, np.pi - (columns + 0.5) * np.pi / height
    front, up, left = np.cos(latitude) * np.cos(longitude), np.sin(latitude), np.cos(latitude) * np.sin(longitude)
    sizes = np.stack([front, -left, -front, left, up, -up])
    assert (face == sizes.argmax(axis=0)).mean() > 0.97
    assert sorted(np.unique(face)) == [0, 1, 2, 3, 4, 5]


def test_one_face_that_is_off_breaks_its_four_edges() -> None:
    smooth = np.tile(2 + np.sin(np.arange(64) * np.pi / 32), (32, 1))
    assert seams(smooth + 100 * (faces(32, 64) == 6)) == oracle(smooth)
    bent = np.full((32, 64), 1.0)
    bent[faces(32, 64) == 2] += 0.5
    found = seams(bent)
    assert found["seam_severity"] == found["seam_prevalence"] == pytest.approx(4 / 12)
    assert 0.2 < found["seam_defect_density"] < 0.5


def test_a_scale_and_a_shift_change_nothing_and_holes_are_left_out() -> None:
    depth = box_room(32).depth
    found = seams(depth)
    assert seams(3 * depth + 5) == pytest.approx(found)
    depth[10, 20] = np.nan
    assert all(0 <= value <= 1 for value in seams(depth).values())
    for nothing in (np.full((4, 8), np.nan), np.ones((4, 6))):
        assert all(math.isnan(value) for value in seams(nothing).values())


def test_they_are_in_the_report_and_are_means_of_the_pictures(tmp_path: Path) -> None:
    rooms = [box_room(16).depth, box_room(16).depth * np.random.default_rng(1).uniform(0.9, 1.1, (16, 32))]
    found = summary({"depth": [compare("depth", depth, depth) for depth in rooms]})["depth"]
    for name in ("seam_defect_density", "seam_severity", "seam_prevalence"):
        wanted = np.mean([oracle(depth)[name] for depth in rooms])
        assert [part[name] for part in found.values()] == [pytest.approx(wanted)] * len(found)
    write_maps(tmp_path, "1", {"depth": rooms[1]})
    assert "seams of a cube (PaGeR): defect density 0." in run(tmp_path, tmp_path).stdout
