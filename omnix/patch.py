"""Attach OmniX to a ComfyUI model: with `seamless` and `memory`, the only modules of the runtime that know the host.

`attach` returns a clone of the user's MODEL with five wrappers, three of them the seam's (`seamless`). Everything else
(hooks, the attention override, the widened tensors) exists only while one of them runs, so the original MODEL is never
touched and there is nothing to undo. The adapters ride along as an additional model: the host counts their bytes, loads
and offloads them.

- DIFFUSION_MODEL stacks the reference latents and x into streams and returns the target's prediction.
- SAMPLER_SAMPLE widens noise, latent and masks by the seam columns, blends and crops the result; watches FLUX.
- PREDICT_NOISE blends the seam between steps, in place in the sampler's own x. Under a noise mask the host hands over a
  copy, so that x is blended before it is masked (`stages.BetweenSteps`).
- OUTER_SAMPLE puts that into the sampler, and hands on the columns past the seam where noise is left for another run.
- PREPARE_SAMPLING tells the memory estimate about the seam columns and about references that run once a sequence.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import comfy.ldm.flux.layers
import comfy.ldm.flux.math
import comfy.model_base
import comfy.model_management
import comfy.utils
import torch
from comfy.ldm.flux.model import Flux
from comfy.model_patcher import ModelPatcher as Patcher
from comfy.patcher_extension import WrappersMP
from einops import rearrange
from torch import Tensor, nn

from .adapter import TaskAdapters, load_task
from .blame import Place, accused, blaming, culprit, method, pack_of
from .checks import (
    CHANNELS,
    Conds,
    check_cards,
    check_conds,
    check_count,
    check_extras,
    check_fit,
    check_latents,
    check_noise,
    check_not_a_tile,
    check_place,
    check_seam,
    check_whole,
    doubt_of_cfg,
    doubt_of_size,
    each_cond,
    note_on,
    references,
)
from .compiled import HOW
from .conditioning import note_on_rows
from .fused import called
from .memory import LoadedAdapters, PanoramaSampling, copied, for_each_card, managed
from .memory import load_diffusers_flux as load_diffusers_flux
from .panorama import widen
from .sampling import Run, run_of
from .schedule import ENTRIES, flow_shift, sigmas
from .seamless import KEY, REPLACED, attach_seam, has_seam
from .streams import adapted, by_stream, joint_attention, of_target, stack, text_is_shared
from .tasks import Task
from .watch import OVERRIDE, Block, Step, guarded, running, unwrapped, wanted_of

PATCHES = "patches"
OWN_CONDS = frozenset(("ref_latents",))
"""What each stream widens itself."""
_OWN = ("comfy", "comfy_extras", "torch", __name__.removesuffix(".omnix.patch"))
"""Packages whose functions nobody has replaced."""


def load_adapters(files: Sequence[Path], task: Task) -> LoadedAdapters:
    """Read a task's adapters and hand them to the host's memory management."""
    adapters = load_task(files, task)
    return LoadedAdapters(adapters, managed(adapters, comfy.model_management.get_torch_device()))


def attach(
    model: Patcher, loaded: LoadedAdapters, condition_strength: float, target_strength: float, seam: int
) -> Patcher:
    """Return a clone of `model` that runs the task's streams; `seam` is in latent columns, 0 switches it off.

    Adapters attached before are replaced. Raises ValueError if the model is not FLUX.1, or of another size, or if a
    strength is no finite number (the host's limits let NaN pass), or the seam an odd one.
    """
    check_seam(seam)
    adapters = loaded.adapters
    if not (math.isfinite(condition_strength) and math.isfinite(target_strength)):
        raise ValueError(f"The strengths are {condition_strength} and {target_strength}; set both to finite numbers.")
    flux = flux_of(model)
    for file, layers in zip(adapters.files, adapters.stream_layers(), strict=True):
        check_fit(flux, str(file), layers)
    if not flux.params.guidance_embed:
        tell(
            "This FLUX.1 has no guidance embedding, as FLUX.1-schnell: OmniX's adapters were trained on FLUX.1-dev, "
            "and their maps are worse here; connect FLUX.1-dev."
        )
    strengths = [condition_strength] * len(adapters.task.conditions) + [target_strength]
    if has_seam(model) and not model.get_additional_models_with_key(KEY):
        tell(REPLACED)
    own = {
        WrappersMP.DIFFUSION_MODEL: run_streams(adapters, strengths, seam),
        WrappersMP.PREPARE_SAMPLING: prepare_widened(adapters, seam),
    }
    patched = attach_seam(model, seam, own, partial(check_run, seam), partial(overseen, seam, adapters.task), OWN_CONDS)
    patched.set_additional_models(KEY, [loaded.patcher])
    return patched


def check_run(seam: int, guider: Any, noise: Tensor) -> None:
    """Raise ValueError before a run with latents or conditionings that OmniX can't sample with."""
    check_noise(noise, seam)
    check_conds(guider.conds, noise.shape[0])


def flux_of(model: Patcher) -> Flux:
    """Return the FLUX.1 transformer of a MODEL, compiled or not.  Raises ValueError for any other architecture."""
    base: Any = model.model
    flux = unwrapped(
        getattr(model, "object_patches", {}).get("diffusion_model", getattr(base, "diffusion_model", None))
    )
    if not isinstance(flux, Flux) or not isinstance(base, comfy.model_base.Flux) or not _is_first(flux):
        named = type(flux if isinstance(base, comfy.model_base.Flux) and not isinstance(flux, Flux) else base)
        maker = "" if named.__module__.startswith("comfy.") else f" of {pack_of(named.__module__)}"
        raise ValueError(
            f"OmniX adapters fit FLUX.1-dev, got {named.__name__}{maker}; connect a FLUX.1-dev model instead."
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


def run_streams(adapters: TaskAdapters, strengths: Sequence[float], seam: int) -> Callable[..., Tensor]:
    """Return the DIFFUSION_MODEL wrapper: run FLUX on all streams, return the target's prediction."""
    task = adapters.task
    on_card = for_each_card(strengths)
    streams, _ = on_card(adapters.weights)
    layers = dict.fromkeys(layer for stream in streams for layer in stream.layers)

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
        run = run_of(options)
        check_extras(control, kwargs.get("attention_mask"))
        if run is not None:
            check_count(task, len(latents), run.asked(options), set(run.names.values()), run.cfg)
            check_whole(x.shape[-2:], run.height, run.width, seam)
            check_place(x, run.x)
            run.warn_once((note_on(options.get(OVERRIDE)), note_on_rows(context)), tell)
        else:
            check_count(task, len(latents))
        check_latents(task, x.shape[-2], x.shape[-1] - seam, latents)
        stacked = [None if part is None else stack(part, len(streams)) for part in (timestep, context, y, guidance)]
        whole = rearrange([*(as_stream(latent, x, seam) for latent in latents), x], "s b c h w -> (b s) c h w")
        join = partial(
            joint_attention, streams=len(streams), text_rows=context.shape[1], shared_text=text_is_shared(streams)
        )
        flux, step = executor.class_obj, Step(options.get(OVERRIDE), join, wanted_of(layers))
        blame = blaming(partial(_places, flux, options), _OWN)
        # The run watches its own models; another one, called by a node, is watched for this call.
        cards = {} if run is None else run.cards
        watch = nullcontext() if flux in cards else guarded(flux, blame, lambda: None)
        here, graphs = on_card(cards.get(flux) or adapters.weights)
        compiled = graphs.standing(flux, run, x.device, step, partial(_stranger, flux)) if run else nullcontext()
        joined = {**options, OVERRIDE: step.join, PATCHES: by_stream(options.get(PATCHES, {}), len(streams))}
        with (
            watch,
            adapted(flux, here, step.added, len(whole)),
            running(step, blame),
            compiled,
            called(flux, () if run and run.compile else layers),
        ):
            out = executor(whole, *stacked, None, None, joined, **kwargs)
            if run is not None:
                run.ran(step.blocks, lambda: culprit(_places(flux, options), _OWN))
        return of_target(out, len(streams))

    return cast("Callable[..., Tensor]", torch.compiler.disable(forward))  # `eager` says why


def as_stream(latent: Tensor, x: Tensor, seam: int) -> Tensor:
    """Return a condition latent [1 or b, c, h, W] as one stream's input beside `x` [b, c, h, W + seam]."""
    return widen(comfy.utils.repeat_to_batch_size(latent, x.shape[0]).to(x), seam)


@contextmanager
def overseen(seam: int, task: Task, guider: Any, run: Run) -> Iterator[None]:
    """While a run lasts, raise ValueError if FLUX runs without the streams; warn of another size's shift and of cfg."""
    for words in filter(None, (doubt_of_cfg(task, getattr(guider, "cfg", 1.0)), doubt_of_size(task, run.height))):
        tell(words)
    tell_of_shift(guider.inner_model.model_sampling, run, seam)
    options = guider.model_options
    cards = [_card(patcher) for patcher in options.get("multigpu_clones", {None: guider.model_patcher}).values()]
    run.cards, run.compile = dict(cards), options.get(HOW)
    check_cards([flux for flux, _ in cards], run.compile is not None)
    blames = [blaming(partial(_places, flux, options.get("transformer_options", {})), _OWN) for flux in run.cards]
    with ExitStack() as watches:
        for flux, blame in zip(run.cards, blames):
            watches.enter_context(guarded(flux, blame, run.called))
        yield
    if run.calls and not run.blocks:
        raise accused("FLUX ran without OmniX's streams", run.suspect) if run.suspect else blames[0]("streams", None)


def _card(patcher: Patcher) -> tuple[Flux, nn.Module | None]:
    """Return a card's FLUX and its adapters, unless another pack's patcher has lost them."""
    return flux_of(patcher), next((each.model for each in patcher.get_additional_models_with_key(KEY)), None)


def _places(flux: Any, options: Mapping[str, Any], block: Block | None = None) -> Iterator[Place]:
    """Yield what other packs replace, the likeliest first."""
    if block is not None:
        yield method(unwrapped(block.module), "forward", f"{block.kind.capitalize()}StreamBlock.forward")
    yield from (method(flux, name, f"Flux.{name}") for name in ("forward_orig", "_forward", "forward"))
    yield Place("FLUX's attention", comfy.ldm.flux.layers.attention, lasts=True)
    yield Place("ComfyUI's attention", comfy.ldm.flux.math.optimized_attention, lasts=True)
    yield Place("ComfyUI's attention", options.get(OVERRIDE))
    replaced = options.get("patches_replace", {}).get("dit", {})
    yield from (Place("_".join(map(str, key)), function) for key, function in replaced.items())
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        for functions in options.get("wrappers", {}).get(kind, {}).values():
            yield from (Place(f"the call of FLUX ({kind})", function) for function in functions)


def _stranger(flux: Any, block: Block) -> str | None:
    """Name who has replaced what a block computes with, if somebody has."""
    return culprit(_places(flux, {}, block), _OWN)


def tell_of_shift(sampling: Any, run: Run, seam: int) -> None:
    """Warn if the flow shift or its table is not that of the panorama; raise ValueError if it is a larger one's."""
    want, got = flow_shift(run.height, run.width, seam), getattr(sampling, "shift", math.nan)
    table = getattr(sampling, "sigmas", torch.empty(0)).to("cpu", torch.float32)
    if not math.isclose(want, got, rel_tol=1e-6):
        if ours := isinstance(sampling, PanoramaSampling):
            check_not_a_tile(got, run.height, run.width, seam)
        found = "OmniX Flow Shift was set for another size or seam" if ours else "The model has no OmniX Flow Shift"
        found = f"{found}: the shift is {got:.4f}, this panorama needs {want:.4f}"
    elif table.shape != (ENTRIES,) or not torch.allclose(table, sigmas(want), rtol=1e-5, atol=0):
        found = f"The shift {got:.4f} is right, but the model's table of noise levels is not that of OmniX Flow Shift"
    else:
        return
    tell(
        f"{found}. Give OmniX Flow Shift the latent that is sampled and the seam_columns of Apply OmniX Adapters "
        f"({seam}), and connect it to the sampler."
    )


def tell(message: str) -> None:
    """Warn in the log and, where the host has a way, on the node that runs."""
    logging.warning("OmniX: %s", message)
    context = getattr(sys.modules.get("comfy_execution.utils"), "get_executing_context", lambda: None)()
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if context is not None and hasattr(server, "send_progress_text"):
        cast("Any", server).send_progress_text(message, context.node_id)


def prepare_widened(adapters: TaskAdapters, seam: int) -> Callable[..., Any]:
    """Return the PREPARE_SAMPLING wrapper: let the memory estimate see the seam and every stream of every sequence.

    The adapters follow FLUX to the device that a node has chosen for it, before the host moves both there.
    The host counts one sequence of each reference latent; each runs beside every sequence, batch or not.
    """

    def prepare(
        executor: Any, model: Patcher, noise_shape: Sequence[int], conds: Conds, *args: Any, **kwargs: Any
    ) -> Any:
        if any(ours.load_device != model.load_device for ours in model.get_additional_models_with_key(KEY)):
            model.set_additional_models(KEY, [copied(adapters, model.load_device)])
        batch = noise_shape[0]
        repeated = [(batch - 1) * len(references(cond)) for cond in each_cond(conds)]
        shape = [batch + max(0, *repeated), *noise_shape[1:-1], noise_shape[-1] + seam]
        return executor(model, shape, conds, *args, **kwargs)

    return prepare


def with_flow_shift(model: Patcher, mu: float) -> Patcher:
    """Return a clone of `model` that samples on sigma(t) = e^mu / (e^mu + 1/t - 1), exactly with `simple`."""
    flux_of(model)
    patched = model.clone()
    patched.add_object_patch("model_sampling", PanoramaSampling(model.model.model_config, mu))
    return patched
