"""Draw a textured mesh without lights, in perspective; the nearest front face is visible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from einops import einsum, rearrange, reduce
from numpy.typing import NDArray

from .shapes import Array

Ints = NDArray[np.integer]
FINER = 2
BACKGROUND = 0.93


@dataclass(frozen=True)
class Camera:
    """The position of a camera and the point it looks at (metres, +Y up), and its vertical field of view in degrees."""

    eye: tuple[float, float, float]
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)
    fov: float = 40.0


class Shown(NamedTuple):
    """The pixels [N] of a screen that show a face, row by row; the uv [N, 2] and the depth [N] along the axis there."""

    pixel: Ints
    uv: Array
    depth: Array


FROM_OUTSIDE = Camera((-3.5, 5.5, 6.5), target=(0.0, -0.6, 0.0))
"""This camera sees the whole of the demo's room."""


def draw(
    positions: Array, uv: Array, faces: Ints, texture: Array, camera: Camera, size: tuple[int, int], finer: int = FINER
) -> Array:
    """Return the picture [h, w, 3] of a mesh that is completely in front of the camera; size is (width, height).

    positions [V, 3], uv [V, 2] in [0, 1], faces [F, 3], texture [H, W, 3] in [0, 1].  A face seen from
    behind is not drawn, so a room is open from outside.  A pixel is the mean of finer x finer points.
    """
    width, height = size[0] * finer, size[1] * finer
    shown = nearest_face(positions, uv, faces, camera, (width, height))
    picture = np.full((width * height, 3), BACKGROUND, dtype=np.float32)
    rows, columns = (shown.uv[:, axis] * texture.shape[1 - axis] for axis in (1, 0))
    picture[shown.pixel] = texture[
        np.minimum(rows.astype(int), texture.shape[0] - 1), columns.astype(int) % texture.shape[1]
    ]
    fine = rearrange(picture, "(h w) c -> h w c", w=width)
    return reduce(fine, "(h i) (w j) c -> h w c", "mean", i=finer, j=finer)


def nearest_face(positions: Array, uv: Array, faces: Ints, camera: Camera, size: tuple[int, int]) -> Shown:
    """Return the surfaces at the pixels' centres of a screen of (width, height); arguments as for `draw`."""
    width, height = size
    screen, nearness = _projected(positions, camera, width, height)
    pairs, pixel, weights = _covered(screen[faces], width, height)
    # Inverse depth, and values divided by depth, are linear across the screen.
    shares = weights * nearness[faces[pairs]]
    near = shares.sum(axis=1)
    first = np.argsort(near, kind="stable")
    # If several faces are in one pixel, the last one remains, which is the nearest.
    held = np.full(width * height, -1)
    held[pixel[first]] = first
    shown = held[held >= 0]
    places = (shares[shown, :, None] * uv[faces[pairs[shown]]]).sum(axis=1) / near[shown, None]
    return Shown(np.flatnonzero(held >= 0), places, 1 / near[shown])


def axes_of(ahead: Array) -> tuple[Array, Array, Array]:
    """Return the unit vectors to the right, up and ahead of a camera that looks along the unit vector `ahead`."""
    right = np.cross(ahead, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    return right, np.cross(right, ahead), ahead


def _projected(positions: Array, camera: Camera, width: int, height: int) -> tuple[Array, Array]:
    """Return places on the screen [V, 2] in pixels, and inverse depths [V]."""
    eye = np.array(camera.eye)
    ahead = np.array(camera.target) - eye
    x, y, depth = np.stack(axes_of(ahead / np.linalg.norm(ahead))) @ (positions - eye).T
    scale = height / 2 / np.tan(np.radians(camera.fov) / 2) / depth
    return np.stack([width / 2 + x * scale, height / 2 - y * scale], axis=1), 1 / depth


def _covered(corners: Array, width: int, height: int) -> tuple[Ints, Ints, Array]:
    """Return the faces and the pixels [N] whose centres they cover, and the weights [N, 3] of their corners there."""
    low = np.clip(np.ceil(corners.min(axis=1) - 0.5), 0, [width, height]).astype(int)
    high = np.clip(np.floor(corners.max(axis=1) - 0.5) + 1, 0, [width, height]).astype(int)
    a, b, c = (corners[:, k] for k in range(3))
    area = _cross(b - a, c - a)
    # On a screen with rows from top to bottom, a counter-clockwise face has a negative area.
    across, down = np.maximum(high - low, 0).T * (area < 0)
    count = across * down
    pairs = np.repeat(np.arange(len(corners)), count)
    place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    columns, rows = low[pairs, 0] + place % across[pairs], low[pairs, 1] + place // across[pairs]
    edges = _edges(a, b, c) / np.where(area, area, 1)[:, None, None]
    at = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))]).astype(np.float32)
    weights = einsum(edges.astype(np.float32)[pairs], at, "n corner xy, xy n -> n corner")
    inside = (weights >= 0).all(axis=1)
    return pairs[inside], (rows * width + columns)[inside], weights[inside]


def _edges(a: Array, b: Array, c: Array) -> Array:
    """Return, for each corner of faces, the row that maps (x, y, 1) to twice the area with the other two, [F, 3, 3]."""
    sides = ((b, c), (c, a), (a, b))
    rows = [np.stack([p[:, 1] - q[:, 1], q[:, 0] - p[:, 0], _cross(p, q)], axis=1) for p, q in sides]
    return np.stack(rows, axis=1)


def _cross(one: Array, two: Array) -> Array:
    return one[..., 0] * two[..., 1] - one[..., 1] * two[..., 0]
