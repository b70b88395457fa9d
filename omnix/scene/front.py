"""The things in front: the parts of a scene that hide other parts, without the room itself.

The room is its structure: floor, ceiling and walls. A plane is the room's if hardly anything of the scene lies beyond
it; a wall that others reach past is one too, where it goes up to the ceiling. What is left falls into parts that hang
together between the cuts. Such a part is in front if enough of its outline is the nearer side of a cut.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from .behind import moved, reduced, sides
from .edges import parts_of
from .frame import Array, pixel_directions, spread
from .noise import noise_of
from .planes import fitted
from .surface import Flags, Surface

# The room's planes are looked for on so many rows at most, and held against so many points of the scene.
ROWS, POINTS = 128, 600
# They leave at most this share of the scene beyond them, and that by more than this share of the distance.
BEYOND, THICK = 0.03, 0.06
# Walls are upright within so many degrees, floor and ceiling level within so many; those reach this share of the way to
# the height that this share of the points on their side of the viewer lies beyond.
UPRIGHT, LEVEL, REACHES, LOWEST = 25.0, 35.0, 0.75, 0.1
# Flags are voted on in squares of so many pixels.
VOTERS = 5
# A part is in front if at least this share of its outline is the nearer side of a cut, and its share of all pixels
# lies between these two: what is larger is the room, as the walls of a courtyard are under the sky.
NEARER, LEAST, MOST = 0.15, 2e-4, 0.2


def in_front(surface: Surface, known: Flags | None = None) -> NDArray[np.int32]:
    """Return the number of the part that each pixel [M, N] belongs to, the largest first; 0 for the room.

    known: pixels that belong to the room for certain, by a semantic map.
    """
    room = structure(surface) if known is None else structure(surface) | known
    free = surface.valid & ~room
    part = parts_of(free, surface.right, surface.down)
    outline, nearer = np.zeros_like(free), np.zeros_like(free)
    for cut, way in sides(surface.right, np.pad(surface.down, ((0, 1), (0, 0)))):
        there = moved(surface.inverse, way)
        outline |= free & (moved(part, way) != part)
        nearer |= free & cut & (there > 0) & (there < surface.inverse)
    size, edge, hides = (np.bincount(part[flags], minlength=part.max() + 1) for flags in (free, outline, nearer))
    kept = np.flatnonzero((size >= LEAST * part.size) & (size <= MOST * part.size) & (hides >= NEARER * edge))
    number = np.zeros(len(size), dtype=np.int32)
    number[kept[np.argsort(-size[kept], kind="stable")]] = np.arange(1, len(kept) + 1)
    return np.where(free, number[part], 0)


def structure(surface: Surface) -> Flags:
    """Return the pixels [M, N] that belong to the room itself, by their planes."""
    step = max(1, len(surface.inverse) // ROWS)
    w, valid, _, down = reduced(surface, step)
    planes = fitted(w, valid, 2 * noise_of(w, valid).slack())
    length = np.sqrt((planes**2).sum(axis=-1))
    level = np.abs(np.divide(planes[..., 1], length, out=np.zeros_like(length), where=length > 0))
    flat, upright = level > np.cos(np.radians(LEVEL)), valid & (level < np.sin(np.radians(UPRIGHT)))
    outer = valid & (length > 0) & (_beyond(planes, w, valid) <= BEYOND)
    height, down = np.where(valid, pixel_directions(*w.shape)[..., 1] / np.where(valid, w, 1), 0.0), down[:-1]
    above, below = _level_end(flat, height, down), _level_end(flat[::-1], -height[::-1], down[::-1])[::-1]
    found = _voted(outer) | below | above | _along(above, _voted(upright), down)
    rows, columns = (np.minimum(np.arange(n) // step, m - 1) for n, m in zip(surface.inverse.shape, w.shape))
    return found[np.ix_(rows, columns)] & surface.valid


def _beyond(planes: Array, w: Array, valid: Flags) -> Array:
    """Return the share of the scene, by solid angle, that lies beyond the plane of each pixel [M, N]."""
    rows, columns = spread(w.shape, POINTS)
    held = valid[rows, columns]
    rows, columns = rows[held], columns[held]
    points = (pixel_directions(*w.shape)[rows, columns] / w[rows, columns, None]).astype(np.float32)
    return np.stack([(row @ points.T > 1 + THICK).mean(axis=1) for row in planes.astype(np.float32)])


def _level_end(flat: Flags, height: Array, down: Flags) -> Flags:
    """Return the level pixels [M, N] that are the ceiling: high enough, or without a cut from the pole of row 0 on."""
    start = np.zeros_like(flat)
    start[0] = flat[0]
    seen = height[spread(height.shape, POINTS)]
    limit = REACHES * np.quantile(seen[seen > 0], 1 - LOWEST) if (seen > 0).any() else np.inf
    return _voted(_along(start, flat, down) | (flat & (height > limit)))


def _along(start: Flags, way: Flags, down: Flags) -> Flags:
    """Return the pixels of a way [M, N] that hang together with a start above them in their columns."""
    found = start.copy()
    for row in range(1, len(found)):
        found[row] |= found[row - 1] & way[row] & ~down[row - 1]
    return found & way


def _voted(flags: Flags) -> Flags:
    """Return what most of the pixels round each say; the columns are a circle."""
    around = np.pad(flags.astype(np.float32), ((0, 0), (VOTERS, VOTERS)), mode="wrap")
    return uniform_filter(around, VOTERS, mode="nearest")[:, VOTERS:-VOTERS] > 0.5
