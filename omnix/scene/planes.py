"""The plane on which each pixel lies, as one vector a pixel: its product with any ray is the inverse distance there.

A plane n . x = d meets the ray r at the distance d / (n . r), so the inverse distance is (n / d) . r. Such vectors may
be averaged, carried to another pixel, and compared there, without a distance or an angle between the pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from .frame import Array, pixel_directions
from .surface import Flags

# Steps of the averaging in pixels: together a plane is fitted over about twice their sum.
REACH = (1, 2, 3, 5, 8)


def dotted(planes: Array, rays: Array) -> Array:
    """Return the inverse distances of planes [.., 3] along rays [.., 3]."""
    return planes[..., 0] * rays[..., 0] + planes[..., 1] * rays[..., 1] + planes[..., 2] * rays[..., 2]


def gap_between(planes: tuple[Array, Array], there: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the greater inverse distance of two pixels with these planes and rays, 0 if one has none, and their gap.

    There is a gap only if both planes miss the other pixel on the same side; over a crease they cross.
    """
    one, other = (dotted(plane, ray) for plane, ray in zip(planes, there))
    beyond, back = dotted(planes[0], there[1]) - other, one - dotted(planes[1], there[0])
    gap = np.where(beyond * back > 0, np.minimum(np.abs(beyond), np.abs(back)), 0.0)
    return np.where((one > 0) & (other > 0), np.maximum(one, other), 0.0), gap


def fitted(inverse: Array, usable: Flags, slack: float | Array, reach: tuple[int, ...] = REACH) -> Array:
    """Return the plane of each usable pixel [M, N, 3], 0 elsewhere.

    It starts from the slopes beside the pixel and is averaged with the planes of pixels further off, of those that
    predict this pixel's inverse distance within `slack` (a share), as this one's predicts theirs.
    """
    w = np.where(usable, inverse, np.nan).astype(np.float32)
    allowed = (slack * w).astype(np.float32)
    planes = rearrange(_local(w, allowed), "xyz h w -> xyz (h w)")
    rays = rearrange(pixel_directions(*w.shape).astype(np.float32), "h w xyz -> xyz (h w)")
    for step in reach:
        planes = _averaged(planes, (rays, w.ravel(), allowed.ravel()), _pairs(w.shape, step))
    return rearrange(np.nan_to_num(planes), "xyz (h w) -> h w xyz", h=len(w))


def _local(w: Array, allowed: Array) -> Array:
    """Return the plane of each pixel by its own slopes, [3, M, N]."""
    height, width = w.shape
    latitude = ((0.5 - (np.arange(height) + 0.5) / height) * np.pi)[:, None]
    longitude = ((0.5 - (np.arange(width) + 0.5) / width) * 2 * np.pi)[None]
    across = np.full_like(w, np.nan)
    stride = _strides(height)
    for one in np.unique(stride):
        rows = stride == one
        part = w[rows]
        steps = part - np.roll(part, one, axis=1), np.roll(part, -one, axis=1) - part
        across[rows] = _slope(*steps, allowed[rows]) / one
    padded = np.pad(w, ((1, 1), (0, 0)), constant_values=np.nan)
    down = _slope(w - padded[:-2], padded[2:] - w, allowed)
    across = across * (width / (2 * np.pi)) / np.cos(latitude)
    down = down * (height / np.pi)
    axes = zip(*_frames(latitude, longitude))
    return np.stack([(w * ray + across * east - down * north).astype(np.float32) for east, north, ray in axes])


def _strides(height: int) -> Array:
    """Return for each row the columns that are about as long as a row is high, for they get short at the poles."""
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    return np.minimum(np.rint(1 / np.cos(latitude)), height // 4 + 1).astype(int)


def _frames(latitude: Array, longitude: Array) -> tuple[tuple[Array, Array, Array], ...]:
    """Return x, y, z of the unit vectors to the right, upwards and outwards at each pixel, in glTF's axes.

    latitude [M, 1], longitude [1, N]: each component broadcasts to [M, N].
    """
    sin_lat, cos_lat, sin_lon, cos_lon = np.sin(latitude), np.cos(latitude), np.sin(longitude), np.cos(longitude)
    # The panorama's right is the way of a falling longitude; in glTF's axes a ray is (-left, up, -front).
    east = cos_lon, np.zeros_like(cos_lon), -sin_lon
    north = sin_lat * sin_lon, cos_lat, sin_lat * cos_lon
    rays = -cos_lat * sin_lon, sin_lat, -cos_lat * cos_lon
    return east, north, rays


def _slope(before: Array, after: Array, allowed: Array) -> Array:
    """Return the mean of two steps if they agree, else the smaller; the one that there is; or 0."""
    smaller = np.where(np.abs(before) < np.abs(after), before, after)
    both = np.where(np.abs(before - after) < 2 * allowed, (before + after) / 2, smaller)
    return np.nan_to_num(np.where(np.isnan(before), after, np.where(np.isnan(after), before, both)))


_Pair = tuple[slice, slice | NDArray[np.integer]]


def _averaged(planes: Array, pixels: tuple[Array, Array, Array], pairs: Iterable[_Pair]) -> Array:
    """Return the means of planes [3, K] and of those that fit among the pixels that they are paired with.

    pixels: rays [3, K], inverse distances [K], and by how much those may be missed.
    """
    rays, w, allowed = pixels
    total, count = planes.copy(), np.ones_like(w)
    for one, other in pairs:
        here, there = ([a[..., at] for a in (planes, rays, w, allowed)] for at in (one, other))
        with np.errstate(invalid="ignore"):
            fits = (_missed(there[0], *here[1:3]) < here[3]) & (_missed(here[0], *there[1:3]) < there[3])
        for at, near in ((one, there[0]), (other, here[0])):
            total[:, at] += np.where(fits, near, 0.0)
            count[at] += fits
    return total / count


def _missed(planes: Array, rays: Array, w: Array) -> Array:
    return np.abs(planes[0] * rays[0] + planes[1] * rays[1] + planes[2] * rays[2] - w)


def _pairs(shape: tuple[int, ...], step: int) -> list[_Pair]:
    """Return where the pixels of a map are, row by row, and those `step` further to the right, and further down.

    Beyond the poles there is nothing.
    """
    height, width = shape
    columns = (np.arange(width) + step * _strides(height)[:, None]) % width
    right = (columns + np.arange(height)[:, None] * width).ravel()
    return [(slice(None), right), (slice(None, -step * width), slice(step * width, None))]


def nearest(kept: Flags) -> tuple[Array, Array]:
    """Return rows and columns [M, N] of the nearest kept pixel; the columns are a circle."""
    pad = kept.shape[1] // 4
    around = np.pad(kept, ((0, 0), (pad, pad)), mode="wrap")
    found = distance_transform_edt(~around, return_distances=False, return_indices=True)
    assert found is not None
    rows, columns = found
    inner = slice(pad, pad + kept.shape[1])
    return rows[:, inner], (columns[:, inner] - pad) % kept.shape[1]
