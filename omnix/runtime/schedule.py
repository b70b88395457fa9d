"""The noise levels of a panorama: FLUX's shift for its size, in a table on which `simple` is exact.

ComfyUI's `simple` scheduler with n steps reads entry floor(x N / n) from the end of a table of N noise levels, for
x = 0 .. n-1, where the reference has t = 1 - x / n. In the stock table of N = 10,000 evenly spaced t, the truncation
alone costs 3.5e-3 relative error of the result at 3 steps. Here, each entry that a step count up to 200 reads contains
exactly the t of that step count. No entry is needed for two values: fractions with denominators up to 200 are at least
1 / (200 * 199) apart, further than two neighbouring entries. N is prime, so x N / n is never close to a whole number,
where rounding could read the wrong entry.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ENTRIES = 40_009
LARGEST_STEP_COUNT = 200


def flow_shift(height: int, width: int, seam: int) -> float:
    """Return mu for a latent of height x width, in latent cells, widened by `seam` columns.

    mu = 0.5 + 0.65 (L - 256) / 3840 with L tokens of 2 x 2 cells (FLUX's base shift 0.5 at 256 tokens, 1.15 at 4096).
    """
    tokens = math.ceil(height / 2) * math.ceil((width + seam) / 2)
    return 0.5 + 0.65 * (tokens - 256) / 3840


def times() -> Tensor:
    """Return the table's t, ascending in (0, 1], [ENTRIES] float64: evenly spaced, except for the entries in use."""
    table = torch.arange(1, ENTRIES + 1, dtype=torch.float64) / ENTRIES
    for steps in range(1, LARGEST_STEP_COUNT + 1):
        taken = torch.arange(steps)
        table[ENTRIES - 1 - taken * ENTRIES // steps] = 1 - taken.double() / steps
    return table


def sigmas(mu: float) -> Tensor:
    """Return the table's noise levels sigma(t) = e^mu / (e^mu + 1/t - 1), ascending, [ENTRIES] float32."""
    return (math.exp(mu) / (math.exp(mu) + 1 / times() - 1)).float()
