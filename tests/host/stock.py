"""The results of a test server's stock nodes with the tiny models, computed in this process for the oracle.

Text, VAE and noise are the host's own work; only what OmniX adds is left to the oracle. Latents are after shift and
scale, as the model sees them.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.sample
import comfy.sd
import comfy.text_encoders.flux
import torch
from comfyui_omnix.lab.host import tiny_models
from einops import rearrange
from torch import Tensor

SCALE, SHIFT = 0.3611, 0.1159


@contextmanager
def tiny_text_encoders() -> Iterator[None]:
    """Install the double of the servers in this process, for a while."""
    model = comfy.text_encoders.flux.FluxClipModel
    original = model.__init__
    path = tiny_models.DOUBLES / "tiny_text_encoders" / "__init__.py"
    spec = importlib.util.spec_from_file_location("tiny_text_encoders", path)
    assert spec is not None and spec.loader is not None
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        yield
    finally:
        model.__init__ = original


@torch.inference_mode()
def text(prompt: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Encode a prompt as DualCLIPLoader and OmniX Encode Prompt do: text [1, 512, 64] and pooled vector [1, 32].

    The host's own tokenizers pad and encode it; no prompt here is longer than that.
    """
    states = [tiny_models.clip_l(seed), tiny_models.t5(seed)]
    with tiny_text_encoders():
        clip = comfy.sd.load_text_encoder_state_dicts(states, clip_type=comfy.sd.CLIPType.FLUX)
        tokens = clip.tokenize(prompt, tokenizer_options={"t5xxl_min_length": 512})
        words, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    return words, pooled


def vae(seed: int = 0) -> comfy.sd.VAE:
    """Load the tiny VAE as VAELoader does."""
    return comfy.sd.VAE(sd=tiny_models.vae(seed))


@torch.inference_mode()
def encoded(image: Tensor) -> Tensor:
    """Encode pixels [b, 8h, 8w, 3] in [0, 1] to a latent [b, 16, h, w]."""
    return (vae().encode(image) - SHIFT) * SCALE


@torch.inference_mode()
def decoded(latent: Tensor) -> Tensor:
    """Decode a latent [b, 16, h, w] to pixels [b, 8h, 8w, 3], which may exceed [0, 1]: a seam is blended first."""
    image = vae().first_stage_model.decode(latent / SCALE + SHIFT)
    return rearrange(image, "b c h w -> b h w c") / 2 + 0.5


def noise(seed: int, height: int, width: int, batch: int = 1) -> Tensor:
    """Draw KSampler's noise for a latent of this size."""
    return comfy.sample.prepare_noise(torch.zeros(batch, 16, height, width), seed)


def saved(image: Tensor) -> Tensor:
    """Round pixels [b, h, w, c] as SaveImage does: whole levels out of 255, downwards; returns [b, c, h, w]."""
    return rearrange(image.mul(255).clamp(0, 255).floor(), "b h w c -> b c h w")
