"""Where a surface ends: a jump that neither neighbour's plane explains.

Between neighbours p and q, each one's plane predicts the inverse distance at the other. On one plane both predictions
hold. Over an edge of a continuous surface the two planes cross between the pixels, so the errors have opposite signs.
Only where both planes miss on the same side is there a gap, whose size is the smaller miss.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .frame import Array, pixel_directions
from .planes import dotted
from .surface import Flags, Surface, over_poles

# How far a predicted normal may be wrong. Without it, two degrees would tear a floor that is seen edge-on.
DOUBT = np.radians(3.0)
STEEPEST = np.radians(89.99)
# A slope is the median of this many steps, so that one step of noise or of blur does not pass for the surface.
STEPS = 3


class Cuts(NamedTuple):
    """Where pixels [M, N] part from the next one to the right, and below [M - 1, N]; and which hang in the air.

    A pixel hangs in the air if it is cut from both neighbours on one axis and lies between them: no surface, but the
    mean of two.
    """

    right: Flags
    down: Flags
    flying: Flags


def cuts_of(inverse: Array, valid: Flags, normals: Array | None, tolerance: Array, doubt: float = DOUBT) -> Cuts:
    """Return the cuts.  tolerance [M, N]: the jump that counts, as a share of the farther distance."""
    across, below = gaps(inverse, valid, normals, doubt)
    right, down = _without_lone(
        across > np.maximum(tolerance, np.roll(tolerance, -1, axis=1)),
        below > np.maximum(tolerance[1:], tolerance[:-1]),
    )
    return Cuts(right, down, valid & _flying(inverse, right, down))


def gaps(inverse: Array, valid: Flags, normals: Array | None, doubt: float = DOUBT) -> tuple[Array, Array]:
    """Return the gap to the next pixel on the right [M, N] and below [M - 1, N], as a share of the farther distance.

    doubt: how far a normal may be wrong, in radians.
    """
    w = np.where(valid, inverse, np.nan)
    right, down = _by_slope(w), _by_slope(over_poles(w, STEPS).T).T[STEPS:-STEPS]
    if w.shape[0] < STEPS:
        down = _by_slope(w.T).T[:-1]
    if normals is not None:
        rays = pixel_directions(*w.shape)
        known = (normals != 0).any(axis=-1)
        beside = np.roll(known, -1, axis=1) & known
        across, fallen = (_by_normal(w, normals, rays, doubt, vertical) for vertical in (False, True))
        below, down = known[1:] & known[:-1], down[: w.shape[0] - 1]
        # Normals that are often wrong may only take back a cut, so that they never tear what the depth holds together.
        if doubt > DOUBT:
            across, fallen = np.fmin(across, right), np.fmin(fallen, down)
        right, down = np.where(beside, across, right), np.where(below, fallen, down)
    return np.nan_to_num(right), np.nan_to_num(down[: w.shape[0] - 1])


def _by_slope(w: Array) -> Array:
    """Return the gap to the next column of w, whose columns are a circle, by the slopes on either side."""
    steps = np.nan_to_num(np.roll(w, -1, axis=1) - w)
    before, after = (median_of(*(np.roll(steps, s * sign, axis=1) for s in (1, 2, 3))) for sign in (1, -1))
    beside = np.roll(w, -1, axis=1)
    beyond, back = w + before - beside, w - beside + after
    return _gap((beyond, beyond), (back, back), w, beside)


def _by_normal(w: Array, normals: Array, rays: Array, doubt: float, vertical: bool) -> Array:
    """Return the gap to the next pixel by the planes that the normals stand on, each tilted by up to `doubt`."""
    near = [a[:-1] if vertical else a for a in (w, normals, rays)]
    next_ = [a[1:] if vertical else np.roll(a, -1, axis=1) for a in (w, normals, rays)]
    far_low, far_high = _predicted(near[1], near[2], next_[2], doubt)
    back_low, back_high = _predicted(next_[1], next_[2], near[2], doubt)
    beyond = (near[0] * far_low - next_[0], near[0] * far_high - next_[0])
    back = (near[0] - next_[0] * back_high, near[0] - next_[0] * back_low)
    return _gap(beyond, back, near[0], next_[0])


def _predicted(normals: Array, at: Array, towards: Array, doubt: float) -> tuple[Array, Array]:
    """Return the least and the greatest ratio of inverse distances, towards / at, on a plane of about this normal.

    On a plane it is (n . towards) / (n . at) = cos d - tan(phi) sin d, d between the rays and phi between plane and
    sight.
    """
    cosine = dotted(at, towards)
    sine = np.sqrt(np.maximum(1 - cosine**2, 1e-18))
    facing = dotted(normals, at)
    along = (dotted(normals, towards) - facing * cosine) / sine
    slant = np.arctan2(along, -facing)
    low, high = (cosine - np.tan(np.clip(slant + tilt, -STEEPEST, STEEPEST)) * sine for tilt in (doubt, -doubt))
    return low, high


def _gap(beyond: tuple[Array, Array], back: tuple[Array, Array], w: Array, beside: Array) -> Array:
    """Return what is left between two planes whose errors lie in the ranges `beyond` and `back`."""
    above = np.minimum(beyond[0], back[0])
    below = np.minimum(-beyond[1], -back[1])
    return np.maximum(np.maximum(above, below), 0) / np.maximum(w, beside)


def median_of(a: Array, b: Array, c: Array) -> Array:
    """Return the middle one of three values, element by element."""
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))


def _without_lone(right: Flags, down: Flags) -> tuple[Flags, Flags]:
    """Drop cuts of one pixel's length: with a whole surface all round, they open nothing."""
    ends = cuts_at_corners(right, down)
    # A cut right of pixel (i, j) runs from corner (i, j + 1) down, one below it from corner (i + 1, j) to the right.
    meets = np.roll(ends, -1, axis=1)
    return right & ((meets[:-1] > 1) | (meets[1:] > 1)), down & ((ends[1:-1] > 1) | (meets[1:-1] > 1))


def cuts_at_corners(right: Flags, down: Flags) -> Array:
    """Return how many cuts meet at each corner, [M + 1, N]; at a pole those of its row."""
    count = np.zeros((right.shape[0] + 1, right.shape[1]), dtype=np.int8)
    beside = np.roll(right, 1, axis=1).astype(np.int8)
    count[:-1] += beside
    count[1:] += beside
    count[1:-1] += down.astype(np.int8) + np.roll(down, 1, axis=1)
    return count


def _flying(w: Array, right: Flags, down: Flags) -> Flags:
    left = np.roll(right, 1, axis=1)
    across = (np.roll(w, 1, axis=1) - w) * (w - np.roll(w, -1, axis=1)) > 0
    flying = left & right & across
    flying[1:-1] |= down[:-1] & down[1:] & ((w[:-2] - w[1:-1]) * (w[1:-1] - w[2:]) > 0)
    return flying


def with_borders(inverse: Array, valid: Flags, normals: Array | None, right: Flags, down: Flags) -> Surface:
    """Cut also where a surface meets what has no distance, and nowhere within that."""
    beside = np.roll(valid, -1, axis=1)
    right = (right & valid & beside) | (valid != beside)
    down = (down & valid[1:] & valid[:-1]) | (valid[1:] != valid[:-1])
    return Surface(inverse, valid, normals, right, down)
