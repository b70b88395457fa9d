"""A tiny FLUX.1 on the host, and random latents of an invented task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime.tasks import Task
from comfyui_omnix.training.config import Config
from comfyui_omnix.training.host import LoadedBase
from comfyui_omnix.training.samples import Latents
from rig import load_flux

TASK = Task("rgb_to_shading", ("rgb", "shading"))
SMALL = tiny.Geometry(hidden=128, double=1, single=2)
CONFIG = Config(
    target=("shading",),
    rank=4,
    alpha=4.0,
    steps=6,
    batch=2,
    size="128x64",
    precision="float32",
    save_every=3,
    held_out=0,
)


def base(geometry: tiny.Geometry = SMALL, seed: int = 0, dtype: torch.dtype = torch.float32) -> LoadedBase:
    """A FLUX.1 whose weights are random."""
    return LoadedBase(load_flux(tiny.flux(geometry, seed), dtype))


def latents(
    streams: int = 2, count: int = 5, height: int = 8, seed: int = 0, geometry: tiny.Geometry = SMALL
) -> Latents:
    """Random samples with one prompt for all."""
    draw = torch.Generator().manual_seed(seed)
    stacks = [torch.randn(count, 16, height, 2 * height, generator=draw) for _ in range(streams)]
    text, pooled = (torch.randn(1, *size, generator=draw) for size in ((12, geometry.text), (geometry.pooled,)))
    return Latents(stacks, text, pooled, f"seed {seed}")


def config(**changes: Any) -> Config:
    """The small configuration, changed."""
    return replace(CONFIG, **changes)
