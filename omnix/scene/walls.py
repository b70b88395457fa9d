"""The large planes of a scene: floor, ceiling, walls, tops of tables, found among all planes of a depth map.

A plane through many pixels runs on truly where that of a few pixels beside a soft edge does not. Some of them shut the
viewer in, and nothing that is invented may lie beyond those: hardly anything was seen behind them. A table's top is
none, for the floor is seen beyond its edge; a wall with a window is one. Nor may anything invented leave the convex
hull of what was seen: a corridor that is seen through a door continues beside the door, but not out of the house.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from .frame import Array, pixel_directions
from .shading import unit
from .surface import Flags

# Planes are looked for on so many rows, among so many pixels' own, and at most so often.
ROWS, TRIES, MOST = 64, 400, 20
# Pixels within this share of the distance and this many degrees of its normal lie on a plane.
OFF, TILTED = 0.05, 25.0
# A plane counts from this share of the sphere on. This share of it may have something visible behind it.
LEAST, OPEN = 0.005, 0.35
# A hull's side ends at the viewer if it is nearer to the viewer than this share of the median distance. Rays at once.
THIN, AT_ONCE = 1e-6, 10_000


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
        plane = through(rays, near, area * (fits[best] & left))
        found.append(plane[None])
        around.append(area[rays @ plane > near * (1 + OFF)].sum() < OPEN * support[best])
        left &= ~fits[best]
    return Large(np.concatenate(found), np.array(around, dtype=bool))


def through(rays: Array, near: Array, weight: Array) -> Array:
    """Return the plane that fits best: its share of each inverse distance is nearest to 1."""
    shares, root = rays / near[:, None], np.sqrt(weight)
    return np.linalg.lstsq(shares * root[:, None], root, rcond=None)[0]


def hull(w: Array, valid: Flags) -> Array:
    """Return the planes [K, 3] of the convex hull of what a map of inverse distances [M, N] shows, and of the viewer.

    Where the hull ends at the viewer, as under an open sky, it has no plane.
    """
    part = slice(max(1, len(w) // ROWS) // 2, None, max(1, len(w) // ROWS))
    rays, near = (a[part, part][valid[part, part]] for a in (pixel_directions(*w.shape), w))
    try:
        sides = ConvexHull(np.concatenate([rays / near[:, None], np.zeros((1, 3))])).equations
    except QhullError:
        # Points in a line or on a plane through the viewer enclose nothing.
        return np.zeros((0, 3))
    off = -sides[:, 3]
    bounding = off > THIN / np.median(near)
    return np.unique(np.round(sides[bounding, :3] / off[bounding, None], 9), axis=0)


def outermost(planes: Array, rays: Array) -> Array:
    """Return the inverse distance along rays [N, 3] at which they leave a hull; 0 where they never do."""
    parts = np.array_split(rays.astype(np.float32), len(rays) // AT_ONCE + 1)
    sides = np.concatenate([np.zeros((1, 3)), planes]).astype(np.float32)
    return np.concatenate([(part @ sides.T).max(axis=1) for part in parts])
