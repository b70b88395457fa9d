"""Convert OmniX and other FLUX.1 LoRAs from Diffusers layout into files for ComfyUI's LoRA loaders.

SOURCE is one file or a tree ({task}/{stream}/pytorch_lora_weights.safetensors, {task}_{stream}.safetensors or any mix);
DESTINATION keeps {task}/{stream}.safetensors, ready to be put under ComfyUI's loras folder.
Exit status: 0 all went well, 1 something failed (each file says why), 2 the call was wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

from .convert import Report, convert, split
from .errors import AdapterError
from .inspect import becomes, inspect
from .layout import table
from .tree import Job, Outcome, jobs, run
from .verify import Verified, verify
from .version import VERSION

_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.layout:
        print(table())
        return 0
    if options.source is None or (options.destination is None) != options.inspect:
        parser.error("SOURCE is needed, and DESTINATION unless --inspect is given")
    try:
        return _run(options)
    except (AdapterError, OSError) as error:
        print(f"omnix-convert: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("omnix-convert: interrupted; files finished before are whole, the rest was not written", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="omnix-convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", nargs="?", type=Path, metavar="SOURCE", help="adapter file, or folder of adapters")
    parser.add_argument("destination", nargs="?", type=Path, metavar="DESTINATION", help="folder, or .safetensors file")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--inspect", action="store_true", help="say what SOURCE is and what each key will become")
    mode.add_argument(
        "--verify", action="store_true", help="compare the deltas of SOURCE and the result in DESTINATION"
    )
    mode.add_argument("--split", action="store_true", help="the inverse: a converted SOURCE back to Diffusers layout")
    mode.add_argument("--layout", action="store_true", help="print the table of layers and stop")
    parser.add_argument("--dtype", choices=_DTYPES, help="write this dtype instead of the source's")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--dry-run", action="store_true", help="check and report, write nothing")
    parser.add_argument("--allow-unused", action="store_true", help="leave out tensors that belong to no FLUX.1 layer")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    parser.add_argument("--version", action="version", version=f"omnix-convert {VERSION}")
    return parser


def _run(options: argparse.Namespace) -> int:
    work = jobs(options.source, options.destination or Path())
    if options.split:
        work = tuple(replace(job, destination=_split_name(job)) for job in work)
    outcomes = []
    for outcome in run(work, _action(options)):
        outcomes.append(outcome)
        if not options.json:
            _show(outcome, options)
            _show_progress(len(outcomes), len(work))
    failed = sum(outcome.error is not None for outcome in outcomes)
    if options.json:
        print(json.dumps(_document(outcomes), indent=1))
    elif len(work) > 1:
        print(_summary(outcomes, options))
    return 1 if failed else 0


def _split_name(job: Job) -> Path:
    """Published layout for a tree: {task}/{stream}/pytorch_lora_weights.safetensors."""
    if job.slot is None or job.destination.name != f"{job.slot.stream}.safetensors":
        return job.destination
    return job.destination.with_suffix("") / "pytorch_lora_weights.safetensors"


def _action(options: argparse.Namespace) -> Callable[[Job], object]:
    if options.inspect:
        root = options.source if options.source.is_dir() else None
        return lambda job: inspect(job.source, root)
    if options.verify:
        return lambda job: verify(job.source, job.destination)
    if options.split:
        return lambda job: split(job.source, job.destination, force=options.force, dry_run=options.dry_run)
    return lambda job: convert(
        job.source,
        job.destination,
        slot=job.slot,
        dtype=_DTYPES.get(options.dtype),
        force=options.force,
        dry_run=options.dry_run,
        allow_unused=options.allow_unused,
    )


def _show(outcome: Outcome, options: argparse.Namespace) -> None:
    result = outcome.result
    if outcome.error is not None:
        print(f"error: {outcome.error}", file=sys.stderr)
    elif isinstance(result, Report):
        done = "would write" if options.dry_run else "wrote"
        ranks = ", ".join(map(str, result.ranks))
        print(
            f"{result.source} -> {result.destination}: {done} {len(result.layers)} layers, "
            f"{result.moved} pairs moved, {result.computed} computed, rank {ranks}, "
            f"{_megabytes(result.bytes_in)} -> {_megabytes(result.bytes_out)} MB in {outcome.seconds:.2f} s"
            + (f"; left out {len(result.unused)} tensors" if result.unused else "")
        )
    elif isinstance(result, dict):
        layers = result["layers"]
        facts = {key: value for key, value in result.items() if key != "layers"}
        print(
            "\n".join(
                [*(f"{key}: {value}" for key, value in facts.items()), f"layers: {len(layers)}", *becomes(result)]
            )
        )
    elif isinstance(result, tuple):
        print(_verdict(outcome.job, result))


def _verdict(job: Job, layers: tuple[Verified, ...]) -> str:
    exact = sum(layer.exact for layer in layers)
    worst = max((layer.difference for layer in layers), default=0.0)
    return f"{job.destination}: {exact} of {len(layers)} layers bit for bit, largest relative difference {worst:.1e}"


def _show_progress(done: int, total: int) -> None:
    """Draw a bar on a terminal, for trees."""
    if total > 1 and sys.stderr.isatty():
        filled = 30 * done // total
        end = "\n" if done == total else "\r"
        print(f"[{'#' * filled}{'.' * (30 - filled)}] {done}/{total}", end=end, file=sys.stderr, flush=True)


def _summary(outcomes: Sequence[Outcome], options: argparse.Namespace) -> str:
    good = [outcome for outcome in outcomes if outcome.error is None]
    seconds = sum(outcome.seconds for outcome in outcomes)
    sizes = [result.bytes_out for outcome in good if isinstance(result := outcome.result, Report)]
    written = f", {_megabytes(sum(sizes))} MB" if sizes and not options.dry_run else ""
    return f"{len(good)} of {len(outcomes)} files done, {len(outcomes) - len(good)} failed{written}, {seconds:.2f} s"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    files = [
        {
            "source": str(outcome.job.source),
            "destination": str(outcome.job.destination),
            "seconds": round(outcome.seconds, 4),
            "error": outcome.error,
            "result": _plain(outcome.result),
        }
        for outcome in outcomes
    ]
    return {"version": VERSION, "files": files, "failed": sum(outcome.error is not None for outcome in outcomes)}


def _plain(result: object) -> Any:
    if is_dataclass(result) and not isinstance(result, type):
        return asdict(result)
    return [_plain(item) for item in result] if isinstance(result, tuple) else result


if __name__ == "__main__":
    sys.exit(main())
