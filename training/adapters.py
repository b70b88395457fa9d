"""The adapters that are trained: fresh ones, or those of files to start from, and what is written of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..converters.lora.layout import LAYOUT, Fused, Geometry, Part, first_row, fused_place, numbered
from ..converters.lora.names import original_keys
from ..omnix.low_rank import AdapterWeights, LowRank, Rows, read_layers
from ..omnix.streams import Stream
from ..omnix.tasks import Task
from .config import Config, TrainingError


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
    """Make the adapters of every stream, or read those to start from."""
    if config.init:
        return [from_file(_init_file(Path(config.init), stream)).to(device) for stream in task.streams]
    geometry = geometry_of(flux)
    numbers = range(len(task.streams))
    seeds = [config.seed * len(task.streams) + number for number in numbers]
    return [fresh(geometry, config.modules, config.rank, config.alpha, seed).to(device) for seed in seeds]


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

    The scale alpha / r is folded into up in float32, so that every reader agrees on it, told or not.
    """
    state: dict[str, Tensor] = {}
    for name, layer in adapter.by_name().items():
        ranks = [up.shape[1] for up in layer.ups]
        for rows, down, up in zip(layer.rows, layer.down.detach().split(ranks), layer.ups):
            keys = original_keys(_module(name, rows, layer))
            state |= dict(zip(keys, (_as(down, dtype), _as(up.detach() * rows.scale, dtype))))
    return state


def _as(factor: Tensor, dtype: torch.dtype) -> Tensor:
    return factor.to("cpu", dtype).contiguous()


def _module(name: str, rows: Rows, layer: LowRank) -> str:
    """Name the Diffusers layer of a block by the rows where it begins."""
    found = fused_place(name)
    if found is None:
        raise TrainingError(f"{name}: expected a layer of FLUX.1, got none of its table; start from another adapter.")
    fused, number = found
    hidden = layer.down.shape[1] if fused.columns is None or not fused.columns.mlp else 0
    geometry = Geometry(hidden, 4 * hidden)
    part = next((p for p in fused.parts if first_row(fused, p).of(geometry) == rows.start), fused.parts[0])
    return numbered(fused.block, number) + part.name


def copy_factors(source: nn.Module, target: nn.Module) -> None:
    """Copy the factors of one set of adapters into another of the same shapes."""
    with torch.no_grad():
        for ours, theirs in zip(target.parameters(), source.parameters(), strict=True):
            ours.copy_(theirs)


def factor_count(adapters: Mapping[str, AdapterWeights] | Sequence[nn.Module]) -> int:
    """Count the numbers that are trained."""
    modules = adapters.values() if isinstance(adapters, Mapping) else adapters
    return sum(factor.numel() for module in modules for factor in module.parameters())
