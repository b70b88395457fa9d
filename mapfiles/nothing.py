"""Values of a depth that mean "no surface here": sky, an open window, a hole in a scan. They are not distances.

| value | where it comes from |
|---|---|
| 0, below 0, infinite | most renderers and scanners |
| 1e9 and more | Blender's Z writes 1e10 |
| exactly 65504 in EXR, exactly 65535 in PNG | the largest number of 16 bits: the distance did not fit |
| the far plane: see below | renderers whose camera has a clip end |

`layout.read` sets the first three to NaN. The far plane is a guess from the whole map: the largest depth, if at least 2
pixels and 0.1 % of the map have exactly this value, and it is more than twice every other depth and more than 1 (the
largest relative depth is 1, and that is a surface). The guess is made for ground truth and for training data
(`without_far_plane`), never for a prediction, and it is reported. `omnix/pictures/distance.py` follows the same rule.
"""

from __future__ import annotations

import numpy as np

from .pictures import Array

ENDLESS = 1e9
LARGEST = {"float": 65504, "integer": 65535}
"""The largest number that a file of 16 bits can hold: half floats, unsigned integers."""
FAR_PLANE = (
    "many pixels of the truth share its largest depth, and it is more than twice every other depth: these pixels were "
    "ignored as the far plane of a renderer"
)
LEAST_SHARE, LEAST_PIXELS = 0.001, 2
TIMES_FARTHER = 2.0


def nothing_there(stored: Array) -> Array:
    """Return where stored depths (floats, or uint16) are not distances; NaN counts too."""
    if stored.dtype.kind == "u":
        return (stored == 0) | (stored == LARGEST["integer"])
    return ~((stored > 0) & (stored < ENDLESS) & (stored != LARGEST["float"]))


def without_far_plane(depth: Array) -> tuple[Array, int]:
    """Return a depth [H, W] with NaN on its far plane, and how many pixels that are (0 without one)."""
    known = depth[np.isfinite(depth)]
    largest = known.max(initial=0)
    nearer = known[known < largest]
    pixels = known.size - nearer.size
    if not nearer.size or pixels < max(LEAST_PIXELS, LEAST_SHARE * depth.size):
        return depth, 0
    if largest <= max(1.0, TIMES_FARTHER * nearer.max()):
        return depth, 0
    return np.where(depth == largest, np.float32(np.nan), depth), pixels
