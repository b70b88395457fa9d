"""What EasyCache and LazyCache cost and save, by threshold: the depth of the micro model in a real ComfyUI server.

    python lab/bench/caches.py [--rooms 16] [--steps 28]

A cache takes the last result again where the sampler's input has changed little. The rooms are those that
`python -m lab.micro evaluate` judges; the error is AbsRel, aligned by the median, as there.
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from comfyui_omnix.lab.host.server import Server

ROOT = Path(__file__).resolve().parents[2]
TASK = "rgb_to_depth"
CACHES = ("EasyCache", "LazyCache")
THRESHOLDS = (0.05, 0.1, 0.2, 0.4)
HEADER = "| | threshold | AbsRel | times the error | FLUX ran | steps |\n|---|---|---|---|---|---|"
SKIPPED = re.compile(r"Cache - skipped (\d+)/\d+ steps")


class Outcome(NamedTuple):
    """What a way of sampling came to: mean AbsRel of the rooms, and mean steps that ran FLUX."""

    error: float
    calls: float


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=16, help="rooms (16)")
    parser.add_argument("--steps", type=int, default=28, help="sampling steps (28)")
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("lab/bench/caches.py", cpu=True)
    from comfyui_omnix.lab.host.server import Server
    from comfyui_omnix.lab.micro import graphs, judged
    from comfyui_omnix.lab.micro.recipe import JUDGED_SEED

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stems = judged.write(folder / "rooms", [judged.own_room(JUDGED_SEED + n) for n in range(options.rooms)])
        graphs.install(folder / "base" / "models", graphs.WEIGHTS)
        with Server(Path(os.environ["COMFYUI_PATH"]), folder / "base") as server:
            plain = measured(server, folder / "rooms", stems, options.steps, {})
            print(HEADER, flush=True)
            print_row("none", "", plain, plain, options.steps)
            for cache in CACHES:
                for threshold in THRESHOLDS:
                    node = {"class_type": cache, "inputs": settings(threshold)}
                    found = measured(server, folder / "rooms", stems, options.steps, node)
                    print_row(cache, f"{threshold:g}", found, plain, options.steps)


def print_row(name: str, threshold: str, found: Outcome, plain: Outcome, steps: int) -> None:
    """Print one row of the table."""
    times = found.error / plain.error
    print(f"| {name} | {threshold} | {found.error:.4f} | {times:.3f} | {found.calls:.1f} | {steps} |", flush=True)


def settings(threshold: float) -> dict[str, Any]:
    """Return the node's inputs, all but the model: its defaults, and a threshold."""
    return {"reuse_threshold": threshold, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}


def measured(server: Server, rooms: Path, stems: list[str], steps: int, cache: dict[str, Any]) -> Outcome:
    """Perceive every room, the model through a cache if there is one."""
    from comfyui_omnix.lab.micro import evaluating, graphs
    from comfyui_omnix.mapfiles import layout

    errors, before = [], len(list(skipped(server)))
    for stem in stems:
        image = server.upload(layout.find(rooms, "rgb", stem), f"{stem}.png")
        graph = cached(graphs.micro_graph(TASK, image, steps), cache)
        path = graphs.perceived(server, graph, rooms.with_name("perceived"), stem)["depth"]
        ours, true = (layout.read(file, "depth") for file in (path, layout.find(rooms, "depth", stem)))
        errors.append(evaluating.scores("depth", ours, true).figures["abs_rel"][0])
    left_out = list(skipped(server))[before:]
    if cache and len(left_out) != len(stems):
        sys.exit(f"caches: the log tells of {len(left_out)} runs of {len(stems)}; the node's message has changed.")
    return Outcome(sum(errors) / len(errors), steps - sum(left_out) / len(stems))


def cached(graph: dict[str, Any], cache: dict[str, Any]) -> dict[str, Any]:
    """Put a cache before the sampler, after OmniX's nodes."""
    if not cache:
        return graph
    from comfyui_omnix.lab.host.graphs import of_type

    (sampler,) = of_type(graph, "KSampler")
    inputs = graph[sampler]["inputs"]
    node = {**cache, "inputs": {**cache["inputs"], "model": inputs["model"]}}
    return {**graph, "cache": node, sampler: {**graph[sampler], "inputs": {**inputs, "model": ["cache", 0]}}}


def skipped(server: Server) -> Iterator[int]:
    """Yield how many steps each run so far has left out, from the server's log."""
    yield from (int(found) for found in SKIPPED.findall(server.log.read_text(encoding="utf-8", errors="replace")))


if __name__ == "__main__":
    main()
