"""The large planes of a scene: floor, ceiling, walls, tops of tables, found among all planes of a depth map.

A plane through many pixels runs on truly where that of a few pixels beside a soft edge does not. Some of them shut the
viewer in, and nothing that is invented may lie beyond those: hardly anything was seen behind them. A table's top is
none, for the floor is seen beyond its edge; a wall with a window is one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .frame import Array, pixel_directions
from .shading import unit
from .surface import Flags

# Planes are looked for on so many rows, among so many pixels' own, and at most so often.
ROWS, TRIES, MOST = 64, 400, 20
# Pixels within this share of the distance and this many degrees of its normal lie on a plane.
OFF, TILTED = 0.05, 25.0
# A plane counts from this share of the sphere on. This share of it may have something visible behind it.
LEAST, OPEN = 0.005, 0.35


class Large(NamedTuple):
    """Planes [K, 3], as `planes.fitted` has them, the largest first, and which of them [K] shut the viewer in."""

    planes: Array
    around: Flags


def large(planes: Array, w: Array, valid: Flags) -> Large:
    """Return the large planes of a map of inverse distances [M, N] whose pixels have `planes`."""
    step = max(1, len(w) // ROWS)
    part = slice(step // 2, None, step)
    held = valid[part, part] & (planes[part, part] ** 2).sum(axis=-1).astype(bool)
    rays, own, near = (a[part, part][held] for a in (pixel_directions(*w.shape), planes, w))
    area = np.sqrt(1 - rays[:, 1] ** 2)
    left, found, around = np.ones(len(own), dtype=bool), [np.zeros((0, 3))], []
    if not held.any():
        return Large(found[0], np.zeros(0, dtype=bool))
    tried = own[np.random.default_rng(0).choice(len(own), TRIES, p=area / area.sum())]
    fits = (np.abs(tried @ rays.T / near - 1) < OFF) & (unit(tried) @ unit(own).T > np.cos(np.radians(TILTED)))
    for _ in range(MOST):
        support = (fits * (area * left)).sum(axis=1)
        best = int(support.argmax())
        if support[best] < LEAST * area.sum():
            break
        plane = _through(rays, near, area * (fits[best] & left))
        found.append(plane[None])
        around.append(area[rays @ plane > near * (1 + OFF)].sum() < OPEN * support[best])
        left &= ~fits[best]
    return Large(np.concatenate(found), np.array(around, dtype=bool))


def _through(rays: Array, near: Array, weight: Array) -> Array:
    """Return the plane that fits best: its share of each inverse distance is nearest to 1."""
    shares, root = rays / near[:, None], np.sqrt(weight)
    return np.linalg.lstsq(shares * root[:, None], root, rcond=None)[0]
