"""Run the pack's nodes on the real host, in this process, as a graph would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime import patch
from comfyui_omnix.omnix.runtime.adapter import task_files
from comfyui_omnix.omnix.runtime.schedule import flow_shift
from comfyui_omnix.omnix.runtime.tasks import SEAM_COLUMNS, TASKS, Task
from torch import Tensor

Model = Any
Conditioning = list[list[Any]]


@dataclass
class Case:
    """One task's inputs, in the model's own latent space (after shift and scale), and its adapters on disk."""

    task: Task
    flux: dict[str, Tensor]
    states: list[dict[str, Tensor]]
    folder: Path
    conditions: list[Tensor]
    noise: Tensor
    text: Tensor
    pooled: Tensor
    guidance: float = 3.5
    options: dict[str, Any] = field(default_factory=dict)

    def loaded(self) -> patch.LoadedAdapters:
        """The adapters, as Load OmniX Adapters gives them."""
        return patch.load_adapters(task_files(self.locate, ".", self.task), self.task)

    def locate(self, name: str) -> str | None:
        """Find a file of the case's folder, as the host finds it below its loras folders."""
        path = self.folder / name
        return str(path) if path.is_file() else None

    def oracle(self) -> dict[str, Any]:
        """The oracle's arguments."""
        return {
            "transformer_sd": self.flux,
            "adapters": self.states,
            "conditions": self.conditions,
            "noise": self.noise,
            "prompt_embeds": self.text,
            "pooled": self.pooled,
            "guidance": self.guidance,
        }


def make_case(
    folder: Path,
    task: str = "rgb_to_depth",
    *,
    height: int = 8,
    batch: int = 1,
    ranks: Sequence[int] = (8, 8, 8),
    geometry: tiny.Geometry = tiny.TINY,
    seed: int = 0,
    **options: Any,
) -> Case:
    """Make a case of latents [batch, 16, height, 2 * height]; `options` go to tiny.adapter."""
    known = TASKS[task]
    states = [
        tiny.adapter(geometry, seed + 10 + i, rank, **options) for i, rank in zip(range(len(known.streams)), ranks)
    ]
    for stream, state in zip(known.streams, states, strict=True):
        tiny.save(state, folder / task / stream / "pytorch_lora_weights.safetensors")
    draw = torch.Generator().manual_seed(seed + 99)
    latents = [torch.randn(batch, 16, height, 2 * height, generator=draw) for _ in known.streams]
    text, pooled = (torch.randn(1, *size, generator=draw) for size in ((12, geometry.text), (geometry.pooled,)))
    return Case(known, tiny.flux(geometry, seed), states, folder, latents[:-1], latents[-1], text, pooled)


def load_flux(state: dict[str, Tensor], dtype: torch.dtype = torch.float32, **how: bool) -> Model:
    """Load a FLUX through the host, which swaps the halves of norm_out in place: it gets its own tensors.

    As with the host's own loaders, the model stores how it can be loaded again.
    """
    own = {name: tensor.to(dtype, copy=True) for name, tensor in state.items()}
    model = comfy.sd.load_diffusion_model_state_dict(own, model_options={"dtype": dtype}, **how)
    model.cached_patcher_init = (load_flux, (state, dtype))
    return model


def offloading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the host keep weights where they are, and cast them when they are needed."""
    load = comfy.model_patcher.ModelPatcher.load

    def in_part(self: Any, device_to: Any = None, lowvram_model_memory: float = 0, **kwargs: Any) -> None:
        load(self, device_to, lowvram_model_memory=1, **{**kwargs, "full_load": False})

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "load", in_part)


def patched(model: Model, case: Case, strength: tuple[float, float] = (1.0, 1.0), seam: int = SEAM_COLUMNS) -> Model:
    """Apply OmniX Adapters, then OmniX Flow Shift."""
    height, width = case.noise.shape[-2:]
    shifted = patch.with_flow_shift(model, flow_shift(height, width, seam))
    return patch.attach(shifted, case.loaded(), *strength, seam)


def conditioning(model: Model, case: Case, references: Sequence[Tensor] | None = None, **extra: Any) -> Conditioning:
    """The result of CLIP Text Encode, Flux Guidance and Set Reference Latent."""
    latents = case.conditions if references is None else references
    options = {"pooled_output": case.pooled, "guidance": case.guidance, **extra}
    if latents:
        options["reference_latents"] = [model.model.latent_format.process_out(latent) for latent in latents]
    return [[case.text, options]]


@torch.inference_mode()
def ksample(model: Model, case: Case, steps: int, positive: Conditioning | None = None, **changes: Any) -> Tensor:
    """Run KSampler (euler, simple, cfg 1); return the latent in the model's own space."""
    positive = conditioning(model, case) if positive is None else positive
    given = {"cfg": 1.0, "sampler": "euler", "negative": positive, **changes}
    arguments = {"denoise": 1.0, "disable_pbar": True, "seed": 0}
    arguments |= {key: value for key, value in given.items() if key not in ("cfg", "sampler", "negative")}
    latent = arguments.pop("latent", torch.zeros_like(case.noise))
    out = comfy.sample.sample(
        model,
        case.noise,
        steps,
        given["cfg"],
        given["sampler"],
        "simple",
        positive,
        given["negative"],
        latent,
        **arguments,
    )
    return model.model.latent_format.process_in(out)


@torch.inference_mode()
def forward(model: Model, case: Case) -> Tensor:
    """Run one plain step of a model, without OmniX: what must stay bit-identical."""
    return ksample(model, case, 1, conditioning(model, case, ()))


def hook_count(model: Model) -> int:
    """Count everything that could have been left on a model: hooks, replaced forwards, wrappers, injections."""
    modules = list(model.model.modules())
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    replaced = sum("forward" in vars(m) for m in modules)
    wrappers = sum(len(entry) for kinds in model.wrappers.values() for entry in kinds.values())
    return hooks + replaced + wrappers + len(model.injections) + len(model.additional_models)
