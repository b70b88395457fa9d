"""A whole run, from a folder of pictures to the adapters of each target; or a dry run, which writes nothing."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from ..converters import AdapterError
from ..converters.files.header import read_header
from ..converters.lora.layout import FLUX_1, Geometry
from ..omnix.runtime.tasks import TEXT_ROWS
from . import data
from .adapters import fresh
from .config import PIXELS_PER_TOKEN, Config, Plan, TrainingError, check, note, plans, precision_on, size_of
from .engine import Result, train
from .latents import Cache, Cached, encoded
from .pictures import FRONT, View, learned, picture
from .record import Watch
from .samples import may_roll

LATENTS = "latents"


def run(config: Config, *, base: Any = None, resume: bool = False, show: bool = True) -> tuple[Result, ...]:
    """Train every target of a configuration, one after the other; return their results.

    `base` is a FLUX.1 with its VAE and text encoders (`Base` and `Pictures`); with None, ComfyUI loads the files of the
    configuration. `resume` continues from the newest saves. Raises TrainingError, AdapterError, MapError, OSError.
    """
    check(config)
    if not config.output:
        raise TrainingError("--output is missing: name the folder for saves, sheets and curves.")
    orders = [order(config, plan) for plan in plans(config)]
    base = base or host_base(config)
    for small in [path for one in orders for path in data.enlarged(config, one.sources)][:1]:
        note(f"{small} is smaller than --size {config.size}, so it is enlarged; --dry-run counts such pictures.")
    cache = Cache(Path(config.output) / LATENTS, base, base.vae_identity)
    samples = [(one, *_encoded(cache, config, one, show)) for one in orders]
    base.release()
    if config.vae and (deviation := samples[0][1].deviation()) < LEAST_DEVIATION:
        note(
            f"{config.vae}: the latents of the pictures have a standard deviation of {deviation:.2f}, but about 1 with "
            "FLUX.1's VAE; check that this is not the VAE of Stable Diffusion 3, which has the same shape."
        )
    results: list[Result] = []
    for one, trained, held_out in samples:  # all of them on one FLUX, which is loaded once
        output = output_of(config, one.plan)
        watch = Watch(config, one.plan, one.sources, one.split.held_out, base, output)
        options: dict[str, Any] = {"resume": resume, "show": show, "sampled": watch, "ranking": watch.ranking}
        results.append(train(config, one.plan.task, base, trained, output, held_out=held_out, **options))
        if results[-1].stopped:
            break
    return tuple(results)


LEAST_DEVIATION = 0.5
"""The host scales latents of FLUX.1's VAE to 1. Those of Stable Diffusion 3's VAE would get 0.3611 / 1.5305 = 0.24."""


class Order(NamedTuple):
    """The data of one task: its pictures, their split, and the views of each trained picture."""

    plan: Plan
    sources: data.Sources
    split: data.Split
    views: tuple[View, ...]


def order(config: Config, plan: Plan) -> Order:
    """Look up the data of a task.  Raises TrainingError."""
    sources = data.find(config, plan)
    if sources.parts and (others := [stem for stem in sources.stems if stem not in sources.parts]):
        note(f"{len(others)} pictures, such as {others[0]}, have no split in {data.MANIFEST}; they are trained on.")
    return Order(plan, sources, data.split(sources, config.held_out), data.views(config, plan))


def _encoded(cache: Cache, config: Config, one: Order, show: bool) -> tuple[Cached, Cached | None]:
    """Encode the pictures that are not in the cache yet, both for training and held out."""
    trained = [(stem, view) for stem in one.split.trained for view in one.views]
    held_out = [(stem, FRONT) for stem in one.split.held_out]
    return (
        encoded(cache, config, one.plan, one.sources, trained, show),
        encoded(cache, config, one.plan, one.sources, held_out, show) if held_out else None,
    )


def host_base(config: Config) -> Any:
    """Return the configuration's base model through ComfyUI."""
    use_host(config.comfyui, config.device == "cpu")
    try:
        from .host import HostBase  # imports the host, which use_host makes possible
    except RuntimeError as error:  # the host looks for a GPU while it is imported
        reason = str(error).splitlines()[0]
        raise TrainingError(f"ComfyUI found no GPU ({reason}). Check the GPU driver, or use --device cpu.") from error
    return HostBase(config)


