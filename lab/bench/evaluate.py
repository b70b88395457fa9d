"""Time omnix-evaluate: 100 pairs of 1024x512 of each kind of map, by processor seconds, and its largest memory.

Makes 5 different pairs of each kind (depth as EXR, normals as PNG of 16 bits, the rest of 8) in a temporary folder and
links them as 100. Processor seconds over the number of cores are what a run takes on cores that do nothing else.

    python lab/bench/evaluate.py [--pairs 100] [--height 512] [--python PYTHON_WITH_THE_EXTRA]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("depth", "normal", "albedo", "roughness", "metallic", "semantic")
DIFFERENT = 5

MAKE = """
import sys
from pathlib import Path
import numpy as np
from mapfiles import layout
root, count, height = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
smooth = np.sin(np.linspace(0, 9, 2 * height))[None, :] + np.cos(np.linspace(0, 7, height))[:, None]
for number in range(count):
    for side in ("predicted", "true"):
        for kind, form in layout.KINDS.items():
            if kind == "rgb":
                continue
            shape = (height, 2 * height, 3) if form.channels == 3 else (height, 2 * height)
            waves = (smooth if form.channels == 1 else smooth[..., None] * [1, 0.5, -1]) + rng.normal(0, 0.1, shape)
            values = {"depth": 3 + waves / 2, "semantic": (np.round(waves) * 40 + 128).astype(np.uint8)}
            values["normal"] = waves / np.linalg.norm(waves, axis=-1, keepdims=True) if kind == "normal" else None
            found = values.get(kind, np.clip(0.5 + waves / 6, 0, 1))
            layout.write(layout.place(root / side, kind, f"{number:04d}"), kind, found)
"""
RUN = """
import os, resource, sys, time
from evaluation.__main__ import main
start = time.perf_counter()
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
unit = 1 if sys.platform == "darwin" else 1024
print(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss * unit / 2**20, file=sys.stderr)
sys.exit(status)
"""


class Run(NamedTuple):
    """Seconds by the clock, seconds of all processors, and the largest memory in MiB, of one process."""

    seconds: float
    processor: float
    memory: float


def make(python: str, folder: Path, pairs: int, height: int) -> None:
    """Write the different pairs and link the others to them."""
    subprocess.run([python, "-c", MAKE, str(folder), str(min(DIFFERENT, pairs)), str(height)], cwd=ROOT, check=True)
    for maps in sorted(folder.glob("*/*")):
        for number in range(DIFFERENT, pairs):
            source = next(maps.glob(f"{number % DIFFERENT:04d}.*"))
            (maps / f"{number:04d}{source.suffix}").hardlink_to(source)


def run(python: str, folder: Path, *options: str) -> Run:
    """Measure one whole process."""
    command = [python, "-c", RUN, str(folder / "predicted"), str(folder / "true"), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return Run(*map(float, done.stderr.split()[-3:]))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--height", type=int, default=512, help="rows of each panorama (default %(default)s)")
    parser.add_argument("--python", default=sys.executable, help="a Python with the extra `evaluation`")
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="omnix-bench-") as made:
        folder = Path(made)
        make(options.python, folder, options.pairs, options.height)
        load = f"{os.getloadavg()[0]:.1f}"
        print(f"{options.pairs} pairs of {2 * options.height}x{options.height}, {cores} cores, load {load}\n")
        print(f"| maps | processor s | over {cores} cores | s by the clock | peak memory, MiB |\n|---|---|---|---|---|")
        for kind in (*KINDS, ""):
            found = run(options.python, folder, *(["--map", kind] if kind else []))
            figures = (
                f"{found.processor:.1f} | {found.processor / cores:.1f} | {found.seconds:.1f} | {found.memory:.0f}"
            )
            print(f"| {kind or 'all six'} | {figures} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
