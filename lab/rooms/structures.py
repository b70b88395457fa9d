"""What belongs to a room itself: its walls and, in a crowded one, an open door to the next room, walls across corners,
sloping ceilings and pillars. Metres."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np

from . import catalogue
from .enclosure import Wall
from .furniture import WHITE
from .moving import Move, Node, bounds, moved, repainted
from .painting import Random, ground, pale, redecorated, wall
from .patterns import plain
from .plan import SIDES, TO_WALL, TRIES, Hole, Plan, Shell, Side, against_wall, hole_of, nearby, on_wall
from .raycast import group
from .shapes import Box, Cone, Shape, Surface, Vector

PLASTER = Surface("wall", plain("e6dfd2"), 0.9)
LEAF = Surface("door", plain("7d8f95"), 0.5)
THICK = 0.12
"""The wall between two rooms."""


def walls(random: Random, shell: Shell, holes: dict[int, Hole], outdoors: bool) -> list[Shape]:
    """Build floor and walls, and indoors the ceiling."""
    low, high = shell
    x, y, z = ((a + b) / 2 for a, b in zip(low, high))
    half = ((high[0] - low[0]) / 2, (high[1] - low[1]) / 2, (high[2] - low[2]) / 2)
    same = wall(random, outdoors)
    shapes: list[Shape] = [Wall(ground(random, outdoors), (x, low[1], z), half=half, axis=1, facing=1)]
    for number, side in enumerate(SIDES):
        centre = [x, y, z]
        centre[side.axis] = (low, high)[side.outward > 0][side.axis]
        surface = wall(random, outdoors) if random.random() < 0.3 else same
        place = (centre[0], centre[1], centre[2])
        shapes.append(Wall(surface, place, half=half, axis=side.axis, facing=-side.outward, hole=holes.get(number)))
    if not outdoors:
        shapes.append(Wall(Surface("ceiling", plain(pale(random)), 0.9), (x, high[1], z), half=half, axis=1, facing=-1))
    return shapes


def structures(plan: Plan, holes: dict[int, Hole], outdoors: bool) -> dict[int, Hole]:
    """Add up to two pillars and, indoors, perhaps an open door, a wall across a corner and a sloping ceiling.

    holes: the walls' windows, by the number of the wall; returns the hole of the open door alike.
    """
    random = plan.random
    door: dict[int, Hole] = {}
    if not outdoors:
        if random.random() < 0.5:
            door = _open_door(plan, [int(number) for number in random.permutation(4) if number not in holes])
        if random.random() < 0.5:
            corners = [*product((False, True), repeat=2)]
            any(_corner(plan, *corners[k]) for k in random.permutation(4))
        if random.random() < 0.5:
            any(_slope(plan, SIDES[number]) for number in random.permutation(4))
    for _ in range(random.integers(3)):
        pillar = partial(_pillar, plan.shell.high[1] - plan.shell.low[1])
        nearby(plan, catalogue.Piece(pillar, (0.0, 0.0, 0.0), sizes=(1.0, 1.0)))
    return door


def _pillar(tall: float) -> Node:
    """Build a round column of a height, with a base."""
    base = Cone(PLASTER, (0.0, 0.06, 0.0), bottom=0.24, top=0.22, tall=0.06)
    return group([base, Cone(PLASTER, (0.0, tall / 2, 0.0), bottom=0.17, top=0.17, tall=tall / 2)])


# --- an open door ----------------------------------------------------------------------------------------------------


def _open_door(plan: Plan, numbers: list[int]) -> dict[int, Hole]:
    """Add an open door with the room behind it to the first wall with a free place; return the hole by its number."""
    wide, tall = plan.random.uniform(0.8, 1.1), plan.random.uniform(1.95, 2.1)
    for number in numbers * TRIES:
        side, (low, high) = SIDES[number], plan.shell
        along = plan.random.uniform(low[2 - side.axis], high[2 - side.axis])
        move = Move((0.0, 0.0, 0.0), on_wall(plan.shell, side, along), side.yaw)
        # The frame, and free space in front of it.
        ends = np.sort([move.point((s * (wide / 2 + 0.1), h, -h)) for s, h in ((-1, 0.0), (1, 0.6))], axis=0)
        ends[1, 1] = low[1] + tall + 0.1
        if plan.is_free(*ends):
            plan.taken.append((ends[0], ends[1]))
            hole = hole_of(plan.shell, side, move, ((-wide / 2, 0.0, 0.0), (wide / 2, tall, 0.0)))
            door = moved(_door(wide, tall, plan.random.uniform(60, 120)), move)
            _next_room(plan, number, hole, repainted(door, redecorated(plan.random, 0.0)))
            return {number: hole}
    return {}


def _door(wide: float, tall: float, angle: float) -> Node:
    """Build frame, threshold and a leaf that is open by an angle (degrees), in a wall from Z = 0 to Z = THICK."""
    middle, a = THICK / 2, np.radians(angle)
    posts = [Box(WHITE, (s * (wide / 2 + 0.04), tall / 2, middle), half=(0.04, tall / 2, 0.07)) for s in (-1, 1)]
    head = Box(WHITE, (0.0, tall + 0.04, middle), half=(wide / 2 + 0.08, 0.04, 0.07))
    threshold = Box(WHITE, (0.0, 0.0, middle), half=(wide / 2, 0.01, 0.07))
    x, z = 0.03 + np.cos(a) * wide / 2 - wide / 2, THICK + 0.04 + np.sin(a) * wide / 2
    leaf = Box(LEAF, (float(x), tall / 2, float(z)), angle, half=(wide / 2 - 0.02, tall / 2 - 0.01, 0.02))
    return group([*posts, head, threshold, leaf])


def _next_room(plan: Plan, number: int, hole: Hole, door: Node) -> None:
    """Add the lit room behind an open door, with a few things; it is not wider than the wall.

    So no window of the room, which are all in other walls, looks at it from outside.
    """
    random, side = plan.random, SIDES[number]
    low, high = np.array(plan.shell.low), np.array(plan.shell.high)
    along, start = 2 - side.axis, hole[0][side.axis] + side.outward * THICK
    end = start + side.outward * random.uniform(1.8, 3.5)
    low[along] = random.uniform(low[along], max(low[along], hole[0][along] - 0.2))
    high[along] = random.uniform(min(high[along], hole[1][along] + 0.2), high[along])
    low[side.axis], high[side.axis] = sorted((start, end))
    high[1] = random.uniform(hole[1][1] + 0.15, max(high[1], hole[1][1] + 0.15))
    (x0, y0, z0), (x1, y1, z1) = low.tolist(), high.tolist()
    beyond = Plan(random, Shell((x0, y0, z0), (x1, y1, z1)), plan.mood._replace(lamps=1.0), taken=[bounds(door)])
    beyond.stand(catalogue.CEILING_LIGHT, ((x0 + x1) / 2, y1, (z0 + z1) / 2), 0.0, needed=True)
    for piece in (catalogue.BOOKCASE, catalogue.SOFA, catalogue.PAINTING):
        against_wall(beyond, piece, number, height=1.6 if piece is catalogue.PAINTING else 0.0)
    shell = walls(random, beyond.shell, {(number + 2) % 4: hole}, outdoors=False)
    plan.nodes.append(group([*shell, door, *beyond.nodes]))
    plan.lamps.extend(beyond.lamps)


# --- slanted walls and ceilings --------------------------------------------------------------------------------------


def _corner(plan: Plan, *highest: bool) -> bool:
    """Add a wall across the corner at the low or high ends of X and Z, if nothing is there yet."""
    random, (low, high) = plan.random, plan.shell
    legs = random.uniform(0.4, 1.1, 2)
    ends = np.array([(low, high)[last][axis] for last, axis in zip(highest, (0, 2))])
    inner = ends + legs * np.where(highest, -1, 1)
    (x0, z0), (x1, z1) = np.sort([ends, inner], axis=0)
    box = np.array([x0, low[1], z0]), np.array([x1, high[1], z1])
    if not plan.is_free(*box):
        return False
    plan.taken.append(box)
    centre: Vector = (float(x0 + x1) / 2, (low[1] + high[1]) / 2, float(z0 + z1) / 2)
    yaw = float(np.degrees(np.arctan2(legs[1], legs[0]))) * (-1 if highest[0] == highest[1] else 1)
    # It reaches into both walls, which hide its ends.
    half = (float(np.hypot(*legs)) / 2 + 0.08, (high[1] - low[1]) / 2, 0.02)
    plan.nodes.append(Box(wall(random, outdoors=False), centre, yaw, half=half))
    return True


def _slope(plan: Plan, side: Side) -> bool:
    """Add a ceiling that slopes down to a wall, if nothing is there yet."""
    random, low, high = plan.random, np.array(plan.shell.low), np.array(plan.shell.high)
    deep, down = random.uniform(0.4, 1.2), random.uniform(0.4, 1.0)
    low[1] = high[1] - down
    if side.outward > 0:
        low[side.axis] = high[side.axis] - deep
    else:
        high[side.axis] = low[side.axis] + deep
    if not plan.is_free(low, high):
        return False
    plan.taken.append((low, high))
    x, y, z = ((low + high) / 2).tolist()
    # It reaches into the wall and into the ceiling, which hide what is beyond them.
    half = (float(np.hypot(deep, down)) / 2 + 0.2, 0.02, float(high[2 - side.axis] - low[2 - side.axis]) / 2)
    lean = -float(np.degrees(np.arctan2(down, deep)))
    plan.nodes.append(Box(Surface("ceiling", plain(pale(random)), 0.9), (x, y, z), side.yaw + TO_WALL, lean, half=half))
    return True
