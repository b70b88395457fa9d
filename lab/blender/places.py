"""The families of places: pale and colourful rooms with walls at any angle, and streets and gardens."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import bpy
import numpy as np

from .furniture import FURNITURE, chair, plant, sofa, table
from .place import Palette, Place, Point, add, ball, box, faces, material, rod

FAR = 60.0
"""Metres from the camera to the end of the ground."""


class Family(NamedTuple):
    """A kind of place: its builder and its colours."""

    build: Callable[[Place], None]
    palette: Palette


def indoors(place: Place) -> None:
    """Build a room of 4 to 7 walls, none along an axis, under a horizontal or slanted ceiling."""
    count, eye = int(place.random.integers(4, 8)), place.between(1.0, 1.8)
    turns = (np.arange(count) + place.random.uniform(-0.25, 0.25, count)) * 2 * math.pi / count + place.between(0, 6)
    away = place.random.uniform(1.9, 5.0, count)
    ground = [(float(r * math.cos(t)), float(r * math.sin(t))) for r, t in zip(away, turns)]
    slant = (place.between(-0.12, 0.12), place.between(-0.12, 0.12)) if place.chance(0.4) else (0.0, 0.0)
    shell = Shell(-eye, place.between(2.2, 3.8) - eye, slant)
    faces(material(place, "floor"), [(x, y, -eye) for x, y in ground], [range(count)])
    faces(material(place, "ceiling", 0.9), [(x, y, shell.top(x, y)) for x, y in ground], [range(count)])
    same = material(place, "wall", 0.9)
    for one, other in zip(ground, [*ground[1:], ground[0]]):
        look = material(place, "wall", 0.9) if place.chance(0.25) else same
        build_wall(place, look, Wall(*one, *other, shell))
    for build, radius in FURNITURE:
        if place.chance(0.75) and (found := place.free(radius, float(away.min()) * 0.85)):
            build(place, *found, -eye, radius)
    rug = place.between(-1, 1), place.between(-1, 1), -eye
    rod(material(place, "rug", 0.95), rug, place.between(0.6, 1.4), 0.012)
    if place.chance(0.7):
        at = place.between(-0.8, 0.8), place.between(-0.8, 0.8), shell.high - 0.3
        ball(material(place, "lamp", glow=place.between(4, 15)), at, (0.16, 0.16, 0.1))
    sky(place, place.between(0.02, 1.5), place.between(0, 4))


class Shell(NamedTuple):
    """Floor and ceiling: their heights below and above the camera, and how the ceiling rises along x and y."""

    floor: float
    high: float
    slant: tuple[float, float]

    def top(self, x: float, y: float) -> float:
        """Return the height of the ceiling over a point."""
        return self.high + self.slant[0] * x + self.slant[1] * y


class Wall(NamedTuple):
    """A wall between two corners on the ground."""

    x0: float
    y0: float
    x1: float
    y1: float
    shell: Shell

    @property
    def long(self) -> float:
        """Metres."""
        return math.hypot(self.x1 - self.x0, self.y1 - self.y0)

    @property
    def yaw(self) -> float:
        """Radians."""
        return math.atan2(self.y1 - self.y0, self.x1 - self.x0)

    def at(self, along: float, z: float, out: float = 0.0) -> Point:
        """Return a point of the wall, `out` metres in front of it."""
        share, c, s = along / self.long, math.cos(self.yaw), math.sin(self.yaw)
        # The corners go around the camera to the left, so the inside is to the left of the wall's direction.
        return self.x0 + (self.x1 - self.x0) * share - s * out, self.y0 + (self.y1 - self.y0) * share + c * out, z

    def up(self, along: float) -> float:
        """Return the height of the ceiling there."""
        x, y, _ = self.at(along, 0.0)
        return self.shell.top(x, y)


def build_wall(place: Place, look: Any, wall: Wall) -> None:
    """Build a wall, with or without a window, and put something on it or in front of it."""
    long, floor = wall.long, wall.shell.floor
    if long > 1.6 and place.chance(0.45):
        window(place, look, wall)
        return
    corners = [wall.at(0, floor), wall.at(long, floor), wall.at(long, wall.up(long)), wall.at(0, wall.up(0))]
    faces(look, corners, [range(4)])
    if long > 1.4 and place.chance(0.35):
        box(material(place, "door", 0.5), wall.at(long / 2, floor + 1.0, 0.02), (0.85, 0.06, 2.0), wall.yaw)
    elif long > 1.2 and place.chance(0.6):
        size = place.between(0.3, 0.9), 0.04, place.between(0.3, 0.8)
        at = wall.at(place.between(0.5, long - 0.5), floor + 1.5, 0.02)
        box(material(place, "picture"), at, size, wall.yaw)


def window(place: Place, look: Any, wall: Wall) -> None:
    """Build a wall around a hole with a frame."""
    long, floor = wall.long, wall.shell.floor
    wide = place.between(0.7, long - 0.8)
    left = place.between(0.3, long - wide - 0.3)
    lintel = min(wall.up(0), wall.up(long)) - 0.15
    low, high = floor + place.between(0.4, 1.0), min(floor + place.between(1.6, 2.1), lintel)
    corners = [wall.at(u, z) for u in (0.0, left, left + wide, long) for z in (floor, low, high, wall.up(u))]
    cells = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    faces(look, corners, [(4 * i + j, 4 * i + 4 + j, 4 * i + 5 + j, 4 * i + 1 + j) for i, j in cells])
    frame, tall = material(place, "window", 0.5), high - low
    for along, width in ((left, 0.06), (left + wide / 2, 0.04), (left + wide, 0.06)):
        box(frame, wall.at(along, (low + high) / 2), (width, 0.08, tall), wall.yaw)
    for z in (low, high):
        box(frame, wall.at(left + wide / 2, z), (wide, 0.1, 0.06), wall.yaw)


def outdoors(place: Place) -> None:
    """Build a street or a garden on rolling ground: houses, trees, fences, benches, balls, under the sky."""
    eye = place.between(1.3, 1.8)
    bpy.ops.mesh.primitive_grid_add(x_subdivisions=60, y_subdivisions=60, size=2 * FAR)
    ground = bpy.context.object
    ground.data.materials.append(material(place, "floor", 0.95))
    steep, waves = place.between(0.0, 0.05), place.random.uniform(0.05, 0.25, 4)
    for vertex in ground.data.vertices:
        x, y, _ = vertex.co
        hill = math.sin(waves[0] * x) + math.sin(waves[1] * y) + math.sin(waves[2] * (x + y))
        vertex.co.z = -eye + steep * hill * min(1.0, math.hypot(x, y) / 6)
    for _ in range(int(place.random.integers(2, 7))):
        if found := place.free(3.0, 14.0):
            house(place, *found, -eye - 0.6)
    for _ in range(int(place.random.integers(4, 14))):
        if found := place.free(1.0, 10.0):
            tree(place, *found, -eye - 0.3)
    for build, radius in ((table, 0.5), (chair, 0.4), (chair, 0.4), (plant, 0.4), (sofa, 0.7)):
        if place.chance(0.5) and (found := place.free(radius, 5.0)):
            build(place, *found, -eye, radius)
    for _ in range(int(place.random.integers(0, 25))):
        if found := place.free(0.1, 9.0):
            rod(material(place, "trim"), (*found, -eye - 0.2), 0.05, place.between(0.8, 1.4))
    sky(place, place.between(0.5, 1.3), place.between(1, 5))


def house(place: Place, x: float, y: float, floor: float) -> None:
    """Add a house with a roof, a door and windows."""
    look, yaw = material(place, "wall", 0.9), place.between(0, math.pi)
    wide, deep, high = place.between(2.5, 4.0), place.between(2.5, 4.0), place.between(2.5, 6.0)
    box(look, (x, y, floor + high / 2), (wide, deep, high), yaw)
    roof = material(place, "trim", 0.8)
    add(
        "cone",
        roof,
        (x, y, floor + high + 0.7),
        (1, 1, 1),
        (0.0, 0.0, yaw + math.pi / 4),
        vertices=4,
        radius1=0.8 * max(wide, deep),
        radius2=0.0,
        depth=1.4,
    )
    glass = material(place, "window", 0.1)
    for side in range(4):
        turn, reach = yaw + side * math.pi / 2, (wide if side % 2 == 0 else deep) / 2
        at = x + reach * math.cos(turn), y + reach * math.sin(turn)
        kind = material(place, "door") if side == 0 else glass
        box(kind, (*at, floor + (1.6 if side == 0 else high * 0.6)), (0.08, 0.9, 2.0 if side == 0 else 1.1), turn)


def tree(place: Place, x: float, y: float, floor: float) -> None:
    """Add a trunk and a crown of balls, or a fir."""
    height, leaf = place.between(1.5, 4.0), material(place, "plant", 0.9)
    rod(material(place, "trim", 0.9), (x, y, floor), place.between(0.08, 0.25), height)
    if place.chance(0.3):
        add("cone", leaf, (x, y, floor + height + 0.8), (1, 1, 1), radius1=1.0, radius2=0.0, depth=3.0)
        return
    for _ in range(5):
        size = place.between(0.4, 0.9)
        ball(
            leaf,
            (x + place.between(-0.6, 0.6), y + place.between(-0.6, 0.6), floor + height + place.between(0, 1)),
            (size, size, size * 0.8),
        )


def sky(place: Place, strength: float, sun: float) -> None:
    """Light a place from a sky with clouds and by a sun."""
    world = bpy.data.worlds.new("sky")
    bpy.context.scene.world = world
    world.use_nodes = True
    nodes, links = world.node_tree.nodes, world.node_tree.links
    noise, mix = nodes.new("ShaderNodeTexNoise"), nodes.new("ShaderNodeMix")
    mix.data_type = "RGBA"
    noise.inputs["Scale"].default_value = place.between(1.5, 4)
    grey = place.between(0.5, 0.9)
    mix.inputs["A"].default_value, mix.inputs["B"].default_value = (0.25, 0.45, 0.9, 1.0), (grey, grey, grey, 1.0)
    links.new(noise.outputs[0], mix.inputs["Factor"])
    links.new(mix.outputs["Result"], nodes["Background"].inputs["Color"])
    nodes["Background"].inputs["Strength"].default_value = strength
    light = bpy.data.lights.new("sun", "SUN")
    light.energy, light.angle = sun, 0.03
    node = bpy.data.objects.new("sun", light)
    node.rotation_euler = place.between(0.4, 1.2), 0.0, place.between(-math.pi, math.pi)
    bpy.context.scene.collection.objects.link(node)


PALE, COLOURFUL, NATURAL = (
    Palette((0.0, 0.3), (0.55, 0.95)),
    Palette((0.45, 0.95), (0.25, 0.9)),
    Palette((0.1, 0.5), (0.25, 0.85)),
)
FAMILIES = {
    "pale": Family(indoors, PALE),
    "colourful": Family(indoors, COLOURFUL),
    "outdoors": Family(outdoors, NATURAL),
}
