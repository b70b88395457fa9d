"""Make true maps as imperfect as a model's, from a seed, to test scenes, cuts and metrics with realistic maps.

The kinds of error are those in maps of real weights. The distance is first scaled to [0, 1] by its greatest value below
the clip, because a model's depth is relative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from .shapes import Array


@dataclass(frozen=True)
class Degradation:
    """The errors of degraded maps.

    blur: pixels from 10 to 90 % of an edge; drift: relative error of low frequency (standard deviation); grain: the
    relative error of each pixel; levels: steps that depth is rounded to, 0 = none; far: the quantile of distance where
    depth is clipped; normal_blur in pixels as `blur`; normal_error in degrees (mean), of low frequency; turn in degrees
    about the vertical, of the normals alone.
    """

    blur: float = 2.0
    drift: float = 0.03
    grain: float = 0.003
    levels: int = 256
    far: float = 0.98
    normal_blur: float = 2.0
    normal_error: float = 8.0
    turn: float = 0.0


MILD = Degradation(blur=1.0, drift=0.01, grain=0.001, levels=65536, far=1.0, normal_blur=1.0, normal_error=5.0)
USUAL = Degradation()
HARSH = Degradation(blur=4.0, grain=0.005, far=0.95, normal_blur=4.0, normal_error=15.0, turn=47.0)
SETTINGS = {"mild": MILD, "usual": USUAL, "harsh": HARSH}


def degraded(distance: Array, normals: Array, how: Degradation = USUAL, seed: int = 0) -> tuple[Array, Array]:
    """Return distance [H, W] in [0, 1] and unit normals [H, W, 3] as a model would give them; 0 (none) becomes 1.

    The same arguments give the same arrays.
    """
    chance = np.random.default_rng(seed)
    return _depth(distance, how, chance), _normals(normals, how, chance)


def _depth(distance: Array, how: Degradation, chance: np.random.Generator) -> Array:
    held = distance > 0
    far = np.quantile(distance[held], how.far)
    depth = np.where(held, np.minimum(distance / far, 1.0), 1.0)
    depth = _blurred(depth, how.blur)
    depth = depth * np.exp(how.drift * _drift(depth.shape, chance) + how.grain * chance.normal(size=depth.shape))
    depth = np.clip(depth, 1e-3, 1.0)
    return np.round(depth * (how.levels - 1)) / (how.levels - 1) if how.levels else depth


def _normals(normals: Array, how: Degradation, chance: np.random.Generator) -> Array:
    blurred = np.stack([_blurred(normals[..., axis], how.normal_blur) for axis in range(3)], axis=-1)
    # A rotation vector of three normal parts has a mean length of sqrt(8 / pi) standard deviations.
    error = [_drift(normals.shape[:2], chance) for _ in range(3)]
    tilt = np.stack(error, axis=-1) * np.radians(how.normal_error) / np.sqrt(8 / np.pi)
    c, s = np.cos(np.radians(how.turn)), np.sin(np.radians(how.turn))
    turned = blurred @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]).T
    tilted = turned + np.cross(tilt, turned)
    length = np.linalg.norm(tilted, axis=-1, keepdims=True)
    return tilted / np.maximum(length, 1e-12)


def _blurred(values: Array, pixels: float) -> Array:
    # A Gaussian edge rises from 10 to 90 % in 2.563 standard deviations.
    return _smooth(values.astype(np.float64), pixels / 2.563)


def _smooth(values: Array, deviation: float) -> Array:
    return gaussian_filter1d(gaussian_filter1d(values, deviation, 0, mode="nearest"), deviation, 1, mode="wrap")


def _drift(shape: tuple[int, ...], chance: np.random.Generator) -> NDArray[np.float64]:
    """Return smooth noise [H, W] with standard deviation 1 and features of a tenth of the width."""
    smooth = _smooth(chance.normal(size=shape), shape[1] / 20)
    return smooth / smooth.std()
