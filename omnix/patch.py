"""Attach OmniX to a ComfyUI model: the one module of the runtime that knows the host.

`attach` returns a clone of the user's MODEL with four wrappers. Everything else (hooks, the attention override, the
widened tensors) exists only while one of them runs, so the original MODEL is never touched and there is nothing to
undo. The adapters ride along as an additional model: the host counts their bytes, loads and offloads them.

- DIFFUSION_MODEL stacks the reference latents and x into streams and returns the target's prediction.
- SAMPLER_SAMPLE widens noise, latent and masks by the seam columns, blends and crops the result.
- PREDICT_NOISE blends the seam between steps, in place in the sampler's own x. (Under a noise mask the host hands over
  a copy: there the model sees the seam blended, and the sampler's x is blended in the end.)
- PREPARE_SAMPLING tells the memory estimate about the seam columns and about references that run once a sequence.
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
from einops import rearrange
from torch import Tensor

from .adapter import TaskAdapters, load_task
from .checks import (
    CHANNELS,
    Conds,
    check_conds,
    check_count,
    check_extras,
    check_latents,
    check_noise,
    each_cond,
    references,
)
from .panorama import blend_seam, blend_seam_, crop, widen
from .schedule import sigmas
from .streams import Stream, adapted, joint_attention, of_target, stack, text_is_shared
from .tasks import Task

KEY = "omnix"
NEGATIVE = 1
"""The host's number for the negative among the conditionings of one call."""


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
    flux: Any = getattr(model.model, "diffusion_model", None)
    if not isinstance(flux, Flux) or not isinstance(model.model, comfy.model_base.Flux) or not _is_first(flux):
        raise ValueError(
            f"OmniX adapters fit FLUX.1-dev, got {type(model.model).__name__}; connect a FLUX.1-dev model instead."
        )
    if flux.params.in_channels != CHANNELS:
        raise ValueError(
            "OmniX adapters fit FLUX.1-dev, got a FLUX.1 that takes a picture beside the noise (Fill, Canny, Depth); "
            "connect FLUX.1-dev itself."
        )
    return flux


def _is_first(flux: Flux) -> bool:
    """Tell FLUX.1 from later models of the same class: they have no pooled text vector or share their modulation."""
    return flux.vector_in is not None and not getattr(flux.params, "global_modulation", False)


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
    streams = [Stream(layers, strength) for layers, strength in zip(adapters.stream_layers(), strengths)]

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
        options, latents = transformer_options or {}, ref_latents or ()
        check_extras(control, kwargs.get("attention_mask"))
        check_count(task, len(latents), set(options.get("cond_or_uncond", ())) == {NEGATIVE})
        check_latents(task, x.shape[-2], x.shape[-1] - seam, latents)
        stacked = [None if part is None else stack(part, len(streams)) for part in (timestep, context, y, guidance)]
        conditions = [as_stream(latent, x, seam) for latent in latents]
        with adapted(executor.class_obj, streams):
            joined = with_joint_attention(options, streams, context.shape[1])
            whole = rearrange([*conditions, x], "s b c h w -> (b s) c h w")
            out = executor(whole, *stacked, None, None, joined, **kwargs)
        return of_target(out, len(streams))

    # A compiled graph would not see hooks that come and go, so a compiled model runs as it is written here.
    return cast("Callable[..., Tensor]", torch.compiler.disable(forward))


def with_joint_attention(options: dict[str, Any], streams: Sequence[Stream], text_rows: int) -> dict[str, Any]:
    """Return transformer options with the streams joined in attention, round an override that is there already."""
    inner = options.get("optimized_attention_override")
    attention = joint_attention(inner, len(streams), text_rows, text_is_shared(streams))
    return {**options, "optimized_attention_override": attention}


def as_stream(latent: Tensor, x: Tensor, seam: int) -> Tensor:
    """Return a condition latent [1 or b, c, h, W] as one stream's input beside `x` [b, c, h, W + seam]."""
    return widen(comfy.utils.repeat_to_batch_size(latent, x.shape[0]).to(x), seam)


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
        check_noise(noise, seam)
        check_conds(guider.conds, noise.shape[0])
        guider.conds = with_wide_masks(guider.conds, seam)  # a copy of this run alone
        wide = [None if part is None else widen(part, seam) for part in (noise, latent_image, denoise_mask)]
        return closed(executor(guider, sigmas, extra_args, closing(callback, seam), *wide, disable_pbar), seam)

    return sample


def with_wide_masks(conds: Conds, seam: int) -> Conds:
    """Return conditionings whose masks [b, h, W], which say where each one acts, go on past the seam."""
    return {
        name: [{**cond, "mask": widen(cond["mask"], seam)} if "mask" in cond else cond for cond in each]
        for name, each in conds.items()
    }


def closed(x: Tensor, seam: int) -> Tensor:
    """Blend the seam columns into the first and crop: once as after every step, and once more as the reference does."""
    return crop(blend_seam(blend_seam(x, seam), seam), seam)


def closing(callback: Callable[..., None] | None, seam: int) -> Callable[..., None] | None:
    """Return a sampler callback that is shown pictures as they come out: as wide as the result, the seam closed."""
    if callback is None:
        return None

    def show(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        callback(step, closed(denoised, seam), closed(x, seam), total)

    return show


def blend_between_steps(seam: int) -> Callable[..., Tensor]:
    """Return the PREDICT_NOISE wrapper: blend the seam of the sampler's x before every call.

    Before the first this changes nothing, for there the columns are equal.
    """

    def predict(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return executor(blend_seam_(x, seam), *args, **kwargs)

    return predict


def prepare_widened(seam: int) -> Callable[..., Any]:
    """Return the PREPARE_SAMPLING wrapper: let the memory estimate see the seam and every stream of every sequence.

    The host counts the reference latents once; those of a batch of one run beside each sequence.
    """

    def prepare(
        executor: Any, model: Patcher, noise_shape: Sequence[int], conds: Conds, *args: Any, **kwargs: Any
    ) -> Any:
        batch = noise_shape[0]
        repeated = [sum(batch - latent.shape[0] for latent in references(cond)) for cond in each_cond(conds)]
        shape = [batch + max(0, *repeated), *noise_shape[1:-1], noise_shape[-1] + seam]
        return executor(model, shape, conds, *args, **kwargs)

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
