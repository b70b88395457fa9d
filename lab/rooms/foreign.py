"""Rooms by other code and with other looks, for models that were trained on the rooms of the first renderer.

The two renderers share no code. A room is a box that is not aligned with the camera, with balls and turned boxes in it;
two point lamps with hard shadows light matt surfaces. Axes and rays are the same: see `room`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FOREIGN = "lab.rooms.foreign 1"
"""This renderer and its version; the version changes when the same seed gives another room."""
FAMILIES = {"pale": (0.05, 0.25), "colourful": (0.6, 1.0)}
"""Name -> least and greatest saturation of its colours."""
MEAN_BRIGHTNESS = 0.32
AMBIENT = 0.25


class Thing(NamedTuple):
    """A ball (half is its radius) or a box turned about the vertical; `inside` is the room itself.

    colours are two linear colours for each surface, [1, 2, 3]; for the room: floor, walls and ceiling, [3, 2, 3].
    """

    centre: Array
    half: Array
    yaw: float
    colours: Array
    cells: float
    is_ball: bool = False
    inside: bool = False


class Hit(NamedTuple):
    """The nearest thing along each of N rays: its number, the distance, and the normal [N, 3]."""

    thing: Array
    distance: Array
    normal: Array


class ForeignRoom(NamedTuple):
    """Picture, depth, normal and albedo in the form of `mapfiles.layout`; the mask of the furniture, bool [H, W]; and
    depth and normal of the same room without furniture."""

    maps: dict[str, Array]
    furniture: Array
    empty: dict[str, Array]


def family_of(seed: int) -> str:
    """Return the family of a seed in a data set, where the families take turns."""
    return (*FAMILIES,)[seed % len(FAMILIES)]


def foreign_room(seed: int, height: int, family: str) -> ForeignRoom:
    """Return the room of a seed in a family of colours."""
    random = np.random.default_rng([seed, sorted(FAMILIES).index(family)])
    things, rays = _things(random, FAMILIES[family]), _rays(height)
    shape = (height, 2 * height)
    hit, empty = (_nearest(some, np.zeros_like(rays), rays) for some in (things, things[:1]))
    points = rays * hit.distance[:, None]
    albedo = np.choose(hit.thing[:, None], [_painted(thing, points) for thing in things])
    lit = [_lit(things, lamp, points, hit.normal) for lamp in _lamps(random, things[0])]
    radiance = albedo * (AMBIENT + np.sum(lit, axis=0))[:, None]
    picture = _encoded(radiance * MEAN_BRIGHTNESS / radiance.mean())
    maps = {"rgb": picture.reshape(*shape, 3), **_geometry(hit, shape), "albedo": _encoded(albedo).reshape(*shape, 3)}
    return ForeignRoom(maps, (hit.thing > 0).reshape(shape), _geometry(empty, shape))


def _geometry(hit: Hit, shape: tuple[int, int]) -> dict[str, Array]:
    return {
        "depth": hit.distance.astype(np.float32).reshape(shape),
        "normal": hit.normal.astype(np.float32).reshape(*shape, 3),
    }


def _rays(height: int) -> Array:
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    longitude = (0.5 - (np.arange(2 * height) + 0.5) / (2 * height)) * 2 * np.pi
    up, around = np.meshgrid(latitude, longitude, indexing="ij")
    return np.stack([np.cos(up) * np.cos(around), np.sin(up), np.cos(up) * np.sin(around)], axis=-1).reshape(-1, 3)


def _things(random: np.random.Generator, saturation: tuple[float, float]) -> list[Thing]:
    """Draw the room and 6 to 12 things on its floor, none of them around the camera."""
    half = random.uniform((1.8, 1.2, 1.8), (4.0, 1.7, 4.0))
    centre = random.uniform(-0.5, 0.5, 3) * half * (1, 0.25, 1)
    yaw = random.uniform(0, np.pi)
    paint = np.concatenate([_colours(random, saturation) for _ in range(3)])
    made = [Thing(centre, half, yaw, paint, random.uniform(0.4, 1.5), inside=True)]
    for _ in range(random.integers(6, 13)):
        size = random.uniform(0.2, 0.8, 3)
        size = np.full(3, size[0]) if (is_ball := random.random() < 0.4) else size
        across = random.uniform(-1, 1, 2) * (half[[0, 2]] - size[[0, 2]].max())
        place = centre + _turned(np.array([across[0], size[1] - half[1], across[1]]), yaw)
        if np.hypot(place[0], place[2]) > 0.3 + 1.5 * size.max():
            paint, own_yaw = _colours(random, saturation), random.uniform(0, np.pi)
            made.append(Thing(place, size, own_yaw, paint, random.uniform(0.1, 0.4), is_ball))
    return made


def _colours(random: np.random.Generator, saturation: tuple[float, float]) -> Array:
    """Draw the two linear colours of a checked surface [1, 2, 3]; half of the surfaces have only one colour."""
    hue = random.uniform(0, 1, (2, 1)) + np.array([0, 1 / 3, 2 / 3])
    bright = random.uniform(0.35, 0.85, (2, 1))
    pure = np.clip(np.abs(6 * (hue % 1) - 3) - 1, 0, 1)
    found = bright * (1 + random.uniform(*saturation, (2, 1)) * (pure - 1))
    return found[None] if random.random() < 0.5 else found[None, [0, 0]]


def _turned(vectors: Array, yaw: float) -> Array:
    """Turn vectors [.., 3] to the left about the vertical."""
    c, s = np.cos(yaw), np.sin(yaw)
    return vectors @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _nearest(things: list[Thing], origins: Array, rays: Array) -> Hit:
    found = [_met(thing, origins, rays) for thing in things]
    distance = np.stack([t for t, _ in found])
    thing = distance.argmin(axis=0)
    normal = np.choose(thing[:, None], [normal for _, normal in found])
    return Hit(thing, distance.min(axis=0), normal)


def _met(thing: Thing, origins: Array, rays: Array) -> tuple[Array, Array]:
    """Return the distance to a thing along each ray, infinite for rays that miss it, and the normal there."""
    start, way = _turned(origins - thing.centre, -thing.yaw), _turned(rays, -thing.yaw)
    if thing.is_ball:
        along = np.einsum("na,na->n", start, way)
        rest = along**2 - np.einsum("na,na->n", start, start) + thing.half[0] ** 2
        t = np.where(rest > 0, -along - np.sqrt(np.maximum(rest, 0)), np.inf)
        t = np.where(t > 1e-6, t, np.inf)
        return t, _turned((start + way * np.where(np.isfinite(t), t, 0)[:, None]) / thing.half[0], thing.yaw)
    way = np.where(np.abs(way) < 1e-12, 1e-12, way)
    near, far = (side * np.sign(way) * thing.half / way - start / way for side in (-1, 1))
    if thing.inside:
        t, axis = far.min(axis=1), far.argmin(axis=1)
    else:
        t, axis = near.max(axis=1), near.argmax(axis=1)
        t = np.where((t < far.min(axis=1)) & (t > 1e-6), t, np.inf)
    return t, _turned(-np.eye(3)[axis] * np.sign(way), thing.yaw)


def _painted(thing: Thing, points: Array) -> Array:
    """Return the linear albedo at points [N, 3]: checks in the thing's own axes."""
    own = _turned(points - thing.centre, -thing.yaw)
    cells = np.floor(own / thing.cells + 0.01).sum(axis=1).astype(int)
    flat = np.abs(own[:, 1]) > thing.half[1] - 1e-6
    surface = np.where(flat, 1 + np.sign(own[:, 1]), 1).astype(int) if thing.inside else 0
    return thing.colours[surface, cells % 2]


def _lamps(random: np.random.Generator, room: Thing) -> list[Array]:
    """Draw two lamps below the ceiling."""
    places = random.uniform(-0.7, 0.7, (2, 3)) * room.half
    places[:, 1] = 0.85 * room.half[1]
    return [room.centre + _turned(place, room.yaw) for place in places]


def _lit(things: list[Thing], lamp: Array, points: Array, normals: Array) -> Array:
    """Return the light of a lamp at points [N, 3], with the cosine, the squared distance and hard shadows."""
    towards = lamp - points
    distance = np.linalg.norm(towards, axis=1)
    towards = towards / distance[:, None]
    blocked = _nearest(things, points + 1e-3 * normals, towards).distance < distance - 2e-3
    return np.where(blocked, 0, np.maximum(np.einsum("na,na->n", normals, towards), 0) * 3 / (0.5 + distance**2))


def _encoded(linear: Array) -> Array:
    """Encode linear values as sRGB, clipped to [0, 1]."""
    x = np.clip(linear, 0, 1)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-8) ** (1 / 2.4) - 0.055).astype(np.float32)
