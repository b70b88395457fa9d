"""What the engine asks of a base model, so that it need not know the host."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn


class Base(Protocol):
    """A frozen FLUX.1 in ComfyUI's layout."""

    identity: str
    """Changes when the weights do."""

    def flux(self) -> nn.Module:
        """Return the transformer, ready to run, no parameter of it trainable."""
        ...

    def device(self) -> torch.device:
        """Return the device where the transformer runs; its weights may come there layer by layer."""
        ...

    def dtype(self) -> torch.dtype:
        """Return the dtype of the activations that the transformer takes."""
        ...

    def differentiable(self) -> AbstractContextManager[None]:
        """Let the transformer compute with what has a gradient."""
        ...


class Pictures(Protocol):
    """The VAE and the text encoders, which need not stay in memory."""

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
        """Take whatever was loaded for this out of memory."""
        ...
