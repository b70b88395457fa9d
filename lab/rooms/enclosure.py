"""The surroundings of a room: walls along the axes of the room, and the dome of the sky."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .shapes import SKIN, Array, Ball, Shape, Vector, column, dot


@dataclass(frozen=True)
class Wall(Shape):
    """A rectangle across `axis` (0, 1, 2) that faces `facing` (+1, -1) along it; a hole is (low, high) corners."""

    half: Vector = (1.0, 1.0, 1.0)
    axis: int = 0
    facing: int = 1
    hole: tuple[Vector, Vector] | None = None

    @property
    def half_box(self) -> Vector:
        return self.half

    def reach(self, origins: Array, directions: Array) -> Array:
        """Return the distance along each ray to the wall, [N], infinite for rays that miss."""
        along = directions[self.axis]
        facing = np.flatnonzero(along * self.facing < -1e-9)
        start, d = origins if origins.shape[1] == 1 else origins.take(facing, axis=1), directions.take(facing, axis=1)
        t = (np.float32(self.centre[self.axis]) - start[self.axis]) / d[self.axis]
        found = np.full(along.shape, np.inf, dtype=np.float32)
        found[facing] = np.where((t > SKIN) & self._holds(start, d, t), t, np.float32(np.inf))
        return found

    def _holds(self, start: Array, d: Array, t: Array) -> NDArray[np.bool_]:
        """Return which rays hit the plane inside the rectangle and outside the hole."""
        others = [axis for axis in range(3) if axis != self.axis]
        places = [start[axis] + t * d[axis] for axis in others]
        held = np.ones(t.shape, dtype=bool)
        for axis, place in zip(others, places):
            held &= np.abs(place - np.float32(self.centre[axis])) <= np.float32(self.half[axis])
        if self.hole is not None:
            low, high = self.hole
            held &= ~np.all([(p > low[axis]) & (p < high[axis]) for axis, p in zip(others, places)], axis=0)
        return held

    def normal(self, points: Array) -> Array:
        """Return the direction that the wall faces, repeated for each point."""
        return np.broadcast_to(column(np.eye(3)[self.axis] * self.facing), points.shape)


@dataclass(frozen=True)
class Dome(Ball):
    """An ellipsoid seen from inside."""

    def _local_reach(self, o: Array, d: Array, least: Array) -> Array:
        p, v = o / column(self.half), d / column(self.half)
        a, b, c = dot(v, v), dot(p, v), dot(p, p) - 1
        return (-b + np.sqrt(np.maximum(b * b - a * c, 0))) / a

    def _local_normal(self, p: Array) -> Array:
        return -Ball._local_normal(self, p)
