"""The shapes of the demo's room: their intersections with rays, their normals, and their surfaces.

Arrays of points and directions are [3, N] float32, in metres. Axes: front +X, up +Y, left +Z. Directions are unit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating]
Vector: TypeAlias = tuple[float, float, float]

# A hit closer than this is the surface where the ray starts.
SKIN = 1e-3


@dataclass(frozen=True)
class Surface:
    """The surface of a shape. paint: local points [3, N] -> linear albedo [3, N]; glow is emitted radiance."""

    semantic: str
    paint: Callable[[Array], Array]
    roughness: float = 0.8
    metallic: float = 0.0
    glow: Vector = (0.0, 0.0, 0.0)


def column(vector: Vector | Array) -> Array:
    """Return a vector as [3, 1]; vectors [3, N], one for each ray, stay unchanged."""
    return np.asarray(vector, dtype=np.float32).reshape(3, -1)


def dot(a: Array, b: Array) -> Array:
    """Return the scalar products of the columns of a and b, [N]."""
    total = a[0] * b[0]
    total += a[1] * b[1]
    total += a[2] * b[2]
    return total


def unit(vectors: Array) -> Array:
    """Return vectors [3, N] with length 1."""
    return vectors / np.sqrt(np.maximum(dot(vectors, vectors), 1e-20))


@dataclass(frozen=True)
class Shape(ABC):
    """A surface at a place: centre, then yaw (degrees, to the left, about up) and lean (degrees, about the local Z)."""

    surface: Surface
    centre: Vector
    yaw: float = 0.0
    lean: float = 0.0

    @cached_property
    def axes(self) -> Array:
        """The local X, Y and Z axes in the world, as rows."""
        y, a = np.radians(self.yaw), np.radians(self.lean)
        turn = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
        tip = np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])
        return (tip @ turn).astype(np.float32)

    @property
    def turned(self) -> bool:
        """Whether the shape's axes differ from the world's."""
        return not self.yaw == self.lean == 0

    def local(self, points: Array) -> Array:
        """Return world points in the shape's own frame."""
        return self._into(points - column(self.centre))

    def _into(self, vectors: Array) -> Array:
        return self.axes @ vectors if self.turned else vectors

    @abstractmethod
    def normal(self, points: Array) -> Array:
        """Return the outward unit normals at world points on the surface."""

    @abstractmethod
    def reach(self, origins: Array, directions: Array) -> Array:
        """Return the distance along each ray to the surface, [N], infinite where it misses."""

    @property
    @abstractmethod
    def half_box(self) -> Vector:
        """The half sizes of the box around the shape, along its own axes."""

    @property
    def radius(self) -> float:
        """The radius of the ball around the shape, about its centre."""
        return float(np.linalg.norm(self.half_box))


@dataclass(frozen=True)
class Solid(Shape):
    """A shape whose intersections are computed in its own frame."""

    def normal(self, points: Array) -> Array:
        """Return the outward unit normals at world points on the surface."""
        normals = unit(self._local_normal(self.local(points)))
        return self.axes.T @ normals if self.turned else normals

    def reach(self, origins: Array, directions: Array) -> Array:
        """Return the distance along each ray to the surface, [N], infinite where it misses."""
        # From the point nearest to the centre, because float32's rounding is too coarse for small shapes far away.
        ahead = dot(column(self.centre) - origins, directions)
        return ahead + self._local_reach(self.local(origins + ahead * directions), self._into(directions), SKIN - ahead)

    @abstractmethod
    def _local_normal(self, p: Array) -> Array:
        """Return the outward normals, of any length, at points p on the surface, in the shape's frame."""

    @abstractmethod
    def _local_reach(self, o: Array, d: Array, least: Array) -> Array:
        """Return t of the first hit o + t d, in the shape's frame, with t > least [N]."""


def _slabs(half: Array, o: Array, d: Array) -> tuple[Array, Array]:
    """Return where rays enter and leave the box of half sizes [3, 1]; they miss where entry > exit."""
    inverse = 1.0 / np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)
    middle, reach = -o * inverse, half * np.abs(inverse)
    near, far = middle - reach, middle + reach
    # Much faster than max(axis=0): numpy's reduction over such a short axis is not vectorised.
    return np.maximum(np.maximum(near[0], near[1]), near[2]), np.minimum(np.minimum(far[0], far[1]), far[2])


def _flat_normal(half: Array, p: Array) -> Array:
    """Return the normals of the faces of a box of half sizes [3, 1] that the points p are nearest to."""
    share = np.abs(p) - half
    return np.where(share == share.max(axis=0), np.sign(p), 0).astype(np.float32)


@dataclass(frozen=True)
class Box(Solid):
    """A box of half sizes `half`."""

    half: Vector = (1.0, 1.0, 1.0)

    @property
    def half_box(self) -> Vector:
        return self.half

    def _local_reach(self, o: Array, d: Array, least: Array) -> Array:
        enter, leave = _slabs(column(self.half), o, d)
        return np.where((enter <= leave) & (enter > least), enter, np.float32(np.inf))

    def _local_normal(self, p: Array) -> Array:
        return _flat_normal(column(self.half), p)