def output_of(config: Config, plan: Plan) -> Path:
    """Return where a task's saves go: into the output, or into a folder for each task if there are several."""
    output = Path(config.output)
    return output if len(config.target) == 1 else output / plan.task.name


ROOT = Path(__file__).resolve().parents[1]
"""The pack."""


def use_host(named: str, cpu: bool) -> None:
    """Make ComfyUI importable: the running one, the named folder, COMFYUI_PATH, or the folder above the pack.

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
    given = named or os.environ.get("COMFYUI_PATH", "")
    folder = Path(given).expanduser().resolve() if given else ROOT.parents[1]
    if not (folder / "comfy" / "cli_args.py").is_file():
        raise TrainingError(
            f"{folder}: expected ComfyUI's folder, with comfy/cli_args.py in it; set COMFYUI_PATH or "
            "--comfyui to the folder of your ComfyUI, and run with its Python."
        )
    return folder


def dry_run(config: Config) -> Iterator[str]:
    """Read every picture and yield lines that describe what a run would do.

    Raises TrainingError at the end if some pictures can't be used; each of them has a line.
    """
    check(config)
    model = Path(config.model) if config.model else None
    broken: list[str] = []
    for one in (order(config, plan) for plan in plans(config)):
        yield from lines(config, one, model if model and model.exists() else None)
        holes, errors = examined(config, one)
        small = data.enlarged(config, one.sources)
        if holes:
            yield f"left out        {100 * holes:.1f} % of the target: pixels without a value, and masked ones"
        if small:
            which = f"{len(small)} are smaller than {config.size}, such as {small[0]}"
            yield f"enlarged        {which}; set a smaller --size"
        yield from (f"can't be used   {error}" for error in errors)
        broken += errors
    if broken:
        raise TrainingError(f"{len(broken)} pictures can't be used (see above); correct or remove them.")


def examined(config: Config, one: Order) -> tuple[float, list[str]]:
    """Read every picture of a task as training does; return the share that is left out, and the errors."""
    errors: dict[str, None] = {}
    weights: list[float] = []
    for stem in tqdm([*one.split.trained, *one.split.held_out], desc="reading pictures", disable=None):
        for stream in one.plan.streams:
            files = one.sources.files[stem, stream.name]
            try:
                if stream == one.plan.streams[-1]:
                    weights.append(learned(config, stream, files, one.sources.masks.get(stem)).weight.mean().item())
                else:
                    picture(config, stream, files)
            except (ValueError, OSError) as error:
                errors[str(error)] = None
    return 1 - sum(weights) / max(1, len(weights)) if weights else 0.0, [*errors]


_BLOCK = re.compile(r"(?:^|\.)(double_blocks|single_blocks|transformer_blocks|single_transformer_blocks)\.(\d+)\.")
_FIRST = re.compile(r"(?:^|\.)(?:img_in|x_embedder)\.weight")
_BYTES = {"bfloat16": 2, "float32": 4}
_STATE = {"adamw": 8, "adamw8bit": 2, "prodigy": 16, "muon": 4}
"""Bytes of optimiser state for each number."""
_LAYER_WIDTHS = 34
"""Activations kept inside one block, in units of the hidden size (Korthikanti et al. 2022, without attention)."""
_GRADIENT_WIDTHS = 12
"""Gradients of activations at one time, in the same unit: those of the largest layer's input (5) and output (7)."""
_CUDA = 0.8e9
"""CUDA's context and the workspaces of its libraries."""


def geometry_of_file(path: Path) -> Geometry | None:
    """Return the sizes of a FLUX.1 in a safetensors file, in either layout; None for other files."""
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


