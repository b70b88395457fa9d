"""Shapes of one kind that are intersected together: each ray has its own shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .shapes import SKIN, Array, Ball, Box, Cone, Cushion, Shape, Solid, dot, unit

Rows: TypeAlias = NDArray[np.intp]
ALIKE = (Box, Cushion, Ball, Cone)
"""The kinds whose sizes may differ from ray to ray; for other kinds, each shape is computed alone."""


@dataclass(frozen=True)
class Alike:
    """Shapes of one kind: their numbers [n], centres [3, n], axes [3, 3, n] (None: the world's) and sizes [.., n]."""

    model: Shape
    numbers: Rows
    centres: Array
    axes: Array | None
    sizes: dict[str, Array]

    def reach(self, which: Rows, origins: Array, directions: Array) -> Array:
        """Return the distance along each ray [N] to its own shape, `which` [N]; infinite for rays that miss."""
        if not self.sizes:
            return self.model.reach(origins, directions)
        # `take` keeps the rays next to each other in memory, as indexing with [:, which] does not.
        centre, axes = self.centres.take(which, axis=1), self._axes(which)
        ahead = dot(centre - origins, directions)
        start = ahead * directions
        start += origins
        start -= centre
        shape = self._sized(which)
        return ahead + shape._local_reach(_into(axes, start), _into(axes, directions), SKIN - ahead)

    def normal(self, which: Rows, points: Array) -> Array:
        """Return the outward unit normals at points [3, N], each on its own shape, `which` [N]."""
        if not self.sizes:
            return self.model.normal(points)
        axes = self._axes(which)
        normals = unit(self._sized(which)._local_normal(_into(axes, points - self.centres.take(which, axis=1))))
        return normals if axes is None else _into(axes.transpose(1, 0, 2), normals)

    def _axes(self, which: Rows) -> Array | None:
        return None if self.axes is None else self.axes.take(which, axis=2)

    def _sized(self, which: Rows) -> Solid:
        kind: Any = type(self.model)
        return kind(
            self.model.surface,
            (0.0, 0.0, 0.0),
            **{name: size.take(which, axis=-1) for name, size in self.sizes.items()},
        )


def _into(axes: Array | None, vectors: Array) -> Array:
    """Return vectors [3, N] in the frames whose axes are the rows of [3, 3, N]."""
    return vectors if axes is None else np.stack([dot(row, vectors) for row in axes])


def alike(shapes: Sequence[Shape]) -> Iterator[Alike]:
    """Yield the sets of shapes of one kind; unrotated shapes, whose rays need no rotation, are separate sets."""
    sets: dict[tuple[Any, ...], list[int]] = {}
    for number, shape in enumerate(shapes):
        key = (type(shape), shape.turned) if type(shape) in ALIKE else (number,)
        sets.setdefault(key, []).append(number)
    common = {field.name for field in fields(Shape)}
    for numbers in sets.values():
        model, members = shapes[numbers[0]], [shapes[number] for number in numbers]
        names = [field.name for field in fields(model) if field.name not in common] if type(model) in ALIKE else []
        sizes = {name: np.array([getattr(s, name) for s in members], dtype=np.float32).T for name in names}
        axes = np.stack([shape.axes for shape in members], axis=-1) if model.turned else None
        centres = np.array([shape.centre for shape in members], dtype=np.float32).T
        yield Alike(model, np.array(numbers), centres, axes, sizes)
