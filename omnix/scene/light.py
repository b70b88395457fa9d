"""The light of a lit scene: the brightest places glow, and a few point lights stand in the room.

Renderers that follow light from surface to surface (Blender's Cycles) light the scene by its glow; those that do not
(three.js) by the point lights. Both are as strong as makes the scene about as bright as the panorama. Blender reads a
point light of the file as 1/683 of what three.js makes of it, so there it adds nothing that shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from ..pictures.glb import Geometry, Lamp
from ..pictures.semantics import Named
from .frame import Array
from .shading import unit
from .surface import at_size

# Linear brightness from which on a place glows, or the brightest share of the sphere if nothing is so bright.
BRIGHT, LEAST = 0.9, 0.005
# Classes of a semantic map that emit no light, however bright they are: a patch of sunlight on the floor is no lamp.
DULL = ("floor", "wall", "door")
# How much stronger than in the picture a glow may be. A lit surface reflects between these shares.
STRONGEST, REFLECTS = 200.0, (0.2, 0.8)
# The points that the light is fitted to, those among which the glowing ones are found, and the most of these.
POINTS, SEARCHED, SOURCES = 1500, 30_000, 200
# Point lights: the most, and where they may be: at the viewer, or at these shares of the way to so many points.
LAMPS, WAYS, SHARES = 4, 48, (0.3, 0.55, 0.8)
# At most this share of the points is lit to pure white, unless that would make the median darker than by this factor.
BURNT, DARKEST = 0.01, 0.8
# How often Cycles follows reflected light, and how much of a glow's light arrives: 0.55 (photographs, whose rough depth
# hides windows from the room) to 1.05 (simple rooms) of what the sum says, by lab/bench/lit.py.
BOUNCES, ARRIVES = 4, 0.7
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


class Light(NamedTuple):
    """The glow [H, W, 3] (sRGB, black where nothing glows), how many times stronger it is, and the point lights."""

    glow: Array
    strength: float
    lamps: tuple[Lamp, ...]


class Points(NamedTuple):
    """Points of a surface, [n, 3] each: places, unit normals, albedo of the matt part and colour in linear light.

    `area` [n] is what each one has of the surface.
    """

    places: Array
    normals: Array
    albedo: Array
    shown: Array
    area: Array


def light_of(maps: Mapping[str, Array], geometry: Geometry, named: Named | None = None) -> Light:
    """Return the light of a scene with "image", "albedo" and perhaps "metallic", [H, W, 3] each, on a mesh.

    named: the contents; what can't emit light by its class does not glow.
    """
    shown = brightness(maps["image"])
    area = np.cos((0.5 - (np.arange(len(shown)) + 0.5) / len(shown)) * np.pi)[:, None] * _may_glow(shown.shape, named)
    glows = (area > 0) & (shown >= min(BRIGHT, _quantile(shown, area, 1 - LEAST)))
    glow = np.where(glows[..., None], maps["image"], 0).astype(np.float32)
    points, sources = points_of(geometry, maps, ~glows, POINTS), points_of(geometry, maps, glows, SEARCHED)
    return Light(glow, _strength(points, sources), lamps_of(points))


def _may_glow(shape: tuple[int, ...], named: Named | None) -> NDArray[np.bool_]:
    """Return the pixels [H, W] whose class, as far as it is known, can emit light."""
    if named is None:
        return np.ones(shape, dtype=bool)
    dull = [number for number, name in enumerate(named.names) if name in DULL]
    return at_size(~np.isin(named.numbers, dull), shape)


def _strength(points: Points, sources: Points) -> float:
    """Return how many times stronger a glow lights a closed room as brightly as it is shown.

    All light of a source arrives somewhere; light that was reflected is as bright everywhere.
    """
    if not len(points.area) or not len(sources.area):
        return 1.0
    every = -(-len(sources.area) // SOURCES)
    places, normals, sent = (
        part[::every] for part in (sources.places, sources.normals, sources.area[:, None] * sources.shown)
    )
    falls = np.stack([_falling(points, *source) for source in zip(places, normals)], axis=1)
    direct = every * falls @ (sent / np.maximum(points.area @ falls, 1e-30)[:, None])
    reflects = np.clip(points.area @ points.albedo / points.area.sum(), *REFLECTS)
    again = every * sent.sum(axis=0) / points.area.sum() * sum(reflects**n for n in range(1, BOUNCES + 1))
    return float(np.clip(_exposure(points.albedo * (direct + again), points.shown) / ARRIVES, 1, STRONGEST))


def points_of(geometry: Geometry, maps: Mapping[str, Array], where: Array, count: int) -> Points:
    """Return those of `count` points of a mesh, evenly over the viewer's sphere, where the pixels [H, W] say so."""
    weights = np.random.default_rng(0).dirichlet(np.ones(3), count)[..., None]
    chosen, area = _spread(geometry, count)
    faces = geometry.faces[chosen]
    attributes = geometry.positions, geometry.normals, geometry.uv
    places, normals, uv = ((values[faces] * weights).sum(axis=1) for values in attributes)
    size = np.array(where.shape[::-1])
    column, row = np.minimum((uv * size).astype(int), size - 1).T
    kept = where[row, column]
    places, normals, row, column = places[kept], unit(normals[kept]), row[kept], column[kept]
    shown, albedo = (linear(maps[name][row, column]) for name in ("image", "albedo"))
    matt = 1 - np.clip(maps["metallic"][row, column], 0, 1) if "metallic" in maps else 1.0
    return Points(places, normals, albedo * matt, shown, area[kept])


