"""What is done to a predicted depth before it is compared: a relative depth has no scale, a disparity no shift either.

Each alignment is a row of the table. It is fitted to one picture's valid pixels, all alike, and is then the same
function of every pixel. Depths are float64 and above 0; disparity is 1 / depth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .pictures import Array

Align = Callable[[Array], Array]


class Alignment(NamedTuple):
    """An alignment: its title, and how it is fitted to (prediction [N], truth [N])."""

    title: str
    fit: Callable[[Array, Array], Align]


def _none(_prediction: Array, _truth: Array) -> Align:
    return lambda depth: depth


def _median(prediction: Array, truth: Array) -> Align:
    """s = median(truth) / median(prediction): Zhou et al., CVPR 2017."""
    scale = np.median(truth) / np.median(prediction)
    return lambda depth: depth * scale


def _least_squares(prediction: Array, truth: Array) -> Align:
    """The s that makes the sum of (s prediction - truth)^2 least."""
    scale = prediction @ truth / (prediction @ prediction)
    return lambda depth: depth * scale


def _scale_and_shift(prediction: Array, truth: Array) -> Align:
    """The s and t that make the sum of (s prediction + t - truth)^2 least: Ranftl et al., TPAMI 2020."""
    slope, offset = _line(prediction, truth)
    return lambda depth: slope * depth + offset


def _disparity_scale_and_shift(prediction: Array, truth: Array) -> Align:
    """The same of the disparities, as DA360 aligns them (Jiang et al., 2025).

    A disparity that ends below that of the farthest truth is set to it, as Ranftl et al. cap theirs: it would be a
    depth beyond infinity.
    """
    slope, offset = _line(1 / prediction, 1 / truth)
    least = 1 / truth.max()
    return lambda depth: 1 / np.maximum(slope / depth + offset, least)


def _line(x: Array, y: Array) -> tuple[float, float]:
    """Return s and t of the least squares line y = s x + t; equal x's have slope 0."""
    middle, level = x.mean(), y.mean()
    centred = x - middle
    spread = centred @ centred
    slope = centred @ y / spread if spread > 1e-12 * (x @ x) else 0.0
    return slope, level - slope * middle


ALIGNMENTS = {
    "none": Alignment("none", _none),
    "scale_by_median": Alignment("scale by median", _median),
    "scale_by_least_squares": Alignment("scale by least squares", _least_squares),
    "scale_and_shift": Alignment("scale and shift", _scale_and_shift),
    "disparity_scale_and_shift": Alignment("disparity scale and shift", _disparity_scale_and_shift),
}
