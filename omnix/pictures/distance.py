"""Depth values that are not distances but mean "nothing is here": sky, an open window, a hole in a scan.

| value | where it comes from |
|---|---|
| 0, below 0, infinite | most renderers and scanners |
| 1e9 and more | Blender's Z writes 1e10 |
| exactly 65504 | the largest 16-bit float: the distance did not fit |
| the far plane: see below | renderers whose camera has a clip end |

The far plane is the largest distance, if at least 2 pixels and 0.1 % of the map have exactly this value, and it is more
than twice every other distance and more than 1. (Relative depth ends at 1, where it is still a surface.) NaN is not in
this list: it is an error, and refused where maps are checked. `mapfiles/nothing.py` has the same rule for ground
truth; a test checks that both agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

ENDLESS = 1e9
LARGEST_HALF = 65504.0
LEAST_SHARE, LEAST_PIXELS = 0.001, 2
TIMES_FARTHER = 2.0


def is_nothing(depth: Tensor) -> Tensor:
    """Return where values of a depth map [H, W] are not distances; NaN is not included."""
    nothing = (depth <= 0) | (depth >= ENDLESS) | (depth == LARGEST_HALF)
    known = depth[~nothing & ~depth.isnan()]
    if known.numel():
        farthest = known.max()
        nearer = known[known < farthest]
        alike = known.numel() - nearer.numel()
        often = alike >= max(LEAST_PIXELS, LEAST_SHARE * depth.numel())
        if often and nearer.numel() and farthest > 1 and farthest > TIMES_FARTHER * nearer.max():
            nothing |= depth == farthest
    return nothing


def distances_alone(depth: Tensor) -> tuple[Tensor, str]:
    """Return a depth map [H, W] with 0 where nothing is, and a line about such values other than 0, if any."""
    nothing = is_nothing(depth)
    values = depth[nothing & (depth != 0)]
    if not values.numel():
        return depth, ""
    some = ", ".join(f"{value:g}" for value in values.unique()[:4].tolist())
    line = f"Depth: {values.numel():,} pixels have values that are not distances ({some}); they are left open."
    return torch.where(nothing, torch.zeros_like(depth), depth), line
