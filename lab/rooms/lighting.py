"""Light a room: sun and sky through its openings, lamps, light from other surfaces, and reflections.

Light is irradiance / pi, so that a matt surface emits albedo * light. Soft light is sampled at random and then smoothed
over neighbouring pixels of the same surface. The light at the second hit of a ray is read from the panorama itself,
which shows nearly every surface of the room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .chance import Chance, strata_of
from .raycast import Rows, Scene, blocked
from .shapes import Array, Vector, column, dot, unit
from .smoothing import Enlarger, Smoother
from .view import Grid, Met, View, meet

# Rougher surfaces than this reflect too dimly to be worth a ray.
GLOSSY = 0.36
MIRROR = 0.1


@dataclass(frozen=True)
class Lamp:
    """A small ball of light: intensity, radius, and the radius in which nothing (such as its shade) blocks it."""

    centre: Vector
    intensity: Vector
    radius: float
    clear: float


@dataclass(frozen=True)
class Opening:
    """A rectangle across `axis` between two corners, through which the sky shines; outside is `outward` (+1, -1)."""

    low: Vector
    high: Vector
    axis: int
    outward: int

    def beyond(self, points: Array) -> NDArray[np.bool_]:
        """Return which points are outside."""
        return (points[self.axis] - self.low[self.axis]) * self.outward > 0

    def crossed(self, points: Array, towards: Array) -> NDArray[np.bool_]:
        """Return which rays leave through the opening, or start outside."""
        along = np.where(towards[self.axis] * self.outward > 1e-6, towards[self.axis], np.float32(np.inf))
        t = np.where(np.isinf(along), np.float32(np.nan), (self.low[self.axis] - points[self.axis]) / along)
        found = self.beyond(points)
        inside = t >= 0
        for other in {0, 1, 2} - {self.axis}:
            place = points[other] + towards[other] * t
            inside &= (place > self.low[other]) & (place < self.high[other])
        return found | inside


@dataclass(frozen=True)
class Lights:
    """The lights of a room. sun is the direction towards the sun; ambient lights places that the panorama can't see."""

    openings: tuple[Opening, ...]
    lamps: tuple[Lamp, ...]
    sun: Vector = (0.0, 1.0, 0.0)
    sunlight: Vector = (0.0, 0.0, 0.0)
    skylight: Vector = (0.0, 0.0, 0.0)
    ambient: Vector = (0.12, 0.115, 0.105)


class Quality(NamedTuple):
    """The quality of a picture; the maps are exact in every quality."""

    step: int
    """Soft light and reflections are computed at every step-th pixel across and down."""
    suns: int
    """Rays to the sun from each pixel."""
    bounces: int
    """The number of bounces."""
    edges: tuple[tuple[float, float], ...]
    """Rays that are averaged for a pixel on an edge, as parts of a pixel; none: it is blended with the next pixel."""


PICTURE = Quality(1, 4, 2, ((-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25), (0.25, 0.25)))
"""For people to look at."""
FAST = Quality(4, 1, 1, ())
"""For training: about a quarter of the time."""


@dataclass(frozen=True)
class Light:
    """The light at every pixel of a panorama, [3, H * W] each: on matt surfaces, and reflected by glossy ones."""

    matt: Array
    gloss: Array


def light_room(room: Scene, lights: Lights, view: View, grid: Grid, quality: Quality, seed: int) -> Light:
    """Return the light of a panorama of `grid` whose pixels show `view`; the seed determines the random rays."""
    random = np.random.default_rng(seed)
    small, rows = grid.every(quality.step)
    part = view if quality.step == 1 else view.at(rows)
    sun = _sun(room, lights, view, Chance(random), quality.suns)
    sampled = _Sampled(room, lights, part, small, random, quality)
    if quality.step == 1:
        return sampled.light(sampled.smooth(sun, passes=1))
    light, enlarge = sampled.light(sun[:, rows]), Enlarger(view, grid, quality.step)
    # The sun's light has edges, so it is computed at every pixel.
    return Light(sun + enlarge(light.matt - sun[:, rows]), enlarge(light.gloss))


