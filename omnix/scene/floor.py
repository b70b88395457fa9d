"""The height of the viewer above the floor, also where a tripod covers the point straight below."""

from __future__ import annotations

import numpy as np

from .frame import Array, pixel_directions
from .noise import noise_of
from .planes import fitted
from .surface import Surface

# The floor is looked for below this latitude in degrees, on planes that are tilted by less than this many.
BELOW, TILTED = -25.0, 20.0
# So much of that part of the sphere must be such a plane, and agree on one height to this share.
LEAST, AGREE = 0.2, 0.05


def floor_below(surface: Surface) -> float:
    """Return the distance to the floor straight down, in the depth's unit; 0 if no floor is found.

    Each level plane below the viewer says how far it would be straight down; the height that most of them give, by
    their solid angle, is the floor's. A tripod, the viewer's shoes or a table are outnumbered.
    """
    step = max(1, len(surface.inverse) // 256)
    w, valid = (a[step // 2 :: step, step // 2 :: step] for a in (surface.inverse, surface.valid))
    planes, rays = fitted(w, valid, noise_of(w, valid).slack()), pixel_directions(*w.shape)
    below = rays[..., 1] < np.sin(np.radians(BELOW))
    down = -planes[..., 1]
    length = np.sqrt((planes**2).sum(axis=-1))
    level = below & valid & (down > np.cos(np.radians(TILTED)) * length) & (down > 0)
    angle = np.cos(np.arcsin(rays[..., 1]))
    if (angle * level).sum() < LEAST * (angle * below).sum():
        return 0.0
    return _most_common(1 / down[level], angle[level])


def _most_common(heights: Array, weights: Array) -> float:
    """Return the median of the heights in the share-wide window that holds the most weight."""
    order = np.argsort(heights)
    heights, total = heights[order], np.concatenate([[0.0], np.cumsum(weights[order])])
    ends = np.searchsorted(heights, heights * (1 + AGREE), side="right")
    start = int(np.argmax(total[ends] - total[: len(heights)]))
    return float(np.median(heights[start : ends[start]]))
