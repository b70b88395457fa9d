"""Where the depth says that there is nothing: a dome of its own, so that a street has a sky and a window an outside."""

from __future__ import annotations

import numpy as np

from ..pictures.glb import Geometry
from .behind import inpainted, widened
from .frame import Array, directions
from .surface import Flags

# Rows of the dome's grid; it reaches so many degrees behind the surfaces round it, and so far beyond the scene.
ROWS, REACH, BEYOND = 64, 20.0, 1.05
# A smaller share of the pixels without depth is no sky.
LEAST = 0.001


def dome_of(valid: Flags, picture: Array, farthest: float) -> tuple[Geometry, Array] | None:
    """Return a dome behind the pixels [H, W] that have no depth, and its picture; None where all have one.

    Its radius is little more than the scene's, so that viewers frame the scene as they would without it.
    """
    if (~valid).mean() < LEAST:
        return None
    height, width = valid.shape
    shown = widened(~valid, max(1, round(REACH / 180 * height)))
    rows, columns = np.arange(ROWS), np.arange(2 * ROWS)
    cells = shown[
        np.ix_(((rows + 0.5) * height / ROWS).astype(int), ((columns + 0.5) * width / (2 * ROWS)).astype(int))
    ]
    behind = widened(valid, 1)
    return _grid(cells, BEYOND * farthest), inpainted(picture, behind if not behind.all() else valid)


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
