"""Make the weights from nothing: rooms, pictures, latents, then each stage of the table in turn."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...mapfiles.pictures import replacing
from ...omnix.runtime.conditioning import save_conditioning
from ...omnix.runtime.tasks import TASKS as TASKS_OF
from ...training import engine, record
from ...training.latents import checksum
from ...training.saving import PUBLISHED, saves
from . import adapters, base, latents, pictures, vae
from .blocks import Blocks
from .graphs import ADAPTERS, BASE, PROMPT, VAE
from .recipe import BEGUN, OTHERS, PICTURES, ROOMS, ROOMS_SEED, STAGES, TASKS, Stage

PICTURES_KEPT, CURVES = "pictures.npz", "curves.svg"
KINDS_OF_ROOMS = ("own", *OTHERS)
WORDS = {
    "rms": "root mean square error",
    "relative": "relative error, scale aligned,",
    "accuracy": "share of right pixels",
}
SHOWN = 400
"""The number of points of a curve."""


def chosen(names: Collection[str], steps: int | None = None, learning_rate: float | None = None) -> dict[str, Stage]:
    """Return stages in the table's order, with `steps` and `learning_rate` if given.  ValueError for unknown stages."""
    if unknown := [name for name in names if name not in STAGES]:
        raise ValueError(f"--stages {unknown[0]}: there is no such stage; the stages are {', '.join(STAGES)}.")
    return {
        name: Stage(steps or row.steps, row.batch, learning_rate or row.learning_rate)
        for name, row in STAGES.items()
        if name in names
    }


def make(folder: Path, stages: Mapping[str, Stage], threads: int, rooms: int = ROOMS) -> None:
    """Train the unfinished ones of these stages in turn.  Raises ValueError for a stage that lacks a base."""
    check(folder, stages)
    torch.set_num_threads(threads)
    if not (folder / PICTURES_KEPT).is_file():
        pictures.render(folder / "rooms", ROOMS_SEED, rooms)
    seen = pictures.load(folder / "rooms", folder / PICTURES_KEPT)
    blocks = latents.transform(seen.train, folder / latents.TRANSFORM)
    if before := [name for name in stages if name not in TASKS]:
        encoded = latents.encoded(blocks, seen.train)
        for name in before:
            if name == "vae":
                save_file(vae.taesd(blocks, vae.train(encoded, seen.train, stages[name], folder)), folder / VAE)
            else:
                write_base(base.train(encoded, stages[name], folder), folder)
    if tasks := [name for name in stages if name in TASKS]:
        data = adapters.Data(folder / BASE, encoded_rooms(folder, tasks, seen, blocks, rooms), blocks)
        for name in tasks:
            adapters.train(name, stages[name], data, folder)
    if (folder / BASE).is_file() and (folder / VAE).is_file():
        gather(folder, folder / "weights")
    draw_curves(folder, folder / CURVES)


def encoded_rooms(
    folder: Path, tasks: Collection[str], own: pictures.Pictures, blocks: Blocks, rooms: int
) -> dict[str, adapters.Seen]:
    """Return the latents of own rooms and of the others that a task can use, which are rendered if missing."""
    found = {"own": own}
    for kind, others in OTHERS.items():
        if any({*TASKS_OF[name].streams} <= {*others.streams} for name in tasks):
            kept = folder / f"{kind}.npz"
            if not kept.is_file():
                pictures.render(folder / kind, ROOMS_SEED, round(rooms * others.share), others.option)
            found[kind] = pictures.load(folder / kind, kept, [name for name in others.streams if name in PICTURES])
    return {name: adapters.Seen(*latents.of_parts(blocks, *parts)) for name, parts in found.items()}


def begin(weights: Path, folder: Path) -> None:
    """Prepare `folder` for further training of the decoder and adapters of `weights`, whose saves are lost.

    If `folder` is already prepared, nothing changes, and the same command continues. Raises ValueError if `folder` has
    another base, or `weights` has none.
    """
    if missing := [name for name in (BASE, VAE) if not (weights / name).is_file()]:
        raise ValueError(f"{weights / missing[0]}: expected the weights that `make` writes, got no such file.")
    if (folder / BASE).exists():
        if (folder / BEGUN).is_dir() and checksum(folder / BASE) == checksum(weights / BASE):
            return
        raise ValueError(f"{folder / BASE}: the folder already has a base; use --begin with a --folder without one.")
    shutil.copytree(weights, folder / BEGUN, dirs_exist_ok=True)
    save_file(vae.transform_of(load_file(weights / VAE))._asdict(), folder / latents.TRANSFORM)
    for name in (VAE, BASE):
        with replacing(folder / name) as temporary:
            shutil.copyfile(weights / name, temporary)


