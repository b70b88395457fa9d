"""Load a FLUX.1 into the real host and run it once, the way the host's samplers do."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.sd
import torch
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """One forward pass: a latent [b, 16, h, w] after shift and scale, t in [0, 1], text, pooled vector, guidance."""

    latent: Tensor
    t: float
    text: Tensor
    pooled: Tensor
    guidance: float = 3.5


def inputs(seed: int = 0, height: int = 8, width: int = 16, batch: int = 1, text: int = 64, pooled: int = 32) -> Inputs:
    """Draw random inputs; 12 text tokens."""
    generator = torch.Generator().manual_seed(seed)
    latent, words, vector = (
        torch.randn(shape, generator=generator)
        for shape in ((batch, 16, height, width), (batch, 12, text), (batch, pooled))
    )
    return Inputs(latent, 0.7, words, vector)


def load(state: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Any:
    """Load a FLUX state dict (Diffusers layout) with weights of `dtype`; returns the host's ModelPatcher."""
    # Copies, for the host's conversion swaps the halves of norm_out.linear in place.
    copies = {name: tensor.clone() for name, tensor in state.items()}
    patcher = comfy.sd.load_diffusion_model_state_dict(copies, model_options={"dtype": dtype})
    assert patcher is not None
    return patcher


@contextmanager
def active(patcher: Any) -> Iterator[Any]:
    """Load the model as a sampler does, patches and injections included; undo all of it afterwards."""
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    patcher.pre_run()
    try:
        yield patcher.model
    finally:
        patcher.cleanup()
        comfy.model_management.unload_all_models()


@torch.no_grad()
def forward(patcher: Any, given: Inputs) -> Tensor:
    """Return the diffusion model's velocity, computed in float32."""
    with active(patcher) as model:
        b = given.latent.shape[0]
        return model.diffusion_model(
            given.latent,
            timestep=torch.full((b,), given.t),
            context=given.text,
            y=given.pooled,
            guidance=torch.full((b,), given.guidance),
            transformer_options={},
        )


def with_lora(patcher: Any, lora: Mapping[str, Tensor], bypass: bool = False, strength: float = 1.0) -> Any:
    """Load a LoRA with the host's own loader, merged or bypassed; returns the patched clone."""
    loader = comfy.sd.load_bypass_lora_for_models if bypass else comfy.sd.load_lora_for_models
    return loader(patcher, None, dict(lora), strength, 0.0)[0]
