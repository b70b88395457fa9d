"""The micro model's rivals and the table of figures: against numpy, and on the same pixels as the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comfyui_omnix.lab.micro import baselines, classes, evaluating, graphs, limits, tables
from comfyui_omnix.lab.micro.judged import JudgedRoom, other_room, own_room, write
from comfyui_omnix.lab.micro.pictures import halved

SIZE = (6, 12)


def drawn(seed: int) -> JudgedRoom:
    """A room of chance: nothing about it is true, but every map is one."""
    random = np.random.default_rng(seed)
    normal = random.normal(size=(*SIZE, 3))
    maps = {
        "rgb": random.uniform(0, 1, (*SIZE, 3)),
        "depth": random.uniform(1, 5, SIZE),
        "normal": normal / np.linalg.norm(normal, axis=-1, keepdims=True),
        "albedo": random.uniform(0, 1, (*SIZE, 3)),
        "roughness": random.uniform(0, 1, SIZE),
        "metallic": random.uniform(0, 1, SIZE),
    }
    return JudgedRoom(maps, random.random(SIZE) < 0.4, {}, {})


@pytest.fixture(scope="module")
def rooms() -> list[JudgedRoom]:
    return [drawn(seed) for seed in range(4)]


def test_the_mean_of_rows_is_the_mean_of_each_row(rooms: list[JudgedRoom]) -> None:
    found = baselines.fitted("albedo", rooms, baselines.rows)(rooms[0])
    mean = np.mean([room.maps["albedo"].mean(axis=1) for room in rooms], axis=0)
    np.testing.assert_allclose(found, np.repeat(mean[:, None], SIZE[1], axis=1), rtol=1e-3)
    depth = baselines.fitted("depth", rooms, baselines.rows)(rooms[0])
    logs = [np.log(room.maps["depth"] / np.median(room.maps["depth"])).mean(axis=1) for room in rooms]
    np.testing.assert_allclose(np.log(depth)[:, 0], np.mean(logs, axis=0), atol=1e-3)


def test_rows_predict_their_most_frequent_class(rooms: list[JudgedRoom]) -> None:
    random = np.random.default_rng(9)
    drawn_codes = [classes.LEGEND[random.integers(0, 3, SIZE) * (np.arange(SIZE[1]) % 3 > 0)] for _ in rooms]
    known = [room._replace(maps={**room.maps, "semantic": codes}) for room, codes in zip(rooms, drawn_codes)]
    found = baselines.fitted("semantic", known, baselines.rows)(known[0])
    counts = [np.unique(row, return_counts=True) for row in np.concatenate(drawn_codes, axis=1)]
    frequent = np.array([codes[numbers.argmax()] for codes, numbers in counts])
    assert (found == frequent[:, None]).all()


def test_a_row_of_all_directions_still_has_one(rooms: list[JudgedRoom]) -> None:
    """At the horizon the mean of normals is nearly nothing: its direction is predicted, not left out."""
    opposite = [room._replace(maps={**room.maps, "normal": -room.maps["normal"]}) for room in rooms]
    found = baselines.fitted("normal", [*rooms, *opposite[:-1]], baselines.rows)(rooms[0])
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-9)


def test_the_ridge_is_least_squares_with_a_penalty(rooms: list[JudgedRoom]) -> None:
    features = np.concatenate([baselines.colours_and_rows(room.maps["rgb"]) for room in rooms])
    target = np.concatenate([room.maps["albedo"].reshape(-1, 3) for room in rooms])
    penalty = np.sqrt(baselines.RIDGE * len(features)) * np.eye(features.shape[1])
    known = np.concatenate([target, np.zeros((len(penalty), 3))])
    weights = np.linalg.lstsq(np.concatenate([features, penalty]), known, rcond=None)[0]
    expected = np.clip(baselines.colours_and_rows(rooms[1].maps["rgb"]) @ weights, 0, 1)
    found = baselines.fitted("albedo", rooms, baselines.colours_and_rows)(rooms[1])
    np.testing.assert_allclose(found.reshape(-1, 3), expected, atol=1e-6)


def test_the_ridge_sees_colour_its_products_and_the_mean(rooms: list[JudgedRoom]) -> None:
    """A map that is made of these is found again, but for the penalty."""

    def albedo(rgb: np.ndarray) -> np.ndarray:
        return 0.2 + 0.3 * rgb[..., [1, 2, 0]] * rgb + 0.2 * rgb - 0.1 * rgb.mean(axis=(0, 1)) * rgb

    known = [room._replace(maps={**room.maps, "albedo": albedo(room.maps["rgb"])}) for room in rooms]
    found = baselines.fitted("albedo", known, baselines.colours_and_rows)(known[0])
    np.testing.assert_allclose(found, known[0].maps["albedo"], atol=0.01)


def test_a_class_is_the_mean_of_its_material() -> None:
    red, blue = np.zeros((2, 2, 4), int), np.full((2, 4), 7)
    classes = (red[0], blue, np.concatenate([red[0][:, :2], blue[:, 2:]], axis=1))
    made = [
        JudgedRoom({}, np.zeros((1, 2), bool), {}, {"semantic": known, "roughness": np.full((2, 4), value)})
        for known, value in zip(classes, (0.2, 0.6, 0.8))
    ]
    found = baselines.by_class("roughness", made)(made[2])
    assert found == pytest.approx(np.array([[(2 * 0.2 + 0.8) / 3, (2 * 0.6 + 0.8) / 3]]))


@pytest.mark.parametrize("family", ["", "pale"])
def test_rivals_are_measured_wherever_the_truth_has_a_value(family: str) -> None:
    judged, other = (other_room(seed, family) if family else own_room(seed) for seed in (1_000_000, 5))
    for title, kinds in baselines.baselines([judged], [other]).items():
        for kind, predict in kinds.items():
            predicted = predict(judged)
            assert predicted.shape == judged.maps[kind].shape
            assert (np.isfinite(predicted) | ~np.isfinite(judged.maps[kind])).all(), (title, kind)


@pytest.mark.parametrize("kind", ["own", "crowded", "colourful"])
def test_the_empty_room_is_right_on_bare_walls_alone(kind: str) -> None:
    foreign = kind == "colourful"
    judged = other_room(1_000_001, kind) if foreign else own_room(1_000_002, crowded=kind == "crowded")
    away = np.abs(judged.empty["depth"] / judged.maps["depth"] - 1)
    assert np.nanmedian(away[~judged.furniture]) < 1e-3 and np.nanmean(away[judged.furniture]) > 0.05
    assert np.nanpercentile(away[~judged.furniture], 85) < 1e-3
    assert (judged.empty["depth"] > 0.999 * judged.maps["depth"])[np.isfinite(judged.maps["depth"])].mean() > 0.98


def test_the_table_has_furniture_and_shell_apart(rooms: list[JudgedRoom]) -> None:
    predicted = {kind: [room.maps[kind] for room in (*rooms[1:], rooms[0])] for kind in ("depth", "albedo")}
    found = tables.figures(predicted, rooms)
    for part, of in tables.PARTS.items():
        errors = []
        for ours, room in zip(predicted["depth"], rooms):
            true = room.maps["depth"]
            aligned = ours * np.median(true) / np.median(ours)
            errors.append((np.abs(aligned - true) / true)[of(room)].mean())
        assert found["depth", part]["abs_rel"] == pytest.approx(np.mean(errors))
        squares = [np.square(ours - r.maps["albedo"])[of(r)].mean() for ours, r in zip(predicted["albedo"], rooms)]
        assert found["albedo", part]["psnr"] == pytest.approx(np.mean(-10 * np.log10(squares)))
    written = tables.table({"others": predicted}, rooms)
    furniture = found["depth", "furniture"]["abs_rel"]
    assert f"| | furniture | {furniture:#.3g} |" in written.replace("|  |", "| |")
    assert "seam of the error" in written and "not learned" not in written
    metallic = tables.table({"others": {"metallic": [room.maps["metallic"] for room in rooms]}}, rooms)
    assert "| metallic, PSNR in dB (not learned) | all |" in metallic


def test_tasks_are_those_whose_maps_the_rooms_have() -> None:
    assert {rooms.name: rooms.number for rooms in evaluating.room_sets(8)} == {
        "own": 8,
        "crowded": 4,
        "foreign pale": 4,
        "foreign colourful": 4,
    }
    known = {kind: halved(np.ones((4, 8))) for kind in ("rgb", "depth", "normal", "albedo")}
    assert evaluating.tasks_of(graphs.WEIGHTS, known) == ["rgb_to_albedo", "rgb_to_depth", "rgb_to_normal"]
    assert set(evaluating.tasks_of(graphs.WEIGHTS, {*known, *evaluating.MADE})) == set(graphs.tasks(graphs.WEIGHTS))


@pytest.mark.parametrize("kind", ["own", "pale"])
def test_what_the_vae_allows_is_close_to_the_truth_and_worse_on_furniture(kind: str, tmp_path: Path) -> None:
    judged = [own_room(1_000_000 + n) if kind == "own" else other_room(1_000_000 + n, kind) for n in range(4)]
    allowed = limits.through_vae(graphs.WEIGHTS, tmp_path, write(tmp_path, judged))
    assert {*allowed} == {*judged[0].maps} - {"rgb"}
    found = tables.figures(allowed, judged)
    depth, normals = (
        [found[of, part][figure] for part in tables.PARTS] for of, figure in (("depth", "abs_rel"), ("normal", "mean"))
    )
    assert depth[1] < depth[0] < 0.04 and depth[0] < depth[2] < 0.15
    assert normals[1] < normals[0] < 6 and normals[0] < normals[2] < 30
    if kind == "own":
        assert 0.85 < found["semantic", "all"]["accuracy"] < 0.97
