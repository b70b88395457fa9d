"""The base: a FLUX.1 that is trained from nothing to generate single pictures: rooms or maps, never pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import comfy.sd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ...mapfiles.pictures import replacing
from ...omnix.pictures.panorama import widen
from ...omnix.runtime.schedule import flow_shift
from ...omnix.runtime.streams import Stream
from ...training import record
from ...training.flow import Prompt, loss_of, noisy, predict, recording
from ...training.host import LoadedBase, differentiable
from ...training.optimizers import Muon
from ..host import tiny
from .recipe import GEOMETRY, PROMPT_TOKENS, SEAM_COLUMNS, TURNED, Stage

GUIDANCE = 3.5
AVERAGED = 0.999
WARMUP = 200
SAVE_EVERY, SAVED = 200, "base.pt"
WEIGHT_DECAY = 0.02
ORTHOGONAL = ("qkv", "proj", "mlp", "linear1", "linear2")
"""Parts of the names of the matrices that Muon trains; AdamW trains the rest."""


def prompt() -> tuple[Tensor, Tensor]:
    """Return the only prompt: text [1, tokens, channels], pooled [1, channels]."""
    draw = torch.Generator().manual_seed(0)
    text = torch.randn(1, PROMPT_TOKENS, GEOMETRY.text, generator=draw)
    return text, torch.randn(1, GEOMETRY.pooled, generator=draw)


def loaded(state: Mapping[str, Tensor]) -> LoadedBase:
    """Load weights through the host, in float32."""
    own = {name: tensor.clone() for name, tensor in state.items()}
    return LoadedBase(comfy.sd.load_diffusion_model_state_dict(own, model_options={"dtype": torch.float32}))


class InTwoPrecisions(LoadedBase):
    """A base that uses, in turn for one training step each, its own weights and their float8 copies.

    So adapters that are trained on it don't depend on the exact values. It samples with its own weights.
    """

    def flux(self) -> nn.Module:
        """Return the transformer, frozen, with the hook that exchanges its weights."""
        flux, calls = super().flux(), itertools.count()
        weights = [(p, (p.data, p.data.to(torch.float8_e4m3fn).to(p.dtype))) for p in flux.parameters()]

        def exchange(_flux: nn.Module, _args: object) -> None:
            turn = next(calls) % 2 if torch.is_grad_enabled() else 0
            for parameter, values in weights:
                parameter.data = values[turn]

        flux.register_forward_pre_hook(exchange)
        return flux


def untrained(seed: int = 0) -> dict[str, Tensor]:
    """Make initial weights: every block returns its input, and every modulation and the output are 0."""
    state = tiny.flux(GEOMETRY, seed)
    for name, tensor in state.items():
        if "norm" in name and "linear" not in name:
            tensor.fill_(1)
        elif name.endswith("bias") or "norm" in name or name.startswith("proj_out"):
            tensor.zero_()
    return state


class Training(NamedTuple):
    """The parts of a save: the weights, their moving average and the two optimisers."""

    flux: nn.Module
    average: dict[str, Tensor]
    optimizers: tuple[torch.optim.Optimizer, ...]

    def state(self, step: int) -> dict[str, Any]:
        """Return everything that a resumed run needs."""
        optimizers = [each.state_dict() for each in self.optimizers]
        return {"step": step, "flux": self.flux.state_dict(), "average": self.average, "optimizers": optimizers}

    def restore(self, state: dict[str, Any]) -> int:
        """Continue from a save; return its step."""
        self.flux.load_state_dict(state["flux"])
        for name, tensor in state["average"].items():
            self.average[name].copy_(tensor)
        for optimizer, kept in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(kept)
        return state["step"]


def begun(stage: Stage) -> Training:
    """Make initial weights and optimisers."""
    flux = loaded(untrained()).flux().requires_grad_(True)
    inner = {n: p for n, p in flux.named_parameters() if p.ndim == 2 and "blocks" in n and _is_orthogonal(n)}
    rest = [parameter for name, parameter in flux.named_parameters() if name not in inner]
    muon = Muon(inner.values(), stage.learning_rate, WEIGHT_DECAY)
    adam = torch.optim.AdamW(rest, stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return Training(flux, {name: p.detach().clone() for name, p in flux.named_parameters()}, (muon, adam))


def _is_orthogonal(name: str) -> bool:
    return any(part in name for part in ORTHOGONAL) and "norm" not in name


def train(latents: dict[str, Tensor], stage: Stage, folder: Path) -> dict[str, Tensor]:
    """Train to the stage's end, from the save in `folder` if there is one; return the average's weights."""
    training, saved = begun(stage), folder / SAVED
    step = training.restore(torch.load(saved, map_location="cpu", weights_only=True)) if saved.is_file() else 0
    streams = [Stream({}, 1.0)]
    curve = record.Curve(folder / "base.csv", ("loss",), step)
    with differentiable(), recording(training.flux, streams):
        for number in tqdm(range(step, stage.steps), "base", stage.steps, initial=step, disable=None):
            curve.add(number + 1, {"loss": one_step(training, streams, latents, stage, number)})
            if (number + 1) % SAVE_EVERY == 0 or number + 1 == stage.steps:
                with replacing(saved) as temporary:
                    torch.save(training.state(number + 1), temporary)
    return training.average


def one_step(training: Training, streams: list[Stream], latents: dict[str, Tensor], stage: Stage, number: int) -> float:
    """Do one step; return its loss."""
    draw = torch.Generator().manual_seed(number)
    clean = torch.cat(list(drawn(latents, stage.batch, draw)))
    noise = torch.randn(clean.shape, generator=draw)
    u = torch.sigmoid(torch.randn(len(clean), generator=draw) * 1.2 + 0.2)
    factor = math.exp(flow_shift(clean.shape[-2], clean.shape[-1], SEAM_COLUMNS))
    t = factor * u / (1 + (factor - 1) * u)
    device = next(training.flux.parameters()).device
    clean, noise = (widen(part, SEAM_COLUMNS).to(device) for part in (clean, noise))
    text, pooled = (part.expand(len(clean), *part.shape[1:]).to(device) for part in prompt())
    t = t.to(device)
    velocity = predict(training.flux, streams, [noisy(clean, noise, t)], t, Prompt(text, pooled, GUIDANCE))
    loss = loss_of(velocity, clean, noise)
    loss.backward()
    update(training, stage, number)
    return loss.item()


def drawn(latents: dict[str, Tensor], count: int, draw: torch.Generator) -> Iterator[Tensor]:
    """Yield `count` pictures [n, 16, h, w], equally many of each stream, each rolled by whole columns."""
    for number, (name, stack) in enumerate(latents.items()):
        n = (count + number) // len(latents)
        chosen = stack[torch.randint(len(stack), (n,), generator=draw)].float()
        turns = torch.randint(stack.shape[-1], (n,), generator=draw) * (name in TURNED)
        yield torch.stack([one.roll(int(turn), -1) for one, turn in zip(chosen, turns)])


def update(training: Training, stage: Stage, number: int) -> None:
    """Apply the gradients, and let the average follow."""
    nn.utils.clip_grad_norm_(training.flux.parameters(), 1.0)
    for optimizer in training.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * min(1.0, (number + 1) / WARMUP)
        optimizer.step()
        optimizer.zero_grad()
    decay = min(AVERAGED, (1 + number) / (10 + number))
    with torch.no_grad():
        for name, parameter in training.flux.named_parameters():
            training.average[name].lerp_(parameter, 1 - decay)
