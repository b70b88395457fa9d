"""Figures on rooms that nobody trained on: the shipped graphs in a real ComfyUI server, judged by `evaluation`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ...evaluation.__main__ import main as evaluate_maps
from ...evaluation.compare import Scores, compare
from ...evaluation.views import SHOWN_ALIGNMENT
from ...mapfiles import layout
from ...mapfiles.pictures import Array
from ...omnix.panorama import place_on_panorama
from ..host.graphs import of_type
from ..host.server import Server
from ..rooms.dataset import maps as room_maps
from ..rooms.lighting import Quality
from ..rooms.random_room import random_room
from ..rooms.room import render
from . import graphs, guesses, pictures
from .recipe import HEIGHT, JUDGED, JUDGED_SEED, ROOMS_HEIGHT, VIEW

MADE = ("depth", "normal", "albedo", "roughness", "metallic")
ENDINGS = {"rgb": "panorama.png", "depth": "depth_float.exr"}
UNLEARNED, BY_CLASS, VIEWS = "unlearned", "by_class", "views"
GENERATED = "image_to_pano"


def evaluate(folder: Path, weights: Path, count: int = JUDGED, steps: int = graphs.STEPS) -> int:
    """Perceive the judged rooms, print their figures and those of guesses beside them; return the status."""
    if not graphs.tasks(weights):
        raise ValueError(
            f"{weights}: expected a base, a VAE and adapters, got no task's; run `python -m lab.micro make`."
        )
    truth, ours = folder / "judged_small", folder / "perceived"
    for made in (truth, ours, folder / UNLEARNED, folder / BY_CLASS):
        shutil.rmtree(made, ignore_errors=True)
    stems = prepare(folder / "judged", truth, count)
    perceive(truth, ours, stems, weights, steps)
    guesses.without_looking(truth, folder / UNLEARNED, stems, maps_in(ours))
    guesses.by_class(folder / "judged", folder / BY_CLASS, stems)
    status = 0
    for name in (UNLEARNED, BY_CLASS, ours.name):
        print(f"\n{name}: {len(stems)} rooms, seeds from {JUDGED_SEED}", flush=True)
        status |= evaluate_maps([str(folder / name), str(truth)])
    if GENERATED in graphs.tasks(weights):
        seen, rest = completed(ours, truth, stems)
        print(f"\nimage to panorama: PSNR {seen:.1f} dB where the picture was, {rest:.1f} dB elsewhere")
    return status


def completed(ours: Path, truth: Path, stems: Sequence[str]) -> tuple[float, float]:
    """Return the PSNR in dB of the generated panoramas, all together, where the picture lay and elsewhere."""
    _placed, unseen = place_on_panorama(torch.zeros(1, *VIEW[::-1], 3), 2 * HEIGHT, HEIGHT)
    pairs = [[layout.read(layout.find(folder, "rgb", stem), "rgb") for folder in (ours, truth)] for stem in stems]
    squares = np.mean([np.square(made - true).mean(-1) for made, true in pairs], axis=0)
    seen, rest = (-10 * np.log10(squares[unseen[0].numpy() == value].mean()) for value in (0, 1))
    return float(seen), float(rest)


def prepare(rendered: Path, target: Path, count: int) -> list[str]:
    """Render the judged rooms that are missing and write them at the model's size; return their stems."""
    pictures.render(rendered, JUDGED_SEED, count)
    stems = layout.stems(rendered, "rgb", *MADE)[:count]
    for stem in stems:
        for kind in ("rgb", *MADE):
            values = layout.read(layout.find(rendered, kind, stem), kind)
            layout.write(layout.place(target, kind, stem), kind, pictures.halved(values))
    return stems


def judged_room(seed: int, quality: Quality) -> dict[str, Array]:
    """Return a room and its true maps at the model's size, in memory."""
    made = room_maps(render(2 * ROOMS_HEIGHT, ROOMS_HEIGHT, stage=random_room(seed), quality=quality))
    return {kind: layout.marked(pictures.halved(made[kind]), kind) for kind in ("rgb", *MADE)}


def perceive(truth: Path, target: Path, stems: Sequence[str], weights: Path, steps: int) -> None:
    """Run every task's graph on every room in a server of its own; keep the maps in the layout of `evaluation`."""
    with tempfile.TemporaryDirectory(prefix="omnix-micro-") as folder:
        graphs.install(Path(folder) / "models", weights)
        with Server(Path(os.environ["COMFYUI_PATH"]), Path(folder), cpu=not torch.cuda.is_available()) as server:
            for stem in tqdm(stems, "rooms", disable=None):
                for task in graphs.tasks(weights):
                    image = server.upload(given(task, truth, stem), f"{task}_{stem}.png")
                    perceived(server, graphs.micro_graph(task, image, steps), target, stem)


def given(task: str, truth: Path, stem: str) -> Path:
    """Return the picture that a task is given: the panorama, or a view that is cut out of it."""
    panorama = layout.find(truth, "rgb", stem)
    if task != GENERATED:
        return panorama
    path = truth / VIEWS / panorama.name
    layout.write(path, "rgb", pictures.view(torch.from_numpy(layout.read(panorama, "rgb"))[None])[0].numpy())
    return path


def perceived(server: Server, graph: graphs.Graph, target: Path, stem: str) -> dict[str, Path]:
    """Run a graph, keep what it saved in the layout of `evaluation`; return the files by kind.

    Depth is kept as EXR, for its exact values.
    """
    (saver,) = of_type(graph, "OmniXSavePanorama")
    result = server.run(graph)
    found = {}
    for file in (*result.files(saver), *result.files(saver, "omnix_values")):
        for kind in ("rgb", *MADE):
            ending = ENDINGS.get(kind, f"{kind}.png")
            if file["filename"].endswith(f"_{ending}"):
                found[kind] = layout.place(target, kind, stem, Path(ending).suffix)
                found[kind].parent.mkdir(parents=True, exist_ok=True)
                found[kind].write_bytes(server.fetch(file))
    return found


def maps_in(folder: Path) -> list[str]:
    """Return the kinds of map in a folder that have figures: a generated panorama has no one truth."""
    return [kind for kind in layout.kinds(folder) if kind in MADE]


def scores(kind: str, ours: Array, true: Array) -> Scores:
    """Compare two maps; a depth is aligned by its median."""
    return compare(kind, ours, true).scores[SHOWN_ALIGNMENT if kind == "depth" else ""]
