"""One picture of a comparison: for each kind of map its first pair, as input, prediction, truth and error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from . import views
from .errors import MapError, package
from .pictures import Array, save
from .run import Maps, Pair

TILE = 512
"""Width of a picture on the sheet."""
GAP, LINE = 8, 20
PAPER, INK = 0.09, 0.93
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def write_sheet(path: Path, reading: Maps, pairs: Sequence[Pair]) -> None:
    """Draw and write the sheet, whole or not at all; the suffix chooses the format."""
    if path.suffix.lower() not in SUFFIXES:
        raise MapError(f"{path}: a sheet is written as {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    first: dict[str, Pair] = {}
    for pair in pairs:
        first.setdefault(pair.kind, pair)
    rows = [_row(reading, pair) for pair in first.values()]
    save(path, np.rint(np.concatenate(rows) * 255).astype(np.uint8))


def _row(reading: Maps, pair: Pair) -> Array:
    ours, true, _ = reading.read(pair)
    prediction, truth = views.views(pair.kind, ours, true)
    tiles = [
        ("input", _input(reading, pair)),
        (f"{pair.kind} {pair.stem}: prediction" + (" (scaled by median)" if pair.kind == "depth" else ""), prediction),
        ("truth", truth),
        (views.legend(pair.kind), views.error(pair.kind, ours, true)),
    ]
    drawn = [_tile(words, picture, prediction.shape[0] * TILE // prediction.shape[1]) for words, picture in tiles]
    return np.concatenate(drawn, axis=1)


def _input(reading: Maps, pair: Pair) -> Array | None:
    for side in (reading.truth, reading.predicted):
        if path := side.maps.get("rgb", {}).get(pair.stem):
            return side.read(path, "rgb")
    return None


def _tile(words: str, picture: Array | None, height: int) -> Array:
    """Set a picture [h, w, 3] under its words, scaled to TILE x height; without a picture the place stays empty."""
    pillow, drawing = package("PIL.Image"), package("PIL.ImageDraw")
    canvas = np.full((LINE + max(height, 1) + GAP, TILE + GAP, 3), PAPER)
    label = pillow.new("L", (TILE, LINE))
    drawing.Draw(label).text((2, 3), words if picture is not None else f"no {words}", fill=255)
    ink = np.asarray(label, dtype=np.float64)[..., None] / 255
    canvas[:LINE, :TILE] = PAPER + (INK - PAPER) * ink
    if picture is not None:
        bytes_ = np.rint(picture * 255).astype(np.uint8)
        scaled = pillow.fromarray(bytes_).resize((TILE, max(height, 1)), pillow.Resampling.BOX)
        canvas[LINE : LINE + max(height, 1), :TILE] = np.asarray(scaled) / 255
    return canvas
