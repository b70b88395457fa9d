"""A whole run, from a folder of pictures to the adapters of each target; or a dry one, which writes nothing."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..converters import AdapterError
from ..converters.files.header import read_header
from ..converters.lora.layout import FLUX_1, Geometry
from ..omnix.low_rank import AdapterWeights
from ..omnix.tasks import TEXT_ROWS
from . import data
from .adapters import factor_count, fresh
from .config import PIXELS_PER_TOKEN, Config, Plan, TrainingError, check, plans, size_of
from .engine import Result, train
from .pictures import picture
from .record import Watch
from .samples import turns

LATENTS = "latents"


def run(config: Config, *, base: Any = None, go_on: bool = False, show: bool = True) -> tuple[Result, ...]:
    """Train every target of a configuration, one after the other; return what each came to.

    `base` is a FLUX.1 with its VAE and text encoders (`Base` and `Pictures`); None loads the configuration's through
    ComfyUI. `go_on` continues from the newest saves. Raises TrainingError, AdapterError, MapError, OSError.
    """
    check(config)
    if not config.output:
        raise TrainingError("--output is missing: name the folder for saves, sheets and curves.")
    tasks = plans(config)
    found = [data.find(config, plan) for plan in tasks]
    results: list[Result] = []
    for plan, sources in zip(tasks, found):
        results.append(_train_one(config, plan, sources, base or host_base(config), go_on, show))
        if results[-1].stopped:
            break
    return tuple(results)


def host_base(config: Config) -> Any:
    """Return the configuration's base model through ComfyUI."""
    use_host(config.comfyui, config.device == "cpu")
    try:
        from .host import HostBase  # knows the host, which can be imported only now
    except RuntimeError as error:  # the host looks for a GPU while it is imported
        reason = str(error).splitlines()[0]
        raise TrainingError(f"ComfyUI found no GPU ({reason}). Check the GPU driver, or use --device cpu.") from error
    return HostBase(config)


def folder_of(config: Config, plan: Plan) -> Path:
    """Return where a task's saves go: into the output, below it in a folder of its own if there are several."""
    output = Path(config.output)
    return output if len(config.target) == 1 else output / plan.task.name


def _train_one(config: Config, plan: Plan, sources: data.Sources, base: Any, go_on: bool, show: bool) -> Result:
    trained, held_out = data.split(sources.stems, config.held_out)
    output = folder_of(config, plan)
    cache = data.Cache(Path(config.output) / LATENTS, base, base.vae_identity)
    samples = data.encoded(config, plan, sources, trained, cache, base, show)
    shown = data.encoded(config, plan, sources, held_out, cache, base, show) if held_out else None
    base.release()
    watch = Watch(config, plan, sources, held_out, base, output)
    return train(config, plan.task, base, samples, output, go_on=go_on, held_out=shown, sampled=watch, show=show)


ROOT = Path(__file__).resolve().parents[1]
"""The pack."""


def use_host(named: str, cpu: bool) -> None:
    """Make ComfyUI importable: the one that runs already, the named folder, COMFYUI_PATH, or the one above the pack.

    Raises TrainingError if there is none.
    """
    if "comfy.model_management" in sys.modules:
        return
    folder = host_folder(named)
    # Started in the pack's folder, Python finds our nodes.py before the host's.
    sys.path[:] = [entry for entry in sys.path if Path(entry or os.getcwd()).resolve() != ROOT]
    sys.path.insert(0, str(folder))
    importlib.import_module("comfy.cli_args").args.cpu = cpu


def host_folder(named: str) -> Path:
    """Return ComfyUI's folder.  Raises TrainingError."""
    told = named or os.environ.get("COMFYUI_PATH", "")
    folder = Path(told).expanduser().resolve() if told else ROOT.parents[1]
    if not (folder / "comfy" / "cli_args.py").is_file():
        raise TrainingError(
            f"{folder} is no ComfyUI folder (it has no comfy/cli_args.py); set COMFYUI_PATH or --comfyui to the folder "
            "of your ComfyUI, and run with its Python."
        )
    return folder


def dry_run(config: Config) -> Iterator[str]:
    """Yield what a run would do, a line each.  Raises TrainingError, MapError."""
    check(config)
    model = Path(config.model) if config.model else None
    for plan in plans(config):
        sources = data.find(config, plan)
        trained, held_out = data.split(sources.stems, config.held_out)
        for stream in plan.streams:  # the first picture shows what is wrong with all of them
            picture(config, stream, sources.files[sources.stems[0], stream.name])
        yield from lines(config, plan, len(trained), len(held_out), model if model and model.exists() else None)


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
    may = turns(data.maps(plan))
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
