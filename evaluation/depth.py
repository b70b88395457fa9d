"""Measures for depth only: alignments, and the seams of a cube.

A relative depth has no scale, and a disparity has no shift either. So a predicted depth is aligned before it is
compared. Each alignment is a row of the table. It is fitted to the valid pixels of one picture with equal weights, and
is then the same function of every pixel. Depths are float64 and above 0; disparity is 1 / depth.

A model that works on the six faces of a cube leaves seams, which PaGeR measures (Bozic et al., 2026). These figures
need only the predicted depth, before any alignment. They follow the authors' repository (prs-eth/PaGeR 99188f2,
`src/metrics/seams_metrics.py`) with the thresholds of its `evaluation/seams_evaluation.py`:

1. the depth is stretched from its 1st and 99th percentile to 0 and 1, and clipped;
2. at each pair of neighbouring pixels, left and right or above and below, that lie on two faces, the step is the
   absolute difference; columns wrap, rows do not; a cube has 12 edges;
3. `seam_defect_density` is the share of all steps above 0.010, `seam_severity` the share of edges whose mean step is
   above 0.008, `seam_prevalence` the share of edges with more than 5 % of their steps above 0.010.

Pixels without a depth have no steps (the authors' maps have none). A width that 4 does not divide has no figures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..mapfiles.pictures import Array

Align = Callable[[Array], Array]


class Alignment(NamedTuple):
    """An alignment: its title, and the function that fits it to (prediction [N], truth [N])."""

    title: str
    fit: Callable[[Array, Array], Align]


def _as_it_is(_prediction: Array, _truth: Array) -> Align:
    return lambda depth: depth


def _median(prediction: Array, truth: Array) -> Align:
    """s = median(truth) / median(prediction): Zhou et al., CVPR 2017."""
    scale = np.median(truth) / np.median(prediction)
    return lambda depth: depth * scale


def _least_squares(prediction: Array, truth: Array) -> Align:
    """The s with the smallest sum of (s prediction - truth)^2."""
    scale = prediction @ truth / (prediction @ prediction)
    return lambda depth: depth * scale


def _scale_and_shift(prediction: Array, truth: Array) -> Align:
    """The s and t with the smallest sum of (s prediction + t - truth)^2: Ranftl et al., TPAMI 2020."""
    slope, offset = _line(prediction, truth)
    return lambda depth: slope * depth + offset


def _disparity_scale_and_shift(prediction: Array, truth: Array) -> Align:
    """The same for disparities, as in DA360 (Jiang et al., 2025).

    A disparity below that of the farthest true depth is raised to it, as in Ranftl et al.; otherwise the disparity
    could become 0 or negative, and no depth belongs to it.
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
    "none": Alignment("none", _as_it_is),
    "scale_by_median": Alignment("scale by median", _median),
    "scale_by_least_squares": Alignment("scale by least squares", _least_squares),
    "scale_and_shift": Alignment("scale and shift", _scale_and_shift),
    "disparity_scale_and_shift": Alignment("disparity scale and shift", _disparity_scale_and_shift),
}


SEAM_FIGURES = {
    "seam_defect_density": "defect density",
    "seam_severity": "severity",
    "seam_prevalence": "prevalence",
}
PERCENTILES = (1.0, 99.0)
STEP, MEAN_STEP, SHARE = 0.010, 0.008, 0.05
FACES = 6
_UP, _DOWN = 4, 5


def seams(depth: Array) -> dict[str, float]:
    """Return the three figures of a depth [H, W], NaN if they are not defined."""
    one, other, edges = _pairs(*depth.shape)
    known = depth[np.isfinite(depth)]
    if not known.size:
        return dict.fromkeys(SEAM_FIGURES, np.nan)
    low, high = np.percentile(known, PERCENTILES).astype(np.float64)
    here, there = (np.clip((depth.flat[at] - low) / max(high - low, 1e-8), 0, 1) for at in (one, other))
    both = np.isfinite(here) & np.isfinite(there)
    steps, edges = np.abs(here - there)[both], edges[both]
    if not steps.size:
        return dict.fromkeys(SEAM_FIGURES, np.nan)
    each = [steps[edges == edge] for edge in np.unique(edges)]
    shares = (
        np.mean(steps > STEP),
        np.mean([found.mean() > MEAN_STEP for found in each]),
        np.mean([(found > STEP).mean() > SHARE for found in each]),
    )
    return dict(zip(SEAM_FIGURES, map(float, shares)))


@functools.lru_cache(maxsize=4)
def _pairs(height: int, width: int) -> tuple[Array, Array, Array]:
    """Return the neighbours on two faces as numbers of pixels [N] and [N], and which edge [N] each pair is at."""
    if width % 4:
        none = np.empty(0, dtype=np.intp)
        return none, none, none
    face, number = faces(height, width), np.arange(height * width).reshape(height, width)
    sides = ((np.roll(face, -1, axis=1), np.roll(number, -1, axis=1)), (face[1:], number[1:]))
    found = []
    for there, other in sides:
        here, one = face[: len(there)], number[: len(there)]
        apart = here != there
        edge = np.minimum(here, there) * FACES + np.maximum(here, there)
        found.append((one[apart], other[apart], edge[apart]))
    ones, others, edges = (np.concatenate(part) for part in zip(*found))
    return ones, others, edges


def faces(height: int, width: int) -> Array:
    """Return the face that each pixel lies on [H, W]: 0 to 3 around, 4 up, 5 down.

    The middle of face 0 is the middle of the picture; borders are rounded as the authors do.
    """
    quarter = width // 4
    around = np.roll(np.repeat(np.arange(4), quarter), 3 * (width // 8))
    longitude = np.linspace(-np.pi, np.pi, quarter) / 4
    last = np.rint(height / 2 - np.arctan(np.cos(longitude)) * height / np.pi)
    above = np.arange(height)[:, None] < np.roll(np.tile(last, 4), 3 * (width // 8))
    return np.where(above[::-1], _DOWN, np.where(above, _UP, around))
