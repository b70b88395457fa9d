"""Time the converter against `cp` of what it writes, and against the obvious way, as ratios in one run.

Makes an adapter of OmniX's real size (456 tensors, rank 64, bfloat16, 224 MB) of random bytes in a temporary folder and
runs whole processes in interleaved rounds: `cp` of the converted file, the converter, and loading everything with
torch, fusing and saving. Prints a Markdown table and whether the goals hold; asserts nothing about time.

    python lab/bench/convert.py [--rounds 5] [--folder FOLDER] [--python PYTHON_WITH_TORCH]
    python lab/bench/convert.py --verify [--rank 896]       verifying a large file whose scales were folded
"""

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
HIDDEN, DOUBLE, SINGLE = 3072, 19, 38
MOST_TIMES_CP, MOST_MEMORY = 3.0, 64.0
MOST_TIMES_CONVERSION, MOST_BEYOND_TORCH = 2.0, 64.0
SCALE = 0.75
"""alpha / rank of the file that is verified; times this, a bfloat16 must be rounded."""
FINITE = bytes(high & 0xBF for high in range(256))
"""What the upper byte of a bfloat16 becomes so that no number is NaN or infinite."""

DOUBLE_PARTS = {
    **{f"attn.{name}": (HIDDEN, HIDDEN) for name in ("to_q", "to_k", "to_v", "to_out.0")},
    "ff.net.0.proj": (HIDDEN, 4 * HIDDEN),
    "ff.net.2": (4 * HIDDEN, HIDDEN),
}
SINGLE_PARTS = {f"attn.{name}": (HIDDEN, HIDDEN) for name in ("to_q", "to_k", "to_v")}

# What one writes without a converter: everything in memory, fused with torch, saved.
OBVIOUS = """
import sys
import torch
from safetensors.torch import load_file, save_file
state, fused, h = load_file(sys.argv[1]), {}, 3072
def pair(name):
    return state[f"transformer.{name}.lora_A.weight"], state[f"transformer.{name}.lora_B.weight"]
def put(layer, down, up):
    fused[f"diffusion_model.{layer}.lora_A.weight"] = down.contiguous()
    fused[f"diffusion_model.{layer}.lora_B.weight"] = up.contiguous()
def join(layer, block, rows):
    pairs = [pair(f"{block}.attn.{name}") for name in ("to_q", "to_k", "to_v")]
    up = torch.block_diag(*(up for _, up in pairs))
    put(layer, torch.cat([down for down, _ in pairs]), torch.cat([up, up.new_zeros(rows - up.shape[0], up.shape[1])]))
for i in range(19):
    block, target = f"transformer_blocks.{i}", f"double_blocks.{i}"
    join(f"{target}.img_attn.qkv", block, 3 * h)
    for part, name in (("attn.to_out.0", "img_attn.proj"), ("ff.net.0.proj", "img_mlp.0"), ("ff.net.2", "img_mlp.2")):
        put(f"{target}.{name}", *pair(f"{block}.{part}"))
for i in range(38):
    join(f"single_blocks.{i}.linear1", f"single_transformer_blocks.{i}", 7 * h)
save_file(fused, sys.argv[2])
"""

# The converter as `python -m converters` runs it, and what it had imported in the end.
WATCHED = """
import sys
from converters.__main__ import main
status = main(sys.argv[1:])
sys.exit(status or ("torch" in sys.modules) or ("numpy" in sys.modules))
"""


class Run(NamedTuple):
    """What a process took: seconds from start to end, and MiB of memory at its peak."""

    seconds: float
    memory: float


