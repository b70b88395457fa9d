"""What a run would train, write and need, without loading anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..converters import AdapterError
from ..converters.files.header import read_header
from ..converters.lora.layout import FLUX_1, Geometry
from ..omnix.low_rank import AdapterWeights
from ..omnix.tasks import TEXT_ROWS
from .adapters import factor_count, fresh
from .config import PIXELS_PER_TOKEN, Config, Plan, size_of
from .data import maps
from .samples import turns

_BLOCK = re.compile(r"(?:^|\.)(double_blocks|single_blocks|transformer_blocks|single_transformer_blocks)\.(\d+)\.")
_FIRST = re.compile(r"(?:^|\.)(?:img_in|x_embedder)\.weight")
_BYTES = {"auto": 2, "bfloat16": 2, "float32": 4}
_STATE = {"adamw": 8, "adamw8bit": 2, "prodigy": 16, "muon": 4}
"""Bytes of optimiser state for each number."""
_LAYER_WIDTHS = 34
"""Activations kept inside one block, in units of the hidden size (Korthikanti et al. 2022, without attention)."""


def geometry_of_file(path: Path) -> Geometry | None:
    """Return the sizes of a FLUX.1 in a safetensors file, in either layout; None for what is none."""
    try:
        entries = read_header(path).entries if path.is_file() else {}
    except (AdapterError, OSError):
        return None
    first = next((entry for name, entry in entries.items() if _FIRST.search(name) and len(entry.shape) == 2), None)
    counts: dict[bool, int] = {}
    for name in entries:
        if match := _BLOCK.search(name):
            single = match[1].startswith("single")
            counts[single] = max(counts.get(single, 0), int(match[2]) + 1)
    if first is None or not counts:
        return None
    return Geometry(first.shape[0], 4 * first.shape[0], counts.get(False, 0), counts.get(True, 0))


def shapes(config: Config, geometry: Geometry) -> AdapterWeights:
    """Return one stream's layers of a run, as large as they will be."""
    return fresh(geometry, config.modules, config.rank, config.alpha, config.seed)


def lines(config: Config, plan: Plan, trained: int, held_out: int, model: Path | None) -> Iterator[str]:
    """Yield what a run is about, a line each."""
    geometry = (geometry_of_file(model) if model else None) or FLUX_1
    streams, layers = len(plan.streams), shapes(config, geometry)
    numbers = streams * factor_count([layers])
    modules = sum(len(layer.rows) for layer in layers.by_name().values())
    height, width = size_of(config)
    image = (height // PIXELS_PER_TOKEN) * ((width // 8 + config.seam_columns) // 2)
    tokens = streams * config.batch * (image + TEXT_ROWS)
    yield f"task            {plan.task.name}: {', '.join(plan.task.conditions)} -> {plan.task.target}"
    yield f"pictures        {trained} trained on, {held_out} held out, at {config.size}"
    sizes = f"hidden size {geometry.hidden}, {geometry.double} + {geometry.single} blocks"
    yield f"base            {sizes}{'' if model else ' (FLUX.1-dev; no --model given)'}"
    yield f"adapters        {streams} x {modules} layers of rank {config.rank}: {numbers / 1e6:.1f} million numbers"
    saved, kept = _saved(config, numbers) / 1e6, _state(config, numbers) / 1e6
    yield f"each save       {saved:.1f} MB, of which the state, kept of the newest alone, {kept:.1f} MB"
    may = turns(maps(plan))
    rolled = "off" if not config.roll else "on" if may else "off, since normals would not turn along"
    yield f"roll            {rolled}"
    yield f"steps           {config.steps} of {config.accumulate} x {config.batch} samples, {tokens} tokens at once"
    needed = _memory(config, geometry, numbers, tokens, model) / 1e9
    yield f"memory          about {needed:.1f} GB while training (estimated)"


def _saved(config: Config, numbers: int) -> float:
    """The published file, the converted one (with the zeros of its block diagonals: 2.4 times), and the state."""
    return numbers * _BYTES[config.save_dtype] * 3.4 + _state(config, numbers)


def _state(config: Config, numbers: int) -> float:
    return numbers * (4 + _STATE[config.optimizer] + (4 if config.ema else 0))


def _memory(config: Config, geometry: Geometry, numbers: int, tokens: int, model: Path | None) -> float:
    """Weights, factors with gradients and optimiser, and activations: one input a block, and one block in full."""
    h, blocks = geometry.hidden, geometry.double + geometry.single
    base = geometry.double * 36 * h * h + geometry.single * 15 * h * h
    stored = 1 if config.weight_dtype.startswith("float8") else _BYTES[config.precision]
    weights = float(
        model.stat().st_size if model and config.weight_dtype == "default" and model.is_file() else base * stored
    )
    kept = blocks * (1 if config.checkpointing else _LAYER_WIDTHS) + _LAYER_WIDTHS
    activations = tokens * h * kept * _BYTES[config.precision]
    return weights + numbers * (8 + _STATE[config.optimizer] + (4 if config.ema else 0)) + activations
