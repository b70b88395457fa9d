"""The second renderer of rooms: its maps against the shapes themselves, computed without rays."""

from typing import Any

import numpy as np
import pytest
from comfyui_omnix.evaluation.slope import verdict
from comfyui_omnix.lab.rooms import foreign
from comfyui_omnix.omnix.pictures.panorama import camera_rays
from scipy.spatial.transform import Rotation

HEIGHT = 64
ROOMS = [(seed, family) for family in foreign.FAMILIES for seed in (0, 3)]


def things_of(seed: int, family: str) -> list[foreign.Thing]:
    random = np.random.default_rng([seed, sorted(foreign.FAMILIES).index(family)])
    return foreign._things(random, foreign.FAMILIES[family])


def outside(thing: foreign.Thing, points: Any) -> Any:
    """The distance of points from a thing's surface; below 0 inside it."""
    if thing.is_ball:
        return np.linalg.norm(points - thing.centre, axis=-1) - thing.half[0]
    # Left is +Z, so a turn to the left is a negative one about Y.
    own = Rotation.from_euler("y", thing.yaw).apply(points - thing.centre)
    return (np.abs(own) - thing.half).max(axis=-1)


@pytest.mark.parametrize(("seed", "family"), ROOMS)
def test_every_pixel_is_on_the_first_surface(seed: int, family: str) -> None:
    """It lies on a surface, and no point before it is in a thing or out of the room; the rays are the runtime's."""
    room, things = foreign.foreign_room(seed, HEIGHT, family), things_of(seed, family)
    rays = camera_rays(HEIGHT, 2 * HEIGHT).double().numpy().reshape(-1, 3)
    ends = rays * room.maps["depth"].reshape(-1, 1)
    off = np.stack([np.abs(outside(thing, ends)) for thing in things])
    assert off.min(axis=0).max() < 1e-4
    assert ((off.argmin(axis=0) > 0) == room.furniture.ravel()).mean() > 0.995, "corners lie on two"
    for share in np.linspace(0.02, 0.98, 25):
        assert outside(things[0], share * ends).max() < 0
        assert all(outside(thing, share * ends).min() > -1e-4 for thing in things[1:])


@pytest.mark.parametrize(("seed", "family"), ROOMS)
def test_normals_are_the_slope_of_the_depth(seed: int, family: str) -> None:
    maps = foreign.foreign_room(seed, 128, family).maps
    found = verdict(maps["normal"], maps["depth"])
    assert found is not None and found.angle < 3 and not found.has_better


def test_the_empty_room_is_the_room_without_furniture() -> None:
    room = foreign.foreign_room(0, HEIGHT, "pale")
    assert 0.02 < room.furniture.mean() < 0.4
    for kind in ("depth", "normal"):
        np.testing.assert_array_equal(room.maps[kind][~room.furniture], room.empty[kind][~room.furniture])
    assert (room.maps["depth"][room.furniture] < room.empty["depth"][room.furniture]).all()


def test_families_differ_in_their_colours_and_seeds_in_everything() -> None:
    spread = {}
    for family in foreign.FAMILIES:
        albedo = [foreign.foreign_room(seed, 32, family).maps["albedo"] for seed in range(4)]
        spread[family] = np.mean([np.ptp(colours, axis=-1).mean() for colours in albedo])
        assert np.abs(albedo[0] - albedo[1]).mean() > 0.02
    assert spread["colourful"] > 3 * spread["pale"]
    one, same = (foreign.foreign_room(5, 32, "pale").maps["rgb"] for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert one.min() >= 0 and one.max() <= 1
