"""The inputs of the engine: a base model, samples, and the random draws of each step.

A draw depends only on the seed and the step's number and is computed on the CPU. So a resumed run draws the same
numbers as an uninterrupted one, on any machine, and no random state has to be saved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..omnix.runtime.schedule import flow_shift
from .config import Config, TrainingError

RAYS = "camray"
"""A stream that needs no pictures: the direction of each pixel is the same in all panoramas."""
DIRECTIONS = {"normal"}
"""Maps whose values are directions in the panorama's own frame (front +X): to roll only their pixels would be wrong."""


def may_roll(maps: Iterable[str]) -> bool:
    """Return whether maps may be rolled: directions only together with camera rays, which are rolled with them.

    A folder of another name may hold directions too: "normals", "world_normal".
    """
    names = set(maps)
    return RAYS in names or not any(name in DIRECTIONS or may_be_directions(name) for name in names)


def may_be_directions(name: str) -> bool:
    """Return whether a map that is not in DIRECTIONS has a name as if it showed directions, in an unknown frame."""
    return name not in DIRECTIONS and "normal" in name.lower()


class Batch(NamedTuple):
    """Some samples: all streams' latents [b, 16, h, w] after shift and scale, the target last, and their prompts."""

    latents: tuple[Tensor, ...]
    text: Tensor
    """[b or 1, tokens, channels]"""
    pooled: Tensor
    """[b or 1, channels]"""
    weights: Tensor | None = None
    """[b, 1, h, w], the weight of each latent cell in the loss; None is 1 everywhere"""


class Samples(Protocol):
    """The data of a run. `identity` changes when a sample does; `size` is (h, w) in latent cells.

    `maps` names the maps that the streams show; if it is empty, the streams' names do.
    """

    identity: str
    size: tuple[int, int]
    maps: tuple[str, ...]

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], bare: Sequence[bool]) -> Batch:
        """Return samples by number; `bare` asks for the tag alone instead of a caption."""
        ...


class Latents:
    """Samples that are all in memory, with one prompt for all: `latents` are [n, 16, h, w] for each stream."""

    def __init__(self, latents: Sequence[Tensor], text: Tensor, pooled: Tensor, identity: str = "memory") -> None:
        shapes = {tuple(stream.shape) for stream in latents}
        if len(shapes) != 1 or latents[0].ndim != 4 or len(latents[0]) == 0:
            raise TrainingError(f"Expected latents [n, 16, h, w] of one size for all streams, got {sorted(shapes)}.")
        self.latents, self.text, self.pooled, self.identity = tuple(latents), text, pooled, identity
        self.size = (latents[0].shape[-2], latents[0].shape[-1])
        self.maps: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.latents[0])

    def batch(self, indices: Sequence[int], bare: Sequence[bool]) -> Batch:
        """Return samples by number; there is one prompt."""
        chosen = torch.as_tensor(indices)
        return Batch(tuple(stream[chosen].float() for stream in self.latents), self.text, self.pooled)


class Base(Protocol):
    """A frozen FLUX.1 in ComfyUI's layout."""

    identity: str
    """Changes when the weights do."""

    def flux(self) -> nn.Module:
        """Return the transformer, ready to run and frozen."""
        ...

    def device(self) -> torch.device:
        """Return the device where the transformer runs; its weights may move there layer by layer."""
        ...

    def dtype(self) -> torch.dtype:
        """Return the dtype of the activations that the transformer accepts."""
        ...

    def differentiable(self) -> AbstractContextManager[None]:
        """Make the transformer compute with operations that have a gradient."""
        ...


class Pictures(Protocol):
    """The VAE and the text encoders, which are in memory only when they are needed."""

    vae_identity: str
    text_identity: str
    """Change when the weights of the VAE, or of the text encoders, do."""

    def encode(self, image: Tensor) -> Tensor:
        """Turn an image [b, H, W, 3] in [0, 1] into the latent [b, 16, H/8, W/8] that FLUX sees."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Undo `encode`."""
        ...

    def prompt(self, words: str) -> tuple[Tensor, Tensor]:
        """Encode a prompt: text [1, tokens, channels], pooled vector [1, channels]."""
        ...

    def release(self) -> None:
        """Remove the VAE and the text encoders from memory."""
        ...


_ORDER, _STEP, _SAMPLE = 1, 2, 3
"""Kinds of draws; each has its own random numbers."""


class Draw(NamedTuple):
    """The random draws of one batch: sample numbers, bare prompts, t [b], noise [b, 16, h, w], columns to roll by."""

    indices: list[int]
    bare: list[bool]
    t: Tensor
    noise: Tensor
    rolls: list[int]


def draw(config: Config, number: int, count: int, size: tuple[int, int]) -> Draw:
    """Draw batch `number` (accumulated batches count singly) of `count` samples of size (h, w) in latent cells."""
    chance = _generator(config.seed, _STEP, number)
    b = config.batch
    u = torch.rand(b, generator=chance) if config.times == "uniform" else _logit_normal(config, chance)
    noise = torch.randn(b, 16, *size, generator=chance)
    bare = (torch.rand(b, generator=chance) < config.caption_dropout).tolist()
    rolls = torch.randint(size[1], (b,), generator=chance).tolist() if config.roll else [0] * b
    indices = [_sample(config.seed, position, count) for position in range(number * b, number * b + b)]
    return Draw(indices, bare, shifted(u, config, size), noise, rolls)


def _logit_normal(config: Config, chance: torch.Generator) -> Tensor:
    """Draw sigmoid(N(mean, deviation)) (Esser et al. 2024, equation 19), [b]."""
    return torch.sigmoid(torch.randn(config.batch, generator=chance) * config.time_deviation + config.time_mean)


def shifted(u: Tensor, config: Config, size: tuple[int, int]) -> Tensor:
    """Return t = e^mu / (e^mu + 1/u - 1) with sampling's mu for the widened latent; without `shift`, return u."""
    if not config.shift:
        return u
    factor = math.exp(flow_shift(*size, config.seam_columns))
    return factor * u / (1 + (factor - 1) * u)


def _sample(seed: int, position: int, count: int) -> int:
    """Return the number of the sample at a position; every epoch is a new permutation."""
    epoch, place = divmod(position, count)
    return int(_permutation(seed, epoch, count)[place])


@lru_cache(maxsize=2)  # two epochs can meet in a batch
def _permutation(seed: int, epoch: int, count: int) -> Tensor:
    return torch.randperm(count, generator=_generator(seed, _ORDER, epoch))


def _generator(seed: int, kind: int, number: int) -> torch.Generator:
    """Return a separate generator for a seed, a kind and a number (mixed as in SplitMix64, so that none collide)."""
    state = 0
    for part in (seed, kind, number):
        state = (state + part + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state)


def fixed_noise(seed: int, number: int, size: tuple[int, int]) -> Tensor:
    """Return the noise [1, 16, h, w] from which held-out picture `number` is sampled every time."""
    return torch.randn(1, 16, *size, generator=_generator(seed, _SAMPLE, number))
