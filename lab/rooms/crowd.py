"""The further furniture of crowded rooms: round, soft, thin and slanted things, and small ones on and beside them.

Metres. A piece stands at the origin, its back at the wall Z = 0 and the room towards -Z; pieces without a back are
around the vertical axis.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .catalogue import BOOKCASE, PAINTING, PLANT, SOFA, Piece
from .catalogue import CHAIR as WOODEN_CHAIR
from .furniture import BRASS, CHAIR, CHROME, FABRIC, LEAF, OAK, WALNUT, books
from .moving import Move, Node, moved
from .patterns import painting, plain
from .plan import TO_WALL, Plan, against_wall, nearby
from .raycast import group
from .shapes import Ball, Box, Cone, Cushion, Shape, Surface, Vector

CLAY = Surface("vase", plain("d8d2c4"), 0.25)
PILLOW = Surface("cushion", plain("d9a441"), 0.95)
SEAT = Surface("chair", plain("c8b48c"), 0.9)
CANVAS, FRAME = Surface("picture", painting, 0.8), Surface("picture", plain("2c2a28"), 0.4)


def vase(place: Vector, tall: float) -> Iterator[Shape]:
    """Yield a vase of three parts that stands at a place."""
    x, y, z = place
    for low, high, bottom, top in ((0, 0.5, 0.16, 0.26), (0.5, 0.8, 0.26, 0.09), (0.8, 1, 0.09, 0.12)):
        middle, half = y + tall * (low + high) / 2, tall * (high - low) / 2
        yield Cone(CLAY, (x, middle, z), bottom=tall * bottom, top=tall * top, tall=half)


def stack(place: Vector, count: int) -> Iterator[Shape]:
    """Yield lying books, each turned a little."""
    x, y, z = place
    for k, colour in enumerate(("31506e", "a2413a", "c9a24a", "3f5f48", "d8cfbd", "54405e")[:count]):
        book = Surface("book", plain(colour), 0.6)
        yield Box(book, (x, y + 0.02 + 0.04 * k, z), yaw=37.0 * k % 50, half=(0.14 - 0.01 * k, 0.018, 0.1 - 0.006 * k))


def armchair() -> Node:
    """Build a low chair with thick arms and a tipped back."""
    arms = [Cushion(FABRIC, (s * 0.37, 0.29, -0.42), TO_WALL, half=(0.4, 0.29, 0.1), rounding=0.07) for s in (-1, 1)]
    seat = Cushion(FABRIC, (0.0, 0.24, -0.46), TO_WALL, half=(0.38, 0.2, 0.28), rounding=0.08)
    back = Cushion(FABRIC, (0.0, 0.58, -0.17), TO_WALL, -12.0, half=(0.1, 0.36, 0.28), rounding=0.08)
    pillow = Cushion(PILLOW, (0.03, 0.59, -0.37), TO_WALL, -22.0, half=(0.07, 0.17, 0.19), rounding=0.065)
    return group([*arms, seat, back, pillow])


def daybed() -> Node:
    """Build a long upholstered bench with pillows along the wall."""
    base = Cushion(FABRIC, (0.0, 0.16, -0.47), half=(1.0, 0.16, 0.45), rounding=0.03)
    mattress = Cushion(FABRIC, (0.0, 0.41, -0.47), half=(0.98, 0.09, 0.44), rounding=0.07)
    pillows = [
        Cushion(PILLOW, (x, 0.68, -0.16), TO_WALL, -18.0, half=(0.08, 0.19, 0.24), rounding=0.075)
        for x in (-0.7, -0.15, 0.55)
    ]
    return group([base, mattress, *pillows])


def cupboard() -> Node:
    """Build a closed cupboard with two doors and things on top of it."""
    doors = [Box(WALNUT, (s * 0.29, 0.55, -0.455), half=(0.26, 0.46, 0.008)) for s in (-1, 1)]
    knobs = [Ball(BRASS, (s * 0.06, 0.6, -0.48), half=(0.018, 0.018, 0.018)) for s in (-1, 1)]
    body = Box(WALNUT, (0.0, 0.54, -0.225), half=(0.6, 0.54, 0.222))
    things = [*vase((-0.35, 1.08, -0.2), 0.34), *stack((0.25, 1.08, -0.22), 5)]
    return group([body, *doors, *knobs, group(things)])


def desk() -> Node:
    """Build a desk with books, a ball and a stool below it."""
    legs = [Box(OAK, (a * 0.62, 0.35, -0.33 + b * 0.27), half=(0.025, 0.35, 0.025)) for a in (-1, 1) for b in (-1, 1)]
    things = [*stack((0.4, 0.74, -0.3), 4), Ball(CHROME, (-0.3, 0.83, -0.25), half=(0.09, 0.09, 0.09))]
    return group([Box(OAK, (0.0, 0.72, -0.33), half=(0.7, 0.02, 0.32)), *legs, group(things), *pouffe(-0.45)])


def pouffe(z: float = 0.0) -> Iterator[Shape]:
    """Yield a round seat."""
    yield Cone(SEAT, (0.0, 0.19, z), bottom=0.2, top=0.23, tall=0.19)
    yield Ball(SEAT, (0.0, 0.38, z), half=(0.23, 0.07, 0.23))


def side_table() -> Node:
    """Build a round table on one leg with a vase on it."""
    foot = Cone(OAK, (0.0, 0.015, 0.0), bottom=0.22, top=0.2, tall=0.015)
    leg = Cone(BRASS, (0.0, 0.3, 0.0), bottom=0.025, top=0.025, tall=0.27)
    top = Cone(OAK, (0.0, 0.585, 0.0), bottom=0.34, top=0.34, tall=0.015)
    return group([foot, leg, top, *vase((0.08, 0.6, 0.05), 0.3), *stack((-0.14, 0.6, -0.08), 3)])


def floor_cushions() -> Node:
    """Build two soft cushions that lie on each other."""
    low = Cushion(PILLOW, (0.0, 0.09, 0.0), half=(0.38, 0.09, 0.38), rounding=0.08)
    return group([low, Cushion(PILLOW, (0.03, 0.25, 0.02), yaw=28.0, half=(0.31, 0.075, 0.31), rounding=0.07)])


def ladder_shelf() -> Node:
    """Build a shelf that leans against the wall, its boards level."""
    rails = [Box(CHAIR, (s * 0.34, 0.94, -0.24), TO_WALL, -13.0, half=(0.018, 0.96, 0.018)) for s in (-1, 1)]
    heights = (0.3, 0.75, 1.2, 1.65)
    boards = [Box(CHAIR, (0.0, h, -0.24 + (h - 0.94) * 0.23), half=(0.32, 0.012, 0.13)) for h in heights]
    plant = [
        Ball(LEAF, (0.15 + 0.1 * np.cos(a), 1.34, -0.17 + 0.08 * np.sin(a)), half=(0.06, 0.12, 0.06))
        for a in np.arange(0, 6, 1.2)
    ]
    return group([*rails, *boards, *stack((-0.12, 0.762, -0.28), 4), *vase((0.1, 0.312, -0.38), 0.26), group(plant)])


def wall_shelf() -> Node:
    """Build a board on the wall with a row of books; the origin is its middle."""
    row = moved(group([*books(0.0, 0.0, 0.03, 1)]), Move((0.0, 0.0, 0.0), (0.0, 0.015, -0.14)))
    return group([Box(WALNUT, (0.0, 0.0, -0.13), half=(0.8, 0.015, 0.13)), row])


def leaning_picture() -> Node:
    """Build a large picture that stands on the floor and leans against the wall."""
    frame = Box(FRAME, (0.0, 0.52, -0.14), TO_WALL, -12.0, half=(0.015, 0.52, 0.42))
    return group([frame, Box(CANVAS, (0.0, 0.524, -0.158), TO_WALL, -12.0, half=(0.004, 0.47, 0.37))])


def big_vase() -> Node:
    """Build a tall vase with twigs on the floor."""
    twigs = [
        Cone(CHAIR, (x, 0.95, z), float(np.degrees(a)), -12.0, bottom=0.008, top=0.004, tall=0.35)
        for a in np.arange(0, 6, 0.9)
        for x, z in [(0.09 * float(np.cos(a)), 0.09 * float(np.sin(a)))]
    ]
    return group([*vase((0.0, 0.0, 0.0), 0.65), group(twigs)])


def books_on_floor() -> Node:
    """Build a stack of books on the floor."""
    return group([*stack((0.0, 0.0, 0.0), 6)])


ORIGIN = (0.0, 0.0, 0.0)
AT_WALLS = (
    SOFA,
    BOOKCASE,
    Piece(daybed, ORIGIN, sizes=(0.9, 1.1)),
    Piece(cupboard, ORIGIN, sizes=(0.9, 1.8)),
    Piece(desk, ORIGIN),
    Piece(ladder_shelf, ORIGIN, sizes=(0.9, 1.1)),
    Piece(armchair, ORIGIN, sizes=(0.9, 1.2)),
    Piece(leaning_picture, ORIGIN, sizes=(0.7, 1.2)),
)
FREE = (
    PLANT,
    WOODEN_CHAIR,
    Piece(armchair, ORIGIN, sizes=(0.9, 1.3)),
    Piece(cupboard, ORIGIN, sizes=(0.6, 1.2)),
    Piece(side_table, ORIGIN),
    Piece(floor_cushions, ORIGIN, sizes=(0.8, 1.2)),
    Piece(lambda: group([*pouffe()]), ORIGIN, sizes=(0.8, 1.4)),
    Piece(big_vase, ORIGIN, sizes=(0.8, 1.5)),
    Piece(books_on_floor, ORIGIN, sizes=(0.9, 1.3)),
)
ON_WALLS = (Piece(wall_shelf, ORIGIN, sizes=(0.5, 0.9)), PAINTING)


def crowd(plan: Plan) -> None:
    """Place the further furniture of a crowded room, the pieces at walls first."""
    for number in range(4):
        for which in plan.random.permutation(len(AT_WALLS)):
            against_wall(plan, AT_WALLS[which], number)
    for which in np.concatenate([plan.random.permutation(len(FREE)) for _ in range(3)]):
        nearby(plan, FREE[which])
    for piece in ON_WALLS * 3:
        against_wall(plan, piece, int(plan.random.integers(4)), height=float(plan.random.uniform(1.3, 1.8)))
