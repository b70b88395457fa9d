"""Compare one prediction with its ground truth: every alignment of a depth, every figure of its kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ..mapfiles.errors import MapError
from ..mapfiles.pictures import Array
from . import semantic, sphere
from .depth import ALIGNMENTS, Align, seams
from .metrics import FIGURES, KINDS, LPIPS, Kind, Measures
from .perceptual import Distance

MAP, ERROR = "map", "error"
AT_SEAM, ELSEWHERE = "differences at the seam", "differences elsewhere"


class Scores(NamedTuple):
    """The results of one pair. A figure is (unweighted, weighted), NaN if no pixel counts.

    seam is the mean difference of the prediction's last and first column, and of all other neighbouring columns;
    seam_error is the same for the signed error, in which edges of the truth cancel out.
    """

    figures: Mapping[str, tuple[float, float]]
    seam: tuple[float, float]
    seam_error: tuple[float, float]
    poles: float
    pixels: int
    invalid: int


def score(kind: str, prediction: Array, truth: Array, valid: Array, align: Align = np.asarray) -> Scores:
    """Return the scores of an aligned prediction in the valid pixels [H, W]."""
    way = KINDS[kind]
    weights = sphere.weightings(valid.shape[0])
    measures, sums = _measured(way, prediction, truth, valid, align)
    both = weights[[sphere.UNWEIGHTED, sphere.WEIGHTED]]
    figures = {}
    for name, row in FIGURES[kind].items():
        if row.median:
            figures[name] = _pair(row.finish(sphere.median(measures[row.measure], valid, both)))
        else:
            figures[name] = _pair(row.finish(sphere.mean(sums[row.measure], both)))
    seam, seam_error = (
        _pair([sphere.mean(sums[f"{of}: {place}"], both[:1])[0] for place in (AT_SEAM, ELSEWHERE)])
        for of in (MAP, ERROR)
    )
    poles = float(sphere.mean(sums[way.error], weights[[sphere.POLES]])[0])
    pixels = int(np.count_nonzero(valid))
    return Scores(figures, seam, seam_error, poles, pixels, valid.size - pixels)


def _pair(values: Sequence[float] | Array) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _measured(
    way: Kind, prediction: Array, truth: Array, valid: Array, align: Align
) -> tuple[Measures, Mapping[str, sphere.Rows]]:
    """Return every measure [H, W], and the sums of its rows."""
    parts = list(_by_bands(way, prediction, truth, valid, align))
    measures = {name: np.concatenate([found[name] for found, _ in parts]) for name in parts[0][0]}
    sums = {
        name: sphere.Rows(*(np.concatenate(column) for column in zip(*(found[name] for _, found in parts))))
        for name in parts[0][1]
    }
    whole = way.whole(prediction, truth)
    defined = {name: sphere.rows(values, valid & ~np.isnan(values)) for name, values in whole.items()}
    return measures, {**sums, **defined}


def _by_bands(
    way: Kind, prediction: Array, truth: Array, valid: Array, align: Align
) -> Iterator[tuple[Measures, Mapping[str, sphere.Rows]]]:
    for rows in sphere.bands(valid.shape[0]):
        counted = None if valid[rows].all() else valid[rows]
        ours, true = filled(prediction[rows], truth[rows], counted)
        ours = align(ours)
        measures = way.measure(ours, true)
        sums = {name: sphere.rows(values, counted) for name, values in measures.items()}
        error = ours - true if ours.dtype.kind == "f" else ours != true
        seams = {**_seam(way, MAP, ours, counted), **_seam(way, ERROR, error, counted)}
        yield {name: measures[name] for name in way.kept}, {**sums, **seams}


def _seam(way: Kind, name: str, values: Array, counted: Array | None) -> Mapping[str, sphere.Rows]:
    """Sum the differences of the last and the first column, and of all other neighbours, if both pixels count."""
    columns = {AT_SEAM: (slice(0, 1), slice(-1, None)), ELSEWHERE: (slice(1, None), slice(0, -1))}
    return {
        f"{name}: {place}": sphere.rows(
            way.differ(values[:, one], values[:, other]),
            None if counted is None else counted[:, one] & counted[:, other],
        )
        for place, (one, other) in columns.items()
    }


def filled(prediction: Array, truth: Array, valid: Array | None) -> tuple[Array, Array]:
    """Return both as float64 (labels unchanged), with 1 in pixels that don't count, so that no NaN spreads."""
    if prediction.dtype.kind != "f":
        return prediction, truth
    ours, true = prediction.astype(np.float64), truth.astype(np.float64)
    if valid is not None:
        ours[~valid], true[~valid] = 1.0, 1.0
    return ours, true


