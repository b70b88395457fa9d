"""What the nodes of packs are told to do beside OmniX, each with the pack's module first."""

from __future__ import annotations

import atexit
import functools
import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import comfy.sample
import comfy.samplers
import folder_paths
import torch
from comfyui_omnix.lab.host import gguf_files, tiny
from companions import ordinary_lora
from torch import Tensor

Model = Any


def node(pack: ModuleType, name: str) -> Any:
    """Return an instance of one of the pack's nodes."""
    return pack.NODE_CLASS_MAPPINGS[name]()


def detail_daemon(
    pack: ModuleType, _sample: Any, model: Model, noise: Tensor, steps: int, cfg: float, *given: Any, **more: Any
) -> Tensor:
    """Run SamplerCustom with the pack's sampler round KSampler's."""
    sampler, scheduler, positive, negative, latent = given
    shape = {"start": 0.2, "end": 0.8, "bias": 0.5, "exponent": 1.0, "start_offset": 0.0, "end_offset": 0.0}
    (wrapped,) = node(pack, "DetailDaemonSamplerNode").go(
        comfy.samplers.sampler_object(sampler),
        detail_amount=0.3,
        fade=0.0,
        smooth=True,
        cfg_scale_override=1.0,
        **shape,
    )
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
    own = comfy.sample.sample_custom
    return own(model, noise, cfg, wrapped, sigmas, positive, negative, latent, disable_pbar=True, seed=more["seed"])


def nag(
    pack: ModuleType, _sample: Any, model: Model, noise: Tensor, steps: int, cfg: float, *given: Any, **more: Any
) -> Tensor:
    """Run KSampler With NAG, whose negative is another text of another length."""
    sampler, scheduler, positive, negative, latent = given
    other = [[text.flip(1)[:, :7], dict(told)] for text, told in negative]
    run = importlib.import_module(f"{pack.__name__}.sample").sample_with_nag
    return run(
        model, noise, steps, cfg, 5.0, 2.5, 0.25, 0.0, sampler, scheduler, positive, negative, other, latent, **more
    )


def efficient(
    pack: ModuleType, sample: Any, model: Model, noise: Tensor, steps: int, cfg: float, *given: Any, **more: Any
) -> Tensor:
    """Run KSampler (Efficient) on this noise."""
    sampler, scheduler, positive, negative, latent = given
    with (
        mock.patch.object(comfy.sample, "sample", sample),
        mock.patch.object(comfy.sample, "prepare_noise", lambda *_: noise),
    ):
        out = node(pack, "KSampler (Efficient)").sample(
            model,
            0,
            steps,
            cfg,
            sampler,
            scheduler,
            positive,
            negative,
            {"samples": latent},
            "none",
            "true",
            prompt={},
            extra_pnginfo={},
            my_unique_id="1",
        )
    return out["result"][3]["samples"]


def ip_adapter(pack: ModuleType, model: Model) -> Model:
    """Do what Apply IPAdapter Flux Model does, with made-up numbers."""
    utils, processors = (
        importlib.import_module(f"{pack.__name__}.{name}") for name in ("utils", "attention_processor")
    )
    own, draw = model.clone(), torch.Generator().manual_seed(5)
    flux, width = own.model.diffusion_model, own.model.diffusion_model.hidden_size
    names = [
        f"{kind}.{number}" for kind in ("double_blocks", "single_blocks") for number in range(len(getattr(flux, kind)))
    ]
    made = {
        name: processors.IPAFluxAttnProcessor2_0(width, width, num_tokens=4).requires_grad_(False) for name in names
    }
    utils.FluxUpdateModules(own, made, torch.randn(1, 4, width, generator=draw), False)
    return own


@functools.cache
def scratch() -> Path:
    """Return a folder that lasts as long as this process."""
    made = tempfile.TemporaryDirectory()
    atexit.register(made.cleanup)
    return Path(made.name)


def power_lora(pack: ModuleType, model: Model) -> Model:
    """Load an ordinary LoRA by the pack's node, from the host's folder."""
    tiny.save(ordinary_lora(), scratch() / "ordinary.safetensors")
    folder_paths.add_model_folder_path("loras", str(scratch()))
    row = {"on": True, "lora": "ordinary.safetensors", "strength": 1.0}
    return node(pack, "Power Lora Loader (rgthree)").load_loras(model, None, lora_1=row)[0]


def gguf(kind: str) -> Callable[[ModuleType, Model], Model]:
    """Write the MODEL's weights to a file whose blocks are of this kind, and load it by the pack's node."""

    def put(pack: ModuleType, model: Model) -> Model:
        path = scratch() / f"flux-{kind}.gguf"
        if not path.exists():  # a model of the trial before may be mapped from it
            gguf_files.write(path, model.model.diffusion_model.state_dict(), kind)
        for folder in ("unet_gguf", "diffusion_models"):
            folder_paths.add_model_folder_path(folder, str(scratch()), is_default=True)
        return node(pack, "UnetLoaderGGUF").load_unet(path.name)[0]

    return put
