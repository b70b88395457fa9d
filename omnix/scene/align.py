"""Bring a second depth of one panorama to the scale and shift of the first, by the pixels that both see.

OmniX's depth is a relative distance along the ray: linear in the distance, with a scale, and where a tool stretched it
a shift, of its own in each map. So first = scale * second + shift, found with differences that are shares of the
distance. Half of the pixels may be wrong: the line is chosen among those through pairs of pixels, then fitted to what
is near it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .frame import Array, reciprocal, spread
from .noise import clipped
from .surface import Flags

# Pixels that are compared, and pairs of them that a line is drawn through; the pairs are the same in each run.
PIXELS, PAIRS, SEED = 4000, 300, 0
# At least this share of the sphere must be seen by both.
LEAST_SEEN = 0.02
# The two agree where they differ by less than this share; so many must, with half of the map's own spread as median
# difference at most, or this little.
AGREE, LEAST_AGREE, EXPLAINED, CLOSE = 0.1, 0.5, 0.5, 0.02
ROUNDS, WIDE = 10, 3.0


class Fit(NamedTuple):
    """First depth = scale * second + shift; the share of pixels that then agree, and the median difference."""

    scale: float
    shift: float
    agree: float
    off: float


def fit(first: Array, second: Array, both: Flags) -> Fit:
    """Return how a second depth [H, W] fits the first where both see the same; 0 means no distance in either.

    Raises ValueError, one sentence, if the two have too little in common, or disagree.
    """
    f, s = _compared(first, second, both)
    pairs = np.random.default_rng(SEED).integers(0, len(f), (2, PAIRS))
    apart = s[pairs[0]] != s[pairs[1]]
    one, two = pairs[:, apart]
    scales = np.concatenate([(f[one] - f[two]) / (s[one] - s[two]), f[pairs[0]] / s[pairs[0]]])
    shifts = np.concatenate([f[one] - scales[: len(one)] * s[one], np.zeros(PAIRS)])
    scale, shift = _best(f, s, scales, shifts)
    for _ in range(ROUNDS):
        scale, shift = _refitted(f, s, scale, shift)
    off = np.abs(scale * s + shift - f) / f
    found = Fit(float(scale), float(shift), float((off < AGREE).mean()), float(np.median(off)))
    spread_of_first = float(np.median(np.abs(f / np.median(f) - 1)))
    if found.agree < LEAST_AGREE or found.off > max(CLOSE, EXPLAINED * spread_of_first):
        raise ValueError(
            f"The second depth does not fit the first: they differ by {found.off:.0%} (median) where both see the "
            "same; connect the depth of the filled panorama, and the mask that was used to fill it."
        )
    if scale <= 0:
        raise ValueError("The second depth is inverted: it gets nearer where the first gets farther; invert it first.")
    return found


def _compared(first: Array, second: Array, both: Flags) -> tuple[Array, Array]:
    """Return the values [N] of both depths at pixels that are spread evenly over what both see."""
    known = both & (first > 0) & (second > 0)
    for name, depth in (("first", first), ("second", second)):
        if known.any() and np.ptp(depth[known]) <= 1e-6 * depth[known].max():
            raise ValueError(
                f"The {name} depth is {depth[known].max():g} everywhere; connect the mask output of OmniX Depth."
            )
        known &= ~clipped(reciprocal(depth), depth > 0)
    places = spread(first.shape, PIXELS)
    held = known[places]
    if held.mean() < LEAST_SEEN:
        raise ValueError(
            f"The two depths have {held.mean():.1%} of the sphere in common, too little to compare them; use a smaller "
            "mask, or connect depths without holes."
        )
    return first[places][held].astype(float), second[places][held].astype(float)


def _best(f: Array, s: Array, scales: Array, shifts: Array) -> tuple[float, float]:
    """Return the line whose median difference is the least."""
    off = np.stack([np.median(np.abs(a * s + b - f) / f) for a, b in zip(scales, shifts)])
    best = int(off.argmin())
    return float(scales[best]), float(shifts[best])


def _refitted(f: Array, s: Array, scale: float, shift: float) -> tuple[float, float]:
    """Return the least-squares line, in shares of the distance, of the pixels that are near a line."""
    off = np.abs(scale * s + shift - f) / f
    near = off <= max(WIDE * 1.4826 * float(np.median(off)), 1e-6)
    f, s = f[near], s[near]
    if np.ptp(s) <= 1e-6 * s.max():
        return scale, shift
    found = np.linalg.lstsq(np.stack([s / f, 1 / f], axis=1), np.ones_like(f), rcond=None)[0]
    return float(found[0]), float(found[1])
