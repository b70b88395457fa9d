"""From two maps to their figures. What is done to pixels is done to a few rows at a time, which stay in cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from . import sphere
from .alignment import Align
from .metrics import FIGURES, KINDS, Kind, Measures
from .pictures import Array

SEAM, BESIDE = "difference at the seam", "difference beside it"


class Scores(NamedTuple):
    """What one pair gives; a figure is (unweighted, weighted), NaN where there are no pixels for it.

    seam is the mean difference of the last and the first column, and that of all other neighbours.
    """

    figures: Mapping[str, tuple[float, float]]
    seam: tuple[float, float]
    poles: float
    pixels: int
    invalid: int


def score(kind: str, prediction: Array, truth: Array, valid: Array, align: Align = np.asarray) -> Scores:
    """Return the scores of a prediction, aligned, where valid [H, W]."""
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
    at, beside, poles = (
        float(sphere.mean(sums[name], weights[[which]])[0])
        for name, which in ((SEAM, 0), (BESIDE, 0), (way.error, sphere.POLES))
    )
    pixels = int(np.count_nonzero(valid))
    return Scores(figures, (at, beside), poles, pixels, valid.size - pixels)


def _pair(values: Array) -> tuple[float, float]:
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
        yield {name: measures[name] for name in way.kept}, {**sums, **_seam(way, ours, counted)}


def _seam(way: Kind, ours: Array, counted: Array | None) -> Mapping[str, sphere.Rows]:
    """Sum the differences of the last and the first column, and of all other neighbours, where both count."""
    columns = {SEAM: (slice(0, 1), slice(-1, None)), BESIDE: (slice(1, None), slice(0, -1))}
    return {
        name: sphere.rows(
            way.differ(ours[:, one], ours[:, other]), None if counted is None else counted[:, one] & counted[:, other]
        )
        for name, (one, other) in columns.items()
    }


def filled(prediction: Array, truth: Array, valid: Array | None) -> tuple[Array, Array]:
    """Return both as float64 (labels as they are), with 1 where a pixel does not count, so that no NaN gets on."""
    if prediction.dtype.kind != "f":
        return prediction, truth
    ours, true = prediction.astype(np.float64), truth.astype(np.float64)
    if valid is not None:
        ours[~valid], true[~valid] = 1.0, 1.0
    return ours, true