def check(folder: Path, stages: Collection[str]) -> None:
    """Raise ValueError, before anything is made, for a stage that lacks a base."""
    if "base" not in stages and any(name in TASKS for name in stages) and not (folder / BASE).is_file():
        raise ValueError(f"{folder / BASE}: there is no base to train adapters on; make it first with --stages base.")
    if "base" in stages and (folder / BASE).is_file() and not (folder / base.SAVED).is_file():
        raise ValueError(
            f"{folder / BASE}: this base came without its optimiser's state, so it can't be trained further. Choose "
            "other --stages, or start from nothing in another --folder."
        )


def write_base(average: dict[str, Tensor], folder: Path) -> None:
    """Write the base with the names of FLUX.1-dev's own file, in bfloat16."""
    state = {name.replace("_norm.weight", "_norm.scale"): tensor.bfloat16() for name, tensor in average.items()}
    save_file(state, folder / BASE, {"format": "pt"})


def gather(folder: Path, weights: Path) -> None:
    """Copy the results to one folder for `graphs.install`, without the tasks that are not trained yet.

    The adapters are in the layout that OmniX publishes: converted files would be twice as large here.
    """
    shutil.rmtree(weights, ignore_errors=True)
    weights.mkdir(parents=True)
    for name in (BASE, VAE):
        shutil.copyfile(folder / name, weights / name)
    text, pooled = base.prompt()
    save_conditioning([(text, {"pooled_output": pooled})], weights / PROMPT)
    for task in TASKS:
        newest = saves(adapters.output_of(folder, task, folder / BASE))[-1:]
        source = newest[0] / task if newest else folder / BEGUN / ADAPTERS / task
        for file in source.glob(f"*/{PUBLISHED}"):
            target = weights / ADAPTERS / task / file.parent.name / PUBLISHED
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def average(before: Path, after: Path, target: Path) -> None:
    """Write `after`, with the mean of the adapters that both folders of weights have, to the new folder `target`.

    Adapters of one run, or of a run and the one that it began with, are close enough for this (Wortsman et al. 2022,
    "Robust fine-tuning of zero-shot models"). Raises ValueError if the bases differ or `target` exists.
    """
    if target.exists():
        raise ValueError(f"{target}: this folder exists; choose another one.")
    if checksum(before / BASE) != checksum(after / BASE):
        raise ValueError(f"{before / BASE}: expected the base of {after / BASE}, got another one; average one base's.")
    shutil.copytree(after, target)
    for path in (target / ADAPTERS).rglob(PUBLISHED):
        if (other := before / path.relative_to(target)).is_file():
            ours, others = load_file(path), load_file(other)
            mean = {
                name: torch.lerp(others[name].float(), ours[name].float(), 0.5).to(ours[name].dtype) for name in ours
            }
            with safe_open(path, "pt") as file:
                save_file(mean, path, file.metadata())


def draw_curves(folder: Path, target: Path) -> None:
    """Draw the loss of every stage that has one, and the error of the watched rooms."""
    curves = {"vae: mean square error": (folder / "vae.csv", "loss"), "base: loss": (folder / "base.csv", "loss")}
    for task in TASKS if (folder / BASE).is_file() else ():
        output = adapters.output_of(folder, task, folder / BASE)
        curves[f"{task}: loss"] = output / engine.CURVE, "loss"
        for title, column in watched_figures(task).items():
            curves[title] = output / adapters.WATCHED_CURVE, column
    panels = [
        (title, thinned([(row["step"], row[column]) for row in record.read(path) if column in row]))
        for title, (path, column) in curves.items()
        if path.is_file()
    ]
    record.draw(target, [(title, points) for title, points in panels if points])


def watched_figures(task: str) -> dict[str, str]:
    """Return title -> column of the curve of a task's watched rooms, of each kind."""
    figure = next(iter(adapters.FIGURES.get(TASKS_OF[task].target, {"rms": None})))
    return {
        f"{task}: {WORDS[figure]} of {adapters.WATCHED} other {rooms} rooms": adapters.column(rooms, figure)
        for rooms in KINDS_OF_ROOMS
    }


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return means of neighbouring points, as many as a picture shows."""
    together = max(1, len(points) // SHOWN)
    groups = (points[start : start + together] for start in range(0, len(points), together))
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
