"""The figures of many pairs together: as `--json` prints them, and as tables for a screen or in Markdown.

    {"depth": {"scale_by_median": {"unweighted": {"abs_rel": ..., ...}, "weighted": {...},
                                   "seam": ..., "seam_error": ..., "poles": ...,
                                   "pixels": ..., "invalid": ...,
                                   "seam_defect_density": ..., "seam_severity": ..., "seam_prevalence": ...,
                                   "nothing_predicted": ..., "nothing_true": ...}, ...},
     "normal": {"unweighted": {"mean": ..., ...}, "weighted": {...}, "seam": ..., ...}, ...}

A figure is the mean of the figures of all pictures with equal weights; mIoU counts the pixels of all pictures together.
Alignment does not change PaGeR's seams (see `depth`) and the numbers of pixels without a surface (see
`mapfiles.nothing`), so each alignment repeats them.
`seam` is the mean difference at the seam over that of other neighbours, both over all pictures; `seam_error` is the
same of the signed error, so edges of the room itself cancel out. A picture without a valid pixel has no figures. None
means undefined (no pixels, a prediction that is the same everywhere, LPIPS by latitude) or an infinite PSNR (equal
maps), since JSON can express neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .compare import Comparison, Scores
from .depth import ALIGNMENTS, SEAM_FIGURES
from .metrics import FIGURES, LPIPS
from .semantic import mean_iou
from .sphere import POLAR_LATITUDE

WEIGHTS = ("unweighted", "weighted")


def summary(comparisons: Mapping[str, Sequence[Comparison]]) -> dict[str, Any]:
    """Return kind -> (depth: alignment ->) figures, as above."""
    return {kind: _kind(kind, found) for kind, found in comparisons.items()}


def _kind(kind: str, found: Sequence[Comparison]) -> dict[str, Any]:
    parts = {name: _together([one.scores[name] for one in found]) for name in found[0].scores}
    if kind == "depth":
        common = _of_depth(found)
        return {name: part | common for name, part in parts.items()}
    if kind != "semantic":
        return parts[""]
    overlaps = mean_iou(one.overlap for one in found)
    shares = {name: parts[""][name] | {"miou": _number(value)} for name, value in zip(WEIGHTS, overlaps)}
    return parts[""] | shares


def _of_depth(found: Sequence[Comparison]) -> dict[str, Any]:
    """Return the figures that no alignment changes: the seams of a cube, and the pixels without a surface."""
    predicted, true = (sum(one.nothing[side] for one in found) for side in (0, 1))
    seams = {name: _mean([one.cube[name] for one in found]) for name in found[0].cube}
    return {**seams, "nothing_predicted": predicted, "nothing_true": true}


def _together(scores: Sequence[Scores]) -> dict[str, Any]:
    figures = {
        weight: {name: _mean([score.figures[name][number] for score in scores]) for name in scores[0].figures}
        for number, weight in enumerate(WEIGHTS)
    }
    return {
        **figures,
        "seam": _ratio([score.seam for score in scores]),
        "seam_error": _ratio([score.seam_error for score in scores]),
        "poles": _mean([score.poles for score in scores]),
        "pixels": sum(score.pixels for score in scores),
        "invalid": sum(score.invalid for score in scores),
    }


def _ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return the mean of the first numbers over the mean of the second."""
    first, second = (_mean(column) for column in zip(*pairs))
    return first / second if first is not None and second else None


def _mean(values: Sequence[float]) -> float | None:
    defined = [value for value in values if not math.isnan(value)]
    return _number(float(np.mean(defined))) if defined else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


TITLES = {kind: {name: row.title for name, row in rows.items()} for kind, rows in FIGURES.items()}
TITLES["semantic"] = TITLES["semantic"] | {"miou": "mIoU"}
TITLES |= {kind: TITLES[kind] | {"lpips": "LPIPS"} for kind in LPIPS}
"""Kind -> name of a figure -> its title in tables."""

UNITS = {
    "depth": "MAE and RMSE in the truth's unit; delta from 0 to 1",
    "normal": "degrees; within from 0 to 1",
    "albedo": "PSNR in dB",
    "roughness": "PSNR in dB",
    "metallic": "PSNR in dB",
    "semantic": "from 0 to 1",
}
POLES = {"depth": "AbsRel", "normal": "mean degrees", "semantic": "share of wrong pixels"}

SHARED = {"seam": "seam", "seam_error": "error-seam", "poles": "poles"}
"""Figures that both weightings share -> their titles in tables."""

Row = list[str]


def text(summary: Mapping[str, Any]) -> str:
    """Return one table for each kind, in aligned columns."""
    return "\n\n".join(
        "\n".join([*_heading(kind, found), _columns(_rows(kind, found))]) for kind, found in summary.items()
    )


def markdown(summary: Mapping[str, Any]) -> str:
    """Return one Markdown table for each kind, under a heading."""
    return "\n\n".join(
        "\n\n".join([f"### {first}", *rest, _piped(_rows(kind, found))])
        for kind, found in summary.items()
        for first, *rest in [_heading(kind, found)]
    )


def _heading(kind: str, found: Mapping[str, Any]) -> list[str]:
    """Return the lines above a table."""
    part = _parts(found)[0][1]
    poles = POLES.get(kind, "mean difference")
    first = (
        f"{kind}: {part['pixels']} pixels, {part['invalid']} invalid left out ({UNITS[kind]}; "
        f"poles: {poles} at {POLAR_LATITUDE:g} degrees or more)"
    )
    if kind != "depth":
        return [first]
    nothing = f"no surface: {part['nothing_predicted']} predicted pixels, {part['nothing_true']} true ones"
    seams = ", ".join(f"{title} {_written(part[name])}" for name, title in SEAM_FIGURES.items())
    return [first, f"{nothing}; seams of a cube (PaGeR): {seams}"]


def _parts(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [("", found)] if WEIGHTS[0] in found else list(found.items())


def _rows(kind: str, found: Mapping[str, Any]) -> list[Row]:
    """Return the header and a row for each alignment and weighting; shared figures are in the first of both rows."""
    parts = _parts(found)
    titles = {name: title for name, title in TITLES[kind].items() if name in parts[0][1][WEIGHTS[0]]}
    rows = [[*(["alignment"] if parts[0][0] else []), "weights", *titles.values(), *SHARED.values()]]
    for name, part in parts:
        for weight in WEIGHTS:
            first = weight == WEIGHTS[0]
            title = [ALIGNMENTS[name].title if first else ""] if name else []
            shared = [_written(part[key]) if first else "" for key in SHARED]
            rows.append([*title, weight, *(_written(part[weight][figure]) for figure in titles), *shared])
    return rows


def _written(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _columns(rows: Sequence[Row]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    words = rows[0].index("weights") + 1
    lines = (
        "  ".join([*map(str.ljust, row[:words], widths), *map(str.rjust, row[words:], widths[words:])]) for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _piped(rows: Sequence[Row]) -> str:
    rule = ["---"] * len(rows[0])
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))
