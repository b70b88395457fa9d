"""The patterns of the demo's room: from local points [3, N] in metres to linear albedo [3, N]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from .shapes import Array, Vector, column

Paint: TypeAlias = Callable[[Array], Array]

# The ranges of hills in the painting: waves per metre, phase, height in metres.
HILLS = ((7.0, 0.0, 0.0), (9.0, 1.7, -0.1), (6.0, 3.9, -0.2))
# Patterns are shifted by this part of a period, so that flat faces at round numbers are not on a border.
CORNER = 0.3711
# The height of the eye above the middle of the backdrop.
HORIZON = 2.1


def srgb(code: str) -> Array:
    """Return the linear colour [3, 1] of a hexadecimal sRGB code."""
    encoded = np.array([int(code[k : k + 2], 16) / 255 for k in (0, 2, 4)])
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)[:, None]


def noise(*seeds: Array) -> Array:
    """Return a value in [0, 1) for each combination of whole numbers, the same every time."""
    mixed = sum(seed.astype(np.float64) * factor for seed, factor in zip(seeds, (12.9898, 78.233, 37.719)))
    return (np.sin(mixed) * 43758.5453 % 1.0).astype(np.float32)


@dataclass(frozen=True)
class Plain:
    """A paint of one linear colour."""

    colour: Vector

    def __call__(self, p: Array) -> Array:
        return np.broadcast_to(column(self.colour), p.shape)


def plain(code: str) -> Plain:
    """Paint in one colour."""
    red, green, blue = srgb(code)[:, 0]
    return Plain((float(red), float(green), float(blue)))


def mixed(first: str, second: str, share: Callable[[Array], Array]) -> Paint:
    """Paint between two colours; share [N] in [0, 1] is how much of the second."""
    a, b = srgb(first), srgb(second)
    return lambda p: a + (b - a) * share(p)


def stripes(first: str, second: str, width: float, axis: int) -> Paint:
    """Paint stripes across one of the local axes."""
    return mixed(first, second, lambda p: np.floor(p[axis] / width + CORNER) % 2)


def checks(first: str, second: str, size: float) -> Paint:
    """Paint a chequered pattern of cubes."""
    return mixed(first, second, lambda p: np.floor(p / size + CORNER).sum(axis=0) % 2)


def mottled(first: str, second: str) -> Paint:
    """Paint soft spots, mostly in the first colour."""
    return mixed(
        first, second, lambda p: (np.sin(p[0] * 31 + 2 * np.sin(p[2] * 17)) * np.sin(p[1] * 27 + p[2] * 23) + 1) / 5
    )


def tiles(tile: str, joint: str, size: tuple[float, float, float], gap: float) -> Paint:
    """Paint blocks of a size with joints between them, each in its own tone."""
    a, b, edge = srgb(tile), srgb(joint), np.array(size, dtype=np.float32)[:, None]

    def paint(p: Array) -> Array:
        place = p / edge + CORNER
        block = np.floor(place)
        inside = np.minimum(place - block, block + 1 - place) * edge
        # A plane has one depth along its own axis, so it is never completely a joint.
        joints = (inside < gap / 2).any(axis=0)
        return np.where(joints, b, a * (0.75 + 0.25 * noise(*block)))

    return paint


def planks(p: Array) -> Array:
    """Paint oak boards along X, 14 cm wide and 1.3 m long, with grain and dark joints."""
    board = np.floor(p[2] / 0.14)
    length = p[0] / 1.3 + noise(board)
    piece = np.floor(length)
    tone = noise(board, piece)
    grain = np.sin(p[2] * 180 + np.sin(p[0] * 5 + tone * 40) * 2.5 + tone * 90) * 0.5 + 0.5
    colour = srgb("9b7650") + (srgb("c8a47a") - srgb("9b7650")) * (0.7 * tone + 0.3 * grain)
    joint = (np.abs(p[2] / 0.14 - board - 0.5) > 0.485) | (np.abs(length - piece - 0.5) > 0.4975)
    return np.where(joint, colour * 0.6, colour)


def timber(dark: str, light: str) -> Paint:
    """Paint furniture wood: faint wavy grain along the local X axis."""
    return mixed(
        dark,
        light,
        lambda p: (
            0.5 + 0.2 * np.sin(p[2] * 110 + 3 * np.sin(p[0] * 3 + p[2] * 9)) + 0.15 * np.sin(p[2] * 37 + p[0] * 2)
        ),
    )


def rug(p: Array) -> Array:
    """Paint a woven rug: diamonds inside a border."""
    edge = np.maximum(np.abs(p[0]) / 1.0, np.abs(p[2]) / 1.3)
    diamond = (np.abs((p[0] * 2.5) % 1 - 0.5) + np.abs((p[2] * 2.5) % 1 - 0.5)) % 0.5
    field = np.where(diamond < 0.1, srgb("d9c9a3"), np.where(diamond < 0.32, srgb("8c3b35"), srgb("2f4858")))
    return np.where(edge > 0.96, srgb("d9c9a3"), np.where(edge > 0.86, srgb("2f4858"), field))


def painting(p: Array) -> Array:
    """Paint a picture: a sun over three ranges of hills."""
    ridge = p[1][None] - np.stack([0.06 * np.sin(p[2] * f + s) + h for f, s, h in HILLS])
    sky = srgb("f2c48d") + (srgb("6f9fb8") - srgb("f2c48d")) * np.clip(p[1] * 2.2 + 0.3, 0, 1)
    picture = np.where((p[2] - 0.18) ** 2 + (p[1] - 0.1) ** 2 < 0.0095, srgb("fbe7b2"), sky)
    for below, code in zip(ridge, ("7a8f8a", "4d6b66", "2d4a4a")):
        picture = np.where(below < 0, srgb(code), picture)
    return picture


def scenery(p: Array) -> Array:
    """Paint the view from the window: sky, clouds, hills and a meadow."""
    height, around = p[1] - HORIZON, np.arctan2(p[0], p[2])
    sky = srgb("e8f1f6") + (srgb("5d9bd6") - srgb("e8f1f6")) * np.clip(height / 7, 0, 1)
    cloud = sum(np.sin(around * f + np.sin(height * g) * 2 + f) for f, g in ((5, 1.1), (11, 1.7), (23, 2.9)))
    sky = sky + (1.0 - sky) * np.clip(np.asarray(cloud) * 0.6 - 0.5, 0, 0.85) * (height > 0.8)
    hills = 0.55 * np.sin(around * 5.0) + 0.3 * np.sin(around * 13 + 1) + 0.9
    meadow = srgb("84a362") + (srgb("769657") - srgb("84a362")) * (np.sin(around * 60 + height * 9) * 0.5 + 0.5)
    return np.where(height < 0, meadow, np.where(height < hills, srgb("5c7f6b"), sky)).astype(np.float32)
