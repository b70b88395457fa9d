"""Normals against the slope of the depth of the same room: rooms in closed form, every order of axes, and noise."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_omnix.evaluation import slope
from map_trees import box_room, maps, run, write_maps

RIGHT = "expected are front = red, up = green, left = blue."
SIZES = (32, 64, 256)


@pytest.mark.parametrize("height", SIZES)
def test_a_room_agrees_with_itself(height: int) -> None:
    found = slope.verdict(box_room(height).normal, box_room(height).depth)
    assert found is not None and found.angle < 1 and not found.contradicts and found.best == slope.AS_READ


def test_a_tilted_plane_has_the_slope_of_its_formula() -> None:
    """A ball of radius 5 seen from off its middle is no plane, yet as good as one from one pixel to the next."""
    height = 128
    rows, columns = np.meshgrid(np.arange(height), np.arange(2 * height), indexing="ij")
    latitude, longitude = np.pi / 2 - (rows + 0.5) * np.pi / height, np.pi - (columns + 0.5) * np.pi / height
    ray = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.sin(latitude), np.cos(latitude) * np.sin(longitude)], axis=-1
    )
    middle = np.array([1.0, -0.7, 2.0])
    along = ray @ middle
    distance = along + np.sqrt(along**2 - middle @ middle + 25)
    normal = (middle - distance[..., None] * ray) / 5
    found = slope.verdict(normal, distance)
    assert found is not None and found.angle < 0.5


@pytest.mark.parametrize("order", [order for order in slope.ORDERS if order != slope.AS_READ])
def test_every_other_order_of_axes_is_found(order: slope.Order) -> None:
    room = box_room(32)
    stored = np.empty_like(room.normal)
    for axis, (channel, sign) in enumerate(order):
        stored[..., channel] = sign * room.normal[..., axis]
    found = slope.verdict(stored, room.depth)
    assert found is not None and found.contradicts and found.has_better
    assert found.best == order and found.best_angle < 1


def test_noise_and_missing_maps_say_nothing() -> None:
    noise = maps(0, 64)
    assert slope.verdict(noise["normal"], noise["depth"]) is None
    room = box_room(32)
    assert slope.verdict(np.full_like(room.normal, np.nan), room.depth) is None
    assert slope.verdict(room.normal, np.full_like(room.depth, np.nan)) is None


def test_holes_millimetres_and_eight_bits_do_no_harm() -> None:
    room, rng = box_room(256), np.random.default_rng(0)
    depth = np.where(rng.uniform(size=room.depth.shape) < 0.02, np.nan, np.round(room.depth, 3))
    found = slope.verdict(np.round(room.normal * 127) / 127, depth)
    assert found is not None and found.angle < 3


def said(tmp_path: Path, predicted: Any, true: Any) -> str:
    for side, found in (("predicted", predicted), ("true", true)):
        write_maps(tmp_path / side, "a", found)
    done = run(tmp_path / "predicted", tmp_path / "true", "--json")
    assert done.returncode == 0
    return done.stderr


def test_the_report_says_which_side_is_wrong_and_how_it_would_fit(tmp_path: Path) -> None:
    room = box_room(32)._asdict()
    z_up = {"depth": room["depth"], "normal": room["normal"][..., [0, 2, 1]] * [1, -1, 1]}
    words = said(tmp_path / "1", room, z_up)
    assert words.startswith("omnix-evaluate: normal of a, truth: the normals contradict the slope of the depth")
    assert words.count("contradict") == 1 and "with front = red, up = blue, left = -green; " + RIGHT in words
    assert "normal of a, prediction:" in said(tmp_path / "2", z_up, room)
    assert said(tmp_path / "3", room, room) == ""


def test_normals_of_another_room_are_said_without_advice(tmp_path: Path) -> None:
    turned = box_room(32)
    true = {"depth": turned.depth, "normal": np.broadcast_to([0.6, 0.0, 0.8], turned.normal.shape)}
    words = said(tmp_path, {"normal": turned.normal}, true)
    assert (
        "truth: the normals contradict" in words
        and "they may be of two rooms, or turned relative to each other." in words
    )


@pytest.mark.parametrize(("bent", "told"), [(0.3, False), (0.0, False)])
def test_a_relative_depth_of_a_prediction_is_no_contradiction(bent: float, told: bool, tmp_path: Path) -> None:
    room = box_room(64)
    relative = (room.depth - bent * room.depth.min()) / room.depth.max()
    predicted = {"depth": relative, "normal": room.normal}
    assert ("contradict" in said(tmp_path, predicted, room._asdict())) == told


def test_there_are_48_orders() -> None:
    assert len(set(slope.ORDERS)) == 48 and tuple(itertools.product(range(3), [1])) == slope.AS_READ
