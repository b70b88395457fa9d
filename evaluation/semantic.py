"""Semantic maps: colours as labels, and how much classes overlap.

The classes are the colours of the truth. A pixel is right if its colour is the true one. A prediction with more than
256 colours, if the truths have fewer, is a painted picture (decoded by a VAE, for example), not a map of labels. Then
each of its pixels counts as the nearest colour of all truths, by Euclidean distance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..mapfiles.pictures import Array
from . import sphere

MOST_COLOURS = 256
NO_CLASS = -1

Overlap = Mapping[tuple[int, int], tuple[float, float]]
"""(predicted colour, true colour) -> the pixels that have them, (number, number weighted by the cosine of latitude)."""


def codes(colours: Array) -> Array:
    """Return colours uint8 [.., 3] as numbers 0xRRGGBB, int32 [..]."""
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def colours(codes: Array) -> Array:
    """Return numbers 0xRRGGBB [..] as colours uint8 [.., 3]."""
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8)


def distinct(labels: Array) -> Array:
    """Return the different labels of a map [H, W], in order; fast, because equal labels follow each other."""
    starts = labels[:, 1:][labels[:, 1:] != labels[:, :-1]]
    return np.unique(np.concatenate([labels[:, 0], starts]))


def is_painted(prediction: Array, known: Array) -> bool:
    """Return whether a prediction of codes [H, W] has too many colours to be a label map, unlike the known ones."""
    return known.size <= MOST_COLOURS < distinct(prediction).size


def nearest(prediction: Array, known: Array) -> Array:
    """Return the known code whose colour is nearest to that of each pixel of codes [H, W]."""
    painted, palette = (colours(codes).astype(np.float32) for codes in (prediction, known))
    # |p - c|^2 without |p|^2, which is the same for all c.
    closeness = painted @ (2 * palette.T) - (palette * palette).sum(axis=1)
    return known[closeness.argmax(axis=-1)]


def overlap(prediction: Array, truth: Array) -> Overlap:
    """Count the pixels of each pair of labels, from two maps of codes [H, W]; a true label below 0 does not count."""
    mine, true = distinct(prediction), distinct(truth)
    joint = np.searchsorted(mine, prediction) * true.size + np.searchsorted(true, truth)
    size = mine.size * true.size
    weights = np.repeat(sphere.weightings(truth.shape[0])[sphere.WEIGHTED], truth.shape[1])
    equal = np.bincount(joint.ravel(), minlength=size)
    cosine = np.bincount(joint.ravel(), weights, size)
    return {
        (int(mine[cell // true.size]), int(true[cell % true.size])): (float(equal[cell]), float(cosine[cell]))
        for cell in np.nonzero(equal)[0]
        if true[cell % true.size] != NO_CLASS
    }


def mean_iou(overlaps: Iterable[Overlap]) -> tuple[float, float]:
    """Return mIoU of all pictures together, (unweighted, weighted): intersection over union, mean over true classes.

    Everingham et al., IJCV 2010, as in segmentation benchmarks. NaN without any class.
    """
    total: dict[tuple[int, int], Array] = {}
    for counts in overlaps:
        for pair, pixels in counts.items():
            total[pair] = total.get(pair, np.zeros(2)) + pixels
    classes = sorted({true for _, true in total})
    if not classes:
        return np.nan, np.nan
    shares = np.mean([_iou(total, label) for label in classes], axis=0)
    return float(shares[0]), float(shares[1])


def _iou(total: Mapping[tuple[int, int], Array], label: int) -> Array:
    union = sum(pixels for pair, pixels in total.items() if label in pair)
    return total.get((label, label), np.zeros(2)) / union
