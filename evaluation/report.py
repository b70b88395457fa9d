"""The summary as a table, for a screen or in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import cubes
from .alignment import ALIGNMENTS
from .metrics import FIGURES, LPIPS
from .sphere import POLAR_LATITUDE
from .summary import WEIGHTS

TITLES = {kind: {name: row.title for name, row in rows.items()} for kind, rows in FIGURES.items()}
TITLES["semantic"] = TITLES["semantic"] | {"miou": "mIoU"}
TITLES |= {kind: TITLES[kind] | {"lpips": "LPIPS"} for kind in LPIPS}
"""Kind -> name of a figure -> its title in tables."""

UNITS = {
    "depth": "MAE and RMSE in the truth's unit; delta as shares of 1",
    "normal": "degrees; within as shares of 1",
    "albedo": "PSNR in dB",
    "roughness": "PSNR in dB",
    "metallic": "PSNR in dB",
    "semantic": "shares of 1",
}
POLES = {"depth": "AbsRel", "normal": "mean degrees", "semantic": "share of wrong pixels"}

Row = list[str]


def text(summary: Mapping[str, Any]) -> str:
    """Return one table a kind, set in columns."""
    return "\n\n".join(
        "\n".join([*_heading(kind, found), _columns(_rows(kind, found))]) for kind, found in summary.items()
    )


def markdown(summary: Mapping[str, Any]) -> str:
    """Return one Markdown table a kind, under a heading."""
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
        f"poles: {poles} from {POLAR_LATITUDE:g} degrees on)"
    )
    if kind != "depth":
        return [first]
    nothing = f"nothing is there: {part['nothing_predicted']} predicted pixels, {part['nothing_true']} true ones"
    seams = ", ".join(f"{title} {_written(part[name])}" for name, title in cubes.FIGURES.items())
    return [first, f"{nothing}; seams of a cube (PaGeR): {seams}"]


def _parts(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [("", found)] if WEIGHTS[0] in found else list(found.items())


def _rows(kind: str, found: Mapping[str, Any]) -> list[Row]:
    """Return the header and a row for each alignment and weighting; what both weightings share stands in the first."""
    parts = _parts(found)
    titles = {name: title for name, title in TITLES[kind].items() if name in parts[0][1][WEIGHTS[0]]}
    rows = [[*(["alignment"] if parts[0][0] else []), "weights", *titles.values(), "seam", "poles"]]
    for name, part in parts:
        for weight in WEIGHTS:
            first = weight == WEIGHTS[0]
            title = [ALIGNMENTS[name].title if first else ""] if name else []
            shared = [_written(part[key]) if first else "" for key in ("seam", "poles")]
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
