"""Move, scale and repaint a tree of shapes: it is data, so each copy of it can have another place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from .raycast import Group, group, leaves
from .shapes import Array, Shape, Surface, Vector

Node: TypeAlias = Shape | Group
LENGTHS = ("half", "bottom", "top", "tall", "rounding")
"""The fields of shapes that are lengths."""


@dataclass(frozen=True)
class Move:
    """Turn to the left by yaw (degrees) about `home`, grow by `size`, then bring `home` to `place`."""

    home: Vector
    place: Vector
    yaw: float = 0.0
    size: float = 1.0

    def point(self, at: Vector) -> Vector:
        """Return the new place of a point."""
        a = np.radians(self.yaw)
        x, y, z = ((value - home) * self.size for value, home in zip(at, self.home))
        c, s = np.cos(a), np.sin(a)
        px, py, pz = self.place
        return (float(px + c * x - s * z), float(py + y), float(pz + s * x + c * z))


def moved(node: Node, move: Move) -> Node:
    """Return a moved copy of a tree."""
    if isinstance(node, Group):
        return group([moved(member, move) for member in node.members])
    known = {field.name for field in fields(node)}
    lengths: dict[str, Any] = {name: _times(getattr(node, name), move.size) for name in LENGTHS if name in known}
    return replace(node, centre=move.point(node.centre), yaw=node.yaw + move.yaw, **lengths)


def _times(length: float | Vector, size: float) -> float | Vector:
    return (length[0] * size, length[1] * size, length[2] * size) if isinstance(length, tuple) else length * size


def repainted(node: Node, paint: Callable[[Surface], Surface]) -> Node:
    """Return a copy of a tree with every surface changed by `paint`; equal surfaces stay equal."""
    done: dict[int, Surface] = {}

    def copy(part: Node) -> Node:
        if isinstance(part, Group):
            return Group(tuple(copy(member) for member in part.members), part.centre, part.radius)
        if id(part.surface) not in done:
            done[id(part.surface)] = paint(part.surface)
        return replace(part, surface=done[id(part.surface)])

    return copy(node)


def bounds(node: Node) -> tuple[Array, Array]:
    """Return the lowest and the highest corner [3] of the box along the axes around a tree."""
    boxes = [_corners(shape) for shape in leaves(node)]
    return np.min([box.min(axis=1) for box in boxes], axis=0), np.max([box.max(axis=1) for box in boxes], axis=0)


def _corners(shape: Shape) -> Array:
    """Return the eight corners [3, 8] of the box around a shape, in its own frame."""
    signs = np.array([*product((-1, 1), repeat=3)], dtype=np.float64).T
    corners = signs * np.array(shape.half_box, dtype=np.float64)[:, None]
    return shape.axes.T.astype(np.float64) @ corners + np.array(shape.centre)[:, None]
