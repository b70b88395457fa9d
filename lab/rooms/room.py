"""Render a panorama of a furnished room with its true distance, normals, albedo and materials beside it.

No model can be judged without a truth to compare with, so this room has one at every pixel centre, along the rays of
`omnix.panorama.camera_rays`: lon = (0.5 - (j + 0.5) / W) 2 pi, lat = (0.5 - (i + 0.5) / H) pi, axes front +X, up +Y,
left +Z. Only the picture itself is anti-aliased and lit by chance (from a fixed seed); the maps are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .furniture import scene
from .lighting import Light, View, light_room, look
from .raycast import Scene
from .shapes import Array, dot

EXPOSURE = 0.9


@dataclass(frozen=True)
class Room:
    """A rendered room; arrays are [H, W] or [H, W, 3], float32 unless said otherwise.

    rgb and albedo are sRGB in [0, 1], distance is in metres along the ray, normal is a unit vector in world axes that
    faces the camera, roughness and metallic are in [0, 1], semantic holds indices into labels (int32).
    """

    rgb: Array
    distance: Array
    normal: Array
    albedo: Array
    roughness: Array
    metallic: Array
    semantic: NDArray[np.int32]
    labels: tuple[str, ...]


def render(width: int, height: int, seed: int = 0) -> Room:
    """Render the room at width x height pixels, width = 2 * height.  The same arguments give the same room."""
    if height < 8 or width != 2 * height:
        raise ValueError(f"A panorama is twice as wide as high and at least 16x8, got {width}x{height}.")
    room, grid = scene(), (height, width)
    rays = _rays(grid, 0.0, 0.0)
    view = look(room, np.zeros_like(rays), rays)
    light = light_room(room, view, rays, grid, np.random.default_rng(seed))
    names = [shape.surface.semantic for shape in room.shapes]
    labels = tuple(dict.fromkeys(names))
    numbers = np.array([labels.index(name) for name in names], dtype=np.int32)
    return Room(
        rgb=_image(_encode(_film(_antialias(room, view, light, grid))), grid),
        distance=view.hits.distance.reshape(grid),
        normal=_image(view.normal, grid),
        albedo=_image(_encode(view.albedo), grid),
        roughness=view.roughness.reshape(grid),
        metallic=view.metallic.reshape(grid),
        semantic=numbers[view.hits.shape].reshape(grid),
        labels=labels,
    )


def _rays(grid: tuple[int, int], down: float, right: float) -> Array:
    """Return the unit rays [3, H * W] through the pixel centres, moved by a part of a pixel."""
    height, width = grid
    lat = ((0.5 - (np.arange(height) + 0.5 + down) / height) * np.pi)[:, None]
    lon = ((0.5 - (np.arange(width) + 0.5 + right) / width) * 2 * np.pi)[None]
    rays = [np.cos(lat) * np.cos(lon), np.broadcast_to(np.sin(lat), grid), np.cos(lat) * np.sin(lon)]
    return np.stack(rays).reshape(3, -1).astype(np.float32)


def _shade(view: View, matt: Array, gloss: Array) -> Array:
    """Return the radiance [3, N] that leaves the surfaces towards the camera."""
    return view.albedo * (1 - view.metallic) * matt * (view.glow == 0) + gloss + view.glow


def _antialias(room: Scene, view: View, light: Light, grid: tuple[int, int]) -> Array:
    """Return the picture's radiance; pixels on an edge are the mean of four rays, lit as their like neighbours are."""
    picture = _shade(view, light.matt, light.gloss)
    edge = np.flatnonzero(_edges(view, grid))
    total = np.zeros((3, edge.size), dtype=np.float32)
    for down in (-0.25, 0.25):
        for right in (-0.25, 0.25):
            rays = _rays(grid, down, right)[:, edge]
            near = look(room, np.zeros_like(rays), rays)
            source = _alike(view, near, edge, grid, 1 if down > 0 else -1, 1 if right > 0 else -1)
            total += np.minimum(_shade(near, light.matt[:, source], light.gloss[:, source]), 2.0)
    picture[:, edge] = total / 4
    return picture


def _edges(view: View, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Tell which pixels differ from the next one to the right or below, or are that next one: [H * W]."""
    shape = view.hits.shape.reshape(grid)
    features = np.concatenate([view.normal, view.albedo * 6]).reshape(6, *grid)
    edge = np.zeros(grid, dtype=bool)
    for axis in (0, 1):
        change = np.abs(features - np.roll(features, -1, axis + 1)).sum(axis=0) > 0.35
        change |= shape != np.roll(shape, -1, axis)
        edge |= change | np.roll(change, 1, axis)
    return edge.reshape(-1)


def _alike(
    view: View, near: View, pixels: NDArray[np.intp], grid: tuple[int, int], down: int, right: int
) -> NDArray[np.intp]:
    """Return, for rays beside their pixels, the neighbour that shows most nearly the same surface."""
    height, width = grid
    i, j = np.divmod(pixels, width)
    best, score = pixels, np.full(pixels.size, -np.inf, dtype=np.float32)
    for di, dj in ((0, 0), (0, right), (down, 0), (down, right)):
        other = (i + di).clip(0, height - 1) * width + (j + dj) % width
        same = (view.hits.shape[other] == near.hits.shape).astype(np.float32)
        found = 2 * same + dot(view.normal[:, other], near.normal)
        better = found > score + 1e-3
        best, score = np.where(better, other, best), np.where(better, found, score)
    return best


def _film(radiance: Array) -> Array:
    """Map radiance to [0, 1] with the filmic curve fitted by Krzysztof Narkowicz (2015) to the ACES reference."""
    x = radiance * np.float32(EXPOSURE)
    return np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)


def _encode(linear: Array) -> Array:
    """Encode linear values in [0, 1] as sRGB."""
    curve = 1.055 * np.maximum(linear, 1e-8) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, linear * 12.92, curve).astype(np.float32)


def _image(planes: Array, grid: tuple[int, int]) -> Array:
    return np.ascontiguousarray(planes.reshape(3, *grid).transpose(1, 2, 0))
