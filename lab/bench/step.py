"""Time one denoising step of our runtime beside the floor and the reference's way.

    python lab/bench/step.py [--streams 2 3] [--heights 64 128 256] [--rounds 9] [--weights float32]
    python lab/bench/step.py --device cuda --full --weights bfloat16 float8_e4m3fn --heights 512 720 1024

Prints a Markdown table; see lab/bench/README.md for the environment and what the columns mean. The ways take turns in
every round; a time is the median over the rounds, a ratio the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import platform
import runpy
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from ways import Bench

ROOT = Path(__file__).resolve().parents[2]
MB = 1e6
Clock = Callable[[], float]
CLOCKS: Mapping[str, Clock] = {"wall": time.perf_counter, "process": time.process_time}
COLUMNS = (
    *("weights", "streams", "panorama"),
    *("a ours, s", "b floor, s", "c reference, s", "d no adapters, s"),
    *("a/b", "a/c", "a/d"),
    *("adapters, MB", "peak a, MB", "peak b, MB", "peak c, MB"),
)


COMPILED = ("e ours compiled, s", "f floor compiled, s", "e/f", "e/a")


def main() -> None:
    """Run every size and print its row as soon as it is there."""
    options = arguments()
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("lab/bench/step.py", cpu=options.device == "cpu")
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("lab/bench/step.py: torch sees no CUDA device; run without --device cuda.")
    if options.threads:
        torch.set_num_threads(options.threads)
    rounds = f"median of {options.rounds} interleaved rounds, {options.clock} time"
    print(f"{machine(options.device)}; torch {torch.__version__}; {rounds}\n")
    columns = (*COLUMNS, *COMPILED) if options.compile else COLUMNS
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for bench, weights in benches(options):
        facts = measured(bench, options.rounds, CLOCKS[options.clock], options.compile)
        print("| " + " | ".join(row(bench, weights, facts)) + " |", flush=True)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--full", action="store_true", help="the 12B architecture instead of hidden 768, 2+4 blocks")
    parser.add_argument("--weights", nargs="+", default=["float32"], help="dtypes of the weights")
    parser.add_argument("--streams", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--heights", nargs="+", type=int, default=[64, 128, 256], help="of the panoramas, in pixels")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--clock",
        choices=("wall", "process"),
        default="wall",
        help="process: CPU seconds, for a shared machine",
    )
    parser.add_argument("--compile", action="store_true", help="also ours and the floor compiled by inductor")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    return parser.parse_args()


def machine(device: str) -> str:
    """Name what computes."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def benches(options: argparse.Namespace) -> Iterator[tuple[Bench, str]]:
    """Yield every combination; a FLUX is built once for its weight dtype."""
    import torch
    import ways
    from comfyui_omnix.lab.host import tiny

    geometry = tiny.FULL if options.full else ways.SMALL
    device = torch.device(options.device)
    for name in options.weights:
        weights = getattr(torch, name)
        compute = torch.bfloat16 if weights.itemsize < 4 else weights
        flux = ways.make_flux(geometry, weights, device)
        for streams in options.streams:
            adapters = ways.make_adapters(geometry, streams, compute, device)
            for height in options.heights:
                yield ways.make_bench(flux, adapters, geometry, height, compute), name


def measured(bench: Bench, rounds: int, clock: Clock = time.perf_counter, compiled: bool = False) -> dict[str, Any]:
    """Run each way in turn, `rounds` times after one to warm up; return seconds, peaks in bytes, and check equality."""
    import torch
    import ways

    every = {**ways.WAYS, **(ways.compiled(bench) if compiled else {})}
    seconds: dict[str, list[float]] = {name: [] for name in every}
    with torch.inference_mode():
        first = {name: way(bench) for name, way in every.items() if name in "acef"}  # compiles, too
        check_equal({name: result for name, result in first.items() if name != "f"})
        for _ in range(rounds):
            for name, way in every.items():
                seconds[name].append(timed(way, bench, clock))
        peaks = {name: peak_bytes(ways.WAYS[name], bench) for name in "abc"}
    return {"seconds": seconds, "peaks": peaks}


def check_equal(results: Mapping[str, Tensor]) -> None:
    """Raise RuntimeError if the ways that should agree do not: a bench of different things would say nothing."""
    import torch

    want = results["a"].double()
    limit = 1e-4 if results["a"].dtype == torch.float32 else 5e-2
    for name, result in results.items():
        error = float((result.double() - want).norm() / want.norm())
        if not error <= limit:
            raise RuntimeError(f"way {name} differs from ours by {error:.1e}, expected at most {limit:.0e}.")


def timed(way: Any, inputs: Any, clock: Clock = time.perf_counter) -> float:
    """Return the seconds of way(inputs); a GPU is waited for where `inputs.x` lies on one."""
    import torch

    cuda = inputs.x.is_cuda
    if cuda:
        torch.cuda.synchronize()
    started = clock()
    way(inputs)
    if cuda:
        torch.cuda.synchronize()
    return clock() - started


def peak_bytes(way: Any, bench: Bench) -> int:
    """Return the most bytes that one step holds beyond what was there before it (weights, adapters and inputs)."""
    import torch

    if bench.x.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way(bench)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        way(bench)
    return highest(profile)


def highest(profile: Any) -> int:
    """Return the highest sum of the allocations and frees that a profile saw."""
    found = profile.profiler
    if found is None:
        raise RuntimeError("torch's profiler kept no events.")
    events = [event for event in found.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def row(bench: Bench, weights: str, facts: Mapping[str, Any]) -> list[str]:
    """Return the cells of one row."""
    seconds, peaks = facts["seconds"], facts["peaks"]
    height, width = bench.conditions[0].shape[-2] * 8, bench.conditions[0].shape[-1] * 8
    adapters = sum(tensor.nbytes for tensor in bench.adapters.weights.parameters())
    ratios = [statistics.median(x / y for x, y in zip(seconds["a"], seconds[way])) for way in "bcd"]
    return [
        *(weights, str(bench.streams), f"{height}x{width}"),
        *(f"{statistics.median(seconds[way]):.3f}" for way in "abcd"),
        *(f"{ratio:.3f}" for ratio in ratios),
        f"{adapters / MB:.1f}",
        *(f"{peaks[way] / MB:.1f}" for way in "abc"),
        *compiled_cells(seconds),
    ]


def compiled_cells(seconds: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Yield the cells of what was compiled, if anything was."""
    if "e" in seconds:
        yield from (f"{statistics.median(seconds[way]):.3f}" for way in "ef")
        yield from (f"{statistics.median(x / y for x, y in zip(seconds['e'], seconds[way])):.3f}" for way in "fa")


if __name__ == "__main__":
    main()
