"""Time what Load OmniX Adapters does with a large models/loras each time that a graph is queued.

    python lab/bench/listing.py [--files 2000]      in the environment of lab/bench/README.md

The files are LoRAs of another kind, in one folder, a folder each, or both; beside them lies one task that its files
tell. Prints a table, in milliseconds: the first call, the median of the later ones, and of what ComfyUI's own list of
the names takes of that, which it checks folder by folder.
"""

from __future__ import annotations

import argparse
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
CALLS = 11
PLACES: dict[str, Callable[[int], str]] = {
    "one folder": lambda number: f"styles/{number}.safetensors",
    "20 folders": lambda number: f"styles {number % 20}/{number}.safetensors",
    "a folder each": lambda number: f"style {number}/style.safetensors",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("lab/bench/listing.py")
    print(f"| {options.files:,} LoRAs in | first call, ms | later calls, ms | of that ComfyUI's list, ms |")
    print("|---|---|---|---|")
    for name, place in PLACES.items():
        with tempfile.TemporaryDirectory() as folder:
            (first, *later), host = timed(Path(folder), options.files, place)
        print(f"| {name} | {first:.0f} | {statistics.median(later):.1f} | {statistics.median(host):.1f} |")
    sys.stdout.flush()


def timed(loras: Path, files: int, place: Callable[[int], str]) -> tuple[list[float], list[float]]:
    """Return the milliseconds of each call, in which tasks and the files of one are found, and of the host's list."""
    import folder_paths
    from comfyui_omnix import nodes
    from comfyui_omnix.lab.host import tiny
    from comfyui_omnix.omnix.runtime.tasks import Task, task_header

    task = Task("rgb_to_shading", ("rgb", "shading"))
    for stream in task.streams:
        tiny.save(tiny.adapter(rank=1), loras / "mine" / task.name / f"{stream}.safetensors", task_header(task, stream))
    other = tiny.save(tiny.adapter(rank=1), loras / place(0)).read_bytes()
    for number in range(1, files):
        path = loras / place(number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(other)
    known = {**folder_paths.folder_names_and_paths, "loras": ([str(loras)], {".safetensors"})}
    with mock.patch.multiple(folder_paths, folder_names_and_paths=known, filename_list_cache={}):
        host = [once(lambda: folder_paths.get_filename_list("loras")) for _ in range(CALLS)]
        calls = [once(lambda: nodes.OmniXLoadAdapters.fingerprint_inputs(task.name, "mine")) for _ in range(CALLS)]
    return calls, host[1:]


def once(call: Callable[[], object]) -> float:
    """Return how many milliseconds a call takes."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    main()
