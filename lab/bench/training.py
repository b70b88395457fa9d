"""Memory and time of a training step, by tokens and rank:  python lab/bench/training.py [--real]

A frozen FLUX.1 of made-up weights trains two streams with the project's own engine, batch 1. Seconds are CPU seconds
on a CPU, wall seconds on a GPU; memory is what the steps add at their peak. `--real` measures FLUX.1-dev's own sizes on
a GPU, in bfloat16 and float8, rank 64 at 1024x512; without it those rows say that they were not measured.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import resource
import runpy
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3


class Case(NamedTuple):
    """One row: the model's size, the panorama, the rank, and what is switched on."""

    hidden: int
    size: str
    rank: int
    checkpointing: bool
    dtype: str = "float32"


SMALL = tuple(
    Case(256, size, rank, checkpointing)
    for size in ("256x128", "512x256")
    for rank in (16, 64)
    for checkpointing in (False, True)
)
REAL = tuple(Case(3072, "1024x512", 64, True, dtype) for dtype in ("bfloat16", "float8_e4m3fn"))


def main() -> None:
    """Print the table; each row is measured in a process of its own, so that its peak is its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--real", action="store_true", help="measure FLUX.1-dev's sizes too, on a GPU")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases = (*SMALL, *REAL)
    if options.case is not None:
        print(row(cases[options.case]))
        return
    print(f"{platform.machine()}, {os.cpu_count()} processors, {STEPS} steps a row, two streams, batch 1\n")
    print("| hidden size | panorama | tokens | rank | checkpointing | base | seconds a step | memory added |")
    print("|---|---|---|---|---|---|---|---|")
    for number, case in enumerate(cases):
        if case in REAL and not options.real:
            print(f"{head(case)} | not measured | not measured |")
        else:
            sys.stdout.flush()  # the child writes to the same place
            os.spawnv(os.P_WAIT, sys.executable, [sys.executable, __file__, "--case", str(number)])


def head(case: Case) -> str:
    """Return the left part of a row."""
    width, height = map(int, case.size.split("x"))
    tokens = 2 * (height // 16 * ((width // 8 + 6) // 2) + 12)
    switched = "on" if case.checkpointing else "off"
    return f"| {case.hidden} | {case.size} | {tokens} | {case.rank} | {switched} | {case.dtype}"


def row(case: Case) -> str:
    """Measure one row."""
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("training.py", cpu=case.hidden < 3072)
    base = _base(case)
    before = _memory()
    seconds = list(_steps(case, base))
    return f"{head(case)} | {min(seconds):.2f} | {(_memory() - before) / 2**20:.0f} MiB |"


def _base(case: Case) -> Any:
    import comfy.sd
    import torch
    from comfyui_omnix.lab.host import tiny
    from comfyui_omnix.training.host import LoadedBase

    real = case.hidden == 3072
    geometry = tiny.FULL if real else tiny.Geometry(hidden=case.hidden, double=2, single=4)
    state = tiny.flux(geometry, dtype=torch.bfloat16 if real else torch.float32)
    model = comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": getattr(torch, case.dtype)})
    base = LoadedBase(model)
    base.flux()
    return base


def _steps(case: Case, base: Any) -> Iterator[float]:
    """Yield the seconds of each step but the first, which also allocates."""
    import torch
    from comfyui_omnix.omnix.runtime.tasks import Task
    from comfyui_omnix.training import Config, Latents, train

    width, height = map(int, case.size.split("x"))
    latents = [torch.randn(1, 16, height // 8, width // 8) for _ in range(2)]
    flux = base.flux()
    text, pooled = torch.randn(1, 12, flux.params.context_in_dim), torch.randn(1, flux.params.vec_in_dim)
    settings = Config(
        target=("map",), size=case.size, rank=case.rank, alpha=case.rank, steps=STEPS + 1, held_out=0,
        save_every=1000, checkpointing=case.checkpointing,
    )  # fmt: skip

    class Timed(Latents):
        started: ClassVar[list[float]] = []

        def batch(self, indices: Any, bare: Any) -> Any:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.started.append(time.process_time() if flux.img_in.weight.device.type == "cpu" else time.perf_counter())
            return super().batch(indices, bare)

    samples = Timed(latents, text, pooled)
    with tempfile.TemporaryDirectory() as folder:
        train(settings, Task("rgb_to_map", ("rgb", "map")), base, samples, Path(folder), show=False)
    times = samples.started
    yield from (after - now for now, after in itertools.pairwise(times))


def _memory() -> int:
    """Return the peak of this process on the GPU if it has one, else in all, in bytes."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
