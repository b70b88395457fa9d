"""Furniture: round, thin, slanted and soft, with small things on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .place import Place, Point, add, ball, box, material, rod


def table(place: Place, x: float, y: float, floor: float, radius: float) -> float:
    """Add a round or a square table; return the height of its top."""
    wood, height = material(place, "table"), place.between(0.4, 0.8)
    if place.chance(0.5):
        rod(wood, (x, y, floor), 0.05, height)
        rod(wood, (x, y, floor + height), radius, 0.04)
    else:
        side, yaw = radius * 1.3, place.between(0, math.pi)
        box(wood, (x, y, floor + height), (side, side * 0.8, 0.05), yaw)
        for sign in (-1, 1):
            for other in (-1, 1):
                a, b = sign * side * 0.42, other * side * 0.33
                at = x + a * math.cos(yaw) - b * math.sin(yaw), y + a * math.sin(yaw) + b * math.cos(yaw), floor
                rod(wood, at, 0.03, height)
    for _ in range(int(place.random.integers(0, 5))):
        turn, away = place.between(-math.pi, math.pi), place.between(0, radius * 0.6)
        trinket(place, (x + away * math.cos(turn), y + away * math.sin(turn), floor + height + 0.04))
    return height


def trinket(place: Place, at: Point) -> None:
    """Add a small thing: a vase, a fruit, a ring, a book."""
    size, metal = place.between(0.05, 0.16), place.chance(0.2)
    kind = int(place.random.integers(4))
    look = material(place, ("vase", "fruit", "ornament", "book")[kind], metal=metal)
    if kind == 0:
        add(
            "cone",
            look,
            (at[0], at[1], at[2] + size),
            (1, 1, 1),
            radius1=size * 0.6,
            radius2=size * 0.3,
            depth=2 * size,
        )
    elif kind == 1:
        ball(look, (at[0], at[1], at[2] + size), (size, size, size))
    elif kind == 2:
        add("torus", look, (at[0], at[1], at[2] + size * 0.3), (1, 1, 1), major_radius=size, minor_radius=size * 0.3)
    else:
        box(look, (at[0], at[1], at[2] + size * 0.2), (size * 1.6, size * 2.2, size * 0.4), place.between(0, 3))


def cabinet(place: Place, x: float, y: float, floor: float, radius: float) -> None:
    """Add a cabinet, open or closed, with things in or on it."""
    look, height, yaw = material(place, "shelf"), place.between(0.6, 2.1), place.between(0, math.pi)
    wide, deep = radius * 1.5, radius * 0.8
    box(look, (x, y, floor + height / 2), (wide, deep, height), yaw, place.between(0, 0.03))
    ball(material(place, "ornament", metal=True), (x, y, floor + height + 0.1), (0.1, 0.1, 0.1))


def sofa(place: Place, x: float, y: float, floor: float, radius: float) -> None:
    """Add a soft seat with a back and cushions."""
    cloth, yaw = material(place, "sofa", 0.9), place.between(-math.pi, math.pi)
    wide, deep = radius * 1.7, radius * 0.95
    side = -math.sin(yaw), math.cos(yaw)
    box(cloth, (x, y, floor + 0.22), (wide, deep, 0.4), yaw, 0.1)
    box(cloth, (x + side[0] * deep * 0.42, y + side[1] * deep * 0.42, floor + 0.5), (wide, deep * 0.25, 0.9), yaw, 0.1)
    soft = material(place, "cushion", 0.95)
    ball(soft, (x - math.cos(yaw) * wide * 0.3, y - math.sin(yaw) * wide * 0.3, floor + 0.5), (0.22, 0.16, 0.18))


def chair(place: Place, x: float, y: float, floor: float, radius: float) -> None:
    """Add a chair on thin legs with a leaning back."""
    look, yaw = material(place, "chair", metal=place.chance(0.2)), place.between(-math.pi, math.pi)
    c, s = math.cos(yaw), math.sin(yaw)
    for a in (-0.18, 0.18):
        for b in (-0.18, 0.18):
            rod(look, (x + a * c - b * s, y + a * s + b * c, floor), 0.02, 0.45)
    box(look, (x, y, floor + 0.46), (0.45, 0.45, 0.05), yaw, 0.02)
    box(look, (x + 0.22 * c, y + 0.22 * s, floor + 0.75), (0.04, 0.42, 0.55), yaw, 0.02, lean=0.2)


def plant(place: Place, x: float, y: float, floor: float, radius: float) -> None:
    """Add a pot with leaves of ellipsoids."""
    pot, leaf = material(place, "vase"), material(place, "plant", 0.7)
    add("cone", pot, (x, y, floor + 0.2), (1, 1, 1), radius1=0.15, radius2=0.24, depth=0.4)
    for _ in range(7):
        a, up = place.between(-math.pi, math.pi), place.between(0.5, 1.2)
        out = place.between(0.05, radius * 0.6)
        ball(leaf, (x + out * math.cos(a), y + out * math.sin(a), floor + up), (0.16, 0.05, 0.2))
    rod(leaf, (x, y, floor + 0.4), 0.02, 0.6)


def lamp(place: Place, x: float, y: float, floor: float, radius: float) -> None:
    """Add a floor lamp that is on."""
    rod(material(place, "lamp", metal=True), (x, y, floor), 0.02, 1.4)
    shade = material(place, "lamp", glow=place.between(2, 8))
    add("cone", shade, (x, y, floor + 1.5), (1, 1, 1), radius1=0.22, radius2=0.1, depth=0.3)


def column(place: Place, x: float, y: float, floor: float, radius: float) -> None:
    """Add a round column."""
    rod(material(place, "wall"), (x, y, floor), place.between(0.1, 0.25), 6.0)


FURNITURE: tuple[tuple[Callable[..., Any], float], ...] = (
    (table, 0.6), (sofa, 0.75), (cabinet, 0.5), (chair, 0.4), (chair, 0.4), (plant, 0.35), (lamp, 0.3), (table, 0.45),
    (column, 0.3), (cabinet, 0.6), (plant, 0.35), (chair, 0.4),
)  # fmt: skip
