"""The surface at each pixel, on the lattice that the mesh is built on.

Distances are kept as their inverse: along a great circle the inverse distance of a plane is a sine, so between
neighbours it is a straight line, however far the plane runs, and means and slopes of it are those of the plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from .frame import Array

Flags, Ints = NDArray[np.bool_], NDArray[np.integer]

# Finer than this the lattice gains nothing that a mesh of some hundred thousand triangles could show.
MOST_ROWS = 2048
# A tile of the hierarchy may be up to 1/4 of the rows, so the coarsest mesh has a few hundred triangles.
TILES_DOWN = 4


@dataclass(frozen=True)
class Surface:
    """Inverse distance [M, N] (0 where there is none), whether there is one, and unit normals in glTF's axes, 0 = none.

    `right` [M, N] and `down` [M - 1, N] are True where a pixel is cut from the next one; column 0 follows column N - 1.
    """

    inverse: Array
    valid: Flags
    normals: Array | None
    right: Flags
    down: Flags


def lattice_rows(height: int, triangles: int) -> int:
    """Return the rows to work on: the picture's own if a hierarchy fits them, else the next number that one fits."""
    if height <= MOST_ROWS and 8 * base_triangles(height) <= triangles:
        return height
    rows = min(height, MOST_ROWS)
    tile = 1 << max(0, int(np.log2(rows)) - int(np.log2(TILES_DOWN)))
    return min(MOST_ROWS, -(-rows // tile) * tile)


def tile_size(rows: int) -> int:
    """Return the side of the largest square tile, a power of two, that divides the rows."""
    return rows & -rows


def base_triangles(rows: int) -> int:
    """Return the triangles of the coarsest mesh on a lattice of rows x 2 rows."""
    return 4 * (rows // tile_size(rows)) ** 2


def resampled(inverse: Array, valid: Flags, normals: Array | None, rows: int) -> tuple[Array, Flags, Array | None]:
    """Return the maps [M, 2 M] on another number of rows: the nearest pixel, carried on along its own slope.

    The slope is the smaller of the two beside a pixel (0 if they differ in sign), so nothing is blended over a jump.
    """
    height = len(inverse)
    if rows == height:
        return inverse, valid, normals
    y, x = ((np.arange(n) + 0.5) * height / rows for n in (rows, 2 * rows))
    i, j = nearest_pixels(height, rows)
    across, down = slopes(inverse)
    near = np.ix_(i, j)
    moved = inverse[near] + across[near] * (x - j - 0.5)[None] + down[near] * (y - i - 0.5)[:, None]
    found = valid[near]
    return np.where(found, moved, 0.0), found, None if normals is None else normals[near]


def at_size(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return values [H, W] at another size, each the nearest pixel's."""
    rows, columns = ((np.arange(n) * m) // n for n, m in zip(shape, values.shape))
    return values[np.ix_(rows, columns)]


def nearest_pixels(height: int, rows: int) -> tuple[Ints, Ints]:
    """Return the rows and columns of a panorama of `height` that a lattice of `rows` shows."""
    i, j = (((np.arange(n) + 0.5) * height / rows).astype(int) for n in (rows, 2 * rows))
    return i, j


def halved(surface: Surface) -> Surface:
    """Return every second pixel of a surface that has no cuts but those where it ends; the least is the farthest."""
    squares = rearrange(surface.inverse, "(h a) (w b) -> h w (a b)", a=2, b=2)
    valid = rearrange(surface.valid, "(h a) (w b) -> h w (a b)", a=2, b=2)
    whole = np.asarray(valid.any(axis=-1))
    inverse = np.where(whole, np.where(valid, squares, np.inf).min(axis=-1), 0.0)
    right, down = whole != np.roll(whole, -1, axis=1), whole[1:] != whole[:-1]
    return Surface(inverse, whole, None, right, down)


def within(flags: Flags, pixels: int) -> Flags:
    """Return flags [M, N] grown by so many pixels in every direction; the columns are a circle."""
    if not pixels or not flags.any():
        return flags
    around = np.pad(flags, ((0, 0), (pixels, pixels)), mode="wrap")
    return np.asarray(distance_transform_edt(~around))[:, pixels:-pixels] <= pixels


def slopes(inverse: Array) -> tuple[Array, Array]:
    """Return the change of inverse distance per pixel to the right and downwards, [M, N] each, limited as above."""
    steps = np.diff(inverse, axis=1, append=inverse[:, :1])
    falls = np.diff(over_poles(inverse, 1), axis=0)
    # 0.4 of the value at most, so that half a pixel further on it is still a distance.
    limit = 0.4 * inverse
    across, down = _smaller(np.roll(steps, 1, axis=1), steps), _smaller(falls[:-1], falls[1:])
    return np.clip(across, -limit, limit), np.clip(down, -limit, limit)


def over_poles(values: Array, rows: int) -> Array:
    """Return values [M, N] with more rows above and below: a meridian continues over the pole, half a turn away."""
    rows = min(rows, values.shape[0])
    turned = np.roll(values, values.shape[1] // 2, axis=1)
    return np.concatenate([turned[:rows][::-1], values, turned[-rows:][::-1]])


def _smaller(a: Array, b: Array) -> Array:
    return np.where(a * b > 0, np.where(np.abs(a) < np.abs(b), a, b), 0.0)
