"""Time the reading of adapters against a plain read of their files, and the change of tasks on a loaded model.

    python lab/bench/switch.py [--rounds 7]      in the environment of lab/bench/README.md

Adapters are read in their real size (rank 64, bfloat16, two streams of 224 MB each), as they are published and
converted. Tasks are changed on a small FLUX.1 (hidden 768, 2+4 blocks): what the change costs depends on the adapters
alone, since the base weights are neither read nor merged again, which is checked.
"""

from __future__ import annotations

import argparse
import runpy
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ADAPTERS = 2


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("lab/bench/switch.py")
    with tempfile.TemporaryDirectory() as folder:
        loading(Path(folder, "full"), options.rounds)
        switching(Path(folder, "small"), options.rounds)


def loading(folder: Path, rounds: int) -> None:
    """Compare reading full-size adapters, as a node does, with a plain read of the same files into new memory."""
    from comfyui_omnix.converters import convert
    from comfyui_omnix.lab.host import tiny
    from comfyui_omnix.omnix.runtime.adapter import load_task
    from comfyui_omnix.omnix.runtime.tasks import TASKS

    task = TASKS["rgb_to_depth"]
    original = [tiny.save(tiny.full_adapter(seed), folder / f"{seed}.safetensors") for seed in range(ADAPTERS)]
    converted = [folder / f"converted {path.name}" for path in original]
    for source, target in zip(original, converted):
        convert(source, target)
    print("| files | MB in the files | load, s | read whole, s | read in pieces, s | load / whole | load / pieces |")
    print("|" + "---|" * 7)
    for name, files in (("original", original), ("converted", converted)):
        size = sum(file.stat().st_size for file in files)
        actions = (lambda f=files: load_task(f, task), lambda f=files: read_whole(f), lambda f=files: read_pieces(f))
        ours, whole, pieces = interleaved(rounds, *actions)
        times = " | ".join(f"{statistics.median(seconds):.3f}" for seconds in (ours, whole, pieces))
        ratios = " | ".join(f"{statistics.median(x / y for x, y in zip(ours, other)):.2f}" for other in (whole, pieces))
        print(f"| {name} | {size / 1e6:.0f} | {times} | {ratios} |", flush=True)


def read_whole(files: Sequence[Path]) -> list[bytes]:
    """Read files whole into new memory."""
    return [path.read_bytes() for path in files]


def read_pieces(files: Sequence[Path]) -> None:
    """Read files through a buffer of 1 MiB and keep nothing: the least that reading can cost."""
    buffer = bytearray(1 << 20)
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def interleaved(rounds: int, *actions: Callable[[], Any]) -> list[list[float]]:
    """Time actions in turn, once each to warm up and then in every round; what they return is let go at once."""
    seconds: list[list[float]] = [[] for _ in actions]
    for number in range(rounds + 1):
        for action, taken in zip(actions, seconds):
            started = time.perf_counter()
            result = action()
            if number:
                taken.append(time.perf_counter() - started)
            del result
    return seconds


def switching(folder: Path, rounds: int) -> None:
    """Go from one task to another and back on one loaded model; compare with loading the model again."""
    import comfy.sd
    import psutil
    from comfyui_omnix.lab.host import tiny
    from comfyui_omnix.omnix.runtime import patch
    from comfyui_omnix.omnix.runtime.tasks import TASKS

    geometry = tiny.Geometry(hidden=768, double=2, single=4, text=256, pooled=128)
    base = tiny.save(tiny.flux(geometry), folder / "flux.safetensors")
    tasks = {name: adapter_files(folder, name, geometry) for name in ("rgb_to_depth", "rgb_to_normal")}
    model = comfy.sd.load_diffusion_model(str(base))
    weights = {name: (value.data_ptr(), value.clone()) for name, value in model.model.state_dict().items()}
    process, seconds, read = psutil.Process(), [], []
    for number in range(2 * rounds):
        name = list(tasks)[number % 2]
        before, started = read_bytes(process), time.perf_counter()
        patch.attach(model, patch.load_adapters(tasks[name], TASKS[name]), 1.0, 1.0, 6)
        seconds.append(time.perf_counter() - started)
        read.append(read_bytes(process) - before)
    check_untouched(model, weights)
    started = time.perf_counter()
    comfy.sd.load_diffusion_model(str(base))
    again = time.perf_counter() - started
    size = sum(file.stat().st_size for file in tasks["rgb_to_depth"])
    print("\n| change of task, s | MB read | MB in its adapters | MB in the base model | loading the base again, s |")
    print("|---|---|---|---|---|")
    facts = f"{statistics.median(seconds):.3f} | {statistics.median(read) / 1e6:.1f} | {size / 1e6:.1f}"
    print(f"| {facts} | {base.stat().st_size / 1e6:.1f} | {again:.3f} |")


def adapter_files(folder: Path, task: str, geometry: Any) -> list[Path]:
    """Write a task's adapters in proportion to the model: rank 16 at hidden size 768."""
    import torch
    from comfyui_omnix.lab.host import tiny

    states = (tiny.adapter(geometry, seed, 16, torch.bfloat16) for seed in range(ADAPTERS))
    return [tiny.save(state, folder / task / f"{number}.safetensors") for number, state in enumerate(states)]


def read_bytes(process: Any) -> int:
    """Return what this process has read so far, from the disk or its cache."""
    return process.io_counters().read_chars


def check_untouched(model: Any, weights: dict[str, Any]) -> None:
    """Raise RuntimeError if a base weight has moved or changed."""
    for name, value in model.model.state_dict().items():
        place, content = weights[name]
        if value.data_ptr() != place or not bool((value == content).all()):
            raise RuntimeError(f"{name}: the base weight was touched by the change of tasks.")


if __name__ == "__main__":
    main()
