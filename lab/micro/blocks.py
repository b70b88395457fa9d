"""The latent of the micro model: each 8x8 block's coefficients on the axes with the largest variance.

A Karhunen-Loeve transform of all training pictures: 192 numbers of a block become 16. It is linear and needs no
training. The first axis varies most and the others less, by the root of their variance, so that noise hides the less
important ones first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

BLOCK = 8
CHANNELS = 16
FIRST = 1.5
"""The first coefficient's deviation over all pictures; over those of one kind it is about 1."""


class Blocks(NamedTuple):
    """The transform: axes [16, 192] of length 1, the mean block [192], and each coefficient's scale [16]."""

    axes: Tensor
    mean: Tensor
    scale: Tensor

    def encode(self, images: Tensor) -> Tensor:
        """Turn images [n, 3, H, W] in [0, 1] into latents [n, 16, H/8, W/8]."""
        values = (_cut(images) - self.mean) @ self.axes.T * self.scale
        return rearrange(values, "n h w k -> n k h w")

    def decode(self, latents: Tensor) -> Tensor:
        """Return the nearest images [n, 3, H, W], not clamped."""
        blocks = rearrange(latents, "n k h w -> n h w k") / self.scale @ self.axes + self.mean
        return rearrange(blocks, "n h w (c p q) -> n c (h p) (w q)", c=3, p=BLOCK, q=BLOCK)


def _cut(images: Tensor) -> Tensor:
    return rearrange(images, "n c (h p) (w q) -> n h w (c p q)", p=BLOCK, q=BLOCK)


def fitted(batches: Iterable[Tensor]) -> Blocks:
    """Compute the transform of images [n, 3, H, W] in [0, 1] that come in batches."""
    count, total, products = _moments(_cut(batch).flatten(0, 2).double() for batch in batches)
    mean = total / count
    values, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    axes = vectors.T.flip(0)[:CHANNELS]
    axes = axes * axes.sum(1, keepdim=True).sign()
    deviation = values.flip(0)[:CHANNELS].sqrt()
    scale = FIRST * (deviation / deviation[0]).sqrt() / deviation
    return Blocks(axes.float(), mean.float(), scale.float())


def _moments(batches: Iterator[Tensor]) -> tuple[int, Tensor, Tensor]:
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for rows in batches:
        count, total, products = count + len(rows), total + rows.sum(0), products + rows.T @ rows
    return count, total, products
