"""Saves: a folder `step-000500`, written completely or not at all, from which a run is resumed exactly.

    step-000500/rgb_to_shading/rgb.safetensors                                  converted: fused layers
    step-000500/rgb_to_shading/rgb/pytorch_lora_weights.safetensors             published: Diffusers layout
    step-000500/state.safetensors                                               factors, optimiser (newest alone)

The header of each adapter stores its task, the task's streams in order, and the adapter's own stream.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..converters import convert
from ..converters.files.header import Entry, header_bytes, in_canonical_order
from ..converters.files.write import write_file
from ..converters.fusing.arithmetic import NAMES, as_bytes
from ..omnix.runtime.low_rank import AdapterWeights
from ..omnix.runtime.tasks import Task, task_header
from .adapters import PUBLISHED, published
from .config import Config, TrainingError, note

STATE = "state.safetensors"
RUN_KEY = "omnix_training"
_FREE = ("data", "output", "comfyui", "device", "model", "vae", "clip_l", "t5", "conditioning", "steps")
_FREE += ("save_every", "save_dtype", "held_out", "sample_every", "sample_steps", "checkpointing", "target", "keep")
_FREE += ("mask", "learn_holes", "split", "mirror", "turns", "tensorboard", "learning_rate", "decay_steps")
"""Fields that may change when a run is resumed; checksums show what they do to the data."""
_REPORTED = ("learning_rate", "decay_steps", "steps")


class State(NamedTuple):
    """Everything that a run has changed by the end of a step."""

    step: int
    adapters: Sequence[AdapterWeights]
    averages: Sequence[AdapterWeights] | None
    optimizer: torch.optim.Optimizer


def folder_of(output: Path, step: int) -> Path:
    """Return the folder of a save."""
    return output / f"step-{step:06d}"


def saves(output: Path) -> list[Path]:
    """List the saves of a folder, oldest first."""
    found = (path for path in output.glob("step-*") if path.name[5:].isdecimal() and path.is_dir())
    return sorted(found, key=lambda path: int(path.name[5:]))


def prune(output: Path, keep: int, ranking: Sequence[int]) -> None:
    """Remove all saves but the newest `keep`, and the first of `ranking` that is saved; 0 keeps all."""
    numbers = {int(path.name[5:]): path for path in saves(output)}
    best = next((step for step in ranking if step in numbers), None)
    for step in [*numbers][:-keep] if keep else ():
        if step != best:
            going = numbers[step].rename(numbers[step].with_name(f".{numbers[step].name}.part"))
            shutil.rmtree(going, ignore_errors=True)


def save(output: Path, state: State, task: Task, config: Config, identity: str) -> Path:
    """Write a save and remove the state of older ones.  If it raises OSError, the older saves are unchanged."""
    target = folder_of(output, state.step)
    work = target.with_name(f".{target.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    try:
        for stream, adapter in zip(task.streams, state.averages or state.adapters, strict=True):
            _write_adapter(work, task, stream, adapter, getattr(torch, config.save_dtype))
        _write_state(work / STATE, state, task, config, identity)
        if target.exists():
            shutil.rmtree(target)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for older in saves(output):
        if older != target:
            (older / STATE).unlink(missing_ok=True)
    return target


def _write_adapter(work: Path, task: Task, stream: str, adapter: AdapterWeights, dtype: torch.dtype) -> None:
    header = {"format": "pt", **task_header(task, stream)}
    original = work / task.name / stream / PUBLISHED
    write_tensors(original, published(adapter, dtype), header)
    convert(original, work / task.name / f"{stream}.safetensors", slot=(task.name, stream))


def _write_state(path: Path, state: State, task: Task, config: Config, identity: str) -> None:
    tensors: dict[str, Tensor] = {}
    run = {
        "step": state.step,
        "task": task.name,
        "streams": task.streams,
        "data": identity,
        "config": asdict(config),
        "optimizer": _kept(state.optimizer.state_dict(), "optimizer", tensors),
    }
    for kind, adapters in (("factor", state.adapters), ("average", state.averages or ())):
        tensors |= {f"{kind}.{name}": tensor for name, tensor in _factors(adapters)}
    write_tensors(path, tensors, {RUN_KEY: json.dumps(run)})


def _factors(adapters: Sequence[AdapterWeights]) -> Iterator[tuple[str, Tensor]]:
    for number, adapter in enumerate(adapters):
        for name, factor in adapter.named_parameters():
            yield f"{number}.{name}", factor.data


def _kept(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return a tree of dictionaries and lists for JSON, with its tensors moved into `tensors` and replaced by names."""
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {"tensor": path}
    if isinstance(tree, Mapping):
        return {"table": [[key, _kept(value, f"{path}.{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return [_kept(value, f"{path}.{number}", tensors) for number, value in enumerate(tree)]
    return tree


def _restored(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `_kept`."""
    if isinstance(tree, dict):
        return tensors[tree["tensor"]] if "tensor" in tree else {k: _restored(v, tensors) for k, v in tree["table"]}
    return [_restored(value, tensors) for value in tree] if isinstance(tree, list) else tree


def restore_state(folder: Path, state: State, task: Task, config: Config, identity: str) -> tuple[int, int]:
    """Fill a new state from a save; return the steps done, and the step at which its schedule ends.

    Raises TrainingError if the save is of another run: other streams, data, or a field that changes what is learned.
    """
    path = folder / STATE
    if not path.is_file():
        raise TrainingError(f"{folder}: expected {STATE} in the newest save, got none; use another --output.")
    try:
        with safetensors.safe_open(path, "pt") as file:
            saved = json.loads((file.metadata() or {})[RUN_KEY])
        tensors = load_file(path)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: the save is damaged ({error}); remove its folder to start again.") from error
    _check_same(path, saved, task, config, identity)
    for kind, adapters in (("factor", state.adapters), ("average", state.averages or ())):
        for name, factor in _factors(adapters):
            factor.copy_(tensors[f"{kind}.{name}"])
    state.optimizer.load_state_dict(_restored(saved["optimizer"], tensors))
    begun = saved["config"]
    return int(saved["step"]), int(begun.get("decay_steps") or begun["steps"])


def _check_same(path: Path, saved: Mapping[str, Any], task: Task, config: Config, identity: str) -> None:
    """Refuse to continue another run; report changes that are allowed."""
    now = json.loads(json.dumps(asdict(config)))
    before = json.loads(json.dumps(asdict(Config()))) | saved["config"]  # older saves lack newer fields
    changed = [name for name in now if before[name] != now[name]]
    if tuple(saved["streams"]) != task.streams or saved["task"] != task.name:
        raise TrainingError(
            f"{path}: the save is of {saved['task']} ({', '.join(saved['streams'])}), not {task.name}; "
            "use another --output."
        )
    if refused := [name for name in changed if name not in _FREE]:
        name = refused[0]
        raise TrainingError(
            f"{path}: {name} was {before[name]}, now it is {now[name]}; set it back to continue, or use another "
            "--output for a new run."
        )
    if saved["data"] != identity:
        raise TrainingError(
            f"{path}: the pictures, their captions, masks or split, or the base's VAE have changed since this save; "
            "restore them to continue, or use another --output for a new run (--init starts from these adapters)."
        )
    for name in (name for name in changed if name in _REPORTED and now[name]):
        note(f"{name} was {before[name]} in {path.parent}, now it is {now[name]}.")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], force: bool = False) -> None:
    """Write a file.  Raises AdapterError if it exists and not `force`, OSError if the disk refuses it."""
    entries = {name: Entry(NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    ordered = {name: entries[name] for name in in_canonical_order(entries)}
    header, offsets, size = header_bytes(metadata, ordered)

    def pieces() -> Iterator[tuple[int, bytes]]:
        yield 0, header
        for name in ordered:
            yield offsets[name], as_bytes(tensors[name])

    write_file(path, size, pieces(), force, durable=True)
