"""Paint random rooms: the materials of each kind of thing, with random colours and patterns."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from .patterns import Paint, checks, mixed, mottled, painting, plain, scenery, stripes, tiles, timber
from .shapes import Surface, Vector

Random: TypeAlias = np.random.Generator
Maker: TypeAlias = Callable[[Random, Surface], Surface]

WOODS = (("7a5230", "a87a4c"), ("64452e", "8a6243"), ("b58f62", "d2b084"), ("3d2a1e", "5b4230"), ("94744f", "b79a72"))
METALS = ("d8dadd", "c9a35a", "b87345", "8f9397", "b9a58a")


def colour(random: Random, most: float = 0.75, least: float = 0.15, greatest: float = 0.95) -> str:
    """Return a colour as a hexadecimal sRGB code: any hue, saturation up to `most`, value between the others."""
    hue, saturation, value = random.random(), most * random.random() ** 1.5, random.uniform(least, greatest)
    return "".join(f"{round(channel * 255):02x}" for channel in colorsys.hsv_to_rgb(hue, saturation, value))


def pale(random: Random) -> str:
    """Return a light colour of little saturation."""
    return colour(random, most=0.2, least=0.75, greatest=0.97)


def dyed(random: Random, most: float = 0.75) -> Paint:
    """Return a paint for cloth and paper: plain, mottled, striped or chequered."""
    first, second = colour(random, most), colour(random, most)
    size = random.uniform(0.04, 0.2)
    options = (
        plain(first),
        mottled(first, second),
        stripes(first, second, size, int(random.integers(3))),
        checks(first, second, size),
    )
    return options[random.choice(4, p=(0.5, 0.2, 0.15, 0.15))]


def wooden(random: Random) -> Paint:
    """Return a paint of a random wood."""
    return timber(*WOODS[random.integers(len(WOODS))])


def cloth(random: Random, old: Surface) -> Surface:
    """Use cloth."""
    return Surface(old.semantic, dyed(random), random.uniform(0.85, 1.0))


def wood(random: Random, old: Surface) -> Surface:
    """Use wood, plain or painted."""
    if random.random() < 0.7:
        return Surface(old.semantic, wooden(random), random.uniform(0.25, 0.6))
    return lacquer(random, old)


def lacquer(random: Random, old: Surface) -> Surface:
    """Use paint of one colour, silky or matt."""
    return Surface(old.semantic, plain(colour(random)), random.uniform(0.25, 0.7))


def metal(random: Random, old: Surface) -> Surface:
    """Use metal."""
    return Surface(old.semantic, plain(METALS[random.integers(len(METALS))]), random.uniform(0.12, 0.45), 1.0)


def ceramic(random: Random, old: Surface) -> Surface:
    """Use glazed clay, rarely metal."""
    if random.random() < 0.2:
        return metal(random, old)
    return Surface(old.semantic, dyed(random), random.uniform(0.12, 0.5))


def paper(random: Random, old: Surface) -> Surface:
    """Use matt paper or linen."""
    return Surface(old.semantic, plain(colour(random)), random.uniform(0.5, 0.8))


def light_wood(random: Random, old: Surface) -> Surface:
    """Use pale paint, as on trim and window frames, rarely wood."""
    paint = wooden(random) if random.random() < 0.25 else plain(pale(random))
    return Surface(old.semantic, paint, random.uniform(0.3, 0.6))


def foliage(random: Random, old: Surface) -> Surface:
    """Give leaves another green; trunks stay."""
    if old.roughness > 0.8:
        return old
    hue = random.uniform(0.2, 0.42)
    dark, light = (
        "".join(
            f"{round(channel * 255):02x}" for channel in colorsys.hsv_to_rgb(hue, random.uniform(0.35, 0.65), value)
        )
        for value in (random.uniform(0.25, 0.45), random.uniform(0.45, 0.75))
    )
    return Surface(old.semantic, mixed(dark, light, lambda p: np.sin(p[0] * 60) * np.sin(p[1] * 60) * 0.5 + 0.5), 0.7)


def chair_part(random: Random, old: Surface) -> Surface:
    """Use cloth for the seat, and wood or metal for the frame."""
    if old.roughness > 0.8:
        return cloth(random, old)
    return metal(random, old) if random.random() < 0.25 else wood(random, old)


def lamp_part(random: Random, old: Surface) -> Surface:
    """Keep glowing surfaces, and use metal or lacquer for the rest."""
    if max(old.glow) > 0:
        return old
    return metal(random, old) if random.random() < 0.5 else lacquer(random, old)


def picture_part(random: Random, old: Surface) -> Surface:
    """Paint another picture into a frame of another colour."""
    if old.roughness < 0.6:
        return wood(random, old)
    return replace(old, paint=painting if random.random() < 0.3 else dyed(random))


def kept(_random: Random, old: Surface) -> Surface:
    """Change nothing."""
    return old


MAKERS: dict[str, Maker] = {
    "wall": kept,
    "trim": light_wood,
    "window": light_wood,
    "curtain": cloth,
    "door": wood,
    "sofa": cloth,
    "cushion": cloth,
    "table": wood,
    "chair": chair_part,
    "shelf": wood,
    "book": paper,
    "lamp": lamp_part,
    "vase": ceramic,
    "fruit": lacquer,
    "ornament": ceramic,
    "plant": foliage,
    "rug": cloth,
    "picture": picture_part,
    "mirror": kept,
}
"""Semantic label -> the function that draws its material."""


def redecorated(random: Random, lamps_on: float) -> Callable[[Surface], Surface]:
    """Return a function that repaints each surface of a piece; glowing surfaces become `lamps_on` times as bright."""

    def paint(old: Surface) -> Surface:
        new = MAKERS[old.semantic](random, old)
        glow: Vector = (old.glow[0] * lamps_on, old.glow[1] * lamps_on, old.glow[2] * lamps_on)
        return replace(new, glow=glow)

    return paint


def wall(random: Random, outdoors: bool) -> Surface:
    """Return the surface of one wall: paint or paper, outdoors brick or plaster."""
    if outdoors:
        return Surface("wall", tiles(colour(random, 0.5, 0.3, 0.8), pale(random), (0.5, 0.2, 0.5), 0.025), 0.95)
    plainly = random.random() < 0.65
    return Surface(
        "wall", plain(colour(random, 0.35, 0.45, 0.95)) if plainly else dyed(random, 0.4), random.uniform(0.8, 0.95)
    )


def ground(random: Random, outdoors: bool) -> Surface:
    """Return the surface of the floor: boards, tiles or carpet, outdoors stone."""
    size, first = random.uniform(0.3, 0.8), colour(random, 0.4, 0.25, 0.9)
    if outdoors or random.random() < 0.35:
        return Surface(
            "floor", tiles(first, colour(random, 0.2, 0.2, 0.6), (size, size, size), 0.025), random.uniform(0.3, 0.9)
        )
    if random.random() < 0.4:
        return Surface("floor", wooden(random), random.uniform(0.25, 0.6))
    if random.random() < 0.5:
        return Surface("floor", checks(first, colour(random, 0.4, 0.25, 0.9), size), random.uniform(0.25, 0.6))
    return Surface("floor", mottled(first, colour(random, 0.4)), random.uniform(0.8, 1.0))


def outside(radiance: Vector) -> Surface:
    """Return the view through the openings, as bright as the sky."""
    return Surface("outside", scenery, 1.0, glow=radiance)
