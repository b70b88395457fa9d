"""Random rooms: every seed gives another room, by day or with lamps, or a courtyard under the sky."""

from __future__ import annotations

import numpy as np

from . import catalogue, crowd
from .enclosure import Dome
from .furniture import FLOOR, window
from .lighting import Lights, Opening
from .moving import Move, bounds, moved, repainted
from .painting import Random, outside, redecorated
from .plan import AROUND_CAMERA, GAP, SIDES, Hole, Mood, Plan, Shell, against_wall, anywhere, hole_of, on_wall
from .raycast import Scene, group
from .shapes import Vector
from .stage import Stage
from .structures import structures, walls

DAY = Mood((4.4, 3.8, 3.0), (2.6, 3.0, 3.6), (1.0, 1.0, 1.0), 0.0, (0.12, 0.115, 0.105))
DUSK = Mood((0.0, 0.0, 0.0), (0.3, 0.36, 0.55), (0.12, 0.14, 0.24), 1.0, (0.05, 0.045, 0.04))
NIGHT = Mood((0.0, 0.0, 0.0), (0.01, 0.012, 0.02), (0.006, 0.008, 0.014), 1.0, (0.03, 0.025, 0.02))
BOTH = DAY._replace(lamps=1.0)
OPEN_AIR = Mood((3.2, 2.8, 2.3), (0.9, 1.0, 1.2), (1.0, 1.0, 1.0), 0.0, (0.3, 0.3, 0.3))


def random_room(seed: int, crowded: bool = False) -> Stage:
    """Return the room of a seed (0 or more), always the same one; a crowded one has more things, and other kinds."""
    random = np.random.default_rng(seed)
    outdoors = random.random() < 0.12
    mood = OPEN_AIR if outdoors else (DAY, BOTH, DUSK, NIGHT)[random.choice(4, p=(0.4, 0.25, 0.15, 0.2))]
    plan = Plan(random, _shell(random, outdoors, (4.6, 4.2) if crowded else (9.0, 7.0)), mood)
    plan.taken.append((np.full(3, -AROUND_CAMERA) * (1, 9, 1), np.full(3, AROUND_CAMERA) * (1, 9, 1)))
    holes = _add_openings(plan, outdoors)
    if not plan.openings:
        mood = plan.mood = NIGHT
    if crowded:
        holes |= structures(plan, holes, outdoors)
        crowd.crowd(plan)
    _furnish(plan, outdoors)
    shell = walls(random, plan.shell, holes, outdoors)
    backdrop = Dome(outside(mood.backdrop), (0.0, -2.1, 0.0), half=(20.0, 20.0, 20.0))
    lights = Lights(tuple(plan.openings), tuple(plan.lamps), _sun(plan), mood.sunlight, mood.skylight, mood.ambient)
    yaw = float(random.uniform(-np.pi, np.pi))
    return Stage(
        Scene(group([*shell, *plan.nodes]), backdrop), lights, yaw, float(random.uniform(0.3, 0.45)), metered=True
    )


def _shell(random: Random, outdoors: bool, most: tuple[float, float]) -> Shell:
    """Draw the sizes of a room, at `most` so long and wide, and the place and height of the camera."""
    length, width = random.uniform(3.2, most[0]), random.uniform(3.0, most[1])
    height = random.uniform(2.3, 4.0) if outdoors else random.uniform(2.3, 3.4)
    eye = random.uniform(1.1, 1.8)
    x, z = (random.uniform(0.9, size - 0.9) for size in (length, width))
    return Shell((float(-x), float(-eye), float(-z)), (float(length - x), float(height - eye), float(width - z)))


def _add_openings(plan: Plan, outdoors: bool) -> dict[int, Hole]:
    """Add a door or two, and windows or the open sky; return the hole of each wall that has a window."""
    holes: dict[int, Hole] = {}
    low, high = plan.shell
    if outdoors:
        plan.openings.append(Opening((low[0], high[1], low[2]), high, axis=1, outward=1))
    else:
        for number in plan.random.permutation(4)[: plan.random.integers(1, 4)]:
            if hole := _window(plan, int(number)):
                holes[int(number)] = hole
    for number in plan.random.permutation(4)[: plan.random.integers(1, 3)]:
        against_wall(plan, catalogue.DOOR, int(number), clear=0.6)
    return holes


