"""Attach OmniX to a ComfyUI model: with `seamless` and `memory`, the only modules of the runtime that know the host.

`attach` returns a clone of the user's MODEL with five wrappers, three of them the seam's (`seamless`). Everything else
(hooks, the attention override, the widened tensors) exists only while one of them runs, so the original MODEL is never
touched. The adapters are an additional model: the host counts their bytes, loads and offloads them.

- DIFFUSION_MODEL stacks the reference latents and x into streams and returns the target's prediction.
- PREPARE_SAMPLING adds to the memory estimate the seam columns and references that run once a sequence.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple, cast

import comfy.ldm.flux.layers
import comfy.ldm.flux.math
import comfy.model_base
import comfy.utils
import torch
from comfy.ldm.flux.model import Flux
from comfy.model_patcher import ModelPatcher as Patcher
from comfy.patcher_extension import WrappersMP
from einops import rearrange
from torch import Tensor, nn

from ..pictures.panorama import widen
from .adapter import TaskAdapters
from .causes import Place, error_of, explaining, method, pack_of, replacement
from .checks import (
    CHANNELS,
    check_cards,
    check_conds,
    check_count,
    check_extras,
    check_fit,
    check_latents,
    check_noise,
    check_place,
    check_seam,
    check_whole,
    doubt_of_cfg,
    doubt_of_shift,
    doubt_of_size,
    note_on,
)
from .compiled import HOW
from .conditioning import note_on_rows
from .fused import called
from .memory import KEY, LoadedAdapters, PanoramaSampling, for_each_card, prepare_widened
from .memory import load_adapters as load_adapters
from .memory import load_diffusers_flux as load_diffusers_flux
from .sampling import Run, run_of
from .seamless import REPLACED, attach_seam, has_seam
from .streams import Stream, adapted, by_stream, joint_attention, layers_of, of_target, stack, text_is_shared
from .tasks import APPLY, Task
from .watch import OVERRIDE, Block, Step, current, guarded, unwrapped, wanted_of

PATCHES = "patches"
OWN_CONDS = frozenset(("ref_latents",))  # each stream widens them itself
WARNING = "omnix.warning"
"""The event for the browser that started the run: the node that runs ("box:node" inside a box), and a message."""


def attach(
    model: Patcher, loaded: LoadedAdapters, condition_strength: float, target_strength: float, seam: int
) -> Patcher:
    """Return a clone of `model` that runs the task's streams; `seam` is in latent columns, 0 switches it off.

    Earlier adapters are replaced. Raises ValueError if the model is not FLUX.1, or of another size, or if a
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
        warn(
            "This FLUX.1 has no guidance embedding, like FLUX.1-schnell: OmniX's adapters were trained on FLUX.1-dev, "
            "and their maps are worse here; connect FLUX.1-dev."
        )
    strengths = [condition_strength] * len(adapters.task.conditions) + [target_strength]
    if has_seam(model) and not model.get_additional_models_with_key(KEY):
        warn(REPLACED)
    own = {
        WrappersMP.DIFFUSION_MODEL: run_streams(adapters, strengths, seam),
        WrappersMP.PREPARE_SAMPLING: prepare_widened(adapters, seam),
    }
    around = partial(overseen, seam, adapters.task)
    patched = attach_seam(model, seam, APPLY, own, partial(check_run, seam), around, OWN_CONDS)
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
            "OmniX adapters fit FLUX.1-dev, got a FLUX.1 with a picture as second input (Fill, Canny, Depth); "
            "connect FLUX.1-dev itself."
        )
    return flux


def _is_first(flux: Flux) -> bool:
    """Return whether this is FLUX.1; later models of its class lack the pooled vector or share their modulation."""
    return flux.vector_in is not None and not getattr(flux.params, "global_modulation", False)


class Call(NamedTuple):
    """One call of FLUX, as the host makes it."""

    flux: Flux
    x: Tensor
    context: Tensor
    latents: Sequence[Tensor]
    options: Mapping[str, Any]

    @property
    def run(self) -> Run | None:
        """The run that the call belongs to; None outside sampling."""
        return run_of(self.options)


def run_streams(adapters: TaskAdapters, strengths: Sequence[float], seam: int) -> Callable[..., Tensor]:
    """Return the DIFFUSION_MODEL wrapper: run FLUX on all streams, return the target's prediction."""
    on_card, count = for_each_card(strengths), len(strengths)
    streams, _ = on_card(adapters.weights)

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
        call = Call(executor.class_obj, x, context, ref_latents or (), transformer_options or {})
        check_extras(control, kwargs.get("attention_mask"))
        check_call(adapters.task, call, seam)
        whole, *given = stacked(call, (timestep, context, y, guidance), count, seam)
        step = joining_step(call, streams)
        patches = by_stream(call.options.get(PATCHES, {}), count)
        options = {**call.options, OVERRIDE: step.join, PATCHES: patches}
        with watched(call, step), running(call, step, on_card, adapters.weights, len(whole)):
            out = executor(whole, *given, None, None, options, **kwargs)
        return of_target(out, count)

    return cast("Callable[..., Tensor]", torch.compiler.disable(forward))  # `eager` says why


