"""The plane on which each pixel lies, as one vector a pixel: its product with any ray is the inverse distance there.

A plane n . x = d meets the ray r at the distance d / (n . r), so the inverse distance is (n / d) . r. Such vectors may
be averaged, carried to another pixel, and compared there, without a distance or an angle between the pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
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
    rays = pixel_directions(*inverse.shape).astype(np.float32)
    w = np.where(usable, inverse, np.nan).astype(np.float32)
    allowed = (slack * w).astype(np.float32)
    planes = _local(w, allowed)
    for step in reach:
        planes = _averaged(planes, w, rays, step, allowed)
    return np.nan_to_num(planes)


def _local(w: Array, allowed: Array) -> Array:
    height, width = w.shape
    latitude = ((0.5 - (np.arange(height) + 0.5) / height) * np.pi)[:, None]
    longitude = ((0.5 - (np.arange(width) + 0.5) / width) * 2 * np.pi)[None]
    east, north, rays = _frames(latitude, longitude)
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
    return (w[..., None] * rays + across[..., None] * east - down[..., None] * north).astype(np.float32)


def _strides(height: int) -> Array:
    """Return for each row the columns that are about as long as a row is high, for they get short at the poles."""
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    return np.minimum(np.rint(1 / np.cos(latitude)), height // 4 + 1).astype(int)


def _frames(latitude: Array, longitude: Array) -> tuple[Array, Array, Array]:
    """Return the unit vectors to the right, upwards and outwards at each pixel, [M, N, 3] each, in glTF's axes."""
    sin_lat, cos_lat, sin_lon, cos_lon = np.sin(latitude), np.cos(latitude), np.sin(longitude), np.cos(longitude)
    # The panorama's right is the way of a falling longitude; in glTF's axes a ray is (-left, up, -front).
    east = np.stack(np.broadcast_arrays(cos_lon, 0.0 * latitude, -sin_lon * np.ones_like(latitude)), axis=-1)
    north = np.stack(np.broadcast_arrays(sin_lat * sin_lon, cos_lat, sin_lat * cos_lon), axis=-1)
    rays = np.stack(np.broadcast_arrays(-cos_lat * sin_lon, sin_lat, -cos_lat * cos_lon), axis=-1)
    return east, north, rays


def _slope(before: Array, after: Array, allowed: Array) -> Array:
    """Return the mean of two steps if they agree, else the smaller; the one that there is; or 0."""
    smaller = np.where(np.abs(before) < np.abs(after), before, after)
    both = np.where(np.abs(before - after) < 2 * allowed, (before + after) / 2, smaller)
    return np.nan_to_num(np.where(np.isnan(before), after, np.where(np.isnan(after), before, both)))


def _averaged(planes: Array, w: Array, rays: Array, step: int, allowed: Array) -> Array:
    """Return the means of planes and of those that fit among the four at `step` pixels."""
    total, count = planes.copy(), np.ones_like(w)
    for shifted in _shifts(w.shape, step):
        theirs, there, ray, slack = (shifted(a) for a in (planes, w, rays, allowed))
        with np.errstate(invalid="ignore"):
            fits = (np.abs(dotted(theirs, rays) - w) < allowed) & (np.abs(dotted(planes, ray) - there) < slack)
        total += np.where(fits[..., None], theirs, 0.0)
        count += fits
    return total / count[..., None]


def _shifts(shape: tuple[int, ...], step: int) -> list[Callable[[Array], Array]]:
    """Return what moves a map by `step` pixels to either side, up and down; beyond the poles there is none."""
    columns = np.arange(shape[1])[None] + np.array([[1], [-1]])[:, None] * step * _strides(shape[0])[:, None]
    rows = np.arange(shape[0])[:, None]

    def fallen(values: Array, way: int) -> Array:
        moved = np.full_like(values, np.nan)
        if abs(way) < len(values):
            moved[max(0, -way) : len(values) - max(0, way)] = values[max(0, way) : len(values) - max(0, -way)]
        return moved

    across: list[Callable[[Array], Array]] = [lambda a, c=c % shape[1]: a[rows, c] for c in columns]
    return [*across, lambda a: fallen(a, step), lambda a: fallen(a, -step)]


def nearest(kept: Flags) -> tuple[Array, Array]:
    """Return rows and columns [M, N] of the nearest kept pixel; the columns are a circle."""
    pad = kept.shape[1] // 4
    around = np.pad(kept, ((0, 0), (pad, pad)), mode="wrap")
    found = distance_transform_edt(~around, return_distances=False, return_indices=True)
    assert found is not None
    rows, columns = found
    inner = slice(pad, pad + kept.shape[1])
    return rows[:, inner], (columns[:, inner] - pad) % kept.shape[1]
