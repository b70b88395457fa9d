"""Figures on rooms that were not used for training: the shipped graphs in a real ComfyUI server, with `evaluation`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ...evaluation.compare import Scores, compare
from ...evaluation.views import SHOWN_ALIGNMENT
from ...mapfiles import layout
from ...mapfiles.pictures import Array
from ...omnix.pictures.panorama import place_on_panorama
from ..host.server import Server
from ..rooms.foreign import FAMILIES
from . import graphs, pictures
from .baselines import baselines
from .judged import MADE, JudgedRoom, other_room, own_room, read, write
from .limits import through_vae
from .recipe import HEIGHT, JUDGED, JUDGED_SEED, PICTURES, VIEW
from .tables import table

VIEWS = "views"
GENERATED = "image_to_pano"
OTHERS_SHARE = 2
"""For so many own rooms there is one crowded room, and one foreign room of each family."""
OTHER_SEEDS = 500_000
"""The difference between the seeds of judged rooms and of the rooms for fitting the baselines."""


class Choice(NamedTuple):
    """The options: the weights, the number of rooms, the seed of the first one, and the sampling steps."""

    weights: Path
    rooms: int = JUDGED
    seed: int = JUDGED_SEED
    steps: int = graphs.STEPS


class RoomSet(NamedTuple):
    """Rooms of one kind: a name, the room of a seed, and their number."""

    name: str
    room: Callable[[int], JudgedRoom]
    number: int


def evaluate(folder: Path, choice: Choice) -> None:
    """Print the figures of predictions and of baselines, for own, crowded and foreign rooms."""
    if not graphs.tasks(choice.weights):
        raise ValueError(
            f"{choice.weights}: expected a base, a VAE and adapters, but no task has adapters; run "
            "`python -m lab.micro make`."
        )
    print(
        f"{choice.weights}: seeds from {choice.seed}, {choice.steps} steps; baselines fitted to {choice.rooms} others"
    )
    for rooms in room_sets(choice.rooms):
        print(f"\n### {rooms.name}: {rooms.number} rooms\n", flush=True)
        print(judge(folder / "judged" / rooms.name.replace(" ", "_"), rooms, choice), flush=True)


def room_sets(count: int) -> tuple[RoomSet, ...]:
    """Return own rooms, crowded ones, and foreign ones of each family."""
    few = max(1, count // OTHERS_SHARE)
    crowded = RoomSet("crowded", lambda seed: own_room(seed, crowded=True), few)
    foreign = (
        RoomSet(f"foreign {family}", lambda seed, family=family: other_room(seed, family), few) for family in FAMILIES
    )
    return RoomSet("own", own_room, count), crowded, *foreign


def judge(folder: Path, rooms: RoomSet, choice: Choice) -> str:
    """Predict maps of rooms and return their table; pictures, true maps and predicted maps stay in the folder."""
    judged = [rooms.room(choice.seed + number) for number in range(rooms.number)]
    others = [rooms.room(choice.seed + OTHER_SEEDS + number) for number in range(choice.rooms)]
    shutil.rmtree(folder, ignore_errors=True)
    truth, ours = folder / "true", folder / "perceived"
    stems = write(truth, judged)
    perceive(truth, ours, stems, choice.weights, choice.steps, tasks_of(choice.weights, judged[0].maps))
    predicted = {
        title: {kind: [predict(room) for room in judged] for kind, predict in kinds.items()}
        for title, kinds in baselines(judged, others).items()
    }
    perceived_maps = {kind: [read(ours, kind, stem) for stem in stems] for kind in maps_in(ours)}
    limits = through_vae(choice.weights, truth, stems)
    words = table({**predicted, "VAE (oracle)": limits, "perceived": perceived_maps}, judged)
    if not (ours / "rgb").is_dir():
        return words
    seen, rest = completed(ours, truth, stems)
    return f"{words}\n\nimage to panorama: PSNR {seen:.1f} dB where the picture was, {rest:.1f} dB elsewhere"


def tasks_of(weights: Path, kinds: Collection[str]) -> list[str]:
    """Return the tasks that can be measured on rooms with these maps."""
    known = {f"rgb_to_{stream}": folders for stream, folders in PICTURES.items()} | {GENERATED: MADE}
    return [task for task in graphs.tasks(weights) if {*known[task]} <= {*kinds}]


def completed(ours: Path, truth: Path, stems: Sequence[str]) -> tuple[float, float]:
    """Return the PSNR in dB of all generated panoramas together, inside the given picture and outside."""
    _placed, unseen = place_on_panorama(torch.zeros(1, *VIEW[::-1], 3), 2 * HEIGHT, HEIGHT)
    pairs = [[layout.read(layout.find(folder, "rgb", stem), "rgb") for folder in (ours, truth)] for stem in stems]
    squares = np.mean([np.square(made - true).mean(-1) for made, true in pairs], axis=0)
    seen, rest = (-10 * np.log10(squares[unseen[0].numpy() == value].mean()) for value in (0, 1))
    return float(seen), float(rest)


def perceive(
    truth: Path, target: Path, stems: Sequence[str], weights: Path, steps: int, tasks: Sequence[str] | None = None
) -> None:
    """Run the graphs of tasks (default: all) on every room in a new server; keep their maps."""
    with tempfile.TemporaryDirectory(prefix="omnix-micro-") as folder:
        graphs.install(Path(folder) / "models", weights)
        with Server(Path(os.environ["COMFYUI_PATH"]), Path(folder), cpu=not torch.cuda.is_available()) as server:
            for stem in tqdm(stems, "rooms", disable=None):
                for task in graphs.tasks(weights) if tasks is None else tasks:
                    image = server.upload(given(task, truth, stem), f"{task}_{stem}.png")
                    graphs.perceived(server, graphs.micro_graph(task, image, steps), target, stem)


def given(task: str, truth: Path, stem: str) -> Path:
    """Return the input picture of a task: the panorama, or a view that is cut out of it."""
    panorama = layout.find(truth, "rgb", stem)
    if task != GENERATED:
        return panorama
    path = truth / VIEWS / panorama.name
    layout.write(path, "rgb", pictures.view(torch.from_numpy(layout.read(panorama, "rgb"))[None])[0].numpy())
    return path


def maps_in(folder: Path) -> list[str]:
    """Return the kinds of map in a folder that have figures; a generated panorama has no single ground truth."""
    return [kind for kind in layout.kinds(folder) if kind in MADE]


def scores(kind: str, ours: Array, true: Array) -> Scores:
    """Compare two maps; a depth is aligned by its median."""
    return compare(kind, ours, true).scores[SHOWN_ALIGNMENT if kind == "depth" else ""]
