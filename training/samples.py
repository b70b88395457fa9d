"""What a step is made from: latents of all streams and prompts, held in memory or read from the cache as they come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .errors import TrainingError

RAYS = "camray"
"""A stream that needs no pictures: the direction of every pixel is the same in all panoramas."""
DIRECTIONS = {"normal"}
"""Maps whose numbers are directions in the panorama's own frame (front +X): a turned one would tell wrong ones."""


def turns(maps: Iterable[str]) -> bool:
    """Tell whether maps may be rolled: directions only beside camera rays, which turn along."""
    names = set(maps)
    return RAYS in names or not names & DIRECTIONS


class Batch(NamedTuple):
    """Some samples: every stream's latent [b, 16, h, w] after shift and scale, the target last, and their prompts."""

    latents: tuple[Tensor, ...]
    text: Tensor
    """[b or 1, tokens, channels]"""
    pooled: Tensor
    """[b or 1, channels]"""


class Samples(Protocol):
    """The data of a run. `identity` changes when what a sample holds does; `size` is (h, w) in latent cells.

    `maps` names what the streams show; empty, their own names do.
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
