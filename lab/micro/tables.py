"""The table of `python -m lab.micro evaluate`: the model's predictions next to the baselines'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...evaluation.compare import Options, compare
from ...evaluation.report import summary
from ...evaluation.views import SHOWN_ALIGNMENT
from ...mapfiles.pictures import Array
from .judged import JudgedRoom
from .recipe import NOT_LEARNED

ALL, SHELL, FURNITURE = "all", "shell", "furniture"
PARTS = {
    ALL: lambda room: np.ones_like(room.furniture),
    SHELL: lambda room: ~room.furniture,
    FURNITURE: lambda room: room.furniture,
}
"""Part of a room -> its pixels."""
SEAM = "seam_error"


class Row(NamedTuple):
    """A figure of a kind of map: its name in `evaluation`, its title, and the parts of a room it is measured on."""

    kind: str
    figure: str
    title: str
    parts: Sequence[str] = (ALL,)


ROWS = (
    Row("depth", "abs_rel", "depth, AbsRel", tuple(PARTS)),
    Row("depth", "delta_1_25", "depth, delta 1.25"),
    Row("depth", SEAM, "depth, seam of the error"),
    Row("normal", "mean", "normals, mean degrees", tuple(PARTS)),
    Row("normal", "median", "normals, median degrees"),
    Row("normal", SEAM, "normals, seam of the error"),
    Row("albedo", "psnr", "albedo, PSNR in dB", tuple(PARTS)),
    Row("albedo", "ssim", "albedo, SSIM"),
    Row("albedo", SEAM, "albedo, seam of the error"),
    Row("roughness", "psnr", "roughness, PSNR in dB", tuple(PARTS)),
    Row("roughness", "ssim", "roughness, SSIM"),
    Row("roughness", SEAM, "roughness, seam of the error"),
    Row("metallic", "psnr", "metallic, PSNR in dB"),
    Row("semantic", "accuracy", "semantics, accuracy", tuple(PARTS)),
    Row("semantic", "miou", "semantics, mIoU"),
    Row("semantic", SEAM, "semantics, seam of the error"),
)

Maps = Mapping[str, Sequence[Array]]
"""Kind -> one map for each room."""


def table(predictions: Mapping[str, Maps], rooms: Sequence[JudgedRoom]) -> str:
    """Return a Markdown table: a row for each figure and part, a column for each predictor."""
    head = ["", "pixels of", *predictions]
    lines = [head, ["---"] * len(head), *_lines(predictions, rooms)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _lines(predictions: Mapping[str, Maps], rooms: Sequence[JudgedRoom]) -> Iterator[list[str]]:
    measured = {title: figures(maps, rooms) for title, maps in predictions.items()}
    known = {kind for maps in predictions.values() for kind in maps}
    for row in ROWS:
        for part in row.parts if row.kind in known else ():
            found = (measured[title].get((row.kind, part), {}).get(row.figure) for title in predictions)
            title = row.title if part == row.parts[0] else ""
            remark = " (not learned)" if title and row.kind in NOT_LEARNED else ""
            yield [title + remark, part, *map(_written, found)]


def _written(value: float | None) -> str:
    return "" if value is None else f"{value:#.3g}".rstrip(".")


def figures(maps: Maps, rooms: Sequence[JudgedRoom]) -> dict[tuple[str, str], Mapping[str, float | None]]:
    """Return (kind, part) -> figures with equal pixels; a depth is aligned by its median over the whole picture."""
    return {
        (kind, part): _figures(kind, predicted, rooms, part)
        for kind, predicted in maps.items()
        for part in PARTS
        if any(row.kind == kind and part in row.parts for row in ROWS)
    }


def _figures(kind: str, predicted: Sequence[Array], rooms: Sequence[JudgedRoom], part: str) -> dict[str, float | None]:
    found = [
        compare(kind, ours, room.maps[kind], Options(counted=PARTS[part](room)))
        for ours, room in zip(predicted, rooms, strict=True)
    ]
    total = summary({kind: found})[kind]
    total = total[SHOWN_ALIGNMENT] if kind == "depth" else total
    return {**total["unweighted"], SEAM: total[SEAM]}
