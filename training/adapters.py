"""The adapters that are trained: new ones or those of --init, and how they are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..converters.lora.layout import LAYOUT, Fused, Geometry, Part, first_row, fused_place, numbered
from ..converters.lora.names import original_keys
from ..omnix.runtime import checks
from ..omnix.runtime.low_rank import AdapterWeights, LowRank, Rows, read_layers
from ..omnix.runtime.streams import Stream
from ..omnix.runtime.tasks import Task
from .config import Config, TrainingError, note
from .samples import Batch


def geometry_of(flux: nn.Module) -> Geometry:
    """Return the sizes of a FLUX in ComfyUI's layout."""
    hidden = int(flux.get_submodule("img_in").out_features)  # type: ignore[arg-type]
    counts = [len(list(flux.get_submodule(f"{kind}_blocks").children())) for kind in ("double", "single")]
    return Geometry(hidden, 4 * hidden, *counts)


def fresh(geometry: Geometry, modules: Sequence[str], rank: int, alpha: float, seed: int) -> AdapterWeights:
    """Make one stream's layers as PEFT's `gaussian` does: down ~ N(0, 1/r^2), up = 0, float32, trainable."""
    draw = torch.Generator().manual_seed(seed)
    layers = {}
    for name, fused in _layers(geometry):
        parts = [part for part in fused.parts if part.name in modules]
        if parts:
            columns = fused.columns.of(geometry) if fused.columns else geometry.hidden
            down = torch.randn(rank * len(parts), columns, generator=draw) / rank
            rows = [Rows(first_row(fused, part).of(geometry), _height(part, geometry), alpha / rank) for part in parts]
            layers[name] = LowRank(down, [torch.zeros(row.size, rank) for row in rows], rows)
    return AdapterWeights(layers).requires_grad_(True)


def _layers(geometry: Geometry) -> Iterator[tuple[str, Fused]]:
    """Yield the fused layers of all blocks of a model."""
    counts = {"double_blocks": geometry.double, "single_blocks": geometry.single}
    for fused in LAYOUT:
        for number in range(counts.get(fused.name.split(".")[0], 0)):
            yield numbered(fused.name, number), fused


def _height(part: Part, geometry: Geometry) -> int:
    return part.rows.of(geometry) if part.rows else geometry.hidden


def from_file(path: Path) -> AdapterWeights:
    """Read an adapter, original or converted, to train it further, in float32.  Raises AdapterError, OSError."""
    return AdapterWeights(read_layers(path)).float().requires_grad_(True)


PUBLISHED = "pytorch_lora_weights.safetensors"


def initial(config: Config, task: Task, flux: nn.Module, device: torch.device) -> list[AdapterWeights]:
    """Make the adapters of every stream, or read those of --init."""
    geometry = geometry_of(flux)
    if config.init:
        found = [_fitting(flux, _init_file(Path(config.init), stream)).to(device) for stream in task.streams]
        _report_difference(config, found, geometry)
        return found
    numbers = range(len(task.streams))
    seeds = [config.seed * len(task.streams) + number for number in numbers]
    return [fresh(geometry, config.modules, config.rank, config.alpha, seed).to(device) for seed in seeds]


def _fitting(flux: nn.Module, path: Path) -> AdapterWeights:
    """Read an adapter of --init.  Raises ValueError if the model lacks one of its layers, or has other sizes."""
    adapter = from_file(path)
    checks.check_fit(flux, str(path), adapter.by_name())
    return adapter


def _report_difference(config: Config, found: Sequence[AdapterWeights], geometry: Geometry) -> None:
    """Report settings that have no effect, because the adapters of --init have other values."""
    layers = [layer for adapter in found for layer in adapter.by_name().values()]
    ranks = sorted({up.shape[1] for layer in layers for up in layer.ups})
    if ranks != [config.rank]:
        note(
            f"The adapters in --init {config.init} have rank {', '.join(map(str, ranks))}; --rank {config.rank} has no "
            "effect."
        )
    wanted = {name for name, fused in _layers(geometry) if {part.name for part in fused.parts} & {*config.modules}}
    if any({*adapter.by_name()} != wanted for adapter in found):
        note(f"The adapters in --init {config.init} adapt other layers than --modules; --modules has no effect.")


