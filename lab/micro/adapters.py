"""The adapters: the project's own trainer, on the frozen base, with the modules that OmniX adapts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from ...omnix.tasks import TASKS, Task
from ...training import record
from ...training.config import Config
from ...training.engine import Result
from ...training.engine import train as train_adapters
from ...training.samples import Latents
from ...training.saving import saves
from . import base
from .blocks import Blocks
from .recipe import HEIGHT, RANK, SEAM_COLUMNS, TURNED, Stage

WATCHED = 16
"""Rooms of the validation part that are sampled now and then."""


def config(task: Task, stage: Stage) -> Config:
    """Return what the trainer is told."""
    return Config(
        target=(task.target,),
        task=task.name,
        rank=RANK,
        alpha=2 * RANK,
        steps=stage.steps,
        batch=stage.batch,
        learning_rate=stage.learning_rate,
        warmup=50,
        weight_decay=0.0,
        ema=0.995,
        times="uniform",
        size=f"{2 * HEIGHT}x{HEIGHT}",
        seam_columns=SEAM_COLUMNS,
        roll=task.target in TURNED,
        precision="float32",
        checkpointing=False,
        save_every=250,
        held_out=0,
        sample_every=250,
        sample_steps=4,
    )


def train(
    name: str,
    stage: Stage,
    weights: Mapping[str, Tensor],
    encoded: Mapping[str, Tensor],
    watched: Mapping[str, Tensor],
    blocks: Blocks,
    output: Path,
) -> Result:
    """Train one task's adapters to the stage's end, from the newest save in `output` if there is one."""
    task = TASKS[name]
    prompt = base.prompt()
    samples = Latents([encoded[stream] for stream in task.streams], *prompt)
    held_out = Latents([watched[stream][:WATCHED] for stream in task.streams], *prompt)
    output.mkdir(parents=True, exist_ok=True)
    return train_adapters(
        config(task, stage),
        task,
        base.loaded(dict(weights)),
        samples,
        output,
        go_on=bool(saves(output)),
        held_out=held_out,
        sampled=watcher(blocks, watched[task.target][:WATCHED].float(), output / "watched.csv"),
        show=False,
    )


def watcher(blocks: Blocks, truth: Tensor, path: Path) -> Callable[[int, Tensor], None]:
    """Return what notes the error of sampled pictures, by the block transform alone: root mean square, and AbsRel."""
    true = blocks.decode(truth).clamp(0.02, 1)

    def note(step: int, latents: Tensor) -> None:
        ours = blocks.decode(latents.float()).clamp(0.02, 1)
        scale = true.flatten(1).median(1).values / ours.flatten(1).median(1).values
        relative = ((ours * scale[:, None, None, None] - true).abs() / true).mean()
        curve = record.Curve(path, ("rms", "relative"), step - 1)
        curve.add(step, {"rms": (ours - true).square().mean().sqrt().item(), "relative": relative.item()})

    return note
