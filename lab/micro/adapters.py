"""The adapters: the project's own trainer, on the frozen base, with the modules that OmniX adapts."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
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
from .classes import nearest
from .graphs import ADAPTERS
from .recipe import BEGUN, FIRST, HEIGHT, RANK, SEAM_COLUMNS, Stage

WATCHED, WATCHED_CURVE = 16, "watched.csv"
"""The number of validation rooms of each kind that are sampled during training."""


DARKEST = 0.02
"""The least value of a decoded picture: depths are divided by it."""


def root_mean_square(ours: Tensor, true: Tensor) -> float:
    """Return the root of the mean square error of pictures [n, 3, H, W]."""
    return (ours - true).square().mean().sqrt().item()


def relative(ours: Tensor, true: Tensor) -> float:
    """Return AbsRel of depth pictures [n, 3, H, W], each aligned by its median."""
    scale = true.flatten(1).median(1).values / ours.flatten(1).median(1).values
    return ((ours * scale[:, None, None, None] - true).abs() / true).mean().item()


def accuracy(ours: Tensor, true: Tensor) -> float:
    """Return the share of pixels of semantic pictures [n, 3, H, W] whose nearest classes are the same."""
    mine, theirs = (nearest((stack * 255).round().byte().permute(0, 2, 3, 1).numpy()) for stack in (ours, true))
    return float((mine == theirs).mean())


FIGURES = {"depth": {"relative": relative}, "semantic": {"accuracy": accuracy}}
"""Kind of map -> its figure besides RMS in `WATCHED_CURVE`."""


def column(rooms: str, figure: str) -> str:
    """Return the column of a figure in `WATCHED_CURVE`."""
    return f"{rooms}_{figure}"


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


class Seen(NamedTuple):
    """The latents of all streams: of training rooms, and of rooms that are watched."""

    trained: Mapping[str, Tensor]
    watched: Mapping[str, Tensor]


class Data(NamedTuple):
    """The data of all tasks: the base's file, kind of rooms -> their latents, and the transform."""

    base: Path
    rooms: Mapping[str, Seen]
    blocks: Blocks

    def of(self, task: Task) -> dict[str, Seen]:
        """Return kind of rooms -> latents, of the rooms that have all streams of a task."""
        return {name: seen for name, seen in self.rooms.items() if {*task.streams} <= {*seen.trained}}


def output_of(folder: Path, name: str, base_file: Path) -> Path:
    """Return the folder of a task's saves. A base that was trained further has separate adapters."""
    return folder / f"{name}_{checksum(base_file)[:8]}"


def train(name: str, stage: Stage, data: Data, folder: Path) -> Result:
    """Train one task's adapters to the stage's end, from the newest save for this base."""
    task, output = TASKS[name], output_of(folder, name, data.base)
    seen = data.of(task).values()
    watched = [{name: stack[:WATCHED] for name, stack in each.watched.items()} for each in seen]
    samples, held_out = (
        Latents([torch.cat([stacks[stream] for stacks in parts]) for stream in task.streams], *base.prompt())
        for parts in ([each.trained for each in seen], watched)
    )
    truth = {name: stacks[task.target].float() for name, stacks in zip(data.of(task), watched)}
    output.mkdir(parents=True, exist_ok=True)
    return train_adapters(
        config(task, stage, begun_from(task, output, output_of(folder, FIRST, data.base))),
        task,
        base.InTwoPrecisions(base.loaded(load_file(data.base)).model, checksum(data.base)),
        samples,
        output,
        resume=bool(saves(output)),
        held_out=held_out,
        sampled=watcher(task.target, data.blocks, truth, output / WATCHED_CURVE),
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


def watcher(kind: str, blocks: Blocks, truth: Mapping[str, Tensor], path: Path) -> Callable[[int, Tensor], None]:
    """Return a function that records errors of sampled pictures of each kind of rooms, which follow each other.

    They are decoded by the block transform, as the truth is: RMS, and the figure of `FIGURES` for a kind that has one.
    """
    measures = {"rms": root_mean_square, **FIGURES.get(kind, {})}
    true = {name: blocks.decode(latents).clamp(DARKEST, 1) for name, latents in truth.items()}

    def note(step: int, latents: Tensor) -> None:
        ours = blocks.decode(latents.float()).clamp(DARKEST, 1).split([len(stack) for stack in true.values()])
        found = {
            column(name, figure): measure(mine, true[name])
            for name, mine in zip(true, ours)
            for figure, measure in measures.items()
        }
        record.Curve(path, tuple(found), step - 1).add(step, found)

    return note