def _init_file(folder: Path, stream: str) -> Path:
    names = (folder / f"{stream}.safetensors", folder / stream / PUBLISHED)
    found = next((path for path in names if path.is_file()), None)
    if found is None:
        raise TrainingError(f"{folder}: expected {names[0].name} or {stream}/{PUBLISHED}, got neither; correct --init.")
    return found


def streams_of(adapters: Sequence[AdapterWeights]) -> list[Stream]:
    """Return the adapters as the streams of a step, at full strength."""
    return [Stream(adapter.by_name(), 1.0) for adapter in adapters]


def published(adapter: AdapterWeights, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return one adapter as OmniX publishes them: `transformer.` keys, a down and an up for each Diffusers layer.

    The scale alpha / r is folded into up in float32, so that every reader agrees on it. A block that covers several
    Diffusers layers, as in kohya's files, becomes one pair for each of them, with the same down.
    """
    state: dict[str, Tensor] = {}
    for name, layer in adapter.by_name().items():
        ranks = [up.shape[1] for up in layer.ups]
        for rows, down, up in zip(layer.rows, layer.down.detach().split(ranks), layer.ups):
            for module, own in _parts(name, rows, layer.down.shape[1], up.detach() * rows.scale):
                state |= dict(zip(original_keys(module), (_as(down, dtype), _as(own, dtype))))
    return state


def _as(factor: Tensor, dtype: torch.dtype) -> Tensor:
    return factor.to("cpu", dtype).contiguous()


def _parts(name: str, rows: Rows, columns: int, up: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the Diffusers layers in a block of a layer with so many columns, and their part of its up factor."""
    found = fused_place(name)
    if found is None:
        raise TrainingError(f"{name}: expected a layer of FLUX.1, got an unknown one; start from another adapter.")
    fused, number = found
    if len(fused.parts) == 1:
        (part,) = fused.parts
        yield numbered(fused.block, number) + part.name, torch.cat(up.chunk(2)[::-1]) if part.swapped else up
        return
    geometry = Geometry(columns, 4 * columns)  # all layers of several parts are as wide as the model
    for part in fused.parts:
        start = first_row(fused, part).of(geometry) - rows.start
        if 0 <= start < rows.size:
            yield numbered(fused.block, number) + part.name, up[start : start + _height(part, geometry)]


@contextmanager
def exchanged(adapters: Sequence[nn.Module], averages: Sequence[nn.Module] | None) -> Iterator[None]:
    """Exchange the adapters' values and their averages, if there are any, inside this context."""
    pairs = [pair for ours, mean in zip(adapters, averages or ()) for pair in zip(ours.parameters(), mean.parameters())]

    def exchange() -> None:
        for ours, mean in pairs:
            ours.data, mean.data = mean.data, ours.data

    exchange()
    try:
        yield
    finally:
        exchange()


def check_fit(flux: nn.Module, batch: Batch) -> None:
    """Raise TrainingError if latents or prompts were encoded for another model than this FLUX."""
    widths = (
        ("latents", batch.latents[-1].shape[-3] * 4, "img_in", "--vae"),
        ("text", batch.text.shape[-1], "txt_in", "--t5 or --conditioning"),
        ("pooled text", batch.pooled.shape[-1], "vector_in.in_layer", "--clip-l or --conditioning"),
    )
    for name, got, layer, flag in widths:
        wanted = int(flux.get_submodule(layer).in_features)  # type: ignore[arg-type]
        if got != wanted:
            raise TrainingError(
                f"The {name} has {got} channels, and this FLUX reads {wanted}: expected FLUX.1's own encoders; correct "
                f"{flag}."
            )
