"""The figures of many pairs together, as `--json` gives them.

    {"depth": {"scale_by_median": {"unweighted": {"abs_rel": ..., ...}, "weighted": {...},
                                   "seam": ..., "poles": ..., "pixels": ..., "invalid": ...,
                                   "seam_defect_density": ..., "seam_severity": ..., "seam_prevalence": ...,
                                   "nothing_predicted": ..., "nothing_true": ...}, ...},
     "normal": {"unweighted": {"mean": ..., ...}, "weighted": {...}, "seam": ..., ...}, ...}

A figure is the mean of the pictures' own figures, each picture counting alike; mIoU is that of all pixels together.
What no alignment changes is the same in each: PaGeR's seams (see `cubes`), and how many pixels of either side have a
depth that means nothing is there (see `nothing`).
`seam` is the mean difference at the seam over that of other neighbours, both over all pictures. A picture without a
valid pixel has no figures. None stands for what is not defined (no pixels, a prediction that is the same everywhere,
LPIPS by latitude) and for an infinite PSNR (equal maps), since JSON has no word for either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .compare import Comparison
from .scoring import Scores
from .semantic import mean_iou

WEIGHTS = ("unweighted", "weighted")


def summary(comparisons: Mapping[str, Sequence[Comparison]]) -> dict[str, Any]:
    """Return kind -> (depth: alignment ->) figures, as above."""
    return {kind: _kind(kind, found) for kind, found in comparisons.items()}


def _kind(kind: str, found: Sequence[Comparison]) -> dict[str, Any]:
    parts = {name: _together([one.scores[name] for one in found]) for name in found[0].scores}
    if kind == "depth":
        alike = _of_depth(found)
        return {name: part | alike for name, part in parts.items()}
    if kind != "semantic":
        return parts[""]
    overlaps = mean_iou(one.overlap for one in found)
    shares = {name: parts[""][name] | {"miou": _number(value)} for name, value in zip(WEIGHTS, overlaps)}
    return parts[""] | shares


def _of_depth(found: Sequence[Comparison]) -> dict[str, Any]:
    """Return what no alignment changes: the seams of a cube, and the pixels where nothing is there."""
    predicted, true = (sum(one.nothing[side] for one in found) for side in (0, 1))
    seams = {name: _mean([one.cube[name] for one in found]) for name in found[0].cube}
    return {**seams, "nothing_predicted": predicted, "nothing_true": true}


def _together(scores: Sequence[Scores]) -> dict[str, Any]:
    figures = {
        weight: {name: _mean([score.figures[name][number] for score in scores]) for name in scores[0].figures}
        for number, weight in enumerate(WEIGHTS)
    }
    at, beside = (_mean([score.seam[number] for score in scores]) for number in (0, 1))
    return {
        **figures,
        "seam": at / beside if at is not None and beside else None,
        "poles": _mean([score.poles for score in scores]),
        "pixels": sum(score.pixels for score in scores),
        "invalid": sum(score.invalid for score in scores),
    }


def _mean(values: Sequence[float]) -> float | None:
    defined = [value for value in values if not math.isnan(value)]
    return _number(float(np.mean(defined))) if defined else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
