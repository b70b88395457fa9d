"""Run graphs of all tasks on one server for long: memory must stay flat, and equal seeds give equal pictures.

    python lab/bench/soak.py [--runs 200]      in the environment of lab/bench/README.md

Prints the server's resident memory by quarters, its growth, and how many pictures were compared.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import runpy
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "soak"
WIDTH, HEIGHT, STEPS = 128, 64, 2
SEEDS = 3

Graph = dict[str, dict[str, Any]]


class Run(NamedTuple):
    """One finished graph: its task and seed, a digest of its picture, and the server's resident bytes after it."""

    task: str
    seed: int
    digest: str
    resident: int


def main() -> None:
    """Print the table; exit with 1 if memory leaks or a picture changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("lab/bench/soak.py")
    from comfyui_omnix.lab.host.server import PACK, Server
    from comfyui_omnix.lab.host.tiny_models import DOUBLES

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder, "base")
        packs = {PACK: ROOT, "tiny_text_encoders": DOUBLES / "tiny_text_encoders"}
        install(base)
        with Server(Path(os.environ["COMFYUI_PATH"]), base, packs) as server:
            runs = list(soak(server, options.runs))
    sys.exit(report(runs))


def report(runs: Sequence[Run]) -> int:
    """Print what a soak showed; return the exit status."""
    quarter = len(runs) // 4
    print("| runs | resident memory of the server, MB (median) |\n|---|---|")
    for part in range(4):
        first, last = part * quarter, (part + 1) * quarter
        print(f"| {first + 1} to {last} | {resident(runs[first:last]) / 1e6:.1f} |")
    changed = changed_pictures(runs)
    pairs = len(runs) - len({(run.task, run.seed) for run in runs})
    print(f"\n{len(runs)} runs; {growth(runs) / 1e3:+.0f} kB a run; {pairs} repeats, {len(changed)} changed.")
    return int(growth(runs) > LEAK or bool(changed))


def resident(runs: Sequence[Run]) -> float:
    """Return the median of the server's resident bytes."""
    return statistics.median(run.resident for run in runs)


LEAK = 200_000
"""Bytes a run, as many as one stream's adapter has here."""
APART = 14


def growth(runs: Sequence[Run]) -> float:
    """Return the bytes by which memory grows in each run, after the first quarter, in which caches are filled.

    It is the median over all pairs of runs that are two laps of the tasks apart: a leak is in most of the pairs, one
    step of the allocator or a few noisy runs are not.
    """
    counted = [run.resident for run in runs[len(runs) // 4 :]]
    return statistics.median(late - early for early, late in zip(counted, counted[APART:])) / APART


def changed_pictures(runs: Sequence[Run]) -> list[Run]:
    """List the runs whose picture is not that of the first run of the same task and seed."""
    first = {(run.task, run.seed): run.digest for run in reversed(runs)}
    return [run for run in runs if run.digest != first[run.task, run.seed]]


def install(base: Path) -> None:
    """Write tiny models and an adapter for each stream of each task below a server's base folder."""
    from comfyui_omnix.lab.host import tiny
    from comfyui_omnix.lab.host.tiny_models import write_models
    from comfyui_omnix.omnix.runtime.tasks import TASKS

    write_models(base / "models")
    slots = [(task.name, stream) for task in TASKS.values() for stream in task.streams]
    for seed, (task, stream) in enumerate(slots):
        tiny.save(tiny.adapter(seed=seed), base / "models" / "loras" / FOLDER / f"{task}_{stream}.safetensors")


def soak(server: Any, runs: int) -> Iterator[Run]:
    """Run the tasks in turn, each with its seeds in turn, so that the server can take nothing from its cache."""
    import psutil
    from comfyui_omnix.omnix.runtime.tasks import TASKS

    own = [child for child in psutil.Process().children() if str(server.port) in child.cmdline()]
    for number in range(runs):
        task, seed = list(TASKS)[number % len(TASKS)], number // len(TASKS) % SEEDS
        (picture,) = server.images(server.run(graph(task, seed)), "saved")
        yield Run(task, seed, digest(picture), own[0].memory_info().rss)


def digest(picture: bytes) -> str:
    """Return a digest of a PNG's pixels; its text holds the graph, times of files among it."""
    from PIL import Image

    return hashlib.sha256(Image.open(io.BytesIO(picture)).tobytes()).hexdigest()


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """Write a node of a posted graph."""
    return {"class_type": kind, "inputs": inputs}


def graph(task: str, seed: int, steps: int = STEPS, folder: str = FOLDER) -> Graph:
    """Write a task's graph on made-up models; its conditions are camera rays, encoded, and its picture is "saved"."""
    from comfyui_omnix.lab.host.tiny_models import ModelNames
    from comfyui_omnix.omnix.runtime.tasks import TASKS

    names = ModelNames()
    nodes = {
        "flux": node("UNETLoader", unet_name=names.flux, weight_dtype="default"),
        "clip": node("DualCLIPLoader", clip_name1=names.clip_l, clip_name2=names.t5, type="flux", device="default"),
        "vae": node("VAELoader", vae_name=names.vae),
        "text": node("OmniXEncodePrompt", clip=["clip", 0], prompt="", guidance=3.5, tag=True),
        "rays": node("OmniXCameraRays", width=WIDTH, height=HEIGHT),
        "encoded": node("VAEEncode", pixels=["rays", 0], vae=["vae", 0]),
        "empty": node("EmptySD3LatentImage", width=WIDTH, height=HEIGHT, batch_size=1),
        "adapters": node("OmniXLoadAdapters", task=task, folder=folder),
        "applied": node("OmniXApplyAdapters", model=["flux", 0], adapters=["adapters", 0], **STRENGTHS),
        "shifted": node("OmniXFlowShift", model=["applied", 0], latent=["empty", 0], seam_columns=6),
        "decoded": node("OmniXDecodePanorama", samples=["sampled", 0], vae=["vae", 0], wrap_columns=2),
        "saved": node("SaveImage", images=["decoded", 0], filename_prefix=task),
    }
    last = "text"
    for stream in TASKS[task].conditions:
        nodes[stream] = node("ReferenceLatent", conditioning=[last, 0], latent=["encoded", 0])
        last = stream
    ends = {"model": ["shifted", 0], "positive": [last, 0], "negative": [last, 0], "latent_image": ["empty", 0]}
    return {**nodes, "sampled": node("KSampler", seed=seed, steps=steps, **ends, **SAMPLING)}


STRENGTHS = {"strength_condition": 1.0, "strength_target": 1.0, "seam_columns": 6}
SAMPLING = {"cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}


if __name__ == "__main__":
    main()
