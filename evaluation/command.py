"""Measure predicted maps of panoramas against ground truth.

PREDICTED and TRUTH are folders with rgb/, depth/, normal/, albedo/, roughness/, metallic/ and semantic/. Files with the
same name before the ending belong together (0001.png, 0001.exr). Each side can also be a single file, a public data set
(Structured3D, Stanford2D3D, Matterport3D), or a folder that Save Panorama and Maps wrote. The command measures every
map that both sides have: with equal pixels, weighted by the area on the sphere, at the seam and at the poles; depth
under each alignment.
Exit status: 0 everything was measured, 1 something failed or was missing (a message says what), 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..mapfiles.errors import MapError
from ..mapfiles.trees import MEASURED, side
from . import report, run
from .compare import Options
from .perceptual import distance
from .report import summary
from .slope import wrong_axes
from .views import write_sheet


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        status = _run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # a program such as `head` has closed the pipe
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 1
    except (MapError, OSError) as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        return _failed("interrupted; nothing was written")


def _failed(reason: str) -> int:
    print(f"omnix-evaluate: {reason}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="omnix-evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("predicted", type=Path, metavar="PREDICTED", help="folder of predicted maps, or one file")
    parser.add_argument("truth", type=Path, metavar="TRUTH", help="folder of ground-truth maps, or one file")
    parser.add_argument("--map", choices=MEASURED, help="measure only this map; also names the kind of a single file")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    form.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="also write a picture with input, prediction, truth and error"
    )
    parser.add_argument(
        "--max-depth",
        type=_positive,
        default=Options().max_depth,
        metavar="M",
        help="ignore pixels whose true depth is larger (default: no limit)",
    )
    parser.add_argument(
        "--unlabelled", type=_colour, metavar="RRGGBB", help="colour in true semantic maps that means no class"
    )
    parser.add_argument(
        "--resize", action="store_true", help="resize the larger map of a pair to the size of the smaller one"
    )
    parser.add_argument(
        "--lpips",
        type=Path,
        metavar="FILE",
        help="also measure LPIPS; FILE holds torchvision's AlexNet weights",
    )
    return parser


def _positive(words: str) -> float:
    number = float(words)
    if not number > 0:
        raise argparse.ArgumentTypeError("expected a depth above 0 metres")
    return number


def _colour(words: str) -> int:
    number = int(words.lstrip("#"), 16)
    if not 0 <= number <= 0xFFFFFF:
        raise argparse.ArgumentTypeError("expected RRGGBB")
    return number


def _run(options: argparse.Namespace) -> int:
    predicted, truth = (side(path, options.map) for path in (options.predicted, options.truth))
    predicted = run.alike(predicted, truth)
    plan = run.plan(predicted, truth)
    unlabelled = truth.unlabelled if options.unlabelled is None else options.unlabelled
    reading = run.maps(predicted, truth, plan.pairs, options.resize)
    perceptual = distance(options.lpips) if options.lpips else None
    chosen = Options(options.max_depth, unlabelled, perceptual)
    found = run.evaluate(reading, plan.pairs, chosen, _bar(len(plan.pairs)))
    if not found.pairs:
        first, *others = (failed.reason for failed in found.failed)
        raise MapError(first + (f" {len(others)} other pairs can't be measured either." if others else ""))
    if options.sheet:
        write_sheet(options.sheet, reading, found.pairs)
    result = summary(found.comparisons)
    form = report.markdown if options.markdown else report.text
    print(json.dumps(result, indent=1, allow_nan=False) if options.json else form(result))
    doubts = [*run.doubts(found.pairs, found.comparisons), *wrong_axes(predicted, truth, found.pairs)]
    return _remarks(plan, found.failed, doubts)


def _bar(total: int) -> Callable[[int], None]:
    """Return a function that draws a progress bar in a terminal, and does nothing elsewhere."""

    def draw(done: int) -> None:
        filled = 30 * done // total
        end = "\r\x1b[K" if done == total else ""
        print(f"\r[{'#' * filled}{'.' * (30 - filled)}] {done}/{total}{end}", end="", file=sys.stderr, flush=True)

    return draw if sys.stderr.isatty() else lambda _done: None


def _remarks(plan: run.Plan, failed: Sequence[run.Failed], doubts: Sequence[str]) -> int:
    """Print the doubts, and the maps that could not be compared; return the exit status."""
    for doubt in doubts:
        print(f"omnix-evaluate: {doubt}.", file=sys.stderr)
    if plan.alone:
        print(
            f"omnix-evaluate: on one side only, so not measured: {', '.join(plan.alone)}.",
            file=sys.stderr,
        )
    for pair, reason in failed:
        print(f"omnix-evaluate: not measured: {pair.kind} of {pair.stem}: {reason}", file=sys.stderr)
    if plan.missing:
        return _failed("; ".join(map(run.sentence, plan.missing)) + "; the others were measured.")
    return 1 if failed else 0
