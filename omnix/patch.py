"""Attach OmniX to a ComfyUI model: the one module of the runtime that knows the host.

`attach` returns a clone of the user's MODEL with four wrappers. Everything else (hooks, the attention override, the
widened tensors) exists only while one of them runs, so the original MODEL is never touched and there is nothing to
undo. The adapters ride along as an additional model: the host counts their bytes, loads and offloads them.

- DIFFUSION_MODEL stacks the reference latents and x into streams and returns the target's prediction.
- SAMPLER_SAMPLE widens noise, latent and mask by the seam columns, blends and crops the result.
- PREDICT_NOISE blends the seam between steps, in place in the sampler's own x.
- PREPARE_SAMPLING tells the memory estimate about the seam columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.sd
import comfy.utils
import torch
from comfy.ldm.flux.model import Flux
from comfy.model_patcher import ModelPatcher as Patcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .adapter import TaskAdapters, load_task
from .panorama import blend_seam, blend_seam_, check_panorama, crop, widen
from .schedule import sigmas
from .streams import Stream, adapted, joint_attention, stack, text_is_shared
from .tasks import Task

KEY = "omnix"
PIXELS_PER_LATENT = 8


class LoadedAdapters(NamedTuple):
    """A task's adapters, and the patcher through which the host counts, moves and offloads them."""

    adapters: TaskAdapters
    patcher: Patcher


def load_adapters(files: Sequence[Path], task: Task) -> LoadedAdapters:
    """Read a task's adapters and hand them to the host's memory management."""
    adapters = load_task(files, task)
    devices = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    return LoadedAdapters(adapters, comfy.model_patcher.CoreModelPatcher(adapters.weights, *devices))


def attach(
    model: Patcher, loaded: LoadedAdapters, condition_strength: float, target_strength: float, seam: int
) -> Patcher:
    """Return a clone of `model` that runs the task's streams; `seam` is in latent columns, 0 switches it off.

    Adapters attached before are replaced. Raises ValueError if the model is not FLUX.1, or of another size, or if a
    strength is no finite number (the host's limits let NaN pass).
    """
    adapters = loaded.adapters
    if not (math.isfinite(condition_strength) and math.isfinite(target_strength)):
        raise ValueError(f"The strengths are {condition_strength} and {target_strength}; set both to finite numbers.")
    flux = flux_of(model)
    for file, layers in zip(adapters.files, adapters.stream_layers(), strict=True):
        check_fit(flux, str(file), layers)
    strengths = [condition_strength] * len(adapters.task.conditions) + [target_strength]
    patched = model.clone()
    patched.set_additional_models(KEY, [loaded.patcher])
    wrappers = {
        WrappersMP.DIFFUSION_MODEL: run_streams(adapters, strengths, seam),
        WrappersMP.SAMPLER_SAMPLE: sample_widened(seam),
        WrappersMP.PREDICT_NOISE: blend_between_steps(seam),
        WrappersMP.PREPARE_SAMPLING: prepare_widened(seam),
    }
    for kind, wrapper in wrappers.items():
        patched.remove_wrappers_with_key(kind, KEY)
        patched.add_wrapper_with_key(kind, KEY, wrapper)
    return patched


def flux_of(model: Patcher) -> Flux:
    """Return the FLUX.1 transformer of a MODEL.  Raises ValueError for any other architecture."""
    transformer = getattr(model.model, "diffusion_model", None)
    if isinstance(model.model, comfy.model_base.Flux) and isinstance(transformer, Flux) and _is_first(transformer):
        return transformer
    raise ValueError(
        f"OmniX adapters fit FLUX.1-dev, got {type(model.model).__name__}; connect a FLUX.1-dev model instead."
    )


def _is_first(transformer: Flux) -> bool:
    """Tell FLUX.1 from later models of the same class: they have no pooled text vector or share their modulation."""
    return transformer.vector_in is not None and not getattr(transformer.params, "global_modulation", False)


