"""A small ray caster: the nearest hit of many rays in a tree of shapes, and whether rays are blocked.

Rays that miss the balls around groups and shapes are first left out. The rest are pairs of a ray and a shape that it
may hit. All pairs with shapes of one kind are computed together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .alike import Alike, alike
from .patterns import Plain
from .shapes import SKIN, Array, Shape, Vector, column, dot

Rows: TypeAlias = NDArray[np.intp]
CHUNK = 8192
"""Pairs that are computed at a time, so that their data fits into the processor's cache."""


@dataclass(frozen=True)
class Group:
    """Shapes that are close together, with a ball around them: rays that miss the ball skip them all."""

    members: tuple[Shape | Group, ...]
    centre: Vector
    radius: float


class Balls(NamedTuple):
    """The balls around the direct shapes of a group: numbers [M], centres [3, M, 1], radii [M, 1]."""

    numbers: NDArray[np.int32]
    centres: Array
    radii: Array


class Materials(NamedTuple):
    """Surfaces of n shapes: colour (linear albedo, NaN for a pattern) and glow [3, n], roughness and metallic [n]."""

    colour: Array
    glow: Array
    roughness: Array
    metallic: Array


@dataclass(frozen=True)
class Scene:
    """Everything that stops light, and the backdrop behind it."""

    root: Group
    backdrop: Shape

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """All shapes, numbered as `Hits.shape` numbers them; the backdrop is the last."""
        return (*leaves(self.root), self.backdrop)

    @cached_property
    def numbers(self) -> dict[int, int]:
        """The number of each shape by its id()."""
        return {id(shape): number for number, shape in enumerate(self.shapes)}

    @cached_property
    def materials(self) -> Materials:
        """The surfaces of the shapes, by their numbers."""
        surfaces = [shape.surface for shape in self.shapes]
        colours = [surface.paint.colour if isinstance(surface.paint, Plain) else (np.nan,) * 3 for surface in surfaces]
        colour, glow = (
            np.array(rows, dtype=np.float32).T for rows in (colours, [surface.glow for surface in surfaces])
        )
        roughness = np.array([surface.roughness for surface in surfaces], dtype=np.float32)
        return Materials(colour, glow, roughness, np.array([s.metallic for s in surfaces], dtype=np.float32))

    @cached_property
    def balls(self) -> dict[int, Balls]:
        """The balls around a group's own shapes, by the group's id()."""
        return {id(node): _balls(node, self.numbers) for node in _groups(self.root)}

    @cached_property
    def kinds(self) -> tuple[Alike, ...]:
        """All shapes but the backdrop, in sets of one kind."""
        return tuple(alike(self.shapes[:-1]))

    @cached_property
    def kind_of(self) -> tuple[NDArray[np.int32], Rows]:
        """For each shape's number, the set that it is in and its place there."""
        which, place = np.zeros(len(self.shapes), dtype=np.int32), np.zeros(len(self.shapes), dtype=np.intp)
        for number, kind in enumerate(self.kinds):
            which[kind.numbers], place[kind.numbers] = number, np.arange(kind.numbers.size)
        return which, place


class Hits(NamedTuple):
    """The hits of rays: distance [N], number of the shape [N], and the point [3, N]."""

    distance: Array
    shape: NDArray[np.int32]
    point: Array


class Pairs(NamedTuple):
    """Rays [P] and the numbers of shapes that they may hit [P], without the backdrop."""

    rows: Rows
    numbers: NDArray[np.int32]


def group(members: Sequence[Shape | Group]) -> Group:
    """Return the members with the ball around them (about the middle of their centres' box)."""
    centres = np.array([member.centre for member in members])
    middle = (centres.min(axis=0) + centres.max(axis=0)) / 2
    reach = max(float(np.linalg.norm(c - middle)) + member.radius for c, member in zip(centres, members))
    return Group(tuple(members), (float(middle[0]), float(middle[1]), float(middle[2])), reach)


def nearest(scene: Scene, origins: Array, directions: Array) -> Hits:
    """Return the first hit of each ray, at least the backdrop; rays may share one origin [3, 1]."""
    count = directions.shape[1]
    distance = np.full(count, np.inf, dtype=np.float32)
    shape = np.full(count, len(scene.shapes) - 1, dtype=np.int32)
    for rows, numbers, t in _meetings(scene, origins, directions, _pairs(scene, origins, directions, None)):
        np.minimum.at(distance, rows, t)
        first = np.flatnonzero((t == distance[rows]) & (t < np.inf))
        shape[rows[first]] = numbers[first]
    beyond = np.flatnonzero(np.isinf(distance))
    starts = np.broadcast_to(origins, directions.shape)
    distance[beyond] = scene.backdrop.reach(starts.take(beyond, axis=1), directions.take(beyond, axis=1))
    return Hits(distance, shape, origins + distance * directions)


def blocked(scene: Scene, origins: Array, directions: Array, limits: Array) -> NDArray[np.bool_]:
    """Return whether each ray is blocked before its limit [N]; the backdrop never blocks one."""
    found = np.zeros(directions.shape[1], dtype=bool)
    for rows, _, t in _meetings(
        scene, origins, directions, _pairs(scene, origins, directions, limits.astype(np.float32))
    ):
        found[rows[t < limits[rows] - SKIN]] = True
    return found


