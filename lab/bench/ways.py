"""The ways of computing one denoising step that the benches compare, all on one FLUX.1 with random weights.

Each way maps the same latents to the target stream's velocity; what they compute is equal, but for the floor, which
leaves the adapters out. Nothing here is used by the pack.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import comfy.model_management
import comfy.ops
import torch
from comfy.ldm.flux.model import Flux
from comfy.patcher_extension import WrappersMP
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.pictures.panorama import widen
from comfyui_omnix.omnix.runtime.adapter import TaskAdapters, load_task
from comfyui_omnix.omnix.runtime.low_rank import LowRank, Rows
from comfyui_omnix.omnix.runtime.noise import PeriodicNoise
from comfyui_omnix.omnix.runtime.patch import KEY, run_streams
from comfyui_omnix.omnix.runtime.sampling import RUN, Run
from comfyui_omnix.omnix.runtime.streams import fold, stack
from comfyui_omnix.omnix.runtime.tasks import APPLY, TASKS
from einops import rearrange, repeat
from torch import Tensor, nn

SEAM = 6
TEXT_TOKENS = 256  # as the tables of README.md were measured; the graphs have 512
TASK_OF_STREAMS = {2: "rgb_to_depth", 3: "rgb_camray_to_normal"}
SMALL = tiny.Geometry(hidden=768, double=2, single=4, text=256, pooled=128)

_FREE = 8 << 30

Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Bench:
    """A FLUX and the adapters and inputs of one step, where they are computed and in which dtype."""

    flux: Flux
    adapters: TaskAdapters
    inputs: Mapping[str, Any]
    x: Tensor
    conditions: tuple[Tensor, ...]

    @property
    def streams(self) -> int:
        """Condition streams and target."""
        return len(self.conditions) + 1


def empty_flux(geometry: tiny.Geometry, weights: torch.dtype, device: torch.device) -> Flux:
    """Build the host's FLUX.1 as its loaders build it for a weight dtype; its numbers are yet to come."""
    return Flux(
        image_model="flux",
        in_channels=16,
        out_channels=16,
        patch_size=2,
        vec_in_dim=geometry.pooled,
        context_in_dim=geometry.text,
        hidden_size=geometry.hidden,
        mlp_ratio=4.0,
        num_heads=geometry.heads,
        depth=geometry.double,
        depth_single_blocks=geometry.single,
        axes_dim=[16, 56, 56],
        txt_ids_dims=[],
        theta=10000,
        qkv_bias=True,
        guidance_embed=geometry.guidance,
        dtype=weights,
        device=device,
        operations=comfy.ops.manual_cast,
    )


def make_flux(geometry: tiny.Geometry, weights: torch.dtype, device: torch.device) -> Flux:
    """Build the host's FLUX.1 with random weights W ~ N(0, 1/in)."""
    flux = empty_flux(geometry, weights, device)
    draw = torch.Generator(device).manual_seed(0)
    for parameter in flux.parameters():
        if parameter.ndim < 2:
            value = torch.ones(parameter.shape, device=device) * (parameter.shape == (tiny.HEAD,))
        else:
            value = torch.randn(parameter.shape, generator=draw, device=device) * parameter.shape[1] ** -0.5
        parameter.data.copy_(value.to(weights))
    return flux.eval().requires_grad_(False)


