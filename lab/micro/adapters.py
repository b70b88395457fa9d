"""The adapters: the project's own trainer, on the frozen base, with the modules that OmniX adapts."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from ...omnix.runtime.tasks import TASKS, Task
from ...training import record
from ...training.config import Config
from ...training.engine import Result
from ...training.engine import train as train_adapters
from ...training.latents import checksum
from ...training.samples import Latents
from ...training.saving import PUBLISHED, saves
from . import base
from .blocks import Blocks
from .graphs import ADAPTERS
from .recipe import BEGUN, FIRST, HEIGHT, RANK, SEAM_COLUMNS, Stage

WATCHED, WATCHED_CURVE = 16, "watched.csv"
"""The number of validation rooms that are sampled during training."""


def config(task: Task, stage: Stage, init: str = "") -> Config:
    """Return the trainer's configuration."""
    return Config(
        conditions=task.conditions,
        target=(task.target,),
        task=task.name,
        init=init,
        rank=RANK,
        alpha=2 * RANK,
        steps=stage.steps,
        decay_steps=stage.steps,
        batch=stage.batch,
        optimizer="muon",
        learning_rate=stage.learning_rate,
        warmup=50,
        decay=True,
        weight_decay=0.0,
        ema=0.995,
        # With a noisy target only the condition contains information, and the model must learn to use it.
        time_mean=1.0,
        time_deviation=1.3,
        size=f"{2 * HEIGHT}x{HEIGHT}",
        seam_columns=SEAM_COLUMNS,
        checkpointing=False,
        save_every=200,
        held_out=0,
        sample_every=200,
        sample_steps=4,
    )


class Data(NamedTuple):
    """The data of all tasks: the base's file, all streams' latents, those of the watched rooms, and their transform."""

    base: Path
    latents: Mapping[str, Tensor]
    watched: Mapping[str, Tensor]
    blocks: Blocks


def output_of(folder: Path, name: str, base_file: Path) -> Path:
    """Return the folder of a task's saves. A base that was trained further has separate adapters."""
    return folder / f"{name}_{checksum(base_file)[:8]}"


def train(name: str, stage: Stage, data: Data, folder: Path) -> Result:
    """Train one task's adapters to the stage's end, from the newest save for this base."""
    task, output = TASKS[name], output_of(folder, name, data.base)
    samples, held_out = (
        Latents([stacks[stream][:count] for stream in task.streams], *base.prompt())
        for stacks, count in ((data.latents, None), (data.watched, WATCHED))
    )
    output.mkdir(parents=True, exist_ok=True)
    return train_adapters(
        config(task, stage, begun_from(task, output, output_of(folder, FIRST, data.base))),
        task,
        base.InTwoPrecisions(base.loaded(load_file(data.base)).model, checksum(data.base)),
        samples,
        output,
        resume=bool(saves(output)),
        held_out=held_out,
        sampled=watcher(data.blocks, data.watched[task.target][:WATCHED].float(), output / WATCHED_CURVE),
        show=sys.stderr.isatty(),
    )


def begun_from(task: Task, output: Path, first: Path) -> str:
    """Return the initial adapters of a task: those of the first task, if there are any, because they already see rooms.

    They are copied to `output` for the trainer's --init, and do not change during the run. If a task has its own in
    `BEGUN`, it begins with those.
    """
    begun = output.parent / BEGUN / ADAPTERS
    if (begun / task.name).is_dir():
        return str(begun / task.name)
    init = output / "init"
    parts = saves(first)[-1] / FIRST if saves(first) else begun / FIRST
    if output != first and parts.is_dir() and not saves(output):
        shutil.rmtree(init, ignore_errors=True)
        for ours, theirs in zip(task.streams, TASKS[FIRST].streams):
            (init / ours).mkdir(parents=True)
            shutil.copyfile(parts / theirs / PUBLISHED, init / ours / PUBLISHED)
    return str(init) if init.is_dir() else ""


def watcher(blocks: Blocks, truth: Tensor, path: Path) -> Callable[[int, Tensor], None]:
    """Return a function that records errors of sampled pictures, decoded by the block transform: RMS, and AbsRel."""
    true = blocks.decode(truth).clamp(0.02, 1)

    def note(step: int, latents: Tensor) -> None:
        ours = blocks.decode(latents.float()).clamp(0.02, 1)
        scale = true.flatten(1).median(1).values / ours.flatten(1).median(1).values
        relative = ((ours * scale[:, None, None, None] - true).abs() / true).mean()
        curve = record.Curve(path, ("rms", "relative"), step - 1)
        curve.add(step, {"rms": (ours - true).square().mean().sqrt().item(), "relative": relative.item()})

    return note
