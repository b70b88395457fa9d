"""Convert OmniX and other FLUX.1 LoRAs from Diffusers layout into files for ComfyUI's LoRA loaders.

SOURCE is one file or a folder ({task}/{stream}/pytorch_lora_weights.safetensors, {task}_{stream}.safetensors or a mix).
The results in DESTINATION are {task}/{stream}.safetensors, ready for ComfyUI's loras folder.
Exit status: 0 if everything succeeded, 1 if something failed (with a message for each file), 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import console
from .convert import convert, nothing, split
from .errors import AdapterError
from .fusing.change import dtype_of
from .inspect import inspect
from .lora.layout import table
from .lora.scales import APPLY, IGNORE
from .tasks import task_of
from .tree import Job, Outcome, jobs, listed, run, sentence
from .verify import verify
from .version import VERSION


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    # File names may contain characters that the terminal's encoding lacks.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    options = parser.parse_args(arguments)
    _check_call(parser, options)
    if options.command == "layout":
        print(console.fitted(table(), sys.stdout))
        return 0
    try:
        status = _run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # a program such as `head` has closed the pipe
        _drop_output()
        return 1
    except OSError as error:
        if error.filename is None:
            _drop_output()
        return _failed(options, sentence(error, Path("the output")))
    except AdapterError as error:
        return _failed(options, str(error))
    except KeyboardInterrupt:
        return _failed(options, "interrupted before anything was written")


def _failed(options: argparse.Namespace, reason: str) -> int:
    """Print why no file was processed; return the exit status."""
    if options.json:
        print(json.dumps(console.document(options.command, (), options.dry_run, reason), indent=1))
    print(console.fitted(f"omnix-convert: {reason}", sys.stderr), file=sys.stderr)
    return 1


def _drop_output() -> None:
    """Discard the output that is still buffered: Python would try to print it at exit and report an error."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="omnix-convert", description=__doc__)
    parser.add_argument("source", nargs="?", type=Path, metavar="SOURCE", help="adapter file, or folder of adapters")
    parser.add_argument("destination", nargs="?", type=Path, metavar="DESTINATION", help="folder, or .safetensors file")
    parser.set_defaults(command="convert")
    command = parser.add_mutually_exclusive_group()
    for name, words in (
        ("inspect", "describe SOURCE; with --keys also list what each of its keys becomes"),
        ("verify", "compare the deltas of SOURCE with the results in DESTINATION"),
        ("split", "convert the files in SOURCE back to Diffusers layout in DESTINATION"),
        ("layout", "print the table of layers and exit"),
    ):
        command.add_argument(f"--{name}", action="store_const", dest="command", const=name, help=words)
    parser.add_argument("--keys", action="store_true", help="with --inspect: list every key")
    parser.add_argument(
        "--dtype",
        type=_dtype,
        metavar="DTYPE",
        help="dtype of the result: bf16, fp16, fp32, fp8_e4m3fn, fp8_e5m2, or torch's names (default: the source's)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace existing files (default: skip a folder's finished and unchanged files, refuse others)",
    )
    parser.add_argument("--dry-run", action="store_true", help="check and report, but write nothing")
    parser.add_argument("--allow-unused", action="store_true", help="leave out tensors that belong to no FLUX.1 layer")
    parser.add_argument(
        "--header-alpha",
        choices=(APPLY, IGNORE),
        help="use or ignore an alpha that is a plain entry of the header (ComfyUI ignores it, newer loaders apply it)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    parser.add_argument("--version", action="version", version=f"omnix-convert {VERSION}")
    return parser


def _dtype(name: str) -> str:
    """Return safetensors' name of a dtype.  Raises argparse's error."""
    try:
        return dtype_of(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"invalid choice: {error}") from error


def _check_call(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with status 2 if the arguments don't fit together."""
    command = options.command
    if command == "layout":
        return
    if options.source is None:
        parser.error("SOURCE is missing")
    if (options.destination is None) != (command == "inspect"):
        parser.error("--inspect takes no DESTINATION" if command == "inspect" else "DESTINATION is missing")
    if options.dtype and command != "convert":
        parser.error(f"--dtype can't be used with --{command}")
    if options.keys and command != "inspect":
        parser.error("--keys needs --inspect")


def _run(options: argparse.Namespace) -> int:
    if options.command == "inspect":
        work = listed(options.source)
    else:
        work = jobs(options.source, options.destination, split=options.command == "split")
    outcomes: list[Outcome] = []
    interrupted = None
    try:
        for outcome in run(work, _action(options)):
            outcomes.append(outcome)
            if not options.json:
                _show(outcome, options, len(outcomes), len(work))
    except KeyboardInterrupt:
        interrupted = "interrupted; finished files are complete, the others were not written"
    if options.json:
        print(json.dumps(console.document(options.command, outcomes, options.dry_run, interrupted), indent=1))
    elif options.source.is_dir():
        print(console.fitted(console.summary(outcomes, options.dry_run), sys.stdout))
    if interrupted:
        print(console.fitted(f"omnix-convert: {interrupted}", sys.stderr), file=sys.stderr)
    return int(interrupted is not None or any(outcome.error is not None for outcome in outcomes))


def _action(options: argparse.Namespace) -> Callable[[Job], Any]:
    force, dry_run, skip_done = options.force, options.dry_run, options.source.is_dir()
    progress = console.within_file(sys.stderr) if sys.stderr.isatty() and not options.json else nothing
    if options.command == "inspect":
        root = options.source if options.source.is_dir() else options.source.parent
        return lambda job: inspect(job.source, root)
    if options.command == "verify":
        return lambda job: verify(job.source, job.destination)
    if options.command == "split":
        return lambda job: split(
            job.source, job.destination, force=force, dry_run=dry_run, skip_done=skip_done, progress=progress
        )
    dtype, allow_unused, header_alpha = options.dtype, options.allow_unused, options.header_alpha
    return lambda job: convert(
        job.source,
        job.destination,
        slot=task_of(job.slot),
        dtype=dtype,
        force=force,
        dry_run=dry_run,
        allow_unused=allow_unused,
        header_alpha=header_alpha,
        skip_done=skip_done,
        progress=progress,
    )


def _show(outcome: Outcome, options: argparse.Namespace, done: int, total: int) -> None:
    """Print one file's result over its progress line; for a folder in a terminal also the bar below it."""
    bar = total > 1 and sys.stderr.isatty()
    erase = "\r\x1b[K" if sys.stderr.isatty() else ""
    if outcome.error is not None:
        print(erase + console.fitted(f"error: {outcome.error}", sys.stderr), file=sys.stderr)
    else:
        sys.stderr.write(erase)
        sys.stderr.flush()
        print(console.fitted(console.line(outcome, options.dry_run, options.keys), sys.stdout), flush=True)
    if bar:
        print(console.bar(done, total), end="\n" if done == total else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
