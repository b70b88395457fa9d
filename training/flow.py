"""One training step's arithmetic: FLUX on all streams, and the flow-matching loss of the target.

The streams are those of sampling: the same deltas, the same joint attention, the same seam columns. The host's blocks
do two things for speed that would corrupt gradients, so this module avoids them: they add a residual in place to a
tensor that a LayerNorm has kept, and they share one dictionary of options, which names the current block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from ..omnix.pictures.panorama import blend_seam_, crop, widen
from ..omnix.runtime.schedule import flow_shift
from ..omnix.runtime.streams import Stream, adapted, joint_attention, of_target, stack, text_is_shared


class Prompt(NamedTuple):
    """The inputs of FLUX other than latents: text [b, tokens, channels], pooled vector [b, channels], guidance."""

    text: Tensor
    pooled: Tensor
    guidance: float


def predict(
    flux: nn.Module,
    streams: Sequence[Stream],
    latents: Sequence[Tensor],
    t: Tensor,
    prompt: Prompt,
    checkpointing: bool = False,
) -> Tensor:
    """Return the target's velocity [b, 16, h, w].

    `latents` are those of all streams, conditions first, each [b, 16, h, w] with its seam columns; t [b] in [0, 1].
    FLUX runs in the dtype of the prompt's text, or in that of autocast.
    Call it, and the backward pass through its result, inside `recording(flux, streams)`.
    """
    count = len(streams)
    guidance = torch.full_like(t, prompt.guidance)
    stacked = [stack(part, count) for part in (t, prompt.text, prompt.pooled, guidance)]
    whole = rearrange(list(latents), "s b c h w -> (b s) c h w").to(prompt.text.dtype)
    options = {
        "optimized_attention_override": joint_attention(
            _attention, count, prompt.text.shape[1], text_is_shared(streams)
        ),
        "patches_replace": {"dit": _checkpointed(flux) if checkpointing else {}},
    }
    return of_target(flux(whole, *stacked, None, None, options), count)


def loss_of(velocity: Tensor, clean: Tensor, noise: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean of (v - (noise - x0))^2 in float32, over the seam columns too, as in sampling.

    `weights` [b or 1, 1, h, w] make it a weighted mean over the batch; cells of weight 0 are not learned.
    """
    errors = (velocity.float() - (noise - clean).float()).square()
    if weights is None:
        return errors.mean()
    wide = weights.expand(errors.shape)
    return (errors * wide).sum() / wide.sum()


def latitude_weights(height: int) -> Tensor:
    """Return the cosine of the latitude of each row of a panorama's latent, [1, 1, h, 1]."""
    latitude = (0.5 - (torch.arange(height, dtype=torch.float64) + 0.5) / height) * math.pi
    return rearrange(latitude.cos().float(), "h -> 1 1 h 1")


def noisy(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return x_t = (1 - t) x0 + t noise; t [b]."""
    level = rearrange(t, "b -> b 1 1 1")
    return torch.lerp(clean, noise, level)


@contextmanager
def recording(flux: nn.Module, streams: Sequence[Stream]) -> Iterator[None]:
    """Let FLUX run with the streams' adapters, differentiably, while the context lasts."""
    with ExitStack() as hooks:
        for blocks in ("double_blocks", "single_blocks"):
            for module in flux.get_submodule(blocks).modules():
                if isinstance(module, nn.LayerNorm):
                    hooks.callback(module.register_forward_pre_hook(_own_input).remove)
        hooks.enter_context(adapted(flux, streams))
        yield


def _own_input(_norm: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Give a LayerNorm a copy, which it keeps for its gradient: the block adds to the original in place."""
    (x,) = args
    return (x.clone(),) if torch.is_grad_enabled() and x.requires_grad else None


def _attention(_host: object, q: Tensor, k: Tensor, v: Tensor, *_args: object, **_options: object) -> Tensor:
    """Attend with torch's own kernel, [b, heads, n, d] -> [b, n, (heads d)]: the host's choice may have no gradient."""
    return rearrange(scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")


Block = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


def _checkpointed(flux: nn.Module) -> Mapping[tuple[str, int], Block]:
    """Return the host's block replacements that keep only a block's input and run the block again for its gradient."""
    kinds = (("double_block", ("img", "txt")), ("single_block", ("img",)))
    return {
        (kind, index): _run_twice(block, states)
        for kind, states in kinds
        for index, block in enumerate(flux.get_submodule(f"{kind}s").children())
    }


def _run_twice(block: nn.Module, states: tuple[str, ...]) -> Block:
    """Checkpoint one block, whose inputs and outputs are `states`.

    When the block runs again, the host's closure and dictionary of options already belong to another block.
    """

    def replace(args: dict[str, Any], _extra: dict[str, Any]) -> dict[str, Any]:
        shared = {name: args[name] for name in ("vec", "pe", "attn_mask") if name in args}
        options = dict(args["transformer_options"])

        def run(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
            own = (x.clone() for x in inputs)  # the block adds to them in place
            return block(*own, **shared, transformer_options=options)

        out = checkpoint(run, *(args[name] for name in states), use_reentrant=False, preserve_rng_state=False)
        return dict(zip(states, out if isinstance(out, tuple) else (out,)))

    return replace


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
