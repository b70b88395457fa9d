"""Light the demo room: sun and sky through the window, two lamps, what the surfaces pass on, and reflections.

Light is irradiance / pi, so that a matt surface sends out albedo * light. Soft light is sampled by chance and then
smoothed over neighbouring pixels of the same surface. What a ray meets after its first hit is looked up in the panorama
itself, which sees nearly every surface of the room.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .furniture import LAMP, LEFT, PENDANT, WINDOW_HIGH, WINDOW_LOW
from .raycast import Hits, Scene, blocked, nearest
from .shapes import Array, Vector, column, dot, unit

SUN: Vector = (-0.42, 0.78, 0.9)
SUNLIGHT: Vector = (4.4, 3.8, 3.0)
SKYLIGHT: Vector = (2.6, 3.0, 3.6)
# What reaches places that the panorama can't see.
AMBIENT: Vector = (0.12, 0.115, 0.105)
# Rougher surfaces than this reflect too dimly to be worth a ray.
GLOSSY = 0.36
MIRROR = 0.1


@dataclass(frozen=True)
class Lamp:
    """A small ball of light: intensity, its radius, and the radius around it that its own shade may not block."""

    centre: Vector
    intensity: Vector
    radius: float
    clear: float


LAMPS = (
    Lamp(LAMP, (0.85, 0.58, 0.32), radius=0.12, clear=0.32),
    Lamp((PENDANT[0], PENDANT[1] - 0.12, PENDANT[2]), (0.55, 0.42, 0.27), radius=0.03, clear=0.0),
)


@dataclass(frozen=True)
class View:
    """What one set of N rays meets. normal, albedo (linear) and glow are [3, N], the others [N]."""

    hits: Hits
    normal: Array
    albedo: Array
    glow: Array
    roughness: Array
    metallic: Array

    def at(self, rows: NDArray[np.intp]) -> View:
        """Return what the rays with these numbers meet."""
        hits = Hits(self.hits.distance[rows], self.hits.shape[rows], self.hits.point[:, rows])
        normal, albedo, glow = (values[:, rows] for values in (self.normal, self.albedo, self.glow))
        return View(hits, normal, albedo, glow, self.roughness[rows], self.metallic[rows])


@dataclass(frozen=True)
class Light:
    """The light on every pixel of a panorama, [3, H * W] each: on matt surfaces, and reflected by glossy ones."""

    matt: Array
    gloss: Array


def look(room: Scene, origins: Array, directions: Array) -> View:
    """Follow rays to what they meet and read its surface there."""
    hits = nearest(room, origins, directions)
    count = directions.shape[1]
    normal, albedo, glow = (np.empty((3, count), dtype=np.float32) for _ in range(3))
    roughness, metallic = np.empty(count, dtype=np.float32), np.empty(count, dtype=np.float32)
    for number in np.unique(hits.shape):
        shape, rows = room.shapes[number], np.flatnonzero(hits.shape == number)
        points = hits.point[:, rows]
        normal[:, rows] = shape.normal(points)
        albedo[:, rows] = shape.surface.paint(shape.local(points))
        glow[:, rows] = column(shape.surface.glow) * albedo[:, rows]
        roughness[rows], metallic[rows] = shape.surface.roughness, shape.surface.metallic
    return View(hits, normal, albedo, glow, roughness, metallic)


def light_room(room: Scene, view: View, rays: Array, grid: tuple[int, int], random: np.random.Generator) -> Light:
    """Return the light on a panorama of `grid` (height, width) pixels whose rays [3, H * W] show `view`."""
    # All passes together reach an eighth of the height, 22 degrees, whatever the size.
    passes = max(1, round(np.log2(grid[0] / 8)))
    smooth = Smoother(view, grid, passes)
    part = view.at(smooth.sampled)
    soft = _sky(room, part, random)
    for lamp in LAMPS:
        soft += _lamp(room, part, lamp, random)
    direct = smooth(_sun(room, view, random), passes=1) + smooth.spread(soft, max(1, passes - 1))
    once = smooth.spread(_bounce(room, part, view, direct, grid, random), passes)
    matt = direct + smooth.spread(_bounce(room, part, view, direct + once, grid, random), passes)
    return Light(matt, _gloss(room, view, rays, matt, smooth, random))


def _lit(room: Scene, view: View, rows: NDArray[np.intp], towards: Array, limits: Array) -> Array:
    """Return 1 where nothing stands between a pixel's point and the light, else 0."""
    start = view.hits.point[:, rows] + view.normal[:, rows] * np.float32(2e-3)
    return (~blocked(room, start, towards, limits)).astype(np.float32)


