"""Bring the larger map of a pair to the size of the smaller one, each kind of map with the filter that it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .layout import marked
from .pictures import Array

Size = tuple[int, int]
"""(height, width)."""


def nearest(values: Array, size: Size) -> Array:
    """Return the pixel under the centre of each new pixel: no distance and no class is made up between two."""
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(size, values.shape))
    return values[rows[:, None], columns]


def area(values: Array, size: Size) -> Array:
    """Return the mean of what each new pixel covers."""
    return _means(_means(values.astype(np.float64), size[0]).swapaxes(0, 1), size[1]).swapaxes(0, 1).astype(np.float32)


def _means(values: Array, new: int) -> Array:
    """Return the means over the first axis: differences of its running sum at the new borders."""
    old = values.shape[0]
    total = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    borders = np.arange(new + 1) * old / new
    below = np.minimum(borders.astype(np.intp), old - 1)
    share = (borders - below).reshape(-1, *[1] * (values.ndim - 1))
    at = total[below] + share * (total[below + 1] - total[below])
    return np.diff(at, axis=0) * (new / old)


def _of_normals(values: Array, size: Size) -> Array:
    """Return the directions of the means; a normal that is none has no say in them."""
    return marked(area(np.nan_to_num(values, nan=0.0), size), "normal")


class Filter(NamedTuple):
    """How maps are made smaller, and how that is called in the report."""

    name: str
    apply: Callable[[Array, Size], Array]


_AREA = Filter("mean of the area", area)
FILTERS = {
    "depth": Filter("nearest pixel", nearest),
    "normal": Filter("mean of the area, unit length", _of_normals),
    "albedo": _AREA,
    "roughness": _AREA,
    "metallic": _AREA,
    "semantic": Filter("nearest pixel", nearest),
}


def to_one_size(kind: str, prediction: Array, truth: Array) -> tuple[Array, Array, str]:
    """Return both maps in the smaller size, and what was done in words ("" if nothing).

    Maps of different shapes (2:1 and 4:3) stay as they are, for they don't show the same.
    """
    ours, true = prediction.shape[:2], truth.shape[:2]
    if ours == true or ours[0] * true[1] != ours[1] * true[0]:
        return prediction, truth, ""
    way, size = FILTERS[kind], min(ours, true)
    shrunk = "prediction" if ours != size else "truth"
    before = max(ours, true)
    words = f"the {shrunk} was resized from {before[1]}x{before[0]} to {size[1]}x{size[0]} ({way.name})"
    if shrunk == "truth":
        return prediction, way.apply(truth, size), words
    return way.apply(prediction, size), truth, words
