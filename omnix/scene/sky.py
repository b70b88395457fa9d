"""Where the depth says that there is nothing: a dome of its own, so that a street has a sky and a window an outside.

A depth that is cut off at its far end says so too, if it is bright there: the outside lies farther, nobody knows how
far. A dark end may be a wall of the room.
"""

from __future__ import annotations

import numpy as np

from ..pictures.glb import Geometry
from .behind import inpainted
from .cuts import with_borders
from .edges import parts_of
from .frame import Array, directions, pixel_directions, reciprocal
from .light import brightness
from .planes import dotted
from .surface import Flags, Surface, at_size, nearest_pixels, within
from .walls import through

# Rows of the dome's grid; it reaches so many degrees behind the surfaces round it, and so far beyond the scene.
ROWS, REACH, BEYOND = 64, 20.0, 1.05
# A smaller share of the pixels without depth is no sky.
LEAST = 0.001
# The far end of a depth: parts this near to the greatest distance, as a share. It is cut off where at least this share
# of a part has exactly that distance, and this share of it is off the part's plane by more than half a step of 8 bits.
FAR, EXACTLY, UNEXPLAINED, OFF = 0.01, 0.3, 0.25, 0.003
# The outside is brighter than the rest by this factor (medians of linear brightness).
BRIGHTER = 1.5
# Its soft rim is so many pixels wide, and as near as this share of the distance.
RIM, RIM_NEARER = 4, 0.02


def dome_of(valid: Flags, picture: Array, farthest: float) -> tuple[Geometry, Array] | None:
    """Return a dome behind the pixels [H, W] that have no depth, and its picture; None where all have one.

    Its radius is little more than the scene's, so that viewers frame the scene as they would without it.
    """
    if (~valid).mean() < LEAST:
        return None
    height = len(valid)
    shown = within(~valid, max(1, round(REACH / 180 * height)))
    cells = shown[np.ix_(*nearest_pixels(height, ROWS))]
    behind = within(valid, 1)
    return _grid(cells, BEYOND * farthest), inpainted(picture, behind if not behind.all() else valid)


def outside(distance: Array, picture: Array) -> Flags:
    """Return the pixels [H, W] where a depth is cut off at its far end: bright parts at one distance, off any plane.

    The distance of a far wall changes over its width; that of the outside, cut off, does not.
    """
    valid = distance > 0
    inverse = reciprocal(distance)
    far, found = valid & (distance >= distance.max() * (1 - FAR)), np.zeros_like(valid)
    part, rays = parts_of(far, np.zeros_like(far), np.zeros_like(far[1:])), pixel_directions(*far.shape)
    shown = brightness(picture)
    for number in np.flatnonzero(np.bincount(part[far]) >= LEAST * far.size):
        mine = part == number
        plane = through(rays[mine], inverse[mine], np.sqrt(1 - rays[mine][:, 1] ** 2))
        off = np.abs(dotted(plane, rays[mine]) / inverse[mine] - 1)
        exactly = distance[mine] >= distance.max() * (1 - 1e-6)
        bright = np.median(shown[mine]) > BRIGHTER * np.median(shown[~far]) if not far.all() else True
        if bright and exactly.mean() >= EXACTLY and (off > OFF).mean() >= UNEXPLAINED:
            found |= mine
    return found


def without(surface: Surface, gone: Flags) -> Surface:
    """Return a surface without the pixels [H, W] beyond its far end, and without the rim that was given to them."""
    gone = at_size(gone, surface.valid.shape) & surface.valid
    if not gone.any():
        return surface
    gone = within(gone, RIM) & (surface.inverse <= surface.inverse[gone].min() * (1 + RIM_NEARER))
    valid = surface.valid & ~gone
    return with_borders(np.where(valid, surface.inverse, 0.0), valid, surface.normals, surface.right, surface.down)


def _grid(cells: Flags, radius: float) -> Geometry:
    """Return the cells [M, 2 M] of a sphere that are wanted, two triangles each, seen from inside."""
    rows, columns = len(cells), cells.shape[1]
    v, u = (a.ravel() for a in np.meshgrid(np.arange(rows + 1) / rows, np.arange(columns + 1) / columns, indexing="ij"))
    i, j = np.nonzero(cells)
    corner = i * (columns + 1) + j
    upper = np.stack([corner, corner + columns + 1, corner + 1], axis=1)[i > 0]
    lower = np.stack([corner + 1, corner + columns + 1, corner + columns + 2], axis=1)[i < rows - 1]
    used, faces = np.unique(np.concatenate([upper, lower]), return_inverse=True)
    rays = directions(v[used], u[used] % 1.0)
    return Geometry(rays * radius, -rays, np.stack([u, v], axis=1)[used], faces.reshape(-1, 3))
