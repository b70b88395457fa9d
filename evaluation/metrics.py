"""The figures of each kind of map, one row for each figure.

A pair of maps becomes pixel measures [H, W] (an error in some unit, or 1 where the prediction is good enough), and a
figure is the mean or the median of one of them, once with equal pixels and once weighted by the cosine of latitude.
Depth and its thresholds: Eigen et al., NeurIPS 2014. Normals: Bae and Davison, CVPR 2024. SSIM: see `sphere`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ..mapfiles.pictures import Array
from .sphere import similarity

THRESHOLDS = {"delta_1_25": 1.25, "delta_1_25_2": 1.25**2, "delta_1_25_3": 1.25**3}
ANGLES = {"within_5": 5.0, "within_11_25": 11.25, "within_22_5": 22.5, "within_30": 30.0}

Measures = Mapping[str, Array]
"""Name of a measure -> its values [H, W]; NaN where this measure alone has none."""


class Figure(NamedTuple):
    """A figure: its title, the measure that is averaged (mean, or median), and the function applied to the average."""

    title: str
    measure: str
    median: bool = False
    finish: Callable[[Array], Array] = np.asarray


def _psnr(squared: Array) -> Array:
    """10 log10(1 / MSE): infinite for equal maps."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(squared)


_COLOURS = {
    "psnr": Figure("PSNR", "squared", finish=_psnr),
    "ssim": Figure("SSIM", "similarity"),
}
FIGURES: dict[str, dict[str, Figure]] = {
    "depth": {
        "abs_rel": Figure("AbsRel", "relative"),
        "mae": Figure("MAE", "absolute"),
        "rmse": Figure("RMSE", "squared", finish=np.sqrt),
        "delta_1_25": Figure("delta 1.25", "delta_1_25"),
        "delta_1_25_2": Figure("delta 1.25^2", "delta_1_25_2"),
        "delta_1_25_3": Figure("delta 1.25^3", "delta_1_25_3"),
    },
    "normal": {
        "mean": Figure("mean", "angle"),
        "median": Figure("median", "angle", median=True),
        "rmse": Figure("RMSE", "squared", finish=np.sqrt),
        "within_5": Figure("within 5", "within_5"),
        "within_11_25": Figure("within 11.25", "within_11_25"),
        "within_22_5": Figure("within 22.5", "within_22_5"),
        "within_30": Figure("within 30", "within_30"),
    },
    "albedo": _COLOURS,
    "roughness": _COLOURS,
    "metallic": _COLOURS,
    # mIoU needs all pictures together, so `semantic.overlap` computes it instead.
    "semantic": {"accuracy": Figure("accuracy", "right")},
}


LPIPS = tuple(kind for kind, figures in FIGURES.items() if figures is _COLOURS)
"""The kinds that LPIPS is measured for, if the user gives its weights: see `perceptual`."""


class Kind(NamedTuple):
    """How a kind of map is measured; maps are [H, W] or [H, W, C], results [H, W].

    valid(prediction, truth) returns which pixels count. measure(prediction, truth) gets a few rows at a time, with 1 in
    pixels that don't count. whole(prediction, truth) gets the whole picture. differ(map, map) returns how much
    neighbours differ. error names the measure that is drawn and reported at the poles. kept names the measures whose
    median is a figure.
    """

    valid: Callable[[Array, Array], Array]
    measure: Callable[[Array, Array], Measures]
    differ: Callable[[Array, Array], Array]
    error: str
    whole: Callable[[Array, Array], Measures] = lambda _prediction, _truth: {}
    kept: tuple[str, ...] = ()


def _finite(prediction: Array, truth: Array) -> Array:
    """A sum of channels is NaN if a channel is NaN."""
    both = prediction + truth
    return np.isfinite(both if both.ndim == 2 else both.sum(axis=-1))


def _depth(prediction: Array, truth: Array) -> Measures:
    """AbsRel |p - t| / t; delta: max(p / t, t / p) < threshold, false where alignment has put p below 0."""
    error = np.abs(prediction - truth)
    close = {
        name: (prediction < threshold * truth) & (truth < threshold * prediction)
        for name, threshold in THRESHOLDS.items()
    }
    return {"absolute": error, "relative": error / truth, "squared": error * error, **close}


def _normal(prediction: Array, truth: Array) -> Measures:
    """Degrees between unit vectors: 2 atan2(|a - b|, |a + b|), exact for small angles too (Kahan)."""
    degrees = np.degrees(2 * np.arctan2(_length(prediction - truth), _length(prediction + truth)))
    close = {name: degrees < threshold for name, threshold in ANGLES.items()}
    return {"angle": degrees, "squared": degrees * degrees, **close}


def _length(vectors: Array) -> Array:
    return np.sqrt(np.einsum("hwc,hwc->hw", vectors, vectors))


def _mean_of_channels(values: Array) -> Array:
    return values if values.ndim == 2 else np.einsum("hwc->hw", values) / values.shape[2]


def _colour(prediction: Array, truth: Array) -> Measures:
    """The mean of the channels of |p - t| and (p - t)^2."""
    difference = prediction - truth
    return {
        "absolute": _mean_of_channels(np.abs(difference)),
        "squared": _mean_of_channels(difference * difference),
    }


def _similarity(prediction: Array, truth: Array) -> Measures:
    """The mean SSIM of the channels."""
    if prediction.ndim == 2:
        return {"similarity": similarity(prediction, truth)}
    channels = range(prediction.shape[2])
    return {"similarity": np.mean([similarity(prediction[..., c], truth[..., c]) for c in channels], axis=0)}


def _absolute_difference(first: Array, second: Array) -> Array:
    return _mean_of_channels(np.abs(first - second))


def _labels(prediction: Array, truth: Array) -> Measures:
    right = prediction == truth
    return {"right": right, "wrong": ~right}


_COLOUR = Kind(_finite, _colour, _absolute_difference, "absolute", _similarity)
KINDS: dict[str, Kind] = {
    "depth": Kind(_finite, _depth, _absolute_difference, "relative"),
    "normal": Kind(_finite, _normal, lambda first, second: _length(first - second), "angle", kept=("angle",)),
    "albedo": _COLOUR,
    "roughness": _COLOUR,
    "metallic": _COLOUR,
    # Labels are whole numbers; a number below 0 means no class.
    "semantic": Kind(lambda _prediction, truth: truth >= 0, _labels, np.not_equal, "wrong"),
}
