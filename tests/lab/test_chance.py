"""Draws that pixels share: every tile covers all directions equally, and a fast picture equals the slow one."""

import numpy as np
import pytest
from comfyui_omnix.lab.rooms import room
from comfyui_omnix.lab.rooms.chance import Chance, strata_of
from comfyui_omnix.lab.rooms.lighting import FAST
from comfyui_omnix.lab.rooms.random_room import random_room


def chance(height: int, width: int) -> Chance:
    return Chance(np.random.default_rng(0), strata_of(height, width))


def tiles(values: np.ndarray, height: int, width: int) -> np.ndarray:
    return values.reshape(-1, height // 4, 4, width // 4, 4).transpose(1, 3, 0, 2, 4).reshape(-1, len(values), 16)


def test_every_tile_has_each_stratum_once() -> None:
    assert (np.sort(tiles(strata_of(8, 16)[None], 8, 16)[:, 0]) == np.arange(16)).all()


def test_each_tiles_directions_are_spread_over_the_sphere() -> None:
    points = chance(32, 64).sphere(32 * 64)
    assert np.abs(np.linalg.norm(points, axis=0) - 1).max() < 1e-5
    # The mean of sixteen independent directions is 0.23 long.
    assert np.linalg.norm(tiles(points, 32, 64).mean(axis=2), axis=1).mean() < 0.12


@pytest.mark.parametrize("flat", [0, 1, 2])
def test_each_tiles_places_are_in_sixteen_squares(flat: int) -> None:
    across = sorted({0, 1, 2} - {flat})
    squares = np.floor(tiles(chance(8, 16).box(8 * 16, flat)[across], 8, 16) * 4)
    assert (np.sort(squares[:, 0] * 4 + squares[:, 1]) == np.arange(16)).all()


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_a_fast_picture_is_the_same_picture(seed: int) -> None:
    stage, other = random_room(seed), random_room(seed + 1)
    picture, fast, wrong = (
        room.render(128, 64, stage=which, quality=how).rgb
        for which, how in ((stage, room.PICTURE), (stage, FAST), (other, FAST))
    )
    assert np.abs(picture - fast).mean() < 0.06
    assert np.abs(picture - wrong).mean() > 0.12
