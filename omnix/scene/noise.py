"""Measure the quality of a depth map: its steps, its grain, and the width of its edges in pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import maximum_filter1d, median_filter

from .frame import Array, pixel_directions
from .planes import gap_between
from .surface import Flags

# The least share of the distance by which pixels of one plane may differ.
LEAST_SLACK = 0.005
# This many standard deviations of the grain are no evidence, and steps of this many levels.
SIGMAS, LEVELS = 4.0, 1.5
# A map is clipped where more than this share of it is this near to its farthest value.
CLIPPED, FARTHEST = 0.002, 0.003
# Grain below this is rounding.
LEAST_GRAIN = 1e-4
# Values that fewer pixels share are no levels.
CROWDED = 4


class Noise(NamedTuple):
    """Shares of the distance: the grain, and the step between levels at each pixel [M, N]."""

    grain: float
    steps: Array

    def slack(self) -> Array:
        """Return by which share pixels of one plane may differ, [M, N]."""
        return np.maximum(np.maximum(LEAST_SLACK, 3 * self.grain), self.steps)

    def blur(self) -> Array:
        """Return by which share a pixel may be off its plane for noise alone, [M, N]."""
        return np.maximum(2 * self.grain if self.grain > LEAST_GRAIN else 0.0, 0.6 * self.steps)

    def tolerance(self, asked: float) -> Array:
        """Return the gap that is evidence, [M, N]; noise raises what was asked for to a tenth at most, steps more."""
        return np.maximum(max(asked, min(SIGMAS * self.grain, max(asked, 0.1))), LEVELS * self.steps)


def noise_of(inverse: Array, valid: Flags) -> Noise:
    """Estimate the noise of a map of inverse distances [M, N]."""
    w = np.where(valid, inverse, np.nan)
    # Along a meridian the inverse distance of a plane is a sine, which this difference takes away.
    bend = np.abs(w[2:] + w[:-2] - 2 * np.cos(np.pi / len(w)) * w[1:-1]) / w[1:-1]
    known = bend[np.isfinite(bend)]
    # The second difference of independent grain has sqrt(6) times its deviation.
    grain = 1.4826 * float(np.median(known)) / np.sqrt(6) if known.size else 0.0
    return Noise(grain, np.where(valid, _levels(np.where(valid, 1 / np.where(valid, inverse, 1), 0)) * inverse, 0.0))


def clipped(inverse: Array, valid: Flags) -> Flags:
    """Return the pixels [M, N] at the largest distance of the map, if there are many: they may be even farther."""
    far = valid & (inverse <= inverse[valid].min() * (1 + FARTHEST)) if valid.any() else valid
    return far & (far.sum() > CLIPPED * max(1, valid.sum()))


def _levels(distance: Array) -> Array:
    """Return the step between values of the map at each pixel; 0 where pixels have values of their own."""
    values, which, count = np.unique(distance, return_inverse=True, return_counts=True)
    if len(values) < 3:
        return np.zeros_like(distance)
    apart = median_filter(np.diff(values, append=2 * values[-1] - values[-2]), 5)
    crowded = median_filter(count, 5) >= CROWDED
    return np.where(crowded, apart, 0.0)[which].reshape(distance.shape)


def softness(planes: Array, inverse: Array, valid: Flags, tolerance: Array, reach: int = 6) -> float:
    """Return how many pixels an edge takes from 10 to 90 %; 1 where edges are steps, or there are none.

    Between two surfaces `reach` pixels to the left and to the right, the greatest step is a share of their gap: all of
    it on a step, and 1.02 / k on a Gaussian edge of k pixels.
    """
    rays = pixel_directions(*inverse.shape).astype(np.float32)
    w = np.where(valid, inverse, np.nan)
    sides, there = ([np.roll(a, s * reach, axis=1) for s in (1, -1)] for a in (planes, rays))
    own, gap = gap_between((sides[0], sides[1]), (there[0], there[1]))
    steps = maximum_filter1d(np.nan_to_num(np.abs(np.roll(w, -1, axis=1) - w)), 2 * reach, axis=1, mode="wrap")
    # Well apart, so that grain and slopes do not count, and on the sphere's middle, where pixels are as wide as high.
    apart = (own > 0) & (gap > 3 * tolerance * own) & valid
    quarter = len(w) // 4
    shares = (steps / np.maximum(gap, 1e-12))[quarter : len(w) - quarter][apart[quarter : len(w) - quarter]]
    return max(1.0, 1.02 / float(np.median(shares))) if shares.size > len(w) / 4 else 1.0