def normals(scene: Scene, shape: NDArray[np.int32], points: Array) -> Array:
    """Return the outward normals [3, N] at points on the shapes with these numbers [N]."""
    which, place = scene.kind_of
    found = np.empty(points.shape, dtype=np.float32)
    sets = np.where(shape == len(scene.shapes) - 1, len(scene.kinds), which[shape])
    for number, rows in by_value(sets):
        if number == len(scene.kinds):
            found[:, rows] = scene.backdrop.normal(points[:, rows])
        else:
            found[:, rows] = scene.kinds[number].normal(place[shape[rows]], points[:, rows])
    return found


def by_value(values: NDArray[Any]) -> Iterator[tuple[int, Rows]]:
    """Yield each value of [N] that occurs, and the rows where it does."""
    order = np.argsort(values, kind="stable")
    edges = np.flatnonzero(np.diff(values[order])) + 1
    for rows in np.split(order, edges) if values.size else ():
        yield int(values[rows[0]]), rows


def leaves(node: Shape | Group) -> Iterator[Shape]:
    """Yield the shapes of a tree, in order."""
    if isinstance(node, Group):
        for member in node.members:
            yield from leaves(member)
    else:
        yield node


def _groups(node: Group) -> Iterator[Group]:
    yield node
    for member in node.members:
        if isinstance(member, Group):
            yield from _groups(member)


def _balls(node: Group, numbers: dict[int, int]) -> Balls:
    own = [member for member in node.members if isinstance(member, Shape)]
    centres = np.array([shape.centre for shape in own], dtype=np.float32).reshape(-1, 3)
    radii = np.array([shape.radius for shape in own], dtype=np.float32)
    which = np.array([numbers[id(shape)] for shape in own], dtype=np.int32)
    return Balls(which, centres.T[:, :, None], radii[:, None])


def _meetings(
    scene: Scene, origins: Array, directions: Array, pairs: Pairs
) -> Iterator[tuple[Rows, NDArray[np.int32], Array]]:
    """Yield rays [P], the shapes that they may hit [P] and the distance [P], infinite for rays that miss."""
    rows, numbers = pairs
    which, place = scene.kind_of
    for kind, members in by_value(which[numbers]):
        for start in range(0, members.size, CHUNK):
            some = members[start : start + CHUNK]
            ray, number = rows[some], numbers[some]
            t = scene.kinds[kind].reach(place[number], _some(origins, ray), directions.take(ray, axis=1))
            yield ray, number, t


def _pairs(scene: Scene, origins: Array, directions: Array, limits: Array | None) -> Pairs:
    """Return the rays and shapes whose balls the rays pass through before their limits."""
    rays: list[Rows] = [np.zeros(0, dtype=np.intp)]
    numbers: list[NDArray[np.int32]] = [np.zeros(0, dtype=np.int32)]
    pending: list[_Task] = [_Task(scene.root, np.arange(directions.shape[1]), origins, directions, limits)]
    while pending:
        task = _narrow(pending.pop())
        if task.rows.size == 0:
            continue
        pending += [task._replace(node=member) for member in task.node.members if isinstance(member, Group)]
        balls = scene.balls[id(task.node)]
        for start in range(0, task.rows.size, CHUNK):
            part = task.at(np.arange(start, min(start + CHUNK, task.rows.size)))
            member, ray = np.nonzero(_through(part, balls.centres, balls.radii))
            rays.append(part.rows[ray])
            numbers.append(balls.numbers[member])
    return Pairs(np.concatenate(rays), np.concatenate(numbers))


class _Task(NamedTuple):
    """A group of the tree, and the rays that may hit it: their numbers, origins, directions and limits."""

    node: Group
    rows: Rows
    origins: Array
    directions: Array
    limits: Array | None

    def at(self, keep: Rows) -> _Task:
        """Keep the rays at these places."""
        if keep.size == self.rows.size:
            return self
        limits = None if self.limits is None else self.limits[keep]
        return _Task(self.node, self.rows[keep], _some(self.origins, keep), self.directions.take(keep, axis=1), limits)


def _some(origins: Array, rows: Rows) -> Array:
    """Return the origins of some rays; a single origin for all rays stays unchanged."""
    return origins if origins.shape[1] == 1 else origins.take(rows, axis=1)


def _narrow(task: _Task) -> _Task:
    """Keep the rays that pass through the ball of the task's group before their limits."""
    return task.at(np.flatnonzero(_through(task, column(task.node.centre), np.float32(task.node.radius))))


def _through(task: _Task, centres: Array, radii: Array | np.float32) -> NDArray[np.bool_]:
    """Return which rays pass through balls before their limits: [N], or [M, N] for M balls of centres [3, M, 1]."""
    origins, directions = (
        values if centres.ndim == 2 else values[:, None] for values in (task.origins, task.directions)
    )
    to_centre = centres - origins
    along = dot(to_centre, directions)
    aside = along * along
    np.subtract(dot(to_centre, to_centre), aside, out=aside)
    through = aside <= radii * radii
    through &= along > -radii
    if task.limits is not None:
        through &= np.subtract(along, radii, out=along) < task.limits
    return through
