"""The gradient of a training step the plain way: a whole Diffusers FLUX with its own PEFT adapter for each stream."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from oracle import JointAttention, Meeting, State, adapted, widened
from oracle import _forward as forward_without_gradient
from torch import Tensor

_forward = forward_without_gradient.__wrapped__


def gradients(
    flux: State,
    adapters: Sequence[State],
    latents: Sequence[Tensor],
    noise: Tensor,
    t: Sequence[float],
    text: Tensor,
    pooled: Tensor,
    guidance: float,
    seam: int,
    dtype: torch.dtype,
    weights: Tensor | None = None,
) -> tuple[float, list[dict[str, Tensor]]]:
    """Return the loss mean((v - (noise - x0))^2), and each stream's gradients under the adapter's own names.

    `weights` [b, 1, h, w] make it sum(w e) / sum(w) over all samples, channels and cells.

    `latents` hold the conditions and the clean target last, [b, 16, h, w]; every sample has its own t and runs alone.
    """
    models = [adapted(flux, adapter, dtype) for adapter in adapters]
    for model in models:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name)
    losses, counts = [], []
    weights = torch.ones(len(t), 1, *noise.shape[-2:]) if weights is None else weights
    for sample, level in enumerate(t):
        clean, wide_noise = (widened(x[sample : sample + 1].to(dtype), seam) for x in (latents[-1], noise))
        inputs = [widened(x[sample : sample + 1].to(dtype), seam) for x in latents[:-1]]
        inputs.append((1 - level) * clean + level * wide_noise)
        velocity = _joint(models, inputs, level, text, pooled, guidance)
        wide = widened(weights[sample : sample + 1].to(dtype), seam)
        errors = (velocity - (wide_noise - clean)) ** 2
        losses.append(sum((errors[0, channel] * wide[0, 0]).sum() for channel in range(errors.shape[1])))
        counts.append(wide.sum() * errors.shape[1])
    loss = torch.stack(losses).sum() / torch.stack(counts).sum()
    loss.backward()
    return loss.item(), [_named(model) for model in models]


def _joint(
    models: Sequence[torch.nn.Module], inputs: Sequence[Tensor], t: float, text: Tensor, pooled: Tensor, guidance: float
) -> Tensor:
    meeting = Meeting(len(models))
    for stream, model in enumerate(models):
        model.set_attn_processor(JointAttention(stream, meeting))

    def run(stream: int) -> Tensor:
        return _forward(models[stream], inputs[stream], t, text, pooled, guidance)

    with ThreadPoolExecutor(len(models)) as pool:
        return list(pool.map(run, range(len(models))))[-1]


def _named(model: torch.nn.Module) -> dict[str, Tensor]:
    return {
        f"transformer.{name.replace('.stream', '')}": parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