@dataclass(frozen=True)
class Cushion(Solid):
    """A box of half sizes `half` whose edges are rounded off with radius `rounding`."""

    half: Vector = (1.0, 1.0, 1.0)
    rounding: float = 0.05

    @property
    def half_box(self) -> Vector:
        return self.half

    def _local_reach(self, o: Array, d: Array, least: Array) -> Array:
        enter, leave = _slabs(column(self.half), o, d)
        rows = np.flatnonzero((enter <= leave) & (enter > least))
        found = np.full_like(enter, np.inf)
        found[rows] = self._first_touch(rows, o[:, rows], d[:, rows], enter[rows])
        return found

    def _first_touch(self, rows: NDArray[np.intp], o: Array, d: Array, t: Array) -> Array:
        """Step from the box that some rays enter to the rounded surface; infinite for rays that miss it."""
        inner, rounding = column(self.half) - self._rounding, self._rounding
        inner = inner if inner.shape[1] == 1 else inner[:, rows]
        rounding = rounding if rounding.ndim == 0 else rounding[rows]
        gap, slope = np.zeros_like(t), np.full_like(t, -1)
        # The distance to the surface is convex along a ray, so Newton's steps from outside never pass the first hit.
        for _ in range(12):
            p = o + t * d
            past = np.maximum(np.abs(p) - inner, 0) * np.sign(p)
            length = np.sqrt(dot(past, past))
            gap, slope = length - rounding, dot(past, d)
            nearer = (gap > 1e-6) & (slope < 0)
            if not nearer.any():
                break
            t = np.where(nearer, t - gap * length / np.minimum(slope, -1e-9), t)
        # A ray that already leaves has missed the surface.
        return np.where((gap < 1e-4) & (slope < 0), t, np.float32(np.inf))

    @property
    def _rounding(self) -> Array:
        return np.asarray(self.rounding, dtype=np.float32)

    def _local_normal(self, p: Array) -> Array:
        """The vector from the inner box, around which the edges are rounded; on flat faces, the face's vector."""
        past = np.maximum(np.abs(p) - (column(self.half) - self._rounding), 0) * np.sign(p)
        return np.where(dot(past, past) > 1e-12, past, _flat_normal(column(self.half), p))


@dataclass(frozen=True)
class Ball(Solid):
    """A sphere or ellipsoid of half axes `half`."""

    half: Vector = (1.0, 1.0, 1.0)

    @property
    def half_box(self) -> Vector:
        return self.half

    @property
    def radius(self) -> float:
        return max(self.half)

    def _local_reach(self, o: Array, d: Array, least: Array) -> Array:
        p, v = o / column(self.half), d / column(self.half)
        a, b, c = dot(v, v), dot(p, v), dot(p, p) - 1
        root = b * b - a * c
        t = (-b - np.sqrt(np.maximum(root, 0))) / a
        return np.where((root > 0) & (t > least), t, np.float32(np.inf))

    def _local_normal(self, p: Array) -> Array:
        return p / column(self.half) ** 2


@dataclass(frozen=True)
class Cone(Solid):
    """An upright frustum of radii `bottom` and `top` and half height `tall`, closed; equal radii make a cylinder."""

    bottom: float = 1.0
    top: float = 1.0
    tall: float = 1.0

    @property
    def half_box(self) -> Vector:
        return (max(self.bottom, self.top), self.tall, max(self.bottom, self.top))

    @property
    def radius(self) -> float:
        return float(np.hypot(max(self.bottom, self.top), self.tall))

    @property
    def _slope(self) -> float:
        return (self.top - self.bottom) / (2 * self.tall)

    def _local_reach(self, o: Array, d: Array, least: Array) -> Array:
        k, middle = np.float32(self._slope), np.float32((self.top + self.bottom) / 2)
        wide = middle + k * o[1]
        a = d[0] ** 2 + d[2] ** 2 - (k * d[1]) ** 2
        b = o[0] * d[0] + o[2] * d[2] - k * d[1] * wide
        root = b * b - a * (o[0] ** 2 + o[2] ** 2 - wide**2)
        spread, a = np.sqrt(np.maximum(root, 0)), np.where(np.abs(a) < 1e-9, np.float32(1e-9), a)
        best = np.full_like(b, np.inf)
        for t in ((-b - spread) / a, (-b + spread) / a):
            side = (root > 0) & (t > least) & (np.abs(o[1] + t * d[1]) <= self.tall)
            best = np.where(side & (t < best), t, best)
        for height, disc in ((-self.tall, self.bottom), (self.tall, self.top)):
            t = (height - o[1]) / np.where(np.abs(d[1]) < 1e-9, np.float32(1e-9), d[1])
            inside = (o[0] + t * d[0]) ** 2 + (o[2] + t * d[2]) ** 2 <= disc**2
            best = np.where(inside & (t > least) & (t < best), t, best)
        return best.astype(np.float32)

    def _local_normal(self, p: Array) -> Array:
        around = np.sqrt(p[0] ** 2 + p[2] ** 2)
        wide = np.float32((self.top + self.bottom) / 2) + np.float32(self._slope) * p[1]
        on_side = np.abs(around - wide) < np.abs(np.abs(p[1]) - self.tall)
        side = np.stack([p[0], -np.float32(self._slope) * around, p[2]])
        cap = np.stack([np.zeros_like(around), np.sign(p[1]), np.zeros_like(around)])
        return np.where(on_side, side, cap)
