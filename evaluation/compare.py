"""Compare one prediction with its truth: every alignment of a depth, every figure of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from . import cubes, semantic
from .alignment import ALIGNMENTS, Align
from .errors import MapError
from .metrics import KINDS, LPIPS
from .perceptual import Distance
from .pictures import Array
from .scoring import Scores, filled, score


class Comparison(NamedTuple):
    """The scores of one pair by alignment ("" where the kind knows none), its overlap of classes, its doubts, and of a
    depth: the seams of a cube, and pixels where nothing is there (predicted, true)."""

    scores: dict[str, Scores]
    overlap: semantic.Overlap
    doubts: tuple[str, ...]
    cube: Mapping[str, float] = MappingProxyType({})
    nothing: tuple[int, int] = (0, 0)


class Options(NamedTuple):
    """What the user may choose: a depth beyond which truth is left out, the true colour (a code) that is no class, and
    what measures LPIPS."""

    max_depth: float = np.inf
    unlabelled: int | None = None
    distance: Distance | None = None


DEFAULTS = Options()

NO_PANORAMA = "the size is not 2:1, so this is no whole panorama: weighted figures, seam and poles do not fit it"
NO_LABELS = (
    f"the truth has more than {semantic.MOST_COLOURS} colours, as a label map has that was saved as JPEG or resized; "
    "accuracy and mIoU take each colour as a class"
)


def compare(kind: str, prediction: Array, truth: Array, options: Options = DEFAULTS) -> Comparison:
    """Compare two maps as `layout.read` gives them, semantic ones as codes [H, W]. MapError where sizes differ."""
    check_sizes(prediction, truth)
    doubts = _doubts(kind, truth)
    if kind == "semantic" and options.unlabelled is not None:
        truth = np.where(truth == options.unlabelled, semantic.NO_CLASS, truth)
    valid = KINDS[kind].valid(prediction, truth)
    if kind != "depth":
        overlap = semantic.overlap(prediction, truth) if kind == "semantic" else {}
        scores = score(kind, prediction, truth, valid)
        if options.distance and kind in LPIPS:
            looked = options.distance(*filled(prediction, truth, valid))
            scores = scores._replace(figures={**scores.figures, "lpips": (looked, np.nan)})
        return Comparison({"": scores}, overlap, doubts)
    if np.isfinite(options.max_depth):
        valid &= ~(truth > options.max_depth)
    ours, true = prediction[valid].astype(np.float64), truth[valid].astype(np.float64)
    aligns = {name: fitted(name, ours, true) for name in ALIGNMENTS}
    scores = {name: score(kind, prediction, truth, valid, align) for name, align in aligns.items()}
    predicted, real = (int(np.count_nonzero(np.isnan(depth))) for depth in (prediction, truth))
    return Comparison(scores, {}, doubts, cubes.seams(prediction), (predicted, real))


def _doubts(kind: str, truth: Array) -> tuple[str, ...]:
    """Say why the figures of a pair may not mean what they seem to, one sentence a reason."""
    height, width = truth.shape[:2]
    mixed = kind == "semantic" and semantic.distinct(truth).size > semantic.MOST_COLOURS
    return (*([NO_PANORAMA] if width != 2 * height else []), *([NO_LABELS] if mixed else []))


def check_sizes(prediction: Array, truth: Array, or_else: str = "") -> None:
    """Raise MapError unless two maps have one size."""
    if prediction.shape != truth.shape:
        ours, true = (f"{values.shape[1]}x{values.shape[0]}" for values in (prediction, truth))
        raise MapError(f"the prediction is {ours} but the truth is {true}; bring one to the other's size{or_else}.")


def fitted(name: str, prediction: Array, truth: Array) -> Align:
    """Fit an alignment to valid depths [N]; without any, it leaves what it gets as it is."""
    return ALIGNMENTS[name].fit(prediction, truth) if prediction.size else np.asarray


def error_picture(kind: str, prediction: Array, truth: Array, alignment: str = "scale_by_median") -> Array:
    """Return the error of each pixel [H, W], NaN where invalid: relative (depth), degrees, difference, 1 = wrong."""
    check_sizes(prediction, truth)
    way = KINDS[kind]
    valid = way.valid(prediction, truth)
    ours, true = filled(prediction, truth, valid)
    if kind == "depth":
        ours = fitted(alignment, ours[valid], true[valid])(ours)
    return np.where(valid, way.measure(ours, true)[way.error], np.nan)
