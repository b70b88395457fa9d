"""The corners of the lattice: one vertex where the four pixels round it are one surface, more where cuts meet.

Quadrants of a corner are numbered round it: 0 upper left, 1 upper right, 2 lower right, 3 lower left. Pixels that hang
together have the smallest quadrant among them as their label, so (corner, label) names a vertex.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cuts import cuts_at_corners
from .frame import Array
from .surface import Flags, Surface, slopes

Ints = NDArray[Any]

FITS = 2
# Where the pixel of a quadrant lies as seen from its corner: rows and columns to add, and on from its centre to here.
ROW, COLUMN = np.array([-1, -1, 0, 0]), np.array([-1, 0, 0, -1])
ONWARDS_DOWN, ONWARDS_RIGHT = np.array([0.5, 0.5, -0.5, -0.5]), np.array([0.5, -0.5, -0.5, 0.5])


@dataclass(frozen=True)
class Corners:
    """Inverse distance [M + 1, N], and for the corners where cuts part the pixels, their labels [K, 4].

    `part` [M + 1, N] is the row in `labels`, or -1. `forced` are corners that a mesh needs, since a cut runs there.
    """

    surface: Surface
    inverse: Array
    forced: Flags
    part: Ints
    labels: Ints


def corners_of(surface: Surface) -> Corners:
    """Find the vertices of a surface."""
    count = cuts_at_corners(surface.right, surface.down)
    parted = count > 1
    parted[[0, -1]] = False
    part = np.full(count.shape, -1, dtype=np.int32)
    rows, columns = np.nonzero(parted)
    part[rows, columns] = np.arange(rows.size)
    return Corners(surface, _fitted(surface, ~parted), count > 0, part, _labels(surface, rows, columns))


def _fitted(surface: Surface, whole: Flags) -> Array:
    """Return inverse distances of the corners, from which the pixels' come back as means; NaN where there are none.

    A mean of four rounds off every edge of a surface, so what the mean of a pixel's corners lacks is added to them,
    where all four are whole. Each time leaves about half of the error (van Cittert's iteration).
    """
    number = _summed(surface.valid.astype(float))
    with np.errstate(invalid="ignore"):
        found = _summed(surface.inverse) / number
        enclosed = whole[:-1] & whole[1:]
        enclosed &= np.roll(enclosed, -1, axis=1) & surface.valid
        for _ in range(FITS):
            pairs = found[:-1] + found[1:]
            lacking = np.where(enclosed, surface.inverse - (pairs + np.roll(pairs, -1, axis=1)) / 4, 0.0)
            limit = 0.2 * found
            found = found + np.where(whole, np.clip(_summed(lacking) / number, -limit, limit), 0.0)
    return found


def _summed(pixels: Array) -> Array:
    """Return the sums of the pixels round each corner, [M + 1, N]; at a pole those of its row."""
    padded = np.pad(pixels, ((1, 1), (0, 0)))
    pairs = padded[:-1] + padded[1:]
    total = pairs + np.roll(pairs, 1, axis=1)
    total[[0, -1]] = pixels[[0, -1]].sum(axis=1, keepdims=True)
    return total


def _labels(surface: Surface, rows: Ints, columns: Ints) -> Ints:
    """Return the label of each quadrant of the corners, [K, 4]: its pixel hangs together with the next one, or not."""
    left = columns - 1
    cut = (
        surface.right[rows - 1, left],
        surface.down[rows - 1, columns],
        surface.right[rows, left],
        surface.down[rows - 1, left],
    )
    labels = np.tile(np.arange(4, dtype=np.int8), (rows.size, 1))
    for quadrant in (0, 1, 2, 3, 0, 1, 2, 3):
        pair = [quadrant, (quadrant + 1) % 4]
        least = labels[:, pair].min(axis=1, keepdims=True)
        labels[:, pair] = np.where(cut[quadrant][:, None], labels[:, pair], least)
    return labels


def label(corners: Corners, rows: Ints, columns: Ints, quadrants: Ints) -> Ints:
    """Return the label that quadrants [V] have at corners inside the panorama."""
    part = corners.part[rows, columns]
    return np.where(part < 0, 0, corners.labels[part, quadrants]) if corners.labels.size else np.zeros_like(rows)


def members(corners: Corners, rows: Ints, columns: Ints, labels: Ints) -> tuple[Ints, Ints, Flags]:
    """Return rows and columns of the four pixels round each vertex [V, 4], and which of them make it up."""
    part = corners.part[rows, columns]
    mine = np.ones((rows.size, 4), dtype=bool)
    apart = part >= 0
    mine[apart] = corners.labels[part[apart]] == labels[apart, None]
    return rows[:, None] + ROW, (columns[:, None] + COLUMN) % corners.inverse.shape[1], mine


def inverse_at(corners: Corners, rows: Ints, columns: Ints, labels: Ints) -> Array:
    """Return the inverse distance of vertices [V] inside the panorama.

    Beside a cut it is the mean of the pixels on one side, each carried on along its slope.
    """
    pixel_rows, pixel_columns, mine = members(corners, rows, columns, labels)
    across, down = slopes(corners.surface.inverse)
    near = pixel_rows, pixel_columns
    moved = corners.surface.inverse[near] + across[near] * ONWARDS_RIGHT + down[near] * ONWARDS_DOWN
    beside = (moved * mine).sum(axis=1) / mine.sum(axis=1)
    return np.where(corners.part[rows, columns] < 0, corners.inverse[rows, columns], beside)


def pole(surface: Surface, row: int) -> tuple[Array, Ints]:
    """Return the inverse distance [N] that the pixels of the first or last row (0 or -1) have at their pole, and runs.

    Pixels that hang together along the row share it, and the number [N] of their run: most often all of them do.
    """
    cut = surface.right[row]
    runs = np.cumsum(np.roll(cut, 1)) - cut[-1]
    runs = runs % max(1, np.count_nonzero(cut))
    held = surface.valid[row]
    total = np.bincount(runs, surface.inverse[row] * held)
    with np.errstate(invalid="ignore"):
        return (total / np.bincount(runs, held))[runs], runs
