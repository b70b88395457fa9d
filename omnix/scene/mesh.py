"""Turn chosen triangles into a mesh: a column at either end of the seam, an apex for each segment at the poles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .corners import Corners, inverse_at, label, members, pole
from .frame import Array, directions

Ints = NDArray[Any]


@dataclass(frozen=True)
class Mesh:
    """Positions [V, 3] in glTF's frame, uv [V, 2] and triangles [F, 3]; vertices with one `weld` number are one point.

    `lattice` [V, 2] is (2 row, 2 column). `normals` [V, 3] are the mean of the map's round each vertex, 0 = none.
    """

    positions: Array
    uv: Array
    faces: Ints
    weld: Ints
    lattice: Ints
    normals: Array


def assemble(corners: Corners, triangles: Ints) -> Mesh:
    """Return the mesh of triangles [T, 3, 2], without those at a pole that have no area and those with no distance."""
    height, width = corners.surface.valid.shape
    kept = triangles[_kept(corners, triangles)]
    at_pole = (kept[..., 0] == 0) | (kept[..., 0] == height)
    # The apex goes last, so that what the others span starts on the lattice.
    turn = (np.arange(3) + np.where(at_pole.any(axis=1), at_pole.argmax(axis=1) + 1, 0)[:, None]) % 3
    kept, at_pole = np.take_along_axis(kept, turn[..., None], axis=1), np.take_along_axis(at_pole, turn, axis=1)
    inner, keys = _inner(corners, kept, at_pole, width)
    apexes = _apexes(corners, kept[at_pole[:, 2]], height, width)
    faces = np.empty(at_pole.shape, dtype=np.int64)
    faces[~at_pole] = keys
    faces[at_pole] = len(inner[0]) + np.arange(len(apexes[0]))
    joined = (np.concatenate(pair) for pair in zip(inner, apexes))
    positions, uv, weld, lattice, normals = joined
    return Mesh(positions, uv, faces, np.unique(weld, return_inverse=True)[1], lattice, normals)


def _kept(corners: Corners, triangles: Ints) -> NDArray[np.bool_]:
    height, width = corners.surface.valid.shape
    rows, columns = triangles[..., 0], triangles[..., 1]
    slivers = ((rows == 0).sum(axis=1) > 1) | ((rows == height).sum(axis=1) > 1)
    return corners.surface.valid[rows.sum(axis=1) // 3, columns.sum(axis=1) // 3 % width] & ~slivers


_Vertices = tuple[Array, Array, Ints, Ints, Array]


def _inner(corners: Corners, triangles: Ints, at_pole: NDArray[np.bool_], width: int) -> tuple[_Vertices, Ints]:
    """Return the vertices that are not at a pole, and the index of the vertex at each such place."""
    rows, columns = (triangles[..., k][~at_pole] for k in (0, 1))
    middle = triangles.sum(axis=1)
    down, right = (
        np.broadcast_to(middle[:, k, None], at_pole.shape)[~at_pole] >= 3 * own for k, own in enumerate((rows, columns))
    )
    quadrants = np.where(down, np.where(right, 2, 3), np.where(right, 1, 0))
    labels = label(corners, rows, columns % width, quadrants)
    names, keys = np.unique((rows * (width + 1) + columns) * 4 + labels, return_inverse=True)
    place, labels = np.divmod(names, 4)
    rows, columns = np.divmod(place, width + 1)
    inverse = inverse_at(corners, rows, columns % width, labels)
    pixels = members(corners, rows, columns % width, labels)
    weld = (rows * width + columns % width) * 4 + labels
    return _vertices(corners, 2 * rows, 2 * columns, inverse, pixels, weld), keys


def _apexes(corners: Corners, triangles: Ints, height: int, width: int) -> _Vertices:
    """Return an apex for each triangle [T, 3, 2] whose last vertex is a pole, halfway between the other two."""
    rows = 2 * triangles[:, 2, 0]
    columns = triangles[:, :2, 1].sum(axis=1)
    below = rows > 0
    pixels = (columns // 2) % width
    top, bottom = pole(corners.surface, 0), pole(corners.surface, -1)
    inverse, runs = (np.where(below, b[pixels], t[pixels]) for t, b in zip(top, bottom))
    near = np.where(below, height - 1, 0)[:, None], pixels[:, None], np.ones((len(rows), 1), dtype=bool)
    return _vertices(corners, rows, columns, inverse, near, -1 - (2 * runs + below))


def _vertices(
    corners: Corners, rows: Ints, columns: Ints, inverse: Array, pixels: tuple[Ints, Ints, Ints], weld: Ints
) -> _Vertices:
    """Return positions, uv, weld, lattice and normals of vertices at half rows and half columns."""
    height, width = corners.surface.valid.shape
    v, u = rows / (2 * height), columns / (2 * width)
    # The seam's end has the very place of its beginning, and a pole that of every apex.
    rays = directions(v, np.where(columns == 2 * width, 0.0, np.where((v == 0) | (v == 1), 0.5, u)))
    return (
        rays / inverse[:, None],
        np.stack([u, v], axis=1),
        weld,
        np.stack([rows, columns], axis=1),
        _mean_normals(corners, *pixels),
    )


def _mean_normals(corners: Corners, rows: Ints, columns: Ints, mine: Ints) -> Array:
    if corners.surface.normals is None:
        return np.zeros((len(rows), 3))
    mean = (corners.surface.normals[rows, columns] * mine[..., None]).sum(axis=1) / mine.sum(axis=1, keepdims=True)
    return mean
