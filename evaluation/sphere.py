"""Means and medians over a panorama: how much each row counts, and which rows are at a pole.

Row i of H has its centre at latitude (0.5 - (i + 0.5) / H) pi. A pixel's share of the sphere is the cosine of that,
by which Pano3D (Albanis et al., OmniCV 2021) weights its figures.
"""

from __future__ import annotations

import numpy as np

from .pictures import Array

POLAR_LATITUDE = 60.0
"""Degrees from which on a row is at a pole: 13 % of the sphere, a third of the rows."""

UNWEIGHTED, WEIGHTED, POLES = range(3)


def weightings(height: int) -> Array:
    """Return [3, H]: every row alike, by the cosine of latitude, and 1 at the poles, else 0."""
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    polar = np.abs(latitude) >= np.radians(POLAR_LATITUDE)
    return np.stack([np.ones(height), np.cos(latitude), polar.astype(np.float64)])


def mean(values: Array, valid: Array, weights: Array) -> Array:
    """Return the weighted means of values [H, W] where valid, one for each row of weights [K, H]; NaN where none is."""
    total = weights @ np.where(valid, values, 0).sum(axis=1, dtype=np.float64)
    return _ratio(total, weights @ valid.sum(axis=1, dtype=np.float64))


def median(values: Array, valid: Array, weights: Array) -> Array:
    """Return the weighted medians of values [H, W] where valid, one for each row of weights [K, H]; NaN where none is.

    The value at which half of the weight is reached; the mean of two values where it is reached exactly between them.
    """
    rows, columns = np.nonzero(valid)
    flat = values[rows, columns]
    order = np.argsort(flat)
    return np.array([_middle(flat[order], weight[rows[order]]) for weight in weights])


def _middle(ascending: Array, weights: Array) -> float:
    reached = np.cumsum(weights)
    if reached.size == 0 or reached[-1] == 0:
        return np.nan
    first, after = (np.searchsorted(reached, reached[-1] / 2, side=side) for side in ("left", "right"))
    return float((ascending[first] + ascending[min(after, ascending.size - 1)]) / 2)


def _ratio(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator > 0)


def seam(difference: Array, valid: Array) -> tuple[float, float]:
    """Return the mean difference of the last and first column, and that of all other neighbours.

    difference [H, W] is that of each pixel and its right neighbour, the last column's right neighbour being the first;
    valid [H, W] says which pixels count. Their ratio is 1 where the seam is like any other place.
    """
    both = valid & np.roll(valid, -1, axis=1)
    one = np.ones((1, difference.shape[0]))
    last, others = ((difference[:, columns], both[:, columns]) for columns in (slice(-1, None), slice(None, -1)))
    return float(mean(*last, one)[0]), float(mean(*others, one)[0])
