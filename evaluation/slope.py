"""Do normals agree with the slope of the depth of the same room? If not, their axes may be wrong.

A plane n . x = p has the distance d in direction r if 1 / d = (n / p) . r. So nine pixels around a place, about two
degrees apart, determine n by least squares; the residual shows whether the place is flat. The depth's scale does not
change n. Axes: front +X, up +Y, left +Z.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..mapfiles.errors import MapError
from ..mapfiles.nothing import without_far_plane
from ..mapfiles.pictures import Array
from ..mapfiles.trees import Side
from .run import Pair

APART = 2.0
"""Degrees between the nine pixels."""
FLAT = 0.01
"""A place is a plane if 1 / d differs from the plane's by no more than this share (root mean square)."""
HIGHEST = 60.0
"""Degrees of latitude; above this, neighbouring columns are too close together."""
PLACES = 4000
LEAST_PLACES, LEAST_SHARE = 20, 0.1
"""With fewer flat places there is no result: a map of noise has few."""
NOISE, CONTRADICTION = 5.0, 40.0
"""Degrees. Normals and depth of one room differ by less than the first in the mean, or by a little more if both are
predicted. Above the second, they are of different rooms or in different frames."""

ROOMS_CHECKED = 3
COLOURS, AXES = ("red", "green", "blue"), ("front", "up", "left")

Order = tuple[tuple[int, int], ...]
"""For front, up and left: the channel that holds it, and its sign."""
ORDERS: tuple[Order, ...] = tuple(
    tuple(zip(channels, signs))
    for channels in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
)
AS_READ = ORDERS[0]


class Verdict(NamedTuple):
    """The mean angle in degrees between normals as they are read and the slope, and the best order and its angle.

    Not the median: floor and ceiling are more than half of a room, so a median would not show that front and left are
    swapped.
    """

    angle: float
    best: Order
    best_angle: float

    @property
    def has_better(self) -> bool:
        """Return whether the normals fit this depth with other axes, and clearly better."""
        return self.angle > NOISE and self.best_angle < min(CONTRADICTION, self.angle / 2)

    @property
    def contradicts(self) -> bool:
        """Return whether the normals contradict this depth, with the axes as they are read."""
        return self.has_better or self.angle > CONTRADICTION


def verdict(normals: Array, depth: Array) -> Verdict | None:
    """Compare normals [H, W, 3] with the slope of a depth [H, W], NaN = none; None where too little is flat."""
    rows, columns = _places(*depth.shape)
    slopes, flat = _slopes(depth, rows, columns)
    given = normals[rows, columns]
    flat &= np.isfinite(given).all(axis=-1)
    if np.count_nonzero(flat) < max(LEAST_PLACES, LEAST_SHARE * rows.size):
        return None
    angles = {order: _mean_angle(_ordered(given[flat], order), slopes[flat]) for order in ORDERS}
    best = min(angles, key=lambda order: angles[order])
    return Verdict(angles[AS_READ], best, angles[best])


def sentence(found: Verdict) -> str:
    """Return a sentence: the angle between normals and slope, and the axes with which they would agree."""
    words = f"the normals contradict the slope of the depth: the mean angle between them is {found.angle:.0f} degrees"
    if not found.has_better:
        return f"{words}; they may be of two rooms, or turned relative to each other"
    signed = (("-" if sign < 0 else "") + COLOURS[channel] for channel, sign in found.best)
    better = ", ".join(f"{axis} = {colour}" for axis, colour in zip(AXES, signed))
    return f"{words}, but {found.best_angle:.0f} with {better}; expected are front = red, up = green, left = blue"


def _ordered(normals: Array, order: Order) -> Array:
    return np.stack([sign * normals[..., channel] for channel, sign in order], axis=-1)


def _mean_angle(one: Array, other: Array) -> float:
    return float(np.degrees(np.mean(np.arccos(np.clip((one * other).sum(axis=-1), -1, 1)))))


def _places(height: int, width: int) -> tuple[Array, Array]:
    """Return rows [N] and columns [N] of at most about PLACES pixels, evenly spread below the highest latitude."""
    apart = max(1, int(np.sqrt(height * width / PLACES)))
    latitude = 90 - (np.arange(height) + 0.5) * 180 / height
    rows = np.flatnonzero(np.abs(latitude) <= HIGHEST)[::apart]
    down, across = np.meshgrid(rows, np.arange(0, width, apart), indexing="ij")
    return down.ravel(), across.ravel()


def _slopes(depth: Array, rows: Array, columns: Array) -> tuple[Array, Array]:
    """Return unit normals [N, 3] that face the viewer, and whether each place is flat [N]."""
    height, width = depth.shape
    step = max(1, round(width * APART / 360))
    down, right = (offsets.ravel() * step for offsets in np.meshgrid((-1, 0, 1), (-1, 0, 1), indexing="ij"))
    near_rows = np.clip(rows[:, None] + down, 0, height - 1)
    near_columns = (columns[:, None] + right) % width
    rays = _rays(height, width, near_rows, near_columns)
    inverse = 1 / depth[near_rows, near_columns].astype(np.float64)
    known = np.isfinite(inverse).all(axis=1)
    inverse[~known] = 1.0
    normal = np.linalg.solve(np.einsum("nka,nkb->nab", rays, rays), np.einsum("nka,nk->na", rays, inverse)[..., None])[
        ..., 0
    ]
    rest = np.sqrt(((np.einsum("nka,na->nk", rays, normal) - inverse) ** 2).mean(axis=1)) / inverse.mean(axis=1)
    return -normal / np.linalg.norm(normal, axis=-1, keepdims=True), known & (rest < FLAT)


def _rays(height: int, width: int, rows: Array, columns: Array) -> Array:
    latitude = (0.5 - (rows + 0.5) / height) * np.pi
    longitude = (0.5 - (columns + 0.5) / width) * 2 * np.pi
    flat = np.cos(latitude)
    return np.stack([flat * np.cos(longitude), np.sin(latitude), flat * np.sin(longitude)], axis=-1)


def wrong_axes(predicted: Side, truth: Side, pairs: Sequence[Pair]) -> list[str]:
    """Return a sentence for each side whose normals contradict its own depth, in the first rooms that have both.

    A relative depth is bent by an unknown offset, so a prediction is reported only if other axes fit.
    """
    stems = [pair.stem for pair in pairs if pair.kind == "normal"]
    sentences = []
    for side, name in ((predicted, "prediction"), (truth, "truth")):
        both = [stem for stem in stems if stem in side.maps.get("depth", {})][:ROOMS_CHECKED]
        for stem in both:
            found = _verdict(side, stem)
            if found and found.contradicts and (found.has_better or side is truth):
                sentences.append(f"normal of {stem}, {name}: {sentence(found)}")
                break
    return sentences


def _verdict(side: Side, stem: str) -> Verdict | None:
    """Compare normals with their depth; None if a map can't be read (reported elsewhere) or sizes differ."""
    try:
        normals, depth = (side.read(side.maps[kind][stem], kind) for kind in ("normal", "depth"))
    except MapError:
        return None
    return verdict(normals, without_far_plane(depth)[0]) if normals.shape[:2] == depth.shape else None