def check_call(task: Task, call: Call, seam: int) -> None:
    """Raise ValueError for a call that OmniX can't run; warn, once in a run, of one that is not exact."""
    run, size = call.run, call.x.shape[-2:]
    if run is None:
        check_count(task, len(call.latents))
    else:
        check_count(task, len(call.latents), run.asked(call.options), set(run.names.values()), run.cfg)
        check_whole(size, run.height, run.width, seam)
        check_place(call.x, run.x, run.node)
        run.warn_once((note_on(call.options.get(OVERRIDE)), note_on_rows(call.context)), warn)
    check_latents(task, size[0], size[1] - seam, call.latents)


def stacked(call: Call, given: Sequence[Tensor | None], streams: int, seam: int) -> list[Any]:
    """Return FLUX's inputs for all streams: the conditions and x, one above the other, and the rest once for each."""
    latents = (comfy.utils.repeat_to_batch_size(latent, call.x.shape[0]) for latent in call.latents)
    whole = [*(widen(latent.to(call.x), seam) for latent in latents), call.x]
    rest = [part if part is None else stack(part, streams) for part in given]
    return [rearrange(whole, "s b c h w -> (b s) c h w"), *rest]


def joining_step(call: Call, streams: Sequence[Stream]) -> Step:
    """Return the object that joins the streams in one call of FLUX and records it."""
    rows, shared = call.context.shape[1], text_is_shared(streams)
    join = partial(joint_attention, streams=len(streams), text_rows=rows, shared_text=shared)
    return Step(call.options.get(OVERRIDE), join, wanted_of(layers_of(streams)))


@contextmanager
def watched(call: Call, step: Step) -> Iterator[None]:
    """Raise ValueError if this call of FLUX leaves out a join or an adapter; count the call in its run."""
    flux, run = call.flux, call.run
    explain = explaining(partial(_places, flux, call.options))
    # The run watches its own models; another one, called by a node, is watched for this call.
    watch = nullcontext() if run and flux in run.cards else guarded(flux, explain, lambda: None)
    with watch, current(step, explain):
        yield
        if run is not None:
            run.ran(step.blocks, lambda: replacement(_places(flux, call.options)))


@contextmanager
def running(call: Call, step: Step, on_card: Any, weights: nn.Module, sequences: int) -> Iterator[None]:
    """Add the adapters of this card to FLUX while one call lasts, in its compiled blocks if the user compiles."""
    flux, run = call.flux, call.run
    streams, graphs = on_card((run.cards.get(flux) if run else None) or weights)

    def replaced(block: Block) -> str | None:
        return replacement(_places(flux, {}, block))

    compiled = graphs.standing(flux, run, call.x.device, step, replaced) if run else nullcontext()
    adding = adapted(flux, streams, step.added, sequences)
    with adding, compiled, called(flux, () if run and run.compile else layers_of(streams)):
        yield


@contextmanager
def overseen(seam: int, task: Task, guider: Any, run: Run) -> Iterator[None]:
    """While a run lasts, raise ValueError if FLUX runs without the streams; warn of what makes the result worse."""
    for doubt in filter(None, _doubts(seam, task, guider, run)):
        warn(doubt)
    options = guider.model_options
    cards = [_card(patcher) for patcher in options.get("multigpu_clones", {None: guider.model_patcher}).values()]
    run.cards, run.compile = dict(cards), options.get(HOW)
    check_cards([flux for flux, _ in cards], run.compile is not None)
    explainers = [explaining(partial(_places, flux, options.get("transformer_options", {}))) for flux in run.cards]
    with ExitStack() as watches:
        for flux, explain in zip(run.cards, explainers):
            watches.enter_context(guarded(flux, explain, run.called))
        yield
    if run.calls and not run.blocks:
        raise error_of("FLUX ran without OmniX's streams", run.cause) if run.cause else explainers[0]("streams", None)


def _doubts(seam: int, task: Task, guider: Any, run: Run) -> Iterator[str]:
    """Yield warnings about the result; "" for everything that is right."""
    yield doubt_of_cfg(task, getattr(guider, "cfg", 1.0))
    yield doubt_of_size(task, run.height)
    sampling = guider.inner_model.model_sampling
    ours, shift = isinstance(sampling, PanoramaSampling), getattr(sampling, "shift", math.nan)
    table = getattr(sampling, "sigmas", torch.empty(0)).to("cpu", torch.float32)
    yield doubt_of_shift(shift, table, ours, run.height, run.width, seam)


def _card(patcher: Patcher) -> tuple[Flux, nn.Module | None]:
    """Return a card's FLUX and its adapters, unless another pack's patcher has lost them."""
    return flux_of(patcher), next((each.model for each in patcher.get_additional_models_with_key(KEY)), None)


def _places(flux: Any, options: Mapping[str, Any], block: Block | None = None) -> Iterator[Place]:
    """Yield the functions that other packs replace, the most likely first."""
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


def warn(message: str) -> None:
    """Warn in the log and, where a browser has started the run (web/warnings.js), at the node that runs."""
    logging.warning("OmniX: %s", message)
    context = getattr(sys.modules.get("comfy_execution.utils"), "get_executing_context", lambda: None)()
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if context is not None and hasattr(server, "send_sync"):
        sent = {"node": context.node_id, "text": message, "prompt_id": context.prompt_id}
        cast("Any", server).send_sync(WARNING, sent, getattr(server, "client_id", None))


def with_flow_shift(model: Patcher, mu: float) -> Patcher:
    """Return a clone of `model` that samples on sigma(t) = e^mu / (e^mu + 1/t - 1), exactly with `simple`."""
    flux_of(model)
    patched = model.clone()
    patched.add_object_patch("model_sampling", PanoramaSampling(model.model.model_config, mu))
    return patched
