"""A small ray caster: the nearest hit of many rays in a tree of shapes, and whether something is in the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .shapes import SKIN, Array, Shape, Vector, column, dot

Rows: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True)
class Group:
    """Shapes that stand together, in a ball that holds them: rays that miss the ball skip them all."""

    members: tuple[Shape | Group, ...]
    centre: Vector
    radius: float


@dataclass(frozen=True)
class Scene:
    """Everything that stops light, and the backdrop that is seen where nothing does."""

    root: Group
    backdrop: Shape

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """All shapes, numbered as `Hits.shape` numbers them; the backdrop is the last."""
        return (*_leaves(self.root), self.backdrop)

    @cached_property
    def numbers(self) -> dict[int, int]:
        """The number of each shape by its id()."""
        return {id(shape): number for number, shape in enumerate(self.shapes)}


class Hits(NamedTuple):
    """What rays meet: distance [N], number of the shape [N], and the point [3, N]."""

    distance: Array
    shape: NDArray[np.int32]
    point: Array


def group(members: Sequence[Shape | Group]) -> Group:
    """Return the members with the ball around them (about the middle of their centres' box)."""
    centres = np.array([member.centre for member in members])
    middle = (centres.min(axis=0) + centres.max(axis=0)) / 2
    reach = max(float(np.linalg.norm(c - middle)) + member.radius for c, member in zip(centres, members))
    return Group(tuple(members), (float(middle[0]), float(middle[1]), float(middle[2])), reach)


def nearest(scene: Scene, origins: Array, directions: Array) -> Hits:
    """Return the first thing that each ray meets; every ray meets at least the backdrop."""
    count = origins.shape[1]
    distance = np.full(count, np.inf, dtype=np.float32)
    shape = np.full(count, len(scene.shapes) - 1, dtype=np.int32)
    pending: list[_Task] = [_Task(scene.root, np.arange(count), origins, directions)]
    while pending:
        task = _narrow(pending.pop(), distance)
        if isinstance(task.node, Group):
            pending += [task._replace(node=member) for member in task.node.members if task.rows.size]
        elif task.rows.size:
            t = task.node.reach(task.origins, task.directions)
            closer = np.flatnonzero(t < distance[task.rows])
            distance[task.rows[closer]] = t[closer]
            shape[task.rows[closer]] = scene.numbers[id(task.node)]
    beyond = np.flatnonzero(np.isinf(distance))
    distance[beyond] = scene.backdrop.reach(origins.take(beyond, axis=1), directions.take(beyond, axis=1))
    return Hits(distance, shape, origins + distance * directions)


def blocked(scene: Scene, origins: Array, directions: Array, limits: Array) -> NDArray[np.bool_]:
    """Return whether something stands on each ray before its limit [N]; the backdrop never does."""
    left = limits.astype(np.float32)
    pending: list[_Task] = [_Task(scene.root, np.arange(left.size), origins, directions)]
    while pending:
        task = _narrow(pending.pop(), left)
        if isinstance(task.node, Group):
            pending += [task._replace(node=member) for member in task.node.members if task.rows.size]
        elif task.rows.size:
            hit = task.node.reach(task.origins, task.directions) < left[task.rows] - SKIN
            # What is blocked needs no further test: a limit of -inf takes it out of every ball.
            left[task.rows[hit]] = -np.inf
    return np.isinf(left)


class _Task(NamedTuple):
    """A node of the tree, and the rays that may meet it: their numbers, origins and directions."""

    node: Shape | Group
    rows: Rows
    origins: Array
    directions: Array


def _narrow(task: _Task, limits: Array) -> _Task:
    """Keep the rays that pass through the ball of the task's node before their limits."""
    to_centre = column(task.node.centre) - task.origins
    along = dot(to_centre, task.directions)
    beside = dot(to_centre, to_centre) - along * along
    radius = np.float32(task.node.radius)
    keep = np.flatnonzero((beside <= radius * radius) & (along > -radius) & (along - radius < limits[task.rows]))
    if keep.size == task.rows.size:
        return task
    return _Task(task.node, task.rows[keep], task.origins.take(keep, axis=1), task.directions.take(keep, axis=1))


def _leaves(node: Group) -> Iterator[Shape]:
    for member in node.members:
        if isinstance(member, Group):
            yield from _leaves(member)
        else:
            yield member