def check_fit(flux: Flux, file: str, layers: dict[str, Any]) -> None:
    """Raise ValueError if an adapter names a layer that the model lacks or that has other sizes."""
    modules = dict(flux.named_modules())
    for name, layer in layers.items():
        module = modules.get(name)
        if module is None:
            raise ValueError(f"{file}: {name}: the model has no such layer; is it a FLUX.1-dev with all its blocks?")
        rows = max((part.start + part.size for part in layer.rows), default=0)
        want = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        if want[0] not in (None, layer.down.shape[1]) or (want[1] is not None and rows > want[1]):
            got = f"[{rows}, {layer.down.shape[1]}]"
            raise ValueError(
                f"{file}: {name}: expected at most [{want[1]}, {want[0]}] as in the model, got {got}; "
                "these adapters were made for another model."
            )


def run_streams(adapters: TaskAdapters, strengths: Sequence[float], seam: int) -> Callable[..., Tensor]:
    """Return the DIFFUSION_MODEL wrapper: run FLUX on all streams, return the target's prediction."""
    task = adapters.task

    def forward(
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        guidance: Tensor | None = None,
        ref_latents: Sequence[Tensor] | None = None,
        control: object = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        options = transformer_options or {}
        check_call(task, x, ref_latents, control, kwargs, options, seam)
        conditions = [as_wide_as(x, latent, seam) for latent in ref_latents or ()]
        streams = [Stream(layers, strength) for layers, strength in zip(adapters.stream_layers(), strengths)]
        stacked = [None if part is None else stack(part, len(streams)) for part in (timestep, context, y, guidance)]
        joined = with_joint_attention(options, streams, context.shape[1])
        with adapted(executor.class_obj, streams):
            out = executor(torch.cat((*conditions, x)), *stacked, None, None, joined, **kwargs)
        return out[-x.shape[0] :]

    # A compiled graph would not see hooks that come and go, so a compiled model runs as it is written here.
    return cast("Callable[..., Tensor]", torch.compiler.disable(forward))


def with_joint_attention(options: dict[str, Any], streams: Sequence[Stream], text_rows: int) -> dict[str, Any]:
    """Return transformer options with the streams joined in attention, round an override that is there already."""
    inner = options.get("optimized_attention_override")
    attention = joint_attention(inner, len(streams), text_rows, text_is_shared(streams))
    return {**options, "optimized_attention_override": attention}


def check_call(
    task: Task,
    x: Tensor,
    conditions: Sequence[Tensor] | None,
    control: object,
    kwargs: dict[str, Any],
    options: dict[str, Any],
    seam: int,
) -> None:
    """Raise ValueError, in one sentence for the person who built the graph, for what OmniX can't run."""
    got, want = len(conditions or ()), len(task.conditions)
    if control is not None:
        raise ValueError("OmniX can't run with a ControlNet; remove the Apply ControlNet node from the conditioning.")
    if kwargs.get("attention_mask") is not None:
        raise ValueError("OmniX can't run with an attention mask (Redux); remove that node from the conditioning.")
    names = ", ".join(task.conditions)
    if got == 0 and list(options.get("cond_or_uncond", ())) == [1]:
        raise ValueError(
            f"The negative lacks the conditions of {task.name} ({names}): put the same Set Reference Latent nodes "
            "on the negative conditioning, or set cfg to 1."
        )
    if got != want:
        raise ValueError(
            f"The task {task.name} needs {want} reference latent{'s' if want > 1 else ''} ({names}, in this order), "
            f"got {got}; chain {want} Set Reference Latent node{'s' if want > 1 else ''} on the conditioning."
        )
    height, width = x.shape[-2], x.shape[-1] - seam
    check_panorama(height * PIXELS_PER_LATENT, width * PIXELS_PER_LATENT)
    for name, latent in zip(task.conditions, conditions or (), strict=True):
        if latent.shape[-2:] not in ((height, width), tuple(x.shape[-2:])):
            raise ValueError(
                f"The reference latent {name} is {size_in_pixels(latent)}, the sampled latent is "
                f"{width * PIXELS_PER_LATENT}x{height * PIXELS_PER_LATENT}; resize the picture before VAE Encode, or "
                "set the empty latent to its size."
            )


def size_in_pixels(latent: Tensor) -> str:
    """Return a latent's size as people know it: WIDTHxHEIGHT in pixels."""
    return f"{latent.shape[-1] * PIXELS_PER_LATENT}x{latent.shape[-2] * PIXELS_PER_LATENT}"


def as_wide_as(x: Tensor, latent: Tensor, seam: int) -> Tensor:
    """Return a condition latent [b, c, h, W] as one stream's input beside `x` [B, c, h, W + seam]."""
    latent = comfy.utils.repeat_to_batch_size(latent, x.shape[0]).to(x)
    return latent if latent.shape[-1] == x.shape[-1] else widen(latent, seam)


def sample_widened(seam: int) -> Callable[..., Tensor]:
    """Return the SAMPLER_SAMPLE wrapper: sample with the seam columns, then blend them into the first and crop."""

    def sample(
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[..., None] | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        if not seam:
            return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)
        if seam > noise.shape[-1]:
            raise ValueError(
                f"The seam is {seam} latent columns, the latent has {noise.shape[-1]}; lower seam_columns."
            )
        wide = [None if part is None else widen(part, seam) for part in (noise, latent_image, denoise_mask)]
        out = executor(guider, sigmas, extra_args, cropped_callback(callback, seam), *wide, disable_pbar)
        # Once as after every step, and once more as the reference does after the last.
        return crop(blend_seam(blend_seam(out, seam), seam), seam)

    return sample


def cropped_callback(callback: Callable[..., None] | None, seam: int) -> Callable[..., None] | None:
    """Return a sampler callback whose previews are as wide as the picture."""
    if callback is None:
        return None

    def show(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        callback(step, crop(denoised, seam), crop(x, seam), total)

    return show


def blend_between_steps(seam: int) -> Callable[..., Tensor]:
    """Return the PREDICT_NOISE wrapper: blend the seam of the sampler's x before every call but the first step's."""

    def predict(
        executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None
    ) -> Tensor:
        options = (model_options or {}).get("transformer_options", {})
        sigmas = options.get("sample_sigmas")
        if seam and (sigmas is None or float(timestep.max()) < float(sigmas[0])):
            blend_seam_(x, seam)
        return executor(x, timestep, model_options or {}, seed)

    return predict


def prepare_widened(seam: int) -> Callable[..., Any]:
    """Return the PREPARE_SAMPLING wrapper: let the memory estimate see the widened latent."""

    def prepare(executor: Any, model: Patcher, noise_shape: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        return executor(model, [*noise_shape[:-1], noise_shape[-1] + seam], *args, **kwargs)

    return prepare


def with_flow_shift(model: Patcher, mu: float) -> Patcher:
    """Return a clone of `model` that samples on sigma(t) = e^mu / (e^mu + 1/t - 1), exactly with `simple`."""
    flux_of(model)

    class ModelSampling(comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.CONST):
        pass

    sampling = ModelSampling(model.model.model_config)
    sampling.set_parameters(shift=mu)
    sampling.register_buffer("sigmas", sigmas(mu))
    patched = model.clone()
    patched.add_object_patch("model_sampling", sampling)
    return patched


def load_diffusers_flux(files: Sequence[str]) -> Patcher:
    """Load FLUX.1-dev from the shards of a Diffusers snapshot, through the host's own key conversion."""
    state: dict[str, Tensor] = {}
    for file in files:
        state.update(comfy.utils.load_torch_file(file))
    model = comfy.sd.load_diffusion_model_state_dict(state)
    if model is None:
        raise ValueError(f"{files[0]}: ComfyUI can't tell what model this is; is it FLUX.1-dev's transformer folder?")
    return model
