"""What chance decides in a step: which samples, t, noise, roll and dropped captions.

Everything is a function of the seed and of the step's number, drawn on the CPU: a run that goes on from a save draws
what it would have drawn, on any machine, and there is no state to be kept.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..omnix.schedule import flow_shift
from .config import Config

_ORDER, _STEP, _SAMPLE = 1, 2, 3
"""Kinds of draws, so that no two share their numbers."""


class Draw(NamedTuple):
    """One batch's chances: sample numbers, bare prompts, t [b], noise [b, 16, h, w], columns to roll by."""

    indices: list[int]
    bare: list[bool]
    t: Tensor
    noise: Tensor
    rolls: list[int]


def draw(config: Config, number: int, count: int, size: tuple[int, int]) -> Draw:
    """Draw batch `number` (accumulated ones count singly) of `count` samples of size (h, w) in latent cells."""
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
    """Return t = e^mu / (e^mu + 1/u - 1) with sampling's mu for the widened latent, or u as it is."""
    if not config.shift:
        return u
    factor = math.exp(flow_shift(*size, config.seam_columns))
    return factor * u / (1 + (factor - 1) * u)


def _sample(seed: int, position: int, count: int) -> int:
    """Return which sample comes at a position: every epoch is a new permutation."""
    epoch, place = divmod(position, count)
    return int(_permutation(seed, epoch, count)[place])


@lru_cache(maxsize=2)  # two epochs can meet in a batch
def _permutation(seed: int, epoch: int, count: int) -> Tensor:
    return torch.randperm(count, generator=_generator(seed, _ORDER, epoch))


def _generator(seed: int, kind: int, number: int) -> torch.Generator:
    """Return a generator of its own for a seed, a kind and a number (mixed as in SplitMix64, so that none collide)."""
    state = 0
    for part in (seed, kind, number):
        state = (state + part + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state)


def fixed_noise(seed: int, number: int, size: tuple[int, int]) -> Tensor:
    """Return the noise [1, 16, h, w] from which held-out picture `number` is always sampled."""
    return torch.randn(1, 16, *size, generator=_generator(seed, _SAMPLE, number))