class _Sampled:
    """The lighting of one view at some of its pixels, from which it is spread to all."""

    def __init__(
        self, room: Scene, lights: Lights, view: View, grid: Grid, random: np.random.Generator, quality: Quality
    ) -> None:
        self.room, self.lights, self.view, self.grid = room, lights, view, grid
        # All passes together reach an eighth of the height, 22 degrees, at any size.
        self.passes = max(1, round(np.log2(grid.height / 8)))
        self.bounces = quality.bounces
        self.smooth = Smoother(view, grid, self.passes)
        if quality.step == 1:
            # At step 1, every second pixel is computed, as on a chess board.
            board = (np.arange(grid.height)[:, None] + np.arange(grid.width)) % 2 == 0
            self.rows, self.chance = np.flatnonzero(board), Chance(random)
        else:
            strata = strata_of(grid.height, grid.width)
            self.rows, self.chance = np.arange(strata.size), Chance(random, strata)

    def light(self, sun: Array) -> Light:
        """Return the light on all pixels, given the sun's [3, N]."""
        part = self.view.at(self.rows)
        beams = [_sky(part, opening, self.lights.skylight, self.chance) for opening in self.lights.openings]
        beams += [_lamp(part, lamp, self.chance) for lamp in self.lights.lamps]
        matt = direct = sun + self._spread(_shone(self.room, part, beams), max(1, self.passes - 1))
        for _ in range(self.bounces):
            matt = direct + self._spread(self._bounce(part, matt), self.passes)
        return Light(matt, self._gloss(matt))

    def _spread(self, values: Array, passes: int) -> Array:
        return self.smooth.spread(self.rows, values, passes, self.lights.ambient)

    def _bounce(self, part: View, light: Array) -> Array:
        """Return the light from other surfaces at the pixels of `part`, given the light of the whole view."""
        start = part.hits.point + part.normal * np.float32(2e-3)
        # The normal plus a random unit vector is distributed like the cosine, so the light is the mean of the hits.
        towards = unit(part.normal * np.float32(1.001) + self.chance.sphere(start.shape[1]))
        met = meet(self.room, start, towards)
        # Lamps and the sky are already computed separately, but in a window's reveal only random rays find the sky.
        dark = met.glow.sum(axis=0) == 0
        outside = np.any([opening.beyond(start) for opening in self.lights.openings] or [False], axis=0)
        return met.albedo * self._lookup(light, met) * dark + met.glow * (outside & ~dark)

    def _lookup(self, light: Array, met: Met) -> Array:
        """Return the light at points that rays met, from the panorama's own pixels if it shows these points."""
        x, y, z = met.hits.point
        far, pixel = np.sqrt(x * x + y * y + z * z), self.grid.pixel(met.hits.point)
        seen = np.abs(self.view.hits.distance[pixel] - far) < 0.05 * far
        return np.where(seen, light.take(pixel, axis=1), column(self.lights.ambient))

    def _gloss(self, light: Array) -> Array:
        """Return what glossy surfaces reflect: sharp on mirrors, smoothed on rougher ones."""
        view, gloss = self.view, np.zeros_like(light)
        rows = np.flatnonzero((view.roughness < GLOSSY) & (view.glow.sum(axis=0) == 0))
        normal, along = view.normal[:, rows], unit(view.hits.point[:, rows])
        spread = (view.roughness[rows] * (view.roughness[rows] > MIRROR) * 0.25)[None]
        scattered = unit(normal + self.chance.scatter(rows.size) * spread)
        towards = unit(along - 2 * dot(along, scattered) * scattered)
        met = meet(self.room, view.hits.point[:, rows] + normal * np.float32(2e-3), towards)
        base = np.where(view.metallic[rows] > 0, view.albedo[:, rows], np.float32(0.04))
        fresnel = base + (1 - base) * np.clip(1 + dot(along, normal), 0, 1) ** 5
        glow = np.minimum(met.glow, 1.5)
        gloss[:, rows] = fresnel * (1 - view.roughness[rows]) * (met.albedo * self._lookup(light, met) + glow)
        return np.where(view.roughness > MIRROR, self.smooth(gloss, passes=3), gloss)