def lines(config: Config, one: Order, model: Path | None) -> Iterator[str]:
    """Yield one line for each setting and each need of a run."""
    plan, split = one.plan, one.split
    geometry = (geometry_of_file(model) if model else None) or FLUX_1
    streams, layers = len(plan.streams), fresh(geometry, config.modules, config.rank, config.alpha, config.seed)
    numbers = streams * sum(factor.numel() for factor in layers.parameters())
    modules = sum(len(layer.rows) for layer in layers.by_name().values())
    height, width = size_of(config)
    image = (height // PIXELS_PER_TOKEN) * ((width // 8 + config.seam_columns) // 2)
    tokens = streams * config.batch * (image + TEXT_ROWS)
    yield f"task            {plan.task.name}: {', '.join(plan.task.conditions)} -> {plan.task.target}"
    counts = f"{len(split.trained)} trained on, {len(split.held_out)} held out"
    counts += f", {len(split.unused)} reserved by {data.MANIFEST}" if split.unused else ""
    yield f"pictures        {counts}, at {config.size}"
    if len(one.views) > 1:
        yield f"views           {len(one.views)} of each picture that is trained on: turned or mirrored"
    sizes = f"hidden size {geometry.hidden}, {geometry.double} + {geometry.single} blocks"
    yield f"base            {sizes}{'' if model else ' (as FLUX.1-dev)'}"
    yield f"adapters        {streams} x {modules} layers of rank {config.rank}: {numbers / 1e6:.1f} million numbers"
    saved, kept = _saved(config, numbers) / 1e6, _state(config, numbers) / 1e6
    yield f"each save       {saved:.1f} MB, of which {kept:.1f} MB are the state, which only the newest save keeps"
    may = may_roll(data.maps(plan))
    rolled = "off" if not config.roll else "on" if may else "off, because normals would not turn with it"
    yield f"roll            {rolled}"
    yield f"steps           {config.steps} of {config.accumulate} x {config.batch} samples, {tokens} tokens a batch"
    needed = {part: size / 1e9 for part, size in _memory(config, geometry, numbers, tokens, model).items()}
    parts = ", ".join(f"{part} {size:.1f}" for part, size in needed.items() if size)
    yield f"memory          about {sum(needed.values()):.1f} GB while training (estimated: {parts})"


def _saved(config: Config, numbers: int) -> float:
    """The published file, the converted file (2.4 times as large: block diagonals have zeros), and the state."""
    return numbers * _BYTES[config.save_dtype] * 3.4 + _state(config, numbers)


def _state(config: Config, numbers: int) -> float:
    return numbers * (4 + _STATE[config.optimizer] + (4 if config.ema else 0))


def _memory(config: Config, geometry: Geometry, numbers: int, tokens: int, model: Path | None) -> dict[str, float]:
    """Estimate the bytes that training needs at its peak, in the backward pass of a block."""
    width, blocks = geometry.hidden, geometry.double + geometry.single
    size = _BYTES[precision_on(config, config.device)]
    cast = config.weight_dtype.startswith("float8")
    kept = blocks * (1 if config.checkpointing else _LAYER_WIDTHS) + _LAYER_WIDTHS + _GRADIENT_WIDTHS
    base = _parameters(geometry) * (1 if cast else size)
    if model and model.is_file() and config.weight_dtype == "default":
        base = model.stat().st_size
    copies = size if size < 4 else 0  # autocast keeps one of each factor
    return {
        "base": base + (7 * width * width * size if cast else 0),  # the largest layer, cast while it runs
        "adapters with gradients and optimiser": _state(config, numbers) + numbers * (4 + copies),
        "activations": tokens * width * kept * size,
        "CUDA": 0 if config.device == "cpu" else _CUDA,
    }


def _parameters(geometry: Geometry) -> int:
    """Count a FLUX.1's weights: its blocks, and the layers before and after them."""
    width = geometry.hidden
    ends = 5 * width * width + (2 * 64 + 3 * 256 + 768 + 4096) * width
    return (36 * geometry.double + 15 * geometry.single) * width * width + ends
