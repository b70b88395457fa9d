"""Means, medians and SSIM over a panorama: the weight of each row, and which rows are at a pole.

Row i of H has its centre at latitude (0.5 - (i + 0.5) / H) pi. A pixel's share of the sphere is proportional to the
cosine of this latitude, which is also the weight in Pano3D (Albanis et al., OmniCV 2021). All pixels of a row have the
same weight, so a mean needs only the sums of the rows.

`similarity` is SSIM (Wang et al., TIP 2004) with scikit-image's default settings: windows of 7x7 pixels with equal
weights, sample covariance, K1 = 0.01, K2 = 0.03, values in [0, 1]. A panorama has no left and right edge, so windows
wrap there; at the poles only whole windows count. The tests compare it with scikit-image, which cannot wrap or weight,
takes twice as long, and does not come with ComfyUI.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..mapfiles.pictures import Array

POLAR_LATITUDE = 60.0
"""Degrees of latitude; rows at or above it are at a pole: 13 % of the sphere, a third of the rows."""

UNWEIGHTED, WEIGHTED, POLES = range(3)


class Rows(NamedTuple):
    """The sum of some values in each row, and how many there are: each [H], float64."""

    total: Array
    number: Array


def weightings(height: int) -> Array:
    """Return [3, H]: equal weights, the cosine of latitude, and 1 at the poles, 0 elsewhere."""
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    polar = np.abs(latitude) >= np.radians(POLAR_LATITUDE)
    return np.stack([np.ones(height), np.cos(latitude), polar.astype(np.float64)])


def rows(values: Array, valid: Array | None) -> Rows:
    """Sum values [H, W] by rows, of the valid pixels [H, W] or, with None, of all."""
    if valid is None:
        number = np.full(values.shape[0], values.shape[1], dtype=np.float64)
    else:
        number = np.count_nonzero(valid, axis=1).astype(np.float64)
        values = np.where(valid, values, 0)
    summed = np.count_nonzero(values, axis=1) if values.dtype == np.bool_ else values.sum(axis=1, dtype=np.float64)
    return Rows(summed.astype(np.float64), number)


def mean(sums: Rows, weights: Array) -> Array:
    """Return the weighted means, one for each row of weights [K, H]; NaN without any values."""
    total, number = weights @ sums.total, weights @ sums.number
    return np.divide(total, number, out=np.full_like(number, np.nan), where=number > 0)


def median(values: Array, valid: Array, weights: Array) -> Array:
    """Return the weighted medians of values [H, W] where valid, one for each row of weights [K, H]; NaN without any.

    The median is the value at which half of the weight is reached, or the mean of two values if half lies between them.
    """
    found = valid.ravel()
    flat = values.ravel()[found]
    order = np.argsort(flat)
    ascending, row = flat[order], (np.flatnonzero(found) // values.shape[1])[order]
    return np.array([_middle(ascending, weight[row]) for weight in weights])


def _middle(ascending: Array, weights: Array) -> float:
    reached = np.cumsum(weights)
    if reached.size == 0 or reached[-1] == 0:
        return np.nan
    first, after = (np.searchsorted(reached, reached[-1] / 2, side=side) for side in ("left", "right"))
    return float((ascending[first] + ascending[min(after, ascending.size - 1)]) / 2)


def bands(height: int) -> list[slice]:
    """Cut the rows of a picture into bands that fit into a processor's cache, which makes sums much faster."""
    return [slice(start, min(start + 32, height)) for start in range(0, height, 32)]


WINDOW = 7


def similarity(first: Array, second: Array) -> Array:
    """Return SSIM at each pixel of two channels [H, W] in [0, 1]: float32 [H, W], NaN in the 3 rows at each pole."""
    radius = WINDOW // 2
    result = np.full(first.shape, np.nan, dtype=np.float32)
    if first.shape[1] < WINDOW:
        return result
    x, y = (np.pad(channel.astype(np.float32), ((0, 0), (radius, radius)), mode="wrap") for channel in (first, second))
    for rows in bands(first.shape[0] - 2 * radius):
        under = slice(rows.start, rows.stop + 2 * radius)
        result[rows.start + radius : rows.stop + radius] = _similarity(x[under], y[under])
    return result


def _similarity(x: Array, y: Array) -> Array:
    """Return SSIM of every whole window."""
    ux, uy = _mean(x), _mean(y)
    sample = np.float32(WINDOW**2 / (WINDOW**2 - 1))
    vx, vy = sample * (_mean(x * x) - ux * ux), sample * (_mean(y * y) - uy * uy)
    vxy = sample * (_mean(x * y) - ux * uy)
    c1, c2 = np.float32(0.01**2), np.float32(0.03**2)
    return (2 * ux * uy + c1) * (2 * vxy + c2) / ((ux * ux + uy * uy + c1) * (vx + vy + c2))


def _mean(values: Array) -> Array:
    """Return the mean of each whole window: [H, W] -> [H - 6, W - 6]."""
    rows, columns = values.shape[0] - WINDOW + 1, values.shape[1] - WINDOW + 1
    down = np.zeros((rows, values.shape[1]), dtype=values.dtype)
    whole = np.zeros((rows, columns), dtype=values.dtype)
    for shift in range(WINDOW):
        down += values[shift : shift + rows]
    for shift in range(WINDOW):
        whole += down[:, shift : shift + columns]
    return whole / np.float32(WINDOW**2)
