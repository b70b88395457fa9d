"""The furniture of random rooms: the pieces of the demo's room, each with its original place."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .furniture import (
    BACK,
    CEILING,
    FLOOR,
    FRONT,
    LAMP,
    PENDANT,
    RIGHT,
    bookcase,
    carpet,
    chair,
    coffee_table,
    dining_table,
    door,
    floor_lamp,
    hung_painting,
    mirror,
    pendant,
    plant,
    sofa,
)
from .lighting import Lamp
from .moving import Move, Node, bounds, moved
from .patterns import plain
from .raycast import group
from .shapes import Array, Ball, Cone, Shape, Surface, Vector


class Piece(NamedTuple):
    """A piece of furniture.

    home is the point that is moved to the new place: on the wall for pieces at a wall, on the ceiling for hanging
    pieces, else in the middle on the floor. turn (degrees) turns the back of the piece to +Z.
    """

    build: Callable[[], Node]
    home: Vector
    turn: float = 0.0
    sizes: tuple[float, float] = (0.9, 1.15)
    lamp: Lamp | None = None

    def move(self, place: Vector, yaw: float, size: float) -> Move:
        """Return the move of the piece to a place, with its back towards +Z turned to the left by yaw (degrees)."""
        return Move(self.home, place, self.turn + yaw, size)

    def box(self, place: Vector, yaw: float, size: float) -> tuple[Array, Array]:
        """Return the corners of a box along the axes around the piece at a place; it is tight at right angles."""
        low, high = _box(self)
        a = np.radians(yaw)
        turn = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
        middle, half = turn @ (low + high) / 2 * size, np.abs(turn) @ (high - low) / 2 * size
        return np.array(place) + middle - half, np.array(place) + middle + half


@lru_cache
def built(piece: Piece) -> Node:
    """Return a piece of the demo's room; shapes never change, so it is built once."""
    return piece.build()


@lru_cache
def _box(piece: Piece) -> tuple[Array, Array]:
    return bounds(moved(built(piece), piece.move((0.0, 0.0, 0.0), 0.0, 1.0)))


def _ceiling_light() -> Node:
    """Build a flat lamp under a ceiling at height 0."""
    glass = Surface("lamp", plain("fff4e0"), 0.9, glow=(3.0, 2.5, 1.9))
    rim = Surface("lamp", plain("d8dadd"), 0.3, metallic=1.0)
    shapes: list[Shape] = [
        Cone(rim, (0.0, -0.02, 0.0), bottom=0.2, top=0.2, tall=0.02),
        Ball(glass, (0.0, -0.04, 0.0), half=(0.17, 0.06, 0.17)),
    ]
    return group(shapes)


def _dining_set() -> Node:
    """Build the dining table with four chairs."""
    x, z = PENDANT[0], PENDANT[2]
    places = ((0.1, -0.62, 80.0), (0.95, 0.1, 170.0), (-0.95, -0.05, 5.0), (-0.1, 0.62, -95.0))
    return group([dining_table(), *(chair(x + a, z + b, yaw) for a, b, yaw in places)])


def _table_on_rug() -> Node:
    """Build the coffee table on its rug."""
    home = (1.72, FLOOR, 0.02)
    return group([carpet(), moved(coffee_table(), Move(home, (home[0], FLOOR + 0.0125, home[2])))])


SOFA = Piece(sofa, (FRONT, FLOOR, 0.05), 90.0)
BOOKCASE = Piece(bookcase, (1.35, FLOOR, RIGHT), 180.0, (0.85, 1.1))
DOOR = Piece(door, (BACK, FLOOR, -0.15), -90.0, (0.95, 1.05))
PAINTING = Piece(hung_painting, (FRONT, 0.25, 0.05), 90.0, (0.5, 1.3))
MIRROR = Piece(mirror, (-0.6, 0.1, RIGHT), 180.0, (0.6, 1.2))
CHAIR = Piece(lambda: chair(0.0, 0.0, 0.0), (0.0, FLOOR, 0.0))
COFFEE_TABLE = Piece(coffee_table, (1.72, FLOOR, 0.02))
TABLE_ON_RUG = Piece(_table_on_rug, (1.72, FLOOR, 0.02))
DINING_TABLE = Piece(_dining_set, (PENDANT[0], FLOOR, PENDANT[2]))
PLANT = Piece(plant, (BACK + 0.5, FLOOR, RIGHT + 0.5), 0.0, (0.7, 1.15))
FLOOR_LAMP = Piece(
    floor_lamp, (LAMP[0], FLOOR, LAMP[2]), 0.0, (0.85, 1.15), Lamp(LAMP, (0.85, 0.58, 0.32), radius=0.12, clear=0.32)
)
PENDANT_LAMP = Piece(
    pendant,
    (PENDANT[0], CEILING, PENDANT[2]),
    0.0,
    (0.8, 1.2),
    Lamp((PENDANT[0], PENDANT[1] - 0.12, PENDANT[2]), (0.75, 0.6, 0.42), radius=0.03, clear=0.0),
)
CEILING_LIGHT = Piece(
    _ceiling_light,
    (0.0, 0.0, 0.0),
    0.0,
    (0.9, 1.3),
    Lamp((0.0, -0.12, 0.0), (1.1, 0.95, 0.75), radius=0.04, clear=0.12),
)
