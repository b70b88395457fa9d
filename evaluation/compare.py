"""Compare one prediction with its truth: every alignment of a depth, every figure of its kind."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import semantic
from .alignment import ALIGNMENTS
from .errors import MapError
from .metrics import KINDS, Scores, score
from .pictures import Array


class Comparison(NamedTuple):
    """The scores of one pair by alignment ("" where the kind knows none), and its overlap of classes."""

    scores: dict[str, Scores]
    overlap: semantic.Overlap


class Options(NamedTuple):
    """What the user may choose: a depth beyond which truth is left out, the true colour (a code) that is no class."""

    max_depth: float = np.inf
    unlabelled: int | None = None


def compare(kind: str, prediction: Array, truth: Array, options: Options = Options()) -> Comparison:  # noqa: B008
    """Compare two maps as `layout.read` gives them, semantic ones as codes [H, W]. MapError where sizes differ."""
    check_sizes(prediction, truth)
    if kind == "semantic":
        labels = without(truth, options.unlabelled)
        valid = KINDS[kind].valid(prediction, labels)
        return Comparison({"": score(kind, prediction, labels, valid)}, semantic.overlap(prediction, labels))
    if kind != "depth":
        found = KINDS[kind].valid(prediction, truth)
        return Comparison({"": score(kind, *_filled(prediction, truth, found), found)}, {})
    valid = KINDS[kind].valid(prediction, truth) & ~(truth > options.max_depth)
    ours, true = _filled(prediction, truth, valid)
    return Comparison({name: score(kind, aligned(name, ours, true, valid), true, valid) for name in ALIGNMENTS}, {})


def check_sizes(prediction: Array, truth: Array) -> None:
    """Raise MapError unless two maps have one size."""
    if prediction.shape != truth.shape:
        ours, true = (f"{values.shape[1]}x{values.shape[0]}" for values in (prediction, truth))
        raise MapError(f"the prediction is {ours} but the truth is {true}; bring one to the other's size.")


def without(labels: Array, unlabelled: int | None) -> Array:
    """Return labels with NO_CLASS where they are the unlabelled colour."""
    return labels if unlabelled is None else np.where(labels == unlabelled, semantic.NO_CLASS, labels)


def aligned(name: str, prediction: Array, truth: Array, valid: Array) -> Array:
    """Return an aligned depth; what has no valid pixel stays as it is."""
    return ALIGNMENTS[name].align(prediction, truth, valid) if valid.any() else prediction


def _filled(prediction: Array, truth: Array, valid: Array) -> tuple[Array, Array]:
    """Return both as float64, with 1 where a pixel is invalid, so that no NaN gets into sums."""
    mask = valid if prediction.ndim == 2 else valid[..., None]
    first, second = (np.where(mask, values, 1).astype(np.float64) for values in (prediction, truth))
    return first, second


def error_picture(kind: str, prediction: Array, truth: Array, alignment: str = "scale_by_median") -> Array:
    """Return the error of each pixel [H, W], NaN where invalid: relative (depth), degrees, difference, 1 = wrong."""
    check_sizes(prediction, truth)
    valid = KINDS[kind].valid(prediction, truth)
    if kind == "semantic":
        return np.where(valid, prediction != truth, np.nan)
    ours, true = _filled(prediction, truth, valid)
    if kind == "depth":
        ours = aligned(alignment, ours, true, valid)
    way = KINDS[kind]
    return np.where(valid, way.measure(ours, true)[way.error], np.nan)
