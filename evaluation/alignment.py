"""What is done to a predicted depth before it is compared: a relative depth has no scale, a disparity no shift either.

Each alignment is fitted to one picture's valid pixels, all alike, and is a row of the table. Depths are float64 and
above 0; `disparity` is 1 / depth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .pictures import Array


class Alignment(NamedTuple):
    """An alignment: its title, and a function of (prediction [H, W], truth [H, W], valid [H, W]) to aligned depth."""

    title: str
    align: Callable[[Array, Array, Array], Array]


def _as_it_is(prediction: Array, _truth: Array, _valid: Array) -> Array:
    return prediction


def _scale_by_median(prediction: Array, truth: Array, valid: Array) -> Array:
    """median(truth) / median(prediction): Zhou et al., CVPR 2017."""
    return prediction * (np.median(truth[valid]) / np.median(prediction[valid]))


def _scale_by_least_squares(prediction: Array, truth: Array, valid: Array) -> Array:
    """The s that makes the sum of (s prediction - truth)^2 least."""
    p = prediction[valid]
    return prediction * (p @ truth[valid] / (p @ p))


def _scale_and_shift(prediction: Array, truth: Array, valid: Array) -> Array:
    """The s and t that make the sum of (s prediction + t - truth)^2 least: Ranftl et al., TPAMI 2020."""
    return _line(prediction, prediction[valid], truth[valid])


def _disparity_scale_and_shift(prediction: Array, truth: Array, valid: Array) -> Array:
    """The same of the disparities, as DA360 aligns them (Jiang et al., 2025).

    A disparity that ends below that of the farthest truth is set to it, as Ranftl et al. cap theirs: it would be a
    depth beyond infinity.
    """
    disparity = 1 / prediction
    aligned = _line(disparity, disparity[valid], 1 / truth[valid])
    return 1 / np.maximum(aligned, 1 / truth[valid].max())


def _line(values: Array, x: Array, y: Array) -> Array:
    """Return s values + t of the least squares line y = s x + t; equal x's have slope 0."""
    centred = x - x.mean()
    spread = centred @ centred
    slope = centred @ y / spread if spread > 1e-12 * (x @ x) else 0.0
    return (values - x.mean()) * slope + y.mean()


ALIGNMENTS = {
    "none": Alignment("none", _as_it_is),
    "scale_by_median": Alignment("scale by median", _scale_by_median),
    "scale_by_least_squares": Alignment("scale by least squares", _scale_by_least_squares),
    "scale_and_shift": Alignment("scale and shift", _scale_and_shift),
    "disparity_scale_and_shift": Alignment("disparity scale and shift", _disparity_scale_and_shift),
}
