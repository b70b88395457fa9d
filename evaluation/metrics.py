"""The figures: what is measured of each kind of map, one row a figure.

A pair of maps becomes pixel measures [H, W] (an error in some unit, or 1 where the prediction is good enough), and a
figure is a mean or a median of one of them, taken once with every pixel alike and once by the cosine of latitude.
Depth and its thresholds: Eigen et al., NeurIPS 2014. Normals: Bae and Davison, CVPR 2024. SSIM: see `ssim`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from . import sphere
from .pictures import Array
from .ssim import similarity

THRESHOLDS = {"delta_1_25": 1.25, "delta_1_25_2": 1.25**2, "delta_1_25_3": 1.25**3}
ANGLES = {"within_5": 5.0, "within_11_25": 11.25, "within_22_5": 22.5, "within_30": 30.0}

Measures = Mapping[str, Array]
"""Name of a measure -> its values [H, W]; NaN where this measure alone has none."""


class Figure(NamedTuple):
    """A figure: its title, unit, measure, mean or median over the sphere, and what is done to that at last."""

    title: str
    unit: str
    measure: str
    over: Callable[[Array, Array, Array], Array] = sphere.mean
    finish: Callable[[Array], Array] = np.asarray


def _psnr(squared: Array) -> Array:
    """10 log10(1 / MSE): infinite for equal maps."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(squared)


_COLOURS = {
    "psnr": Figure("PSNR", "dB", "squared", finish=_psnr),
    "ssim": Figure("SSIM", "", "similarity"),
}
FIGURES: dict[str, dict[str, Figure]] = {
    "depth": {
        "abs_rel": Figure("AbsRel", "", "relative"),
        "mae": Figure("MAE", "truth's", "absolute"),
        "rmse": Figure("RMSE", "truth's", "squared", finish=np.sqrt),
        "delta_1_25": Figure("delta 1.25", "share", "delta_1_25"),
        "delta_1_25_2": Figure("delta 1.25^2", "share", "delta_1_25_2"),
        "delta_1_25_3": Figure("delta 1.25^3", "share", "delta_1_25_3"),
    },
    "normal": {
        "mean": Figure("mean", "degrees", "angle"),
        "median": Figure("median", "degrees", "angle", over=sphere.median),
        "rmse": Figure("RMSE", "degrees", "squared", finish=np.sqrt),
        "within_5": Figure("within 5", "share", "within_5"),
        "within_11_25": Figure("within 11.25", "share", "within_11_25"),
        "within_22_5": Figure("within 22.5", "share", "within_22_5"),
        "within_30": Figure("within 30", "share", "within_30"),
    },
    "albedo": _COLOURS,
    "roughness": _COLOURS,
    "metallic": _COLOURS,
    # mIoU is that of all pictures together, so it comes from `semantic.overlap` instead.
    "semantic": {"accuracy": Figure("accuracy", "share", "right")},
}


class Kind(NamedTuple):
    """How a kind of map is measured: valid pixels, measures of all pixels, difference of neighbours, error at poles.

    Functions of (prediction, truth), of the same, and of (map, map), each [H, W] or [H, W, C]; `error` is a measure.
    """

    valid: Callable[[Array, Array], Array]
    measure: Callable[[Array, Array], Measures]
    differ: Callable[[Array, Array], Array]
    error: str


def _finite(prediction: Array, truth: Array) -> Array:
    found = np.isfinite(prediction) & np.isfinite(truth)
    return found if found.ndim == 2 else np.logical_and.reduce(found, axis=-1)


def _depth(prediction: Array, truth: Array) -> Measures:
    """AbsRel |p - t| / t; delta: max(p / t, t / p) < threshold, never of a p that alignment has put below 0."""
    error = np.abs(prediction - truth)
    close = {
        name: (prediction < threshold * truth) & (truth < threshold * prediction)
        for name, threshold in THRESHOLDS.items()
    }
    return {"absolute": error, "relative": error / truth, "squared": error * error, **close}


