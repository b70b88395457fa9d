"""The grid of a panorama's pixels, and the surfaces that they show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .raycast import Hits, Rows, Scene, by_value, nearest, normals
from .shapes import Array, dot

ORIGIN = np.zeros((3, 1), dtype=np.float32)
"""The place of the camera."""


class Grid(NamedTuple):
    """The pixels of a panorama; yaw (radians) is the turn of the camera to the left in the room."""

    height: int
    width: int
    yaw: float = 0.0

    def rays(self, down: float = 0.0, right: float = 0.0) -> Array:
        """Return the unit rays [3, H * W] through the pixel centres, moved by a part of a pixel, in the room's axes."""
        lat = ((0.5 - (np.arange(self.height) + 0.5 + down) / self.height) * np.pi)[:, None]
        lon = ((0.5 - (np.arange(self.width) + 0.5 + right) / self.width) * 2 * np.pi + self.yaw)[None]
        up = np.broadcast_to(np.sin(lat), (self.height, self.width))
        rays = np.stack([np.cos(lat) * np.cos(lon), up, np.cos(lat) * np.sin(lon)])
        return rays.reshape(3, -1).astype(np.float32)

    def pixel(self, points: Array) -> Rows:
        """Return the pixels [N] that show points [3, N]."""
        x, y, z = points
        far = np.sqrt(x * x + y * y + z * z)
        lat, lon = np.arcsin(np.clip(y / far, -1, 1)), np.arctan2(z, x) - np.float32(self.yaw)
        i = ((0.5 - lat / np.pi) * self.height).astype(np.int64).clip(0, self.height - 1)
        j = np.floor((0.5 - lon / (2 * np.pi)) * self.width).astype(np.int64) % self.width
        return i * self.width + j

    def every(self, step: int) -> tuple[Grid, Rows]:
        """Return the grid of every step-th pixel across and down, and the places of its pixels in this one."""
        i, j = np.arange(0, self.height, step), np.arange(0, self.width, step)
        return Grid(i.size, j.size, self.yaw), (i[:, None] * self.width + j).reshape(-1)

    def planes(self, values: Array) -> Array:
        """Return values [C * H * W] as [C, H, W]."""
        return values.reshape(-1, self.height, self.width)


@dataclass(frozen=True)
class View:
    """The hits of one set of N rays. normal, albedo (linear) and glow are [3, N], the others [N]."""

    hits: Hits
    normal: Array
    albedo: Array
    glow: Array
    roughness: Array
    metallic: Array

    def at(self, rows: Rows) -> View:
        """Return the hits of the rays with these numbers."""
        hits = Hits(self.hits.distance[rows], self.hits.shape[rows], self.hits.point[:, rows])
        normal, albedo, glow = (values.take(rows, axis=1) for values in (self.normal, self.albedo, self.glow))
        return View(hits, normal, albedo, glow, self.roughness[rows], self.metallic[rows])


class Met(NamedTuple):
    """The part of hits that lighting needs: albedo (linear) and glow are [3, N]."""

    hits: Hits
    albedo: Array
    glow: Array


def meet(room: Scene, origins: Array, directions: Array) -> Met:
    """Trace rays and read the colour at their hits."""
    hits = nearest(room, origins, directions)
    albedo = room.materials.colour.take(hits.shape, axis=1)
    patterned = np.flatnonzero(np.isnan(albedo[0]))
    for number, some in by_value(hits.shape[patterned]):
        shape, rows = room.shapes[number], patterned[some]
        albedo[:, rows] = shape.surface.paint(shape.local(hits.point[:, rows]))
    return Met(hits, albedo, room.materials.glow.take(hits.shape, axis=1) * albedo)


def look(room: Scene, origins: Array, directions: Array) -> View:
    """Trace rays and read the surface at their hits."""
    hits, albedo, glow = meet(room, origins, directions)
    normal = normals(room, hits.shape, hits.point)
    # On an edge, rounding may choose the hidden face; a slightly nearer point is on the visible one.
    away = np.flatnonzero(dot(normal, directions) > 0)
    nearer = hits.point[:, away] - directions[:, away] * np.float32(1e-3)
    normal[:, away] = normals(room, hits.shape[away], nearer)
    roughness, metallic = room.materials.roughness[hits.shape], room.materials.metallic[hits.shape]
    return View(hits, normal, albedo, glow, roughness, metallic)
