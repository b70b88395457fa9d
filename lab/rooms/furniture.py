"""The contents of the demo's room: walls, window and furniture.

Metres; the camera is the origin. Front +X, up +Y, left +Z. The floor is at -1.5, the ceiling at 1.2.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .enclosure import Wall
from .patterns import mixed, noise, painting, plain, planks, rug, timber
from .raycast import Group, group
from .shapes import Ball, Box, Cone, Cushion, Shape, Surface, Vector

FLOOR, CEILING = -1.5, 1.2
BACK, FRONT = -2.5, 3.5
RIGHT, LEFT = -2.5, 2.6
WINDOW_LOW: Vector = (0.1, -0.75, LEFT)
WINDOW_HIGH: Vector = (2.5, 0.85, LEFT)
LAMP: Vector = (3.0, 0.12, -2.0)
PENDANT: Vector = (-1.3, 0.42, 1.35)

WHITE = Surface("trim", plain("ece8e0"), roughness=0.5)
OAK = Surface("table", timber("7a5230", "a87a4c"), roughness=0.35)
WALNUT = Surface("shelf", timber("64452e", "8a6243"), roughness=0.4)
FABRIC = Surface("sofa", plain("7d979b"), roughness=0.95)
CREAM = Surface("curtain", plain("e3d8c3"), roughness=0.95)
BRASS = Surface("lamp", plain("c9a35a"), roughness=0.25, metallic=1.0)
CHROME = Surface("ornament", plain("d8dadd"), roughness=0.12, metallic=1.0)
CHAIR = Surface("chair", timber("6b4a2c", "8d6540"), roughness=0.4)
LEAF = Surface("plant", mixed("3f6b35", "6f9c4a", lambda p: np.sin(p[0] * 60) * np.sin(p[1] * 60) * 0.5 + 0.5), 0.7)


# --- the room --------------------------------------------------------------------------------------------------------


def shell() -> list[Shape | Group]:
    """Build floor, ceiling, four walls and the skirting."""
    middle = ((BACK + FRONT) / 2, (FLOOR + CEILING) / 2, (RIGHT + LEFT) / 2)
    half = ((FRONT - BACK) / 2, (CEILING - FLOOR) / 2, (LEFT - RIGHT) / 2)
    x, y, z = middle
    cream, sage = Surface("wall", plain("e6dfd2"), 0.9), Surface("wall", plain("9fb0a0"), 0.9)
    skirting = [
        Box(WHITE, (x, FLOOR + 0.05, side), half=(half[0], 0.05, 0.006)) for side in (RIGHT + 0.006, LEFT - 0.006)
    ] + [Box(WHITE, (side, FLOOR + 0.05, z), half=(0.006, 0.05, half[2])) for side in (BACK + 0.006, FRONT - 0.006)]
    return [
        Wall(Surface("floor", planks, 0.3), (x, FLOOR, z), half=half, axis=1, facing=1),
        Wall(Surface("ceiling", plain("f1efea"), 0.9), (x, CEILING, z), half=half, axis=1, facing=-1),
        Wall(sage, (FRONT, y, z), half=half, axis=0, facing=-1),
        Wall(cream, (BACK, y, z), half=half, axis=0, facing=1),
        Wall(cream, (x, y, RIGHT), half=half, axis=2, facing=1),
        Wall(cream, (x, y, LEFT), half=half, axis=2, facing=-1, hole=(WINDOW_LOW, WINDOW_HIGH)),
        *skirting,
    ]


def window(low: Vector = WINDOW_LOW, high: Vector = WINDOW_HIGH) -> Group:
    """Build reveal, sill, frame, glazing bars, rail and curtains of an opening in a wall that faces -Z."""
    (x0, y0, z), (x1, y1, _) = low, high
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    plaster = Surface("wall", plain("efeae0"), 0.9)
    frame = Surface("window", plain("f3f1ec"), 0.4)
    sides: list[Shape] = []
    for sign, edge in ((-1, x0), (1, x1)):
        sides.append(Box(plaster, (edge + sign * 0.05, y, z + 0.12), half=(0.05, y1 - y, 0.12)))
        sides.append(Box(frame, (edge - sign * 0.03, y, z + 0.14), half=(0.03, y1 - y, 0.03)))
    for sign, edge in ((-1, y0), (1, y1)):
        sides.append(Box(plaster, (x, edge + sign * 0.05, z + 0.12), half=(x1 - x + 0.1, 0.05, 0.12)))
        sides.append(Box(frame, (x, edge - sign * 0.03, z + 0.14), half=(x1 - x, 0.03, 0.03)))
    bars = [
        Box(frame, (x, y, z + 0.14), half=(0.035, y1 - y, 0.025)),
        Box(frame, (x, y + 0.3, z + 0.14), half=(x1 - x, 0.02, 0.02)),
    ]
    sill = Box(WHITE, (x, y0 - 0.02, z - 0.05), half=(x1 - x + 0.12, 0.02, 0.09))
    rail = Cone(BRASS, (x, y1 + 0.12, z - 0.1), lean=90.0, bottom=0.018, top=0.018, tall=(x1 - x0) / 2 + 0.55)
    return group([*sides, *bars, sill, rail, *(curtain(side, y1 - 0.07, z - 0.1) for side in (x0 - 0.22, x1 + 0.22))])


def curtain(x: float, top: float, z: float) -> Group:
    """Build one drawn curtain out of upright folds, from just above the floor to `top`."""
    middle, tall = (top + FLOOR + 0.02) / 2, (top - FLOOR - 0.02) / 2
    folds = [
        Cone(CREAM, (x + k * 0.055, middle, z + 0.022 * (-1) ** k), bottom=0.042, top=0.036, tall=tall)
        for k in range(-3, 4)
    ]
    return group(folds)


def sofa() -> Group:
    """Build the sofa on the front wall, with cushions and pillows."""
    rust, ochre = Surface("cushion", plain("b5573a"), 0.95), Surface("cushion", plain("d9a441"), 0.95)
    x, z = 2.98, 0.05
    seats = [Cushion(FABRIC, (x - 0.08, -1.06, z + s * 0.44), half=(0.4, 0.11, 0.435), rounding=0.07) for s in (-1, 1)]
    backs = [
        Cushion(FABRIC, (x + 0.24, -0.75, z + s * 0.44), lean=-12, half=(0.12, 0.26, 0.43), rounding=0.1)
        for s in (-1, 1)
    ]
    arms = [Cushion(FABRIC, (x - 0.03, -1.1, z + s * 1.0), half=(0.45, 0.28, 0.12), rounding=0.06) for s in (-1, 1)]
    pillows = [
        Cushion(rust, (x + 0.02, -0.76, z + 0.68), yaw=18, lean=-24, half=(0.075, 0.2, 0.2), rounding=0.07),
        Cushion(ochre, (x + 0.02, -0.77, z - 0.66), yaw=-20, lean=-24, half=(0.07, 0.19, 0.19), rounding=0.065),
    ]
    base = Cushion(FABRIC, (x, -1.27, z), half=(0.44, 0.12, 1.05), rounding=0.03)
    back = Cushion(FABRIC, (x + 0.4, -0.98, z), half=(0.1, 0.42, 1.05), rounding=0.06)
    return group([base, back, *seats, *backs, *arms, *pillows])


def coffee_table() -> Group:
    """Build the round table on the rug, with a chrome ball, a vase and books."""
    x, z, top = 1.72, 0.02, FLOOR + 0.42
    legs = [
        Cone(OAK, (x + 0.33 * np.cos(a), FLOOR + 0.2, z + 0.33 * np.sin(a)), bottom=0.018, top=0.03, tall=0.2)
        for a in np.radians([45, 135, 225, 315])
    ]
    clay, blue, red = (
        Surface(n, plain(c), r)
        for n, c, r in (("vase", "d8d2c4", 0.25), ("book", "31506e", 0.7), ("book", "a2413a", 0.7))
    )
    things = [
        Ball(CHROME, (x - 0.16, top + 0.11, z - 0.2), half=(0.11, 0.11, 0.11)),
        Cone(clay, (x + 0.08, top + 0.08, z + 0.22), bottom=0.05, top=0.085, tall=0.08),
        Cone(clay, (x + 0.08, top + 0.2, z + 0.22), bottom=0.085, top=0.03, tall=0.04),
        Cone(clay, (x + 0.08, top + 0.265, z + 0.22), bottom=0.03, top=0.036, tall=0.025),
        Box(blue, (x + 0.2, top + 0.018, z - 0.12), yaw=25, half=(0.13, 0.018, 0.095)),
        Box(red, (x + 0.2, top + 0.05, z - 0.12), yaw=8, half=(0.115, 0.014, 0.085)),
    ]
    return group([Cone(OAK, (x, top - 0.02, z), bottom=0.52, top=0.52, tall=0.02), *legs, *things])


def floor_lamp() -> Group:
    """Build the standing lamp in the front right corner."""
    x, y, z = LAMP
    shade = Surface("lamp", plain("f0dfba"), 0.9, glow=(1.25, 0.86, 0.48))
    return group(
        [
            Cone(BRASS, (x, FLOOR + 0.015, z), bottom=0.16, top=0.15, tall=0.015),
            Cone(BRASS, (x, (FLOOR + y - 0.16) / 2, z), bottom=0.012, top=0.012, tall=(y - 0.16 - FLOOR) / 2),
            Cone(shade, (x, y, z), bottom=0.24, top=0.15, tall=0.16),
        ]
    )


def bookcase() -> Group:
    """Build the shelf on the right wall with four rows of books."""
    x, z, high = 1.35, RIGHT + 0.17, 0.92
    middle = FLOOR + high
    boards = [Box(WALNUT, (x, FLOOR + 0.06 + k * 0.43, z), half=(0.78, 0.015, 0.16)) for k in range(5)]
    sides = [Box(WALNUT, (x + s * 0.795, middle, z), half=(0.018, high, 0.17)) for s in (-1, 1)]
    back = Box(WALNUT, (x, middle, RIGHT + 0.01), half=(0.79, high, 0.008))
    rows = [group([*books(x, FLOOR + 0.075 + k * 0.43, z, k)]) for k in range(4)]
    plant = [
        Cone(Surface("vase", plain("c96f4a"), 0.6), (x - 0.5, 0.405, z), bottom=0.06, top=0.085, tall=0.08),
        *(
            Ball(
                LEAF, (x - 0.5 + 0.09 * np.cos(a), 0.55 + 0.03 * (k % 2), z + 0.08 * np.sin(a)), half=(0.06, 0.1, 0.06)
            )
            for k, a in enumerate(np.arange(0, 6.2, 1.05))
        ),
    ]
    return group([*boards, *sides, back, *rows, group(plant)])


BOOK_COLOURS = ("7a2e2a", "2f4f6b", "c9a24a", "3f5f48", "d8cfbd", "54405e", "b06a3c", "27323a")


def books(x: float, base: float, z: float, seed: int) -> Iterator[Shape]:
    """Yield one row of upright books; a fixed hash gives their thickness, height, depth and colour."""
    edge = x + 0.76
    for k in range(40):
        thick, tall, deep, tint = (float(noise(np.array([k]), np.array([seed * 7 + n]))[0]) for n in range(4))
        thick, tall, deep = 0.018 + 0.03 * thick, 0.24 + 0.12 * tall, 0.09 + 0.03 * deep
        if edge - thick < x - 0.76 or (seed == 2 and k > 12):
            return
        colour = BOOK_COLOURS[int(tint * len(BOOK_COLOURS))]
        yield Box(
            Surface("book", plain(colour), 0.6),
            (edge - thick / 2, base + tall / 2, z - 0.03),
            half=(thick / 2 - 0.001, tall / 2, deep),
        )
        edge -= thick


def dining_table() -> Group:
    """Build the table at the back on the left, its bowl of oranges and the lamp above it."""
    x, z, top = PENDANT[0], PENDANT[2], FLOOR + 0.74
    legs = [
        Box(OAK, (x + a * 0.55, FLOOR + 0.35, z + b * 0.33), half=(0.03, 0.35, 0.03)) for a in (-1, 1) for b in (-1, 1)
    ]
    orange = Surface("fruit", plain("e0832f"), 0.5)
    fruit = [
        Ball(orange, (x + 0.075 * np.cos(a), top + 0.1, z + 0.075 * np.sin(a)), half=(0.045, 0.045, 0.045))
        for a in (0.3, 2.4, 4.5)
    ]
    bowl = Cone(Surface("vase", plain("4d6a78"), 0.2), (x, top + 0.04, z), bottom=0.07, top=0.16, tall=0.04)
    board = Box(OAK, (x, top - 0.02, z), half=(0.66, 0.02, 0.42))
    return group([board, *legs, bowl, *fruit])


def pendant() -> Group:
    """Build the lamp over the dining table."""
    x, y, z = PENDANT
    enamel = Surface("lamp", plain("33414a"), 0.35)
    bulb = Surface("lamp", plain("fff1d6"), 0.9, glow=(4.0, 3.1, 2.0))
    return group(
        [
            Cone(enamel, (x, y + 0.1, z), bottom=0.21, top=0.05, tall=0.09),
            Ball(bulb, (x, y - 0.02, z), half=(0.055, 0.055, 0.055)),
            Cone(enamel, (x, (CEILING + y + 0.19) / 2, z), bottom=0.005, top=0.005, tall=(CEILING - y - 0.19) / 2),
        ]
    )


def chair(x: float, z: float, yaw: float) -> Group:
    """Build a chair with its seat at (x, z) that faces yaw (degrees, to the left of front)."""
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))

    def at(forward: float, height: float, left: float) -> Vector:
        return (float(x + c * forward - s * left), FLOOR + height, float(z + s * forward + c * left))

    legs = [
        Box(CHAIR, at(a * 0.18, 0.22, b * 0.18), yaw=yaw, half=(0.018, 0.22, 0.018)) for a in (-1, 1) for b in (-1, 1)
    ]
    posts = [Box(CHAIR, at(-0.19, 0.68, b * 0.18), yaw=yaw, half=(0.015, 0.25, 0.015)) for b in (-1, 1)]
    rests = [Box(CHAIR, at(-0.19, h, 0), yaw=yaw, half=(0.012, 0.045, 0.18)) for h in (0.64, 0.86)]
    seat = Cushion(
        Surface("chair", plain("c8b48c"), 0.9), at(0, 0.46, 0), yaw=yaw, half=(0.21, 0.03, 0.21), rounding=0.025
    )
    return group([seat, *legs, *posts, *rests])


def plant() -> Group:
    """Build the big plant in the back right corner."""
    x, z = BACK + 0.5, RIGHT + 0.5
    pot = Cone(Surface("vase", plain("b9b2a6"), 0.6), (x, FLOOR + 0.2, z), bottom=0.15, top=0.21, tall=0.2)
    trunk = Cone(Surface("plant", plain("6b4f38"), 0.9), (x, FLOOR + 0.6, z), bottom=0.025, top=0.02, tall=0.35)
    leaves = []
    for k in range(26):
        turn, out, high = 2.4 * k, 0.1 + 0.2 * ((k * 7) % 5) / 5, -0.72 + 0.033 * k
        centre = (float(x + out * np.cos(turn)), high, float(z + out * np.sin(turn)))
        leaves.append(Ball(LEAF, centre, yaw=float(np.degrees(turn)), lean=35.0, half=(0.16, 0.02, 0.065)))
    return group([pot, trunk, group(leaves)])


def door() -> Group:
    """Build the door in the back wall, across the panorama's seam."""
    wood, panel = Surface("door", plain("7d8f95"), 0.5), Surface("door", plain("738489"), 0.5)
    x, z = BACK, -0.15
    tall = 1.02
    parts: list[Shape] = [Box(wood, (x + 0.02, FLOOR + tall, z), half=(0.02, tall, 0.43))]
    parts += [Box(panel, (x + 0.045, FLOOR + h, z), half=(0.006, 0.34, 0.28)) for h in (0.55, 1.45)]
    parts += [Box(WHITE, (x + 0.03, FLOOR + tall, z + s * 0.47), half=(0.03, tall, 0.04)) for s in (-1, 1)]
    parts.append(Box(WHITE, (x + 0.03, FLOOR + 2 * tall + 0.04, z), half=(0.03, 0.04, 0.51)))
    parts.append(Ball(BRASS, (x + 0.09, FLOOR + 1.0, z + 0.34), half=(0.035, 0.035, 0.035)))
    return group(parts)


def hung_painting() -> Group:
    """Build the painting over the sofa."""
    frame, canvas = Surface("picture", plain("2c2a28"), 0.4), Surface("picture", painting, 0.8)
    return group(
        [
            Box(frame, (FRONT - 0.02, 0.25, 0.05), half=(0.02, 0.37, 0.62)),
            Box(canvas, (FRONT - 0.035, 0.25, 0.05), half=(0.01, 0.34, 0.59)),
        ]
    )


def mirror() -> Group:
    """Build the mirror on the right wall."""
    glass = Surface("mirror", plain("e6eaec"), 0.01, metallic=1.0)
    gilt = Surface("mirror", plain("b08a4a"), 0.35, metallic=1.0)
    return group(
        [
            Box(gilt, (-0.6, 0.1, RIGHT + 0.02), half=(0.4, 0.55, 0.02)),
            Box(glass, (-0.6, 0.1, RIGHT + 0.032), half=(0.35, 0.5, 0.012)),
        ]
    )


def carpet() -> Shape:
    """Build the rug under the coffee table."""
    return Box(Surface("rug", rug, 1.0), (1.7, FLOOR + 0.006, 0.02), half=(1.0, 0.006, 1.3))
