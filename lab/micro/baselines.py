"""Baselines for the micro model: predictions that need no neural network.

They are fitted to other rooms of the same renderer, never to the judged ones. A baseline has a value wherever the truth
has one, so that it is measured on the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...mapfiles.pictures import Array
from .classes import LEGEND
from .judged import JudgedRoom
from .pictures import halved

Predict = Callable[[JudgedRoom], Array]
RIDGE = 1e-4
"""Times the number of pixels: the penalty on the squared weights."""
MATERIAL = ("roughness", "metallic")


class Target(NamedTuple):
    """The function of a map [H, W, ..] that is fitted, and its inverse."""

    of: Callable[[Array], Array]
    back: Callable[[Array], Array]


def _unit(vectors: Array) -> Array:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


_VALUES = Target(lambda values: values, lambda values: np.clip(values, 0, 1))
TARGETS = {
    # The scale is aligned when depths are compared, so only ratios count.
    "depth": Target(lambda depth: np.log(depth / np.nanmedian(depth)), np.exp),
    "normal": Target(lambda normal: normal, _unit),
    "albedo": _VALUES,
    "roughness": _VALUES,
    "metallic": _VALUES,
    "semantic": Target(lambda codes: (codes[..., None] == LEGEND) * 1.0, lambda shares: LEGEND[shares.argmax(axis=-1)]),
}


def rows(picture: Array) -> Array:
    """Return the row of each pixel as one of H numbers, [H W, H]: this baseline does not see the picture."""
    height, width = picture.shape[:2]
    return np.repeat(np.eye(height), width, axis=0)


def colours_and_rows(picture: Array) -> Array:
    """Return the colour, its products, the picture's mean colour, the products of both, and the row, [H W, 21 + H]."""
    colour = picture.reshape(-1, 3).astype(np.float64)
    mean = np.broadcast_to(colour.mean(axis=0), colour.shape)
    first, second = np.triu_indices(3)
    squares = colour[:, first] * colour[:, second]
    crossed = np.einsum("na,nb->nab", colour, mean).reshape(-1, 9)
    return np.concatenate([colour, squares, mean, crossed, rows(picture)], axis=1)


def fitted(kind: str, rooms: Sequence[JudgedRoom], features: Callable[[Array], Array]) -> Predict:
    """Fit a map linearly to features of the picture by ridge regression."""
    target = TARGETS[kind]
    sums = [_products(features(room.maps["rgb"]), target.of(room.maps[kind].astype(np.float64))) for room in rooms]
    squares, products, pixels = (np.sum(column, axis=0) for column in zip(*sums))
    shape = target.of(rooms[0].maps[kind]).shape
    weights = np.linalg.solve(squares + RIDGE * pixels * np.eye(len(squares)), products)
    return lambda room: target.back((features(room.maps["rgb"]) @ weights).reshape(shape))


def _products(x: Array, y: Array) -> tuple[Array, Array, int]:
    """Return x' x and x' y of features [N, K] and a target [H, W, ..], and the number of pixels with a target."""
    y = y.reshape(len(x), -1)
    known = np.isfinite(y).all(axis=1)
    return x[known].T @ x[known], x[known].T @ y[known], int(np.count_nonzero(known))


def by_class(kind: str, rooms: Sequence[JudgedRoom]) -> Predict:
    """Predict the mean of each pixel's true class over these same rooms: an oracle.

    Within a class, the rooms' materials are random.
    """
    classes, values = (np.stack([room.fine[name] for room in rooms]).ravel() for name in ("semantic", kind))
    known, numbers = np.unique(classes, return_inverse=True)
    means = np.bincount(numbers.ravel(), values) / np.bincount(numbers.ravel())
    return lambda room: halved(means[np.searchsorted(known, room.fine["semantic"])])


def baselines(rooms: Sequence[JudgedRoom], others: Sequence[JudgedRoom]) -> Mapping[str, Mapping[str, Predict]]:
    """Return title -> kind -> prediction; all except the oracle of classes are fitted to the other rooms."""
    kinds = [kind for kind in TARGETS if kind in rooms[0].maps]
    found = {
        "mean of rows": {kind: fitted(kind, others, rows) for kind in kinds},
        "ridge": {kind: fitted(kind, others, colours_and_rows) for kind in kinds},
        "the picture": {"albedo": lambda room: room.maps["rgb"]},
        "empty room (oracle)": {
            "depth": lambda room: room.empty["depth"],
            "normal": lambda room: room.empty["normal"],
        },
    }
    materials = [kind for kind in MATERIAL if kind in rooms[0].fine]
    return found | {"class (oracle)": {kind: by_class(kind, rooms) for kind in materials}} if materials else found