def angle(first: Array, second: Array) -> Array:
    """Return degrees between unit vectors [H, W, 3]: 2 atan2(|a - b|, |a + b|), exact for small angles (Kahan)."""
    apart, along = first - second, first + second
    squares = (np.einsum("hwc,hwc->hw", vectors, vectors) for vectors in (apart, along))
    return np.degrees(2 * np.arctan2(*map(np.sqrt, squares)))


def _normal(prediction: Array, truth: Array) -> Measures:
    degrees = angle(prediction, truth)
    close = {name: degrees < threshold for name, threshold in ANGLES.items()}
    return {"angle": degrees, "squared": degrees * degrees, **close}


def _channels(values: Array) -> Array:
    return values[..., None] if values.ndim == 2 else values


def _mean_of_channels(values: Array) -> Array:
    return values if values.ndim == 2 else values.mean(axis=-1)


def _colour(prediction: Array, truth: Array) -> Measures:
    """The mean of the channels of |p - t|, (p - t)^2 and SSIM."""
    difference = prediction.astype(np.float64) - truth
    pairs = zip(np.moveaxis(_channels(prediction), -1, 0), np.moveaxis(_channels(truth), -1, 0))
    alike = np.stack([similarity(p.astype(np.float32), t.astype(np.float32)) for p, t in pairs])
    return {
        "absolute": _mean_of_channels(np.abs(difference)),
        "squared": _mean_of_channels(difference * difference),
        "similarity": alike.mean(axis=0),
    }


def _colour_difference(first: Array, second: Array) -> Array:
    return _mean_of_channels(np.abs(first.astype(np.float64) - second))


def _label_difference(first: Array, second: Array) -> Array:
    return (first != second).astype(np.float64)


def _labels(prediction: Array, truth: Array) -> Measures:
    right = prediction == truth
    return {"right": right, "wrong": ~right}


_COLOUR = Kind(_finite, _colour, _colour_difference, "absolute")
KINDS: dict[str, Kind] = {
    "depth": Kind(_finite, _depth, _colour_difference, "relative"),
    "normal": Kind(_finite, _normal, angle, "angle"),
    "albedo": _COLOUR,
    "roughness": _COLOUR,
    "metallic": _COLOUR,
    # Labels are whole numbers, those below 0 are none.
    "semantic": Kind(lambda _prediction, truth: truth >= 0, _labels, _label_difference, "wrong"),
}


class Scores(NamedTuple):
    """What one pair gives: figure -> (unweighted, weighted); seam as in `sphere.seam`; error at the poles; pixels."""

    figures: dict[str, tuple[float, float]]
    seam: tuple[float, float]
    poles: float
    pixels: int
    invalid: int


def score(kind: str, prediction: Array, truth: Array, valid: Array) -> Scores:
    """Return the scores of a prediction, aligned if need be, where valid [H, W]; a figure of no pixels is NaN."""
    way = KINDS[kind]
    weights = sphere.weightings(valid.shape[0])
    measures = way.measure(prediction, truth)
    figures = {name: _figure(row, measures, valid, weights) for name, row in FIGURES[kind].items()}
    poles = sphere.mean(measures[way.error], valid, weights[sphere.POLES :])
    beside = way.differ(prediction, np.roll(prediction, -1, axis=1))
    pixels = int(valid.sum())
    return Scores(figures, sphere.seam(beside, valid), float(poles[0]), pixels, valid.size - pixels)


def _figure(row: Figure, measures: Measures, valid: Array, weights: Array) -> tuple[float, float]:
    values = measures[row.measure]
    counted = valid & ~np.isnan(values) if values.dtype.kind == "f" else valid
    both = row.finish(row.over(values, counted, weights[[sphere.UNWEIGHTED, sphere.WEIGHTED]]))
    return float(both[0]), float(both[1])