def _spread(geometry: Geometry, count: int) -> tuple[Array, Array]:
    """Return the numbers [n] of triangles, each as often as its share of the viewer's sphere demands, and their areas.

    The area of a triangle is divided among the times that it should come.
    """
    corners = geometry.positions[geometry.faces]
    middle, across = corners.mean(axis=1), np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    angle = np.abs((across * unit(middle)).sum(axis=1)) / np.maximum((middle**2).sum(axis=1), 1e-30)
    steps = (np.arange(count) + 0.5) / count * angle.sum()
    chosen = np.minimum(np.searchsorted(np.cumsum(angle), steps), len(angle) - 1)
    length = np.sqrt((across[chosen] ** 2).sum(axis=1))
    return chosen, length / 2 / np.maximum(angle[chosen], 1e-30) * angle.sum() / count


def lamps_of(points: Points) -> tuple[Lamp, ...]:
    """Return the point lights under which a surface looks most as it is shown, without shadows; () if all is dark.

    The places are found one by one: each time the one that leaves the least squared error of luminance. Then each
    colour is fitted by itself, so that a window gives daylight and a lamp warm light.
    """
    bright, matt = points.shown @ LUMINANCE, points.albedo @ LUMINANCE
    if not (bright * matt).any():
        return ()
    places = _candidates(points.places)
    falls = np.stack([_falling(points, place) for place in places], axis=1)
    chosen: list[int] = []
    for _ in range(LAMPS):
        left = [n for n in range(len(places)) if n not in chosen]
        errors = [nnls(falls[:, [*chosen, n]] * matt[:, None], bright)[1] for n in left]
        chosen.append(left[int(np.argmin(errors))])
    colours = (nnls(falls[:, chosen] * points.albedo[:, [k]], points.shown[:, k])[0] for k in range(3))
    candela = np.stack(list(colours), axis=1)
    candela = candela * _exposure(points.albedo * (falls[:, chosen] @ candela), points.shown)
    return tuple(
        Lamp((place[0], place[1], place[2]), (part[0], part[1], part[2]))
        for place, part in zip(places[chosen].tolist(), candela.tolist())
        if max(part) > 0
    )


def _candidates(places: Array) -> Array:
    """Return places [n, 3] with nothing between them and the viewer: the viewer's own, and on the way to points."""
    ways = places[:: max(1, len(places) // WAYS)]
    return np.concatenate([np.zeros((1, 3)), *(ways * share for share in SHARES)])


def _falling(points: Points, place: Array, normal: Array | None = None) -> Array:
    """Return what matt white reflects at each point of a light of one candela: cosine / (pi distance^2).

    A light with a normal is a small piece of a matt surface, which shines less to its sides.
    """
    towards = place - points.places
    square = np.maximum((towards**2).sum(axis=1), 1e-30)
    falls = np.maximum((towards * points.normals).sum(axis=1), 0) / (np.pi * square**1.5)
    return falls if normal is None else falls * np.maximum(-towards @ normal, 0) / np.sqrt(square)


def _exposure(lit: Array, shown: Array) -> float:
    """Return the factor after which the median is as bright as shown, or less for fewer points in pure white."""
    bright, wanted = lit @ LUMINANCE, shown @ LUMINANCE
    held = wanted > 1e-3
    median = float(np.median(bright[held] / wanted[held])) if held.any() else 0.0
    if median <= 0:
        return 1.0
    pure = float(np.quantile(np.where(shown >= 1, 0, lit).max(axis=1), 1 - BURNT))
    return max(min(1 / median, 1 / max(pure, 1e-12)), DARKEST / median)


def glowing(geometry: Geometry, glow: Array) -> NDArray[np.bool_]:
    """Return the triangles [F] of a mesh whose bounds in a picture [h, w, 3] hold a pixel that is not black."""
    lit = np.pad((glow > 0).any(axis=-1), 1).cumsum(axis=0).cumsum(axis=1)
    size = np.array(glow.shape[1::-1])
    corners = geometry.uv[geometry.faces] * size
    # One pixel more on each side: clients blend neighbours.
    left, top = np.clip(np.floor(corners.min(axis=1)).astype(int) - 1, 0, size).T
    right, bottom = np.clip(np.ceil(corners.max(axis=1)).astype(int) + 1, 0, size).T
    return lit[bottom, right] - lit[top, right] - lit[bottom, left] + lit[top, left] > 0


def brightness(picture: Array) -> Array:
    """Return the linear luminance [H, W] of an sRGB picture."""
    return linear(picture) @ LUMINANCE


def linear(picture: Array) -> Array:
    """Return the linear light [.., 3] of an sRGB picture."""
    p = np.clip(picture[..., :3], 0, 1)
    return np.where(p <= 0.04045, p / 12.92, ((p + 0.055) / 1.055) ** 2.4)


def _quantile(values: Array, weights: Array, share: float) -> float:
    order = np.argsort(values, axis=None)
    total = np.cumsum(weights.ravel()[order])
    return float(values.ravel()[order[min(np.searchsorted(total, share * total[-1]), len(order) - 1)]])