def _sun(room: Scene, view: View, random: np.random.Generator, samples: int = 4) -> Array:
    """Return the sun's light; its rays can only come through the window."""
    light = np.zeros_like(view.normal)
    point, (low, high) = view.hits.point, (column(WINDOW_LOW), column(WINDOW_HIGH))
    for _ in range(samples):
        towards = unit(column(SUN) + np.float32(0.012) * _scatter(point.shape, random))
        crossing = point + towards * ((LEFT - point[2]) / towards[2])
        through = ((crossing > low) & (crossing < high))[:2].all(axis=0) | (point[2] > LEFT)
        facing = dot(view.normal, towards)
        rows = np.flatnonzero(through & (facing > 0))
        lit = _lit(room, view, rows, towards[:, rows], np.full(rows.size, 30.0, dtype=np.float32))
        light[:, rows] += column(SUNLIGHT) * (facing[rows] * lit / samples)
    return light


def _sky(room: Scene, view: View, random: np.random.Generator) -> Array:
    """Return the light of the sky, from one point in the window for each pixel."""
    low, size = column(WINDOW_LOW), column(WINDOW_HIGH) - column(WINDOW_LOW)
    towards = low + size * random.random(view.normal.shape, dtype=np.float32) - view.hits.point
    far = np.sqrt(dot(towards, towards))
    towards = towards / far
    facing = dot(view.normal, towards)
    rows = np.flatnonzero((facing > 0) & (towards[2] > 0))
    lit = _lit(room, view, rows, towards[:, rows], far[rows])
    share = facing[rows] * towards[2][rows] / np.maximum(far[rows], 0.2) ** 2 * lit
    light = np.zeros_like(view.normal)
    light[:, rows] = column(SKYLIGHT) * share * (size[0] * size[1] / np.pi)
    return light


def _lamp(room: Scene, view: View, lamp: Lamp, random: np.random.Generator) -> Array:
    """Return the light of one lamp, less with the square of the distance, from one point on it for each pixel."""
    target = column(lamp.centre) + lamp.radius * unit(_scatter(view.normal.shape, random))
    towards = target - view.hits.point
    far = np.sqrt(dot(towards, towards))
    towards = towards / far
    facing = dot(view.normal, towards)
    rows = np.flatnonzero((facing > 0) & (far > lamp.clear))
    lit = _lit(room, view, rows, towards[:, rows], far[rows] - lamp.clear)
    light = np.zeros_like(view.normal)
    light[:, rows] = column(lamp.intensity) * (facing[rows] * lit / np.maximum(far[rows], 0.25) ** 2)
    return light


def _bounce(
    room: Scene, part: View, view: View, light: Array, grid: tuple[int, int], random: np.random.Generator
) -> Array:
    """Return the light that comes to the pixels of `part` from other surfaces, given the light on the whole view."""
    start = part.hits.point + part.normal * np.float32(2e-3)
    # A unit vector added to the normal is spread as the cosine, so the mean of what it meets is the light.
    towards = unit(part.normal * np.float32(1.001) + unit(_scatter(start.shape, random)))
    met = look(room, start, towards)
    # Lamps and the sky are lights of their own already, but in the window's reveal only chance finds the sky.
    dark, outside = met.glow.sum(axis=0) == 0, start[2] > LEFT
    return met.albedo * _lookup(view, light, met, grid) * dark + met.glow * (outside & ~dark)


def _scatter(shape: tuple[int, ...], random: np.random.Generator) -> Array:
    return random.standard_normal(size=shape, dtype=np.float32)


def _lookup(view: View, light: Array, met: View, grid: tuple[int, int]) -> Array:
    """Return the light on points that rays met, from the panorama's own pixels where it sees them."""
    height, width = grid
    x, y, z = met.hits.point
    far = np.sqrt(x * x + y * y + z * z)
    i = ((0.5 - np.arcsin(np.clip(y / far, -1, 1)) / np.pi) * height).astype(np.int64).clip(0, height - 1)
    j = ((0.5 - np.arctan2(z, x) / (2 * np.pi)) * width).astype(np.int64) % width
    pixel = i * width + j
    seen = np.abs(view.hits.distance[pixel] - far) < 0.05 * far
    return np.where(seen, light[:, pixel], column(AMBIENT))