def make_adapters(geometry: tiny.Geometry, streams: int, dtype: torch.dtype, device: torch.device) -> TaskAdapters:
    """Write a task's adapters, rank 64 to each 3072 of hidden size, and read them as the node does."""
    task = TASKS[TASK_OF_STREAMS[streams]]
    rank = max(1, 64 * geometry.hidden // 3072)
    with tempfile.TemporaryDirectory() as folder:
        states = (tiny.adapter(geometry, seed, rank, dtype, size=0.05) for seed in range(streams))
        files = [tiny.save(state, Path(folder, f"{number}.safetensors")) for number, state in enumerate(states)]
        adapters = load_task(files, task)
    adapters.weights.to(device)
    return adapters


def make_bench(flux: Flux, adapters: TaskAdapters, geometry: tiny.Geometry, height: int, dtype: torch.dtype) -> Bench:
    """Draw the inputs of one step for a panorama of `height` x 2 height pixels, computed in `dtype`."""
    device = next(flux.parameters()).device
    draw = torch.Generator(device).manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, device=device).to(dtype)

    conditions = tuple(noise(1, 16, height // 8, height // 4) for _ in adapters.task.conditions)
    inputs = {
        "timestep": torch.full((1,), 0.7, device=device, dtype=dtype),
        "context": noise(1, TEXT_TOKENS, geometry.text),
        "y": noise(1, geometry.pooled),
        "guidance": torch.full((1,), 3.5, device=device, dtype=dtype),
    }
    x = widen(noise(1, 16, height // 8, height // 4), SEAM)
    return Bench(flux, adapters, inputs, x, conditions)


def ours(bench: Bench, strength: float = 1.0) -> Tensor:
    """(a) The pack: low-rank deltas by blocks, through its wrapper of the diffusion model."""
    wrapper = run_streams(bench.adapters, [strength] * bench.streams, SEAM)
    options = {"wrappers": {WrappersMP.DIFFUSION_MODEL: {KEY: [wrapper]}}}
    return bench.flux(bench.x, ref_latents=list(bench.conditions), transformer_options=options, **bench.inputs)


def ours_without_adapters(bench: Bench) -> Tensor:
    """The pack at strength 0: what its streams cost alone."""
    return ours(bench, 0.0)


def floor(bench: Bench) -> Tensor:
    """(b) The same FLUX on the same stacked batch with folded attention; nothing adapted, nothing computed once."""
    return _stacked(bench, _folded_attention(bench.streams))


def reference(bench: Bench) -> Tensor:
    """(c) The reference's way, plainly written: W and the adapter for each stream in turn, keys and values repeated."""
    with _one_after_another(bench.flux, bench.adapters.stream_layers()):
        return _stacked(bench, _repeated_attention(bench.streams))


WAYS: Mapping[str, Callable[[Bench], Tensor]] = {
    "a": ours,
    "b": floor,
    "c": reference,
    "d": ours_without_adapters,
}


def _graph(block: nn.Module, backend: str) -> nn.Module:
    return cast(nn.Module, torch.compile(block, backend=backend))


def compiled(bench: Bench, backend: str = "inductor") -> Mapping[str, Callable[[Bench], Tensor]]:
    """Return (e) the pack on a compiled model and (f) the floor with each of its blocks compiled, not yet run.

    The host's attention on the CPU divides by the memory that is free, a figure that changes; both see a fixed one.
    """
    if not bench.x.is_cuda:
        comfy.model_management.get_free_memory = lambda _=None, both=False: (_FREE, _FREE) if both else _FREE
    wrapper = run_streams(bench.adapters, [1.0] * bench.streams, SEAM)
    height, width = bench.conditions[0].shape[-2:]
    run = Run(height, width, PeriodicNoise(height, width, SEAM), APPLY, compile={"backend": backend})
    options = {"wrappers": {WrappersMP.DIFFUSION_MODEL: {KEY: [wrapper]}}, RUN: run}
    kinds = ("double_blocks", "single_blocks")
    graphs = {kind: nn.ModuleList(_graph(block, backend) for block in getattr(bench.flux, kind)) for kind in kinds}

    def ours_compiled(bench: Bench) -> Tensor:
        return bench.flux(bench.x, ref_latents=list(bench.conditions), transformer_options=options, **bench.inputs)

    def floor_compiled(bench: Bench) -> Tensor:
        stood = {kind: getattr(bench.flux, kind) for kind in kinds}
        try:
            for kind in kinds:
                setattr(bench.flux, kind, graphs[kind])
            return floor(bench)
        finally:
            for kind in kinds:
                setattr(bench.flux, kind, stood[kind])

    return {"e": ours_compiled, "f": floor_compiled}


def _stacked(bench: Bench, attention: Callable[..., Tensor]) -> Tensor:
    x = torch.cat((*(widen(condition, SEAM) for condition in bench.conditions), bench.x))
    inputs = {name: stack(tensor, bench.streams) for name, tensor in bench.inputs.items()}
    out = bench.flux(x, transformer_options={"optimized_attention_override": attention}, **inputs)
    return out[-1:]


def _folded_attention(streams: int) -> Callable[..., Tensor]:
    """Return attention of all streams' queries, as one sequence, over all their keys and values."""

    def attend(func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = func(*(fold(part, streams) for part in (q, k, v)), *args, **kwargs)
        return rearrange(out, "b (s n) c -> (b s) n c", s=streams)

    return attend


def _repeated_attention(streams: int) -> Callable[..., Tensor]:
    """Return attention of each stream's own queries over a copy of all streams' keys and values."""

    def attend(func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        k, v = (repeat(part, "(b s) h n d -> (b z) h (s n) d", s=streams, z=streams).contiguous() for part in (k, v))
        return func(q, k, v, *args, **kwargs)

    return attend


@contextmanager
def _one_after_another(model: nn.Module, streams: Sequence[Mapping[str, LowRank]]) -> Iterator[None]:
    """Run each adapted layer for one stream after another, its adapter's blocks as modules of their own, as PEFT."""
    with ExitStack() as undo:
        for name in streams[0]:
            module = model.get_submodule(name)
            forward = module.forward
            layers = [stream[name] for stream in streams]
            module.forward = _in_turn(forward, layers)
            undo.callback(module.__dict__.pop, "forward")
        yield


def _in_turn(forward: Callable[[Tensor], Tensor], layers: Sequence[LowRank]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        parts = rearrange(x, "(b s) ... -> s b ...", s=len(layers))
        return rearrange(
            [_peft(forward(part), part, layer) for part, layer in zip(parts, layers)], "s b ... -> (b s) ..."
        )

    return run


def _peft(y: Tensor, x: Tensor, layer: LowRank) -> Tensor:
    """Add the deltas of q, k, v and so on, each from its own down and up factor."""
    results, start = list(y.split([place.size for place in _covering(layer, y.shape[-1])], dim=-1)), 0
    for number, (up, place) in enumerate(zip(layer.ups, layer.rows)):
        down = layer.down[start : start + up.shape[1]]
        results[number] = (
            results[number] + nn.functional.linear(nn.functional.linear(x, down.to(x)), up.to(x)) * place.scale
        )
        start += up.shape[1]
    return torch.cat(results, dim=-1)


def _covering(layer: LowRank, rows: int) -> list[Rows]:
    """Return the blocks' rows and, after them, the rows that no block covers; blocks must follow each other."""
    end = 0
    for place in layer.rows:
        if place.start != end:
            raise ValueError(f"expected blocks without gaps, got one at row {place.start} after row {end}.")
        end += place.size
    return [*layer.rows, *([Rows(end, rows - end, 1.0)] if end < rows else [])]
