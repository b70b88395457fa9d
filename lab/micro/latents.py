"""The training data of the stages: the transform, and the latent of every picture, stored next to the saves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...mapfiles.pictures import replacing
from .blocks import Blocks, fitted
from .pictures import Images, as_images, otherwise, partly_hidden

AT_ONCE = 256
TRANSFORM = "transform.safetensors"


def transform(pictures: Images, cached: Path) -> Blocks:
    """Fit the transform to the pictures of all streams, or read it."""
    if not cached.is_file():
        batches = (
            as_images(stack[start : start + AT_ONCE])
            for stack in pictures.values()
            for start in range(0, len(stack), AT_ONCE)
        )
        with replacing(cached) as temporary:
            save_file({name: value.contiguous() for name, value in fitted(batches)._asdict().items()}, temporary)
    return Blocks(**load_file(cached))


def encoded(blocks: Blocks, pictures: Images) -> dict[str, Tensor]:
    """Return every stream's latents [n, 16, h, w], in half precision."""
    return {name: torch.cat(list(_encoded(blocks, stack))) for name, stack in pictures.items()}


def of_tasks(blocks: Blocks, pictures: Images) -> dict[str, Tensor]:
    """Return the latents of all tasks' streams: those of the pictures, each room partly hidden, and whole.

    What is hidden follows the classes, so rooms without classes are not hidden.
    """
    hidden = {"masked_rgb": partly_hidden(pictures)} if "semantic" in pictures else {}
    found = encoded(blocks, {**pictures, **hidden})
    return {**found, "filled_rgb": found["rgb"]}


def seen_otherwise(blocks: Blocks, pictures: Images, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the latents `own` of all tasks' streams, and after them those of the same rooms turned and mirrored."""
    others = [of_tasks(blocks, each) for each in otherwise(pictures)]
    return {name: torch.cat([stack, *(other[name] for other in others)]) for name, stack in own.items()}


def of_parts(blocks: Blocks, train: Images, watched: Images) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the latents of all tasks' streams, of training rooms, also turned and mirrored, and of watched ones."""
    return seen_otherwise(blocks, train, of_tasks(blocks, train)), of_tasks(blocks, watched)


def _encoded(blocks: Blocks, stack: NDArray[np.uint8]) -> list[Tensor]:
    starts = range(0, len(stack), AT_ONCE)
    return [blocks.encode(as_images(stack[start : start + AT_ONCE])).half() for start in starts]
