"""Choose the triangles: a hierarchy of right triangles on the lattice, as fine as the surface asks for.

Each triangle is halved at the middle of its hypotenuse, and its neighbour there with it, so there are no T-junctions
(Evans, Kirkpatrick, Townsend 1997, "Right-triangulated irregular networks"). A vertex carries the error of leaving it
out, and no less than that of what is built on it: then every choice "all above a threshold" is a mesh, and its number
of triangles is known before it is made. Everything is done for all vertices of a level at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from .corners import Corners
from .frame import Array, coordinates, corner_directions
from .surface import Flags, base_triangles, tile_size

Ints = NDArray[Any]

# However smooth a scene is, its coarsest mesh goes this often round in rows: 8 x 16 cells.
LEAST_ROWS = 8


class TooFew(Exception):
    """The cuts alone need this many triangles."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


def errors(corners: Corners) -> Array:
    """Return the error of leaving out each vertex, [M + 1, N], infinite where the mesh must have it.

    The middle of an edge replaces the texel halfway between its ends. Its error is the larger of two: the angle, in
    radians, between where it lies and that texel's ray (how far the picture swims), and its distance against that of
    the surface on the same ray, as a share (how far the shape is off).
    """
    size = tile_size(len(corners.inverse) - 1)
    found = np.zeros_like(corners.inverse)
    rays = corner_directions(len(corners.inverse) - 1, corners.inverse.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        points = rays / corners.inverse[..., None]
    for half in _halves(size):
        _level(found, points, rays, corners.inverse, half)
    found[corners.forced] = np.inf
    step = 1 << max(0, ((len(found) - 1) // LEAST_ROWS).bit_length() - 1)
    if size > step:
        found[::step, ::step] = np.inf
    for half in reversed(_halves(size)):
        _inherit(found, half)
    return found


def _halves(size: int) -> list[int]:
    return [size >> k for k in range(1, size.bit_length())]


def _level(found: Array, points: Array, rays: Array, inverse: Array, half: int) -> None:
    """Write the errors of the middles of all edges and diagonals of squares with side 2 * half."""
    ends = points[:: 2 * half, :: 2 * half]
    beside = np.roll(ends, -1, axis=1)
    rows, columns = np.indices(ends[:-1].shape[:2])
    falling = rearrange((rows + columns) % 2 == 0, "h w -> h w 1")
    diagonal = np.where(falling, ends[:-1], beside[:-1]), np.where(falling, beside[1:], ends[1:])
    for (a, b), start in (
        ((ends, beside), (0, half)),
        ((ends[:-1], ends[1:]), (half, 0)),
        (diagonal, (half, half)),
    ):
        place = slice(start[0], None, 2 * half), slice(start[1], None, 2 * half)
        found[place] = _misses((a + b) / 2, rays[place], inverse)


def _misses(middles: Array, rays: Array, inverse: Array) -> Array:
    """Return how far middles [h, w, 3] are off; 0 where there is no surface at all."""
    distance = np.sqrt((middles**2).sum(axis=-1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        seen = middles / distance
        swims = np.sqrt(((seen - rays) ** 2).sum(axis=-1))
        off = np.abs(distance[..., 0] * _sampled(inverse, seen) - 1)
    return np.nan_to_num(np.maximum(swims, off), nan=0.0)


def _sampled(inverse: Array, vectors: Array) -> Array:
    """Return the inverse distance along vectors [.., 3], linearly between the corners."""
    v, u = (np.nan_to_num(part) for part in coordinates(vectors))
    height, width = len(inverse) - 1, inverse.shape[1]
    y, x = v * height, u * width
    i, j = np.minimum(y.astype(np.int64), height - 1), x.astype(np.int64) % width
    down, across, beside = y - i, x - np.floor(x), (j + 1) % width
    above = inverse[i, j] * (1 - across) + inverse[i, beside] * across
    below = inverse[i + 1, j] * (1 - across) + inverse[i + 1, beside] * across
    return above * (1 - down) + below * down


def _inherit(found: Array, half: int) -> None:
    """Raise the vertices of squares with side 2 * half to what is built on them."""
    if half > 1:
        small = found[half // 2 :: half, half // 2 :: half]
        pairs = np.pad(np.maximum(small, np.roll(small, 1, axis=1)), ((1, 1), (0, 0)))
        most = np.maximum(pairs[:-1], pairs[1:])
        for rows, columns in ((0, 1), (1, 0)):
            own = found[rows * half :: 2 * half, columns * half :: 2 * half]
            np.maximum(own, most[rows::2, columns::2], out=own)
    level, upright = found[:: 2 * half, half :: 2 * half], found[half :: 2 * half, :: 2 * half]
    centre = found[half :: 2 * half, half :: 2 * half]
    for side in (level[:-1], level[1:], upright, np.roll(upright, -1, axis=1)):
        np.maximum(centre, side, out=centre)


def chosen(found: Array, triangles: int, error: float) -> tuple[Flags, float]:
    """Return the vertices [M + 1, N] of the coarsest mesh within an error, and that error.

    If that takes more triangles than allowed, it is the finest mesh that does not.  Raises TooFew if cuts need more.
    """
    base = base_triangles(len(found) - 1)
    # Each vertex splits two triangles, on the rim of the lattice one.
    weights = np.full(found.shape, 2)
    weights[[0, -1]] = 1
    lattice = np.zeros(found.shape, dtype=bool)
    size = tile_size(len(found) - 1)
    lattice[::size, ::size] = True
    candidates = (found > error) & ~lattice
    values, cost = found[candidates], weights[candidates]
    order = np.argsort(-values, kind="stable")
    fits = base + np.cumsum(cost[order]) <= triangles
    limit = error if fits.all() else float(values[order[np.count_nonzero(fits)]])
    if np.isinf(limit):
        raise TooFew(base + int(cost[np.isinf(values)].sum()))
    return (found > limit) | lattice, limit


def triangles_of(active: Flags) -> Ints:
    """Return the triangles of a choice of vertices, [T, 3, 2] of (row, column); column N is the end of the seam.

    Seen from inside they turn counter-clockwise; the right angle comes last.
    """
    size = tile_size(len(active) - 1)
    pending, done = _base(len(active) - 1, active.shape[1], size), []
    while len(pending):
        a, b, corner = (pending[:, k] for k in range(3))
        middle = (a + b) // 2
        whole = ((a + b) % 2 == 0).all(axis=1)
        split = whole & active[middle[:, 0], middle[:, 1] % active.shape[1]]
        done.append(pending[~split])
        halves = np.stack([corner, a, middle], axis=1)[split], np.stack([b, corner, middle], axis=1)[split]
        pending = np.concatenate(halves)
    return np.concatenate(done)


def _base(height: int, width: int, size: int) -> Ints:
    """Return two triangles for each tile, their diagonals alternating."""
    rows, columns = (a.ravel() for a in np.indices((height // size, width // size)))
    falling = ((rows + columns) % 2 == 0)[:, None, None]
    corner = np.stack([rows, columns], axis=1)[:, None]
    down = [[[0, 0], [1, 1], [0, 1]], [[1, 1], [0, 0], [1, 0]]]
    up = [[[0, 1], [1, 0], [1, 1]], [[1, 0], [0, 1], [0, 0]]]
    tiles = [corner + np.where(falling, np.array(d), np.array(u)) for d, u in zip(down, up)]
    return np.concatenate(tiles) * size