class _Beam(NamedTuple):
    """One light's rays: the pixels [n] that face it, its direction [3, n] and distance [n], and its light [3, n]."""

    rows: Rows
    towards: Array
    limits: Array
    light: Array


def _shone(room: Scene, view: View, beams: Sequence[_Beam]) -> Array:
    """Return the light of beams at the pixels of a view, [3, N], without the blocked beams."""
    total = np.zeros_like(view.normal)
    if not beams:
        return total
    rows, limits = (np.concatenate(parts) for parts in zip(*((beam.rows, beam.limits) for beam in beams)))
    start = view.hits.point.take(rows, axis=1) + view.normal.take(rows, axis=1) * np.float32(2e-3)
    lit = ~blocked(room, start, np.concatenate([beam.towards for beam in beams], axis=1), limits)
    ends = np.cumsum([beam.rows.size for beam in beams])[:-1]
    for beam, through in zip(beams, np.split(lit, ends)):
        total[:, beam.rows] += beam.light * through
    return total


def _sun(room: Scene, lights: Lights, view: View, chance: Chance, samples: int) -> Array:
    """Return the sun's light; its rays can only come through the openings."""
    light = np.zeros_like(view.normal)
    if max(lights.sunlight) == 0:
        return light
    point = view.hits.point
    for _ in range(samples):
        # With many rays the edge of a shadow is soft, with one ray it is sharp.
        scatter = chance.scatter(point.shape[1]) if samples > 1 else np.zeros_like(point)
        towards = unit(column(lights.sun) + np.float32(0.012) * scatter)
        through = np.any([opening.crossed(point, towards) for opening in lights.openings] or [False], axis=0)
        facing = dot(view.normal, towards)
        rows = np.flatnonzero(through & (facing > 0))
        far = np.full(rows.size, 30.0, dtype=np.float32)
        beam = _Beam(rows, towards.take(rows, axis=1), far, column(lights.sunlight) * (facing[rows] / samples))
        light += _shone(room, view, [beam])
    return light


def _sky(view: View, opening: Opening, skylight: Vector, chance: Chance) -> _Beam:
    """Return the light of the sky, from one point in an opening for each pixel."""
    low, size = column(opening.low), column(opening.high) - column(opening.low)
    towards = low + size * chance.box(view.normal.shape[1], opening.axis) - view.hits.point
    far = np.sqrt(np.maximum(dot(towards, towards), 1e-6))
    towards = towards / far
    facing, out = dot(view.normal, towards), towards[opening.axis] * opening.outward
    rows = np.flatnonzero((facing > 0) & (out > 0))
    share = facing[rows] * out[rows] / np.maximum(far[rows], 0.2) ** 2
    area = np.prod(np.delete(size, opening.axis))
    return _Beam(rows, towards.take(rows, axis=1), far[rows], column(skylight) * share * np.float32(area / np.pi))


def _lamp(view: View, lamp: Lamp, chance: Chance) -> _Beam:
    """Return the light of one lamp, which falls with the squared distance, from one point on it for each pixel."""
    target = column(lamp.centre) + lamp.radius * chance.sphere(view.normal.shape[1])
    towards = target - view.hits.point
    far = np.sqrt(dot(towards, towards))
    towards = towards / far
    facing = dot(view.normal, towards)
    rows = np.flatnonzero((facing > 0) & (far > lamp.clear))
    light = column(lamp.intensity) * (facing[rows] / np.maximum(far[rows], 0.25) ** 2)
    return _Beam(rows, towards.take(rows, axis=1), far[rows] - np.float32(lamp.clear), light)
