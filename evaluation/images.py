"""Maps that are pictures in a graph rather than files: decoded, in [0, 1], a batch at a time."""

from __future__ import annotations

import numpy as np

from . import layout, report, semantic, views
from .compare import compare
from .errors import MapError
from .nothing import FAR_PLANE, without_far_plane
from .pictures import Array
from .summary import summary

FURTHEST_CHANNELS = 0.05
"""Channels of one value that differ by more than this in the mean hold two different things."""


def compare_images(kind: str, prediction: Array, truth: Array, alignment: str) -> tuple[Array, str]:
    """Return the drawn errors [B, H, W, 3] and the figures as text of two batches [B or 1, H, W, C] in [0, 1].

    A truth of one belongs to every prediction. alignment is the one in which the error of a depth is drawn.
    """
    if len(truth) not in (1, len(prediction)):
        raise MapError(f"{len(prediction)} predictions have {len(truth)} truths; connect as many, or one for all.")
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
    said = [*notes, *(doubt for comparison in found for doubt in comparison.doubts)]
    doubts = dict.fromkeys(f"Careful: {doubt}." for doubt in said)
    words = "\n".join([report.text(summary({kind: found})), *doubts])
    drawn = np.stack([views.error(kind, *pair, alignment) for pair in pairs])
    return drawn.astype(np.float32), f"{words}\n{views.legend(kind)}"


def as_map(picture: Array, kind: str) -> Array:
    """Return what a decoded picture [H, W, >=3] holds, as `layout.read` would, semantic maps as codes.

    depth is the mean of the channels (where nothing is there: see `nothing`); normals are 2 x - 1.
    """
    colours = picture[..., :3].astype(np.float32)
    if kind == "depth":
        colours = np.where(np.isposinf(colours), np.float32(0), colours)
    if not np.isfinite(colours).all():
        raise MapError(f"The {kind} picture holds NaN or infinity; look where it is made.")
    if kind == "semantic":
        return semantic.codes(np.rint(np.clip(colours, 0, 1) * 255).astype(np.uint8))
    if kind == "normal":
        return layout.marked(colours * 2 - 1, kind)
    if layout.KINDS[kind].channels == 3:
        return colours
    if np.ptp(colours, axis=-1).mean() > FURTHEST_CHANNELS:
        raise MapError(f"The channels of the {kind} picture differ, so they are not one value; connect a {kind} map.")
    return layout.marked(colours.mean(axis=-1), kind)
