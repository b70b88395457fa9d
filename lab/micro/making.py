"""From nothing to the weights: rooms, pictures, latents, then each stage of the table in turn."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...omnix.conditioning import save_conditioning
from ...training.saving import PUBLISHED, saves
from . import adapters, base, latents, pictures, vae
from .graphs import ADAPTERS, BASE, PROMPT, VAE
from .recipe import ROOMS, ROOMS_SEED, STAGES, TASKS

PICTURES_KEPT = "pictures.npz"


def make(folder: Path, stages: Sequence[str], steps: int | None, threads: int, rooms: int = ROOMS) -> None:
    """Make what is missing of these stages, in the order of the table."""
    torch.set_num_threads(threads)
    if not (folder / PICTURES_KEPT).is_file():
        pictures.render(folder / "rooms", ROOMS_SEED, rooms)
    seen = pictures.load(folder / "rooms", folder / PICTURES_KEPT)
    blocks = latents.transform(seen.train, folder / "transform.safetensors")
    encoded = latents.encoded(blocks, seen.train)
    for name, stage in STAGES.items():
        if name not in stages:
            continue
        stage = stage._replace(steps=steps or stage.steps)
        if name == "vae":
            save_file(vae.taesd(blocks, vae.train(encoded, seen.train, stage, folder)), folder / VAE)
        elif name == "base":
            write_base(base.train(encoded, stage, folder), folder)
        else:
            data = adapters.Data(folder / BASE, encoded, latents.encoded(blocks, seen.validation), blocks)
            adapters.train(name, stage, data, folder)
    if (folder / BASE).is_file() and (folder / VAE).is_file():
        gather(folder, folder / "weights")


def write_base(average: dict[str, Tensor], folder: Path) -> None:
    """Write the base as FLUX.1-dev's own file names its layers, in bfloat16."""
    state = {name.replace("_norm.weight", "_norm.scale"): tensor.bfloat16() for name, tensor in average.items()}
    save_file(state, folder / BASE, {"format": "pt"})


def gather(folder: Path, weights: Path) -> None:
    """Copy what was made to one folder, as `graphs.install` takes it; a task that is not trained yet is left out.

    The adapters are as OmniX publishes its own: a converted file's fused layers are twice as large here.
    """
    shutil.rmtree(weights, ignore_errors=True)
    weights.mkdir(parents=True)
    for name in (BASE, VAE):
        shutil.copyfile(folder / name, weights / name)
    text, pooled = base.prompt()
    save_conditioning([(text, {"pooled_output": pooled})], weights / PROMPT)
    for task in TASKS:
        for newest in saves(adapters.output_of(folder, task, folder / BASE))[-1:]:
            for file in (newest / task).glob(f"*/{PUBLISHED}"):
                target = weights / ADAPTERS / task / file.parent.name / PUBLISHED
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
