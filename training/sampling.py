"""Sample a latent from the adapters as they are: the graphs' Euler steps, in a loop of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..omnix.panorama import blend_seam_, crop, widen
from ..omnix.schedule import flow_shift
from ..omnix.streams import Stream
from .flow import Prompt, predict


@torch.no_grad()
def sample(
    flux: nn.Module,
    streams: Sequence[Stream],
    conditions: Sequence[Tensor],
    noise: Tensor,
    prompt: Prompt,
    steps: int,
    seam: int,
) -> Tensor:
    """Return the target's latent [b, 16, h, w] for conditions and noise of that size; inside `recording`.

    sigma(t) = e^mu / (e^mu + 1/t - 1) for t = 1, (n-1)/n, .., 1/n, then 0; the seam is blended after every step, and
    once more in the end.
    """
    factor = math.exp(flow_shift(noise.shape[-2], noise.shape[-1], seam))
    levels = [factor / (factor + steps / (steps - number) - 1) for number in range(steps)] + [0.0]
    fixed = [widen(condition, seam) for condition in conditions]
    x = widen(noise, seam)
    for now, after in pairwise(levels):
        t = torch.full((x.shape[0],), now, device=x.device)
        velocity = predict(flux, streams, [*fixed, x], t, prompt)
        x = blend_seam_(x + (after - now) * velocity.to(x), seam)
    return crop(blend_seam_(x, seam), seam)
