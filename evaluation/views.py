"""Maps as pictures: drawn for people, read from a graph, and put on a sheet; arrays [H, W, 3] in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..mapfiles import layout
from ..mapfiles.errors import MapError, package
from ..mapfiles.nothing import FAR_PLANE, without_far_plane
from ..mapfiles.pictures import Array, save
from . import report, semantic
from .compare import compare, error_picture, fitted
from .metrics import KINDS
from .report import summary
from .run import Maps, Pair

WORST = {"depth": 0.5, "normal": 90.0, "albedo": 0.5, "roughness": 0.5, "metallic": 0.5, "semantic": 1.0}
"""The error that is drawn white: a share of the depth, degrees, a difference of values, a wrong pixel."""
UNITS = {"depth": "of the depth", "normal": "degrees", "semantic": "wrong"}
NONE = (0.25, 0.3, 0.45)
"""The colour of pixels that have no value."""
SHOWN_ALIGNMENT = "scale_by_median"


def error(kind: str, prediction: Array, truth: Array, alignment: str = SHOWN_ALIGNMENT) -> Array:
    """Draw the error of each pixel: black none, then red and yellow, white from WORST on; blue-grey where invalid."""
    values = error_picture(kind, prediction, truth, alignment) / WORST[kind]
    heat = np.stack([3 * values, 3 * values - 1, 3 * values - 2], axis=-1)
    return np.where(np.isnan(heat), NONE, np.clip(heat, 0, 1))


def legend(kind: str) -> str:
    """Return a line that explains black and white in `error`."""
    return f"error: black 0, white {WORST[kind]:g} {UNITS.get(kind, '')}".rstrip()


def views(kind: str, prediction: Array, truth: Array) -> tuple[Array, Array]:
    """Draw a prediction and its truth, depth in grey from the truth's 2nd to its 98th percentile after alignment."""
    if kind == "semantic":
        return semantic.colours(prediction) / 255, semantic.colours(truth) / 255
    if kind == "depth":
        return _depths(prediction, truth)
    if kind == "normal":
        prediction, truth = prediction * 0.5 + 0.5, truth * 0.5 + 0.5
    return _coloured(prediction), _coloured(truth)


def _depths(prediction: Array, truth: Array) -> tuple[Array, Array]:
    valid = KINDS["depth"].valid(prediction, truth)
    if not valid.any():
        return _coloured(np.full_like(prediction, np.nan)), _coloured(np.full_like(truth, np.nan))
    near, far = np.percentile(truth[valid], (2, 98))
    span = far - near or 1.0
    ours = fitted(SHOWN_ALIGNMENT, prediction[valid], truth[valid])(prediction)
    return _coloured((ours - near) / span), _coloured((truth - near) / span)


def _coloured(values: Array) -> Array:
    three = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=-1)
    return np.where(np.isnan(three), NONE, np.clip(three, 0, 1))


FURTHEST_CHANNELS = 0.05
"""If the channels differ by more than this in the mean, the picture is not a map of one value."""


def compare_images(kind: str, prediction: Array, truth: Array, alignment: str) -> tuple[Array, str]:
    """Return the drawn errors [B, H, W, 3] and the figures as text of two batches [B or 1, H, W, C] in [0, 1].

    A single truth is used for every prediction. The drawn error of a depth uses this alignment.
    """
    if len(truth) not in (1, len(prediction)):
        raise MapError(f"{len(prediction)} predictions have {len(truth)} truths; connect one for each, or one for all.")
    ours, true = ([as_map(picture, kind) for picture in batch] for batch in (prediction, truth))
    notes: list[str] = []
    if kind == "depth":
        true, far = zip(*(without_far_plane(one) for one in true))
        notes = [FAR_PLANE] if any(far) else []
    if kind == "semantic":
        known = np.unique(np.concatenate([semantic.distinct(labels) for labels in true]))
        ours = [semantic.nearest(one, known) if semantic.is_painted(one, known) else one for one in ours]
    pairs = list(zip(ours, [*true] * len(ours) if len(true) == 1 else true))
    found = [compare(kind, *pair) for pair in pairs]
    remarks = [*notes, *(doubt for comparison in found for doubt in comparison.doubts)]
    doubts = dict.fromkeys(f"Careful: {doubt}." for doubt in remarks)
    words = "\n".join([report.text(summary({kind: found})), *doubts])
    drawn = np.stack([error(kind, *pair, alignment) for pair in pairs])
    return drawn.astype(np.float32), f"{words}\n{legend(kind)}"


def as_map(picture: Array, kind: str) -> Array:
    """Return the map in a decoded picture [H, W, >=3] in the form of `layout.read`, semantic maps as codes.

    depth is the mean of the channels (for values that mean "no surface" see `mapfiles.nothing`); normals are 2 x - 1.
    """
    colours = picture[..., :3].astype(np.float32)
    if kind == "depth":
        colours = np.where(np.isposinf(colours), np.float32(0), colours)
    if not np.isfinite(colours).all():
        raise MapError(f"The {kind} picture contains NaN or infinity. Check the node that made it.")
    if kind == "semantic":
        return semantic.codes(np.rint(np.clip(colours, 0, 1) * 255).astype(np.uint8))
    if kind == "normal":
        return layout.marked(colours * 2 - 1, kind)
    if layout.KINDS[kind].channels == 3:
        return colours
    if np.ptp(colours, axis=-1).mean() > FURTHEST_CHANNELS:
        raise MapError(f"The channels of the {kind} picture differ, so they are not one value; connect a {kind} map.")
    return layout.marked(colours.mean(axis=-1), kind)


TILE = 512
"""Width of a picture on the sheet."""
GAP, LINE = 8, 20
PAPER, INK = 0.09, 0.93
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def write_sheet(path: Path, reading: Maps, pairs: Sequence[Pair]) -> None:
    """Draw and write the sheet, completely or not at all; the suffix chooses the format."""
    if path.suffix.lower() not in SUFFIXES:
        raise MapError(f"{path}: a sheet is written as {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    first: dict[str, Pair] = {}
    for pair in pairs:
        first.setdefault(pair.kind, pair)
    rows = [_row(reading, pair) for pair in first.values()]
    save(path, np.rint(np.concatenate(rows) * 255).astype(np.uint8))


def _row(reading: Maps, pair: Pair) -> Array:
    ours, true, _ = reading.read(pair)
    prediction, truth = views(pair.kind, ours, true)
    tiles = [
        ("input", _input(reading, pair)),
        (f"{pair.kind} {pair.stem}: prediction" + (" (scaled by median)" if pair.kind == "depth" else ""), prediction),
        ("truth", truth),
        (legend(pair.kind), error(pair.kind, ours, true)),
    ]
    drawn = [_tile(words, picture, prediction.shape[0] * TILE // prediction.shape[1]) for words, picture in tiles]
    return np.concatenate(drawn, axis=1)


def _input(reading: Maps, pair: Pair) -> Array | None:
    for side in (reading.truth, reading.predicted):
        if path := side.maps.get("rgb", {}).get(pair.stem):
            return side.read(path, "rgb")
    return None


def _tile(words: str, picture: Array | None, height: int) -> Array:
    """Put a picture [h, w, 3] under its words, scaled to TILE x height; without a picture the place stays empty."""
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
