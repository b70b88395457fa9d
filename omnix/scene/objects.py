"""The seen surface in parts: the room, each thing in front of it as a separate object, and what is thin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pictures.glb import Geometry
from ..pictures.semantics import Named
from .behind import moved, sides
from .front import in_front
from .surface import Flags, Surface, at_size

# At most so many objects, each of at least this share of all pixels; smaller things stay with the room.
MOST, LEAST = 40, 5e-4
# A part has a name if at least this share of its pixels has it.
AGREED = 0.5
# A strip in front of what is on both sides of it is thin if it has at most so many pixels across. The edges of models'
# maps are soft: what is one pixel wide takes in one more on each side.
THIN = 3


def objects_of(geometry: Geometry, surface: Surface, named: Named | None) -> Iterator[tuple[str, Geometry]]:
    """Yield the geometry of the room with an empty name, then that of each object with its own.

    Together they have the triangles of the whole, and each keeps its normals.
    """
    known = None if named is None else at_size(named.room, surface.valid.shape)
    parts = in_front(surface, known)
    sizes = np.bincount(parts.ravel())
    kept = [number for number in range(1, len(sizes)) if sizes[number] >= LEAST * parts.size][:MOST]
    part = at_middles(geometry, np.where(np.isin(parts, kept), parts, 0))
    counted: Counter[str] = Counter()
    for number in np.intersect1d([0, *kept], part):
        if not number:
            yield "", _only(geometry, part == 0)
            continue
        name = "object" if named is None else _name(named, parts == number)
        counted[name] += 1
        yield f"{name}.{counted[name]:03}", _only(geometry, part == number)


def _name(named: Named, flags: NDArray[np.bool_]) -> str:
    """Return `object`, with the name that most pixels of a part have, if they agree."""
    numbers = at_size(named.numbers, flags.shape)[flags]
    count = np.bincount(numbers[numbers >= 0], minlength=1)
    most = int(count.argmax())
    return f"object.{named.names[most].replace(' ', '_')}" if count[most] >= AGREED * numbers.size else "object"


def thin(surface: Surface) -> Flags:
    """Return the pixels [M, N] of strips that are in front of what is on both sides of them, and at most THIN wide."""
    ways = sides(surface.right, np.pad(surface.down, ((0, 1), (0, 0))))
    right, left, below, above = (
        cut & surface.valid & (moved(surface.inverse, way) < surface.inverse) for cut, way in ways
    )
    found = np.zeros_like(surface.valid)
    for start, end, (cut, (rows, columns)) in ((left, right, ways[0]), (above, below, ways[2])):
        strip = start
        for width in range(1, THIN + 1):
            for back in range(width):
                found |= moved(strip & end, (rows * back, columns * back))
            strip = moved(strip & ~cut, (-rows, -columns))
    return found


def at_middles(geometry: Geometry, values: NDArray[Any]) -> NDArray[Any]:
    """Return what pixels [M, N] hold at the middle of each triangle, [F]."""
    size = np.array(values.shape[::-1])
    # A middle may lie on a line of the lattice, which rounding must not take to the pixel before it.
    middles = geometry.uv[geometry.faces].mean(axis=1) * size + 1e-6
    column, row = np.minimum(middles.astype(int), size - 1).T
    return values[row, column]


def _only(geometry: Geometry, chosen: NDArray[np.bool_]) -> Geometry:
    """Return some of the triangles, and their vertices alone."""
    used, faces = np.unique(geometry.faces[chosen], return_inverse=True)
    tangents = None if geometry.tangents is None else geometry.tangents[used]
    return Geometry(geometry.positions[used], geometry.normals[used], geometry.uv[used], faces.reshape(-1, 3), tangents)
