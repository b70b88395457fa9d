"""Maps beside perceived ones: what can be said without looking, and what knowing each pixel's class would tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...evaluation import semantic
from ...mapfiles import layout
from ...mapfiles.pictures import Array
from .pictures import halved

MATERIAL = ("roughness", "metallic")


def without_looking(truth: Path, target: Path, stems: Sequence[str], kinds: Sequence[str]) -> None:
    """Write the picture as albedo, else the mean of all the rooms.

    That of depth and normals is one for each row: floors lie below, and the poles are near.
    """
    for kind in kinds:
        shown = {
            stem: layout.read(layout.find(truth, "rgb" if kind == "albedo" else kind, stem), kind) for stem in stems
        }
        mean = np.nanmean([relative(values, kind) for values in shown.values()], axis=0)
        level = np.nanmean(mean, axis=1 if kind in ("depth", "normal") else (0, 1), keepdims=True)
        for stem, values in shown.items():
            layout.write(
                layout.place(target, kind, stem),
                kind,
                values if kind == "albedo" else np.broadcast_to(level, mean.shape),
            )


def by_class(rendered: Path, target: Path, stems: Sequence[str]) -> None:
    """Write as roughness and metallic the mean, over all these rooms, of each pixel's true class.

    What differs within a class is drawn by chance in such rooms: who sees it must see the material itself.
    """
    classes = np.stack(
        [semantic.codes(layout.read(layout.find(rendered, "semantic", stem), "semantic")) for stem in stems]
    )
    _, numbers = np.unique(classes, return_inverse=True)
    numbers = numbers.reshape(classes.shape)
    for kind in MATERIAL:
        values = np.stack([layout.read(layout.find(rendered, kind, stem), kind) for stem in stems])
        means = np.bincount(numbers.ravel(), values.ravel()) / np.bincount(numbers.ravel())
        for stem, number in zip(stems, numbers):
            layout.write(layout.place(target, kind, stem), kind, halved(means[number]))


def relative(values: Array, kind: str) -> Array:
    """Divide a depth by its largest value, as the adapters' target is."""
    return values / np.nanmax(values) if kind == "depth" else values
