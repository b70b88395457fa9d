"""A room while it is being furnished: which places are taken, and what stands where.

Pieces are placed one after another, each in a free box. A piece that finds no place in a few tries is left out. So
nothing intersects, and nothing is in a doorway or at the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np

from .catalogue import Piece, built
from .lighting import Lamp, Opening
from .moving import Move, Node, moved, repainted
from .painting import Random, redecorated
from .shapes import Array, Vector

TRIES = 12
GAP = 0.03
"""Free space around every piece, in metres."""
AROUND_CAMERA = 0.45
"""Free space on all sides of the camera, in metres."""


class Shell(NamedTuple):
    """The inner faces of a room around the camera, in metres: low and high corner."""

    low: Vector
    high: Vector


class Side(NamedTuple):
    """One wall: its normal axis, its place on it, the direction to the outside, and the yaw that turns +Z there."""

    axis: int
    outward: int
    yaw: float


SIDES = (Side(2, 1, 0.0), Side(0, -1, 90.0), Side(2, -1, 180.0), Side(0, 1, 270.0))


Hole: TypeAlias = tuple[Vector, Vector]
"""The low and high corner of an opening in a wall."""

TO_WALL = 90.0
"""The yaw that turns a shape's X to the wall; a negative lean then tips its top to the wall."""


class Mood(NamedTuple):
    """The light of a time of day: radiances of sun and sky, and the brightness of lamps."""

    sunlight: Vector
    skylight: Vector
    backdrop: Vector
    lamps: float
    ambient: Vector


@dataclass
class Plan:
    """A room while it is being furnished."""

    random: Random
    shell: Shell
    mood: Mood
    nodes: list[Node] = field(default_factory=list)
    lamps: list[Lamp] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)
    taken: list[tuple[Array, Array]] = field(default_factory=list)

    def is_free(self, low: Array, high: Array, inside: bool = True) -> bool:
        """Return whether a box intersects no other box and, except for windows, is within the walls."""
        # Rounding may move a box that touches a wall a little.
        within = (low > np.array(self.shell.low) - 1e-3).all() and (high < np.array(self.shell.high) + 1e-3).all()
        apart = all(
            (low > other_high + GAP).any() or (high < other_low - GAP).any() for other_low, other_high in self.taken
        )
        return bool(apart and (within or not inside))

    def stand(self, piece: Piece, place: Vector, yaw: float, clear: float = 0.0, needed: bool = False) -> bool:
        """Put a piece at a place if it is free there or needed; `clear` metres in front of its back stay free."""
        size = float(self.random.uniform(*piece.sizes))
        low, high = piece.box(place, yaw, size)
        if not needed and not self.is_free(low, high):
            return False
        if clear:
            a = np.radians(yaw)
            front = np.array([np.sin(a), 0.0, -np.cos(a)]) * clear
            low, high = low + np.minimum(front, 0), high + np.maximum(front, 0)
        self.taken.append((low, high))
        move = piece.move(place, yaw, size)
        self.nodes.append(repainted(moved(built(piece), move), redecorated(self.random, self.mood.lamps)))
        if piece.lamp and self.mood.lamps:
            self.lamps.append(_moved_lamp(piece.lamp, move, self.mood.lamps))
        return True


def against_wall(plan: Plan, piece: Piece, number: int, clear: float = 0.0, height: float = 0.0) -> None:
    """Put a piece against a wall at a free place, with its origin `height` above the floor."""
    side, (low, high) = SIDES[number], plan.shell
    for _ in range(TRIES):
        x, y, z = on_wall(plan.shell, side, plan.random.uniform(low[2 - side.axis], high[2 - side.axis]))
        if plan.stand(piece, (x, y + height, z), side.yaw, clear):
            return


def anywhere(plan: Plan, piece: Piece, level: float) -> None:
    """Put a piece at any free place on the floor or ceiling."""
    low, high = plan.shell
    _turned_freely(plan, piece, level, lambda: tuple(plan.random.uniform(low[axis], high[axis]) for axis in (0, 2)))


def on_wall(shell: Shell, side: Side, along: float) -> Vector:
    """Return the point at the foot of a wall."""
    across = (shell.low, shell.high)[side.outward > 0][side.axis]
    return (across, shell.low[1], float(along)) if side.axis == 0 else (float(along), shell.low[1], across)


def hole_of(shell: Shell, side: Side, move: Move, corners: Hole) -> Hole:
    """Return the moved corners of an opening, both in the plane of a wall."""
    ends = np.sort([move.point(corner) for corner in corners], axis=0)
    ends[:, side.axis] = (shell.low, shell.high)[side.outward > 0][side.axis]
    first, second = ((float(x), float(y), float(z)) for x, y, z in ends)
    return first, second


def nearby(plan: Plan, piece: Piece) -> None:
    """Put a piece on the floor near the camera, if there is a free place."""

    def drawn() -> tuple[float, ...]:
        angle, far = plan.random.uniform(-np.pi, np.pi), plan.random.uniform(0.6, 1.5)
        return far * np.cos(angle), far * np.sin(angle)

    _turned_freely(plan, piece, plan.shell.low[1], drawn)


def _turned_freely(plan: Plan, piece: Piece, level: float, drawn: Callable[[], tuple[float, ...]]) -> None:
    """Put a piece, turned in any direction, at the first free one of a few drawn places (x, z)."""
    for _ in range(TRIES):
        x, z = drawn()
        if plan.stand(piece, (float(x), level, float(z)), float(plan.random.uniform(0, 360))):
            return


def _moved_lamp(lamp: Lamp, move: Move, brightness: float) -> Lamp:
    """Return a lamp's light at the place of its moved piece."""
    r, g, b = (value * brightness for value in lamp.intensity)
    return Lamp(move.point(lamp.centre), (r, g, b), lamp.radius * move.size, lamp.clear * move.size)
