"""Render a panorama of a furnished room with its true distance, normals, albedo and materials.

To measure a model you need the ground truth, so a room has it at every pixel centre, along the rays of
`omnix.pictures.panorama.camera_rays`: lon = (0.5 - (j + 0.5) / W) 2 pi, lat = (0.5 - (i + 0.5) / H) pi, axes front +X,
up +Y, left +Z. Only the picture is anti-aliased and lit with random rays (from a fixed seed); the maps are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .lighting import PICTURE, Light, Quality, light_room
from .raycast import Rows
from .shapes import Array, dot
from .stage import Stage, showroom
from .view import ORIGIN, Grid, View, look


@dataclass(frozen=True)
class Room:
    """A rendered room; arrays are [H, W] or [H, W, 3], float32 unless said otherwise.

    rgb and albedo are sRGB in [0, 1], distance is in metres along the ray, normal is a unit vector in the panorama's
    axes that faces the camera, roughness and metallic are in [0, 1], semantic has indices into labels (int32).
    """

    rgb: Array
    distance: Array
    normal: Array
    albedo: Array
    roughness: Array
    metallic: Array
    semantic: NDArray[np.int32]
    labels: tuple[str, ...]


def render(width: int, height: int, seed: int = 0, stage: Stage | None = None, quality: Quality = PICTURE) -> Room:
    """Render a room (the demo's, unless one is given) at width x height pixels, width = 2 * height.

    The same arguments give the same arrays. The seed changes only the noise of the light.
    """
    if height < 8 or width != 2 * height:
        raise ValueError(f"A panorama is twice as wide as high and at least 16x8, got {width}x{height}.")
    stage = showroom() if stage is None else stage
    room, grid = stage.scene, Grid(height, width, stage.yaw)
    view = look(room, ORIGIN, grid.rays())
    light = light_room(room, stage.lights, view, grid, quality, seed)
    names = [shape.surface.semantic for shape in room.shapes]
    labels = tuple(dict.fromkeys(names))
    numbers = np.array([labels.index(name) for name in names], dtype=np.int32)
    return Room(
        rgb=_image(encode(_film(_exposed(stage, _antialias(stage, view, light, grid, quality)))), grid),
        distance=view.hits.distance.reshape(height, width),
        normal=_image(_turned(view.normal, stage.yaw), grid),
        albedo=_image(encode(view.albedo), grid),
        roughness=view.roughness.reshape(height, width),
        metallic=view.metallic.reshape(height, width),
        semantic=numbers[view.hits.shape].reshape(height, width),
        labels=labels,
    )


def geometry(width: int, height: int, stage: Stage) -> tuple[Array, Array]:
    """Return the distance [H, W] and the normals [H, W, 3] of a room, without lighting it."""
    grid = Grid(height, width, stage.yaw)
    view = look(stage.scene, ORIGIN, grid.rays())
    return view.hits.distance.reshape(height, width), _image(_turned(view.normal, stage.yaw), grid)


def _turned(vectors: Array, yaw: float) -> Array:
    """Return vectors [3, N] of the room in the axes of a camera that is turned to the left by yaw."""
    if yaw == 0:
        return vectors
    c, s = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
    x, y, z = vectors
    return np.stack([c * x + s * z, y, c * z - s * x])


def _shade(view: View, matt: Array, gloss: Array) -> Array:
    """Return the radiance [3, N] that leaves the surfaces towards the camera."""
    return view.albedo * (1 - view.metallic) * matt * (view.glow == 0) + gloss + view.glow


def _antialias(stage: Stage, view: View, light: Light, grid: Grid, quality: Quality) -> Array:
    """Return the picture's radiance; a pixel on an edge is the mean of a few rays, lit like the closest neighbours."""
    picture = _shade(view, light.matt, light.gloss)
    edge = np.flatnonzero(_edges(view, grid))
    if not quality.edges:
        picture[:, edge] = _blended(np.minimum(picture, 2.0), grid)[:, edge]
        return picture
    total = np.zeros((3, edge.size), dtype=np.float32)
    for down, right in quality.edges:
        near = look(stage.scene, ORIGIN, grid.rays(down, right).take(edge, axis=1))
        source = _alike(view, near, _around(edge, grid, 1 if down > 0 else -1, 1 if right > 0 else -1))
        total += np.minimum(_shade(near, light.matt[:, source], light.gloss[:, source]), 2.0)
    picture[:, edge] = total / len(quality.edges)
    return picture


def _blended(picture: Array, grid: Grid) -> Array:
    """Return radiance [3, H * W] under a tent of two pixels: a quarter is the pixel itself, the rest its neighbours."""
    planes, rows = grid.planes(picture), np.arange(grid.height)
    planes = planes / 2 + (np.roll(planes, 1, 2) + np.roll(planes, -1, 2)) / 4
    above, below = (planes.take((rows + step).clip(0, grid.height - 1), axis=1) for step in (-1, 1))
    return (planes / 2 + (above + below) / 4).reshape(picture.shape)


def _edges(view: View, grid: Grid) -> NDArray[np.bool_]:
    """Return which pixels differ from the next one to the right or below, or are that next one: [H * W]."""
    shape = view.hits.shape.reshape(grid.height, grid.width)
    features = grid.planes(np.concatenate([view.normal, view.albedo * 6]))
    edge = np.zeros(shape.shape, dtype=bool)
    for axis in (0, 1):
        change = np.abs(features - np.roll(features, -1, axis + 1)).sum(axis=0) > 0.35
        change |= shape != np.roll(shape, -1, axis)
        edge |= change | np.roll(change, 1, axis)
    return edge.reshape(-1)


def _around(pixels: Rows, grid: Grid, down: int, right: int) -> Rows:
    """Return pixels and their horizontal, vertical and diagonal neighbours, [4, N]."""
    i, j = np.divmod(pixels, grid.width)
    row, beside = (i + down).clip(0, grid.height - 1) * grid.width, (j + right) % grid.width
    return np.stack([pixels, i * grid.width + beside, row + j, row + beside])


def _alike(view: View, near: View, around: Rows) -> Rows:
    """Return, for rays between pixels, which of the pixels around [4, N] is closest to the same surface."""
    best, score = around[0], np.full(around.shape[1], -np.inf, dtype=np.float32)
    for other in around:
        same = (view.hits.shape[other] == near.hits.shape).astype(np.float32)
        found = 2 * same + dot(view.normal.take(other, axis=1), near.normal)
        better = found > score + 1e-3
        best, score = np.where(better, other, best), np.where(better, found, score)
    return best


def _exposed(stage: Stage, radiance: Array) -> Array:
    """Return radiance [3, N] after the exposure of the camera."""
    mean = float(np.minimum(radiance, 4.0).mean()) if stage.metered else 1.0
    return radiance * np.float32(stage.exposure / max(mean, 1e-3))


def _film(x: Array) -> Array:
    """Map radiance to [0, 1] with the filmic curve fitted by Krzysztof Narkowicz (2015) to the ACES reference."""
    return np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)


def encode(linear: Array) -> Array:
    """Encode linear values in [0, 1] as sRGB."""
    curve = 1.055 * np.maximum(linear, 1e-8) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, linear * 12.92, curve).astype(np.float32)


def _image(planes: Array, grid: Grid) -> Array:
    return np.ascontiguousarray(grid.planes(planes).transpose(1, 2, 0))