def _window(plan: Plan, number: int) -> Hole | None:
    """Add a window to a wall if there is space for it; return the corners of its hole."""
    side, (low, high) = SIDES[number], plan.shell
    along = 2 - side.axis
    wide = plan.random.uniform(0.8, 2.6)
    sill, top = plan.random.uniform(0.3, 1.0), min(plan.random.uniform(1.8, 2.3), high[1] - low[1] - 0.25)
    middle = plan.random.uniform(low[along], high[along])
    home = ((-wide / 2, FLOOR + sill, 0.0), (wide / 2, FLOOR + top, 0.0))
    move = Move((0.0, FLOOR, 0.0), on_wall(plan.shell, side, middle), side.yaw)
    node = moved(window(*home), move)
    box_low, box_high = bounds(node)
    if (
        box_low[along] < low[along] + GAP
        or box_high[along] > high[along] - GAP
        or not plan.is_free(box_low, box_high, False)
    ):
        return None
    plan.taken.append((box_low, box_high))
    plan.nodes.append(repainted(node, redecorated(plan.random, 0.0)))
    hole = hole_of(plan.shell, side, move, home)
    plan.openings.append(Opening(*hole, side.axis, side.outward))
    return hole


def _furnish(plan: Plan, outdoors: bool) -> None:
    """Place lamps and furniture: big things first."""
    random, (low, high) = plan.random, plan.shell
    if not outdoors and (plan.mood.lamps or random.random() < 0.5):
        for _ in range(random.integers(1, 3)):
            anywhere(plan, catalogue.PENDANT_LAMP, high[1])
    if plan.mood.lamps and not plan.lamps:
        # Above the camera there is always space for a flat one.
        plan.stand(catalogue.CEILING_LIGHT, (0.0, high[1], 0.0), 0.0, needed=True)
    against = () if outdoors else (catalogue.SOFA, catalogue.BOOKCASE, catalogue.BOOKCASE, catalogue.SOFA)
    for piece in against:
        if random.random() < 0.55:
            against_wall(plan, piece, int(random.integers(4)))
    free = (
        catalogue.DINING_TABLE,
        catalogue.COFFEE_TABLE if outdoors else catalogue.TABLE_ON_RUG,
        catalogue.FLOOR_LAMP,
    )
    for piece in (*free, *[catalogue.PLANT] * 2, *[catalogue.CHAIR] * 3, *[catalogue.PLANT] * 2 * outdoors):
        if random.random() < 0.5 and not (outdoors and piece.lamp):
            anywhere(plan, piece, low[1])
    for piece in () if outdoors else (catalogue.PAINTING, catalogue.MIRROR, catalogue.PAINTING, catalogue.PAINTING):
        if random.random() < 0.5:
            against_wall(plan, piece, int(random.integers(4)), height=float(random.uniform(1.4, 1.8)))


def _sun(plan: Plan) -> Vector:
    """Draw the sun's direction: it shines through one of the openings, if there is one."""
    random = plan.random
    towards, height = random.uniform(-np.pi, np.pi), np.radians(random.uniform(18, 60))
    walls = [opening for opening in plan.openings if opening.axis != 1]
    if walls:
        chosen = walls[random.integers(len(walls))]
        # Left of front is +Z: an opening across X is looked through at 0 or pi.
        straight = {0: 0.0, 2: np.pi / 2}[chosen.axis] + (np.pi if chosen.outward < 0 else 0.0)
        towards = straight + np.radians(random.uniform(-60, 60))
    sun = np.cos(height) * np.cos(towards), np.sin(height), np.cos(height) * np.sin(towards)
    return (float(sun[0]), float(sun[1]), float(sun[2]))