class Comparison(NamedTuple):
    """The scores of one pair by alignment ("" if the kind has no alignments), its overlap of classes and its doubts;
    for a depth also the seams of a cube and the number of pixels without a surface (predicted, true)."""

    scores: dict[str, Scores]
    overlap: semantic.Overlap
    doubts: tuple[str, ...]
    cube: Mapping[str, float] = MappingProxyType({})
    nothing: tuple[int, int] = (0, 0)


class Options(NamedTuple):
    """The options: a depth beyond which truth is left out, the true colour (a code) of unlabelled pixels, the measure
    of LPIPS, and the pixels [H, W] that count in figures (alignments are fitted to all valid ones)."""

    max_depth: float = np.inf
    unlabelled: int | None = None
    distance: Distance | None = None
    counted: Array | None = None


DEFAULTS = Options()

NO_PANORAMA = "the size is not 2:1, so this is not a whole panorama: ignore its weighted figures, seam and poles"
NO_LABELS = (
    f"the truth has more than {semantic.MOST_COLOURS} colours; a label map gets these from JPEG or resizing. "
    "Accuracy and mIoU count each colour as a class"
)

MOST_MISSING = 0.01
MISSING = (
    f"the prediction has no value in more than {MOST_MISSING:.0%} of the pixels that the truth has; figures ignore "
    "these pixels, so they may be too good"
)


def compare(kind: str, prediction: Array, truth: Array, options: Options = DEFAULTS) -> Comparison:
    """Compare two maps in the form of `layout.read`, semantic ones as codes [H, W]. MapError if the sizes differ."""
    check_sizes(prediction, truth)
    doubts = _doubts(kind, prediction, truth)
    if kind == "semantic" and options.unlabelled is not None:
        truth = np.where(truth == options.unlabelled, semantic.NO_CLASS, truth)
    valid = KINDS[kind].valid(prediction, truth)
    counted = valid if options.counted is None else valid & options.counted
    if kind != "depth":
        overlap = semantic.overlap(prediction, truth) if kind == "semantic" else {}
        scores = score(kind, prediction, truth, counted)
        if options.distance and kind in LPIPS:
            looked = options.distance(*filled(prediction, truth, valid))
            scores = scores._replace(figures={**scores.figures, "lpips": (looked, np.nan)})
        return Comparison({"": scores}, overlap, doubts)
    if np.isfinite(options.max_depth):
        near = ~(truth > options.max_depth)
        valid, counted = valid & near, counted & near
    ours, true = prediction[valid].astype(np.float64), truth[valid].astype(np.float64)
    aligns = {name: fitted(name, ours, true) for name in ALIGNMENTS}
    scores = {name: score(kind, prediction, truth, counted, align) for name, align in aligns.items()}
    predicted, real = (int(np.count_nonzero(np.isnan(depth))) for depth in (prediction, truth))
    return Comparison(scores, {}, doubts, seams(prediction), (predicted, real))


def _doubts(kind: str, prediction: Array, truth: Array) -> tuple[str, ...]:
    """Return the reasons why the figures of a pair may be misleading, one sentence each."""
    height, width = truth.shape[:2]
    mixed = kind == "semantic" and semantic.distinct(truth).size > semantic.MOST_COLOURS
    known = KINDS[kind].valid(truth, truth)
    missing = np.count_nonzero(known & ~KINDS[kind].valid(prediction, truth)) > MOST_MISSING * np.count_nonzero(known)
    reasons = {NO_PANORAMA: width != 2 * height, NO_LABELS: mixed, MISSING: missing}
    return tuple(reason for reason, holds in reasons.items() if holds)


def check_sizes(prediction: Array, truth: Array, or_else: str = "") -> None:
    """Raise MapError unless two maps have one size."""
    if prediction.shape != truth.shape:
        ours, true = (f"{values.shape[1]}x{values.shape[0]}" for values in (prediction, truth))
        raise MapError(f"the prediction is {ours} but the truth is {true}; resize one to match the other{or_else}.")


def fitted(name: str, prediction: Array, truth: Array) -> Align:
    """Fit an alignment to valid depths [N]; if there are none, depths stay unchanged."""
    return ALIGNMENTS[name].fit(prediction, truth) if prediction.size else np.asarray


def error_picture(kind: str, prediction: Array, truth: Array, alignment: str) -> Array:
    """Return the error of each pixel [H, W], NaN where invalid: relative (depth), degrees, difference, 1 = wrong."""
    check_sizes(prediction, truth)
    way = KINDS[kind]
    valid = way.valid(prediction, truth)
    ours, true = filled(prediction, truth, valid)
    if kind == "depth":
        ours = fitted(alignment, ours[valid], true[valid])(ours)
    return np.where(valid, way.measure(ours, true)[way.error], np.nan)