def _gloss(room: Scene, view: View, rays: Array, light: Array, smooth: Smoother, random: np.random.Generator) -> Array:
    """Return what glossy surfaces reflect: sharp on mirrors, smoothed on rougher ones."""
    gloss = np.zeros_like(light)
    rows = np.flatnonzero((view.roughness < GLOSSY) & (view.glow.sum(axis=0) == 0))
    normal, along = view.normal[:, rows], rays[:, rows]
    spread = (view.roughness[rows] * (view.roughness[rows] > MIRROR) * 0.25)[None]
    scattered = unit(normal + _scatter(normal.shape, random) * spread)
    towards = unit(along - 2 * dot(along, scattered) * scattered)
    met = look(room, view.hits.point[:, rows] + normal * np.float32(2e-3), towards)
    base = np.where(view.metallic[rows] > 0, view.albedo[:, rows], np.float32(0.04))
    fresnel = base + (1 - base) * np.clip(1 + dot(along, normal), 0, 1) ** 5
    glow = np.minimum(met.glow, 1.5)
    gloss[:, rows] = fresnel * (1 - view.roughness[rows]) * (met.albedo * _lookup(view, light, met, smooth.grid) + glow)
    return np.where(view.roughness > MIRROR, smooth(gloss, passes=3), gloss)


class Smoother:
    """Average light over neighbours on the same flat surface; each pass looks twice as far as the one before.

    An edge-avoiding a-trous filter (Dammertz et al., 2010). Neighbours count by how little they lie off the tangent
    plane and how alike their normals are; that depends on the view alone, so it is worked out once.
    """

    def __init__(self, view: View, grid: tuple[int, int], passes: int) -> None:
        self.grid = grid
        normal, point = self._planes(view.normal), self._planes(view.hits.point)
        self.weights = [self._weights(normal, point, 1 << k) for k in range(passes)]
        # Every other pixel, as on a chess board: soft light is sampled there and spread to the rest.
        self.sampled = np.flatnonzero((np.arange(grid[0])[:, None] + np.arange(grid[1])) % 2 == 0)

    def __call__(self, light: Array, passes: int) -> Array:
        """Return light [3, H * W] smoothed with the first passes."""
        planes = self._planes(light)
        for k, weights in enumerate(self.weights[:passes]):
            total = planes * weights[0]
            for weight, step in zip(weights[1:], _neighbours(1 << k)):
                total += weight * self._moved(planes, *step)
            planes = total
        return planes.reshape(light.shape)

    def spread(self, sampled: Array, passes: int) -> Array:
        """Return light known at the sampled pixels [3, n], smoothed over all, [3, H * W]."""
        light = np.zeros((4, self.grid[0] * self.grid[1]), dtype=np.float32)
        light[:3, self.sampled], light[3, self.sampled] = sampled, 1.0
        smoothed = self(light, passes)
        return np.where(smoothed[3] > 1e-3, smoothed[:3] / np.maximum(smoothed[3], 1e-3), column(AMBIENT))

    def _weights(self, normal: Array, point: Array, step: int) -> list[Array]:
        """Return the shares of a pixel itself and of its eight neighbours at `step`, which add up to 1."""
        weights: list[Array] = [np.ones(self.grid, dtype=np.float32)]
        for down, right in _neighbours(step):
            off_plane = np.abs(dot(self._moved(point, down, right) - point, normal))
            alike = np.maximum(dot(self._moved(normal, down, right), normal), 0) ** 16
            weights.append(alike * np.exp(off_plane / -0.02) * ((0.5 if down else 1.0) * (0.5 if right else 1.0)))
        total = np.sum(weights, axis=0)
        return [weight / total for weight in weights]

    def _planes(self, values: Array) -> Array:
        return values.reshape(-1, *self.grid)

    def _moved(self, planes: Array, down: int, right: int) -> Array:
        """Return the planes so that every pixel holds the one further down and right; columns go round, rows end."""
        rows = (np.arange(self.grid[0]) + down).clip(0, self.grid[0] - 1)
        return np.roll(planes.take(rows, axis=1), -right, axis=2)


def _neighbours(step: int) -> list[tuple[int, int]]:
    return [(i, j) for i in (-step, 0, step) for j in (-step, 0, step) if i or j]