def shapes(rank: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the names and shapes of an OmniX adapter's tensors."""
    blocks = [(f"transformer_blocks.{i}", DOUBLE_PARTS) for i in range(DOUBLE)]
    blocks += [(f"single_transformer_blocks.{i}", SINGLE_PARTS) for i in range(SINGLE)]
    for block, parts in blocks:
        for part, (columns, rows) in parts.items():
            yield f"transformer.{block}.{part}.lora_A.weight", (rank, columns)
            yield f"transformer.{block}.{part}.lora_B.weight", (rows, rank)


def make_adapter(path: Path, rank: int, scale: float | None = None) -> None:
    """Write an adapter of random finite bfloat16 numbers; `scale` tells it by alphas."""
    fields, end = {}, 0
    for name, (rows, columns) in sorted(shapes(rank)):
        first, end = end, end + 2 * rows * columns
        fields[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [first, end]}
    alphas = [name.replace("lora_A.weight", "alpha") for name in fields if "lora_A" in name] if scale else []
    for number, name in enumerate(alphas):
        fields[name] = {"dtype": "F32", "shape": [], "data_offsets": [end + 4 * number, end + 4 * number + 4]}
    header = json.dumps(fields).encode()
    noise = bytearray(os.urandom(1 << 20))
    noise[1::2] = noise[1::2].translate(FINITE)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for start in range(0, end, len(noise)):
            file.write(noise[: end - start])
        file.write(struct.pack("<f", (scale or 1.0) * rank) * len(alphas))


def run(command: Sequence[str], output: Path) -> Run:
    """Run a process that writes `output`, which is removed before."""
    output.unlink(missing_ok=True)
    os.sync()
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command[:3])} ... ended with {process.returncode}")
    return Run(seconds, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def commands(python: str, source: Path, folder: Path) -> dict[str, tuple[list[str], Path]]:
    """Return what is compared: name -> command and the file that it writes."""
    copied, ours, obvious = (folder / f"{name}.safetensors" for name in ("copied", "ours", "obvious"))
    return {
        "cp of the converted file": (["cp", str(ours), str(copied)], copied),
        "omnix-convert": ([sys.executable, "-m", "converters", str(source), str(ours)], ours),
        "load all, fuse with torch, save": ([python, "-c", OBVIOUS, str(source), str(obvious)], obvious),
    }


def measured(python: str, source: Path, folder: Path, rounds: int) -> dict[str, list[Run]]:
    """Run everything in turn, one round to warm up and `rounds` that count."""
    work = commands(python, source, folder)
    run(*work["omnix-convert"])  # what cp copies
    runs: dict[str, list[Run]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, (command, output) in work.items():
            found = run(command, output)
            if number:
                runs[name].append(found)
    return runs


def table(runs: dict[str, list[Run]]) -> str:
    """Return a Markdown table of medians, least and most, ratios to `cp` and peak memory."""
    base = statistics.median(found.seconds for found in runs["cp of the converted file"])
    lines = ["| whole process | median s (least to most) | times `cp` | peak memory, MiB |", "|---|---|---|---|"]
    for name, found in runs.items():
        seconds = sorted(each.seconds for each in found)
        middle = statistics.median(seconds)
        spread = f"{middle:.3f} ({seconds[0]:.3f} to {seconds[-1]:.3f})"
        lines.append(f"| {name} | {spread} | {middle / base:.2f} | {max(each.memory for each in found):.0f} |")
    return "\n".join(lines)


def goals(runs: dict[str, list[Run]], larger: Run, imports_nothing: bool) -> list[str]:
    """Say of each goal whether it held in this run."""
    copied = statistics.median(found.seconds for found in runs["cp of the converted file"])
    ours = statistics.median(found.seconds for found in runs["omnix-convert"])
    memory = max(found.memory for found in runs["omnix-convert"])
    held = [
        (ours <= MOST_TIMES_CP * copied, f"at most {MOST_TIMES_CP:g} times cp: {ours / copied:.2f}"),
        (memory < MOST_MEMORY, f"under {MOST_MEMORY:g} MiB: {memory:.0f}"),
        (
            larger.memory < MOST_MEMORY,
            f"under {MOST_MEMORY:g} MiB for an adapter 4 times as large: {larger.memory:.0f}",
        ),
        (imports_nothing, "imports neither torch nor numpy"),
    ]
    return told(held)


def verifying(python: str, folder: Path, rank: int) -> str:
    """Convert and verify one large file whose scales are folded; return a Markdown table and the goals."""
    source, target, nothing = (folder / f"{name}.safetensors" for name in ("scaled", "converted", "nothing"))
    make_adapter(source, rank, SCALE)
    torch = run([python, "-c", "import torch"], nothing).memory
    converted = run([python, "-m", "converters", str(source), str(target)], target)
    verified = run([python, "-m", "converters", "--verify", str(source), str(target)], nothing)
    times, beyond = verified.seconds / converted.seconds, verified.memory - torch
    lines = [f"{source.stat().st_size / 1e9:.2f} GB in, scale {SCALE}\n"]
    lines += [
        "| whole process | s | times the conversion | peak memory, MiB | beyond torch, MiB |",
        "|---|---|---|---|---|",
    ]
    for name, found in (("omnix-convert", converted), ("omnix-convert --verify", verified)):
        ratio = found.seconds / converted.seconds
        lines.append(
            f"| {name} | {found.seconds:.1f} | {ratio:.2f} | {found.memory:.0f} | {found.memory - torch:.0f} |"
        )
    held = [
        (times <= MOST_TIMES_CONVERSION, f"at most {MOST_TIMES_CONVERSION:g} times the conversion: {times:.2f}"),
        (beyond <= MOST_BEYOND_TORCH, f"at most {MOST_BEYOND_TORCH:g} MiB beyond torch: {beyond:.0f}"),
    ]
    return "\n".join([*lines, "", *told(held)])


def told(held: Sequence[tuple[bool, str]]) -> list[str]:
    """Say of each goal whether it held in this run."""
    return [f"- {'holds' if holds else 'DOES NOT HOLD'}: {goal}" for holds, goal in held]


def main() -> int:
    """Print the table and the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one to warm up (default 5)")
    parser.add_argument("--folder", type=Path, help="where to put about 3 GB of files (default: the system's)")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch, for the obvious way")
    parser.add_argument("--verify", action="store_true", help="time the verifying of a large file instead")
    parser.add_argument("--rank", type=int, default=896, help="rank of that file: 896 makes 3.1 GB (default 896)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="omnix-bench-", dir=options.folder))
    try:
        if options.verify:
            print(verifying(options.python, folder, options.rank))
            return 0
        source = folder / "adapter.safetensors"
        make_adapter(source, rank=64)
        runs = measured(options.python, source, folder, options.rounds)
        imports_nothing = not subprocess.call(
            [sys.executable, "-c", WATCHED, str(source), str(folder / "watched.safetensors")],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        make_adapter(folder / "larger.safetensors", rank=256)
        target = folder / "larger-converted.safetensors"
        larger = run([sys.executable, "-m", "converters", str(folder / "larger.safetensors"), str(target)], target)
        load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
        print(
            f"{source.stat().st_size / 1e6:.1f} MB in, {options.rounds} rounds, {os.cpu_count()} cores, load {load}\n"
        )
        print(table(runs))
        print("\n" + "\n".join(goals(runs, larger, imports_nothing)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
