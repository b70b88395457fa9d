"""Random directions and places for soft light, one for each pixel.

Independent pixels are noisy unless many are averaged. If only a few are, the pixels of each 4x4 tile share sixteen
strata, so that every tile covers all directions equally (interleaved sampling, Keller and Heidrich, 2001).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .shapes import Array, unit

TILE = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
"""The stratum of each pixel of a tile; neighbours have strata that are far apart (Bayer, 1973)."""
GOLDEN = (5**0.5 - 1) / 2


def strata_of(height: int, width: int) -> NDArray[np.int64]:
    """Return the stratum of each pixel of a grid, [H * W]."""
    return TILE[np.arange(height)[:, None] % 4, np.arange(width) % 4].reshape(-1)


class Chance(NamedTuple):
    """Draws for N pixels: from their strata [N], or independent if there are none."""

    random: np.random.Generator
    strata: NDArray[np.int64] | None = None

    def scatter(self, count: int) -> Array:
        """Return normal vectors [3, count], without strata: all directions are equally likely."""
        return self.random.standard_normal(size=(3, count), dtype=np.float32)

    def sphere(self, count: int) -> Array:
        """Return points on the unit sphere, [3, count]; strata are turns of a golden spiral (Gonzalez, 2010)."""
        if self.strata is None:
            return unit(self.scatter(count))
        down, round_ = self.random.random((2, count), dtype=np.float32)
        height = 1 - (self.strata + down) / 8
        angle = 2 * np.pi * (self.strata * GOLDEN + round_ / 4)
        aside = np.sqrt(np.maximum(1 - height * height, 0))
        return np.stack([aside * np.cos(angle), height, aside * np.sin(angle)]).astype(np.float32)

    def box(self, count: int, flat: int) -> Array:
        """Return points in the unit box, [3, count]; strata are squares across its axis `flat`."""
        place = self.random.random((3, count), dtype=np.float32)
        if self.strata is not None:
            for axis, part in zip({0, 1, 2} - {flat}, divmod(self.strata, 4)):
                place[axis] = (place[axis] + part) / 4
        return place
