"""The one place that knows how our axes lie in glTF's.

Ours (omnix.pictures.panorama): front +X, up +Y, left +Z, left-handed. glTF's: right +X, up +Y, and a camera looks
along -Z, right-handed, in metres. So (x, y, z) = (-left, up, -front), and the panorama's centre lies straight ahead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def reciprocal(values: Array) -> Array:
    """Return 1 / values, and 0 where they are not above 0: distances as inverse distances, and back."""
    return np.divide(1, values, out=np.zeros_like(values), where=values > 0)


def to_gltf(vectors: Array) -> Array:
    """Return vectors [.., 3] of our axes (front, up, left) in glTF's."""
    return _vectors(-vectors[..., 2], vectors[..., 1], -vectors[..., 0])


def from_gltf(vectors: Array) -> Array:
    """Return vectors [.., 3] of glTF's axes in ours, the inverse of `to_gltf`."""
    return _vectors(-vectors[..., 2], vectors[..., 1], -vectors[..., 0])


def _vectors(*parts: Array) -> Array:
    """Return vectors [.., 3] of their parts, which broadcast. In memory each part is in one piece, which is fast."""
    return np.moveaxis(np.stack(np.broadcast_arrays(*parts)), 0, -1)


def directions(v: ArrayLike, u: ArrayLike) -> Array:
    """Return the unit vectors [.., 3] at v, u in [0, 1] of the panorama, which broadcast, in glTF's axes."""
    lat, lon = (0.5 - np.asarray(v)) * np.pi, (0.5 - np.asarray(u)) * 2 * np.pi
    return to_gltf(_vectors(np.cos(lat) * np.cos(lon), np.sin(lat), np.cos(lat) * np.sin(lon)))


def coordinates(vectors: Array) -> tuple[Array, Array]:
    """Return (v, u) in [0, 1] of vectors [.., 3] in glTF's axes, the inverse of `directions`."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    return 0.5 - np.arctan2(y, np.hypot(x, z)) / np.pi, (0.5 + np.arctan2(x, -z) / (2 * np.pi)) % 1.0


def pixel_directions(height: int, width: int) -> Array:
    """Return the unit vectors through the pixels' centres, [H, W, 3]."""
    return directions(((np.arange(height) + 0.5) / height)[:, None], ((np.arange(width) + 0.5) / width)[None])


def corner_directions(height: int, width: int) -> Array:
    """Return the unit vectors through the corners of the pixels, [H + 1, W, 3]; column W would be column 0."""
    return directions((np.arange(height + 1) / height)[:, None], (np.arange(width) / width)[None])


def spread(shape: tuple[int, ...], count: int) -> tuple[Array, Array]:
    """Return rows and columns of pixels of a panorama [H, W], evenly over the sphere along Fibonacci's spiral."""
    number = np.arange(count) + 0.5
    latitude, turn = np.arcsin(1 - 2 * number / count), number * (np.sqrt(5) - 1) / 2 % 1
    return ((0.5 - latitude / np.pi) * shape[0]).astype(int), (turn * shape[1]).astype(int)
