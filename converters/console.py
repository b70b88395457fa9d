"""The output of the command line: one line per file for people, or one JSON document for programs."""

from __future__ import annotations

import shutil
import textwrap
import time
from collections.abc import Sequence
from typing import Any, TextIO

from .convert import Progress, Report
from .errors import printable
from .tree import Job, Outcome
from .verify import Comparison
from .version import VERSION


def fitted(text: str, stream: TextIO) -> str:
    """Return a text wrapped to the width of the terminal; unchanged if it goes to a file or another program."""
    if not stream.isatty():
        return text
    width = max(20, shutil.get_terminal_size().columns)
    lines = (textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False) for line in text.split("\n"))
    return "\n".join(part for wrapped in lines for part in wrapped or [""])


def line(outcome: Outcome, dry_run: bool, keys: bool = False) -> str:
    """Return the result of one file, with notes on separate lines; with `keys` also what each key becomes."""
    result = outcome.result
    if isinstance(result, Report):
        return _written(result, outcome.seconds, dry_run)
    if isinstance(result, dict):
        return _described(result, keys)
    return _verdict(outcome.job, result)


def _written(report: Report, seconds: float, dry_run: bool) -> str:
    if report.skipped:
        return f"{printable(report.destination)}: already made from the unchanged {printable(report.source)}, skipped"
    kept = f", {_count(report.kept, 'tensor')} kept unchanged" if report.kept else ""
    computed = f", {report.computed} computed" if report.computed else ""
    left = f"; left out {_count(report.unused, 'tensor')}" if report.unused else ""
    paths = f"{printable(report.source)} -> {printable(report.destination)}"
    return (
        f"{paths}: {len(report.layers)} layers, {report.moved} pairs moved{computed}{kept}, "
        f"rank {_ranks(report)}, {_megabytes(report.bytes_in)} -> {_megabytes(report.bytes_out)} MB"
        f"{_exactness(report)}{left}" + ("; not written" if dry_run else f" in {seconds:.2f} s") + _notes(report.notes)
    )


def _notes(notes: Sequence[str]) -> str:
    return "".join(f"\nnote: {printable(note)}" for note in notes)


def _count(things: Sequence[Any], name: str) -> str:
    return f"{len(things)} {name}" + "s" * (len(things) != 1)


def _ranks(report: Report) -> str:
    first, last = min(report.ranks, default=0), max(report.ranks, default=0)
    return str(first) if first == last else f"{first} to {last}"


def _exactness(report: Report) -> str:
    if report.identical:
        return ", the original file byte for byte"
    if report.exact is False:
        lost = "rounded" if report.rounded else "an alpha of 0 erased some numbers"
        return f", {lost} (--split can't undo it)" if report.identical is None else ", scales stay multiplied in"
    return ", its tensors bit for bit" if report.identical is False else ""


_LISTS = ("layers", "unused", "kept", "notes")


def _described(found: dict[str, Any], keys: bool) -> str:
    layers = found.get("layers", {})
    facts = [f"{name}: {_plain(value)}" for name, value in found.items() if name not in _LISTS]
    facts += [f"{name}: {len(found[name])}" for name in ("layers", "kept", "unused") if found.get(name)]
    facts += [f"note: {note}" for note in found.get("notes", ())]
    if not keys:
        return "\n".join(map(printable, facts))
    parts = [
        f"  {', '.join(key for key in (part['down'], part['up'], part['alpha']) if key)} -> "
        f"{layer} rows {part['rows'][0]}:{part['rows'][1]}, rank {part['rank']}"
        for layer, fused in layers.items()
        for part in fused["parts"]
    ]
    kept = [f"  {', '.join(sources) or '(new)'} -> {name}" for name, sources in found.get("kept", {}).items()]
    unused = [f"  {key} -> nothing" for key in found.get("unused", ())]
    return "\n".join(map(printable, [*facts, *parts, *kept, *unused]))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not known" if value is None else str(value)


def _verdict(job: Job, layers: Comparison) -> str:
    exact = sum(layer.exact for layer in layers)
    worst = max((layer.difference for layer in layers), default=0.0)
    rest = "" if exact == len(layers) else f", the others within {worst:.1e} (rounded)"
    source, result = printable(str(job.source)), printable(str(job.destination))
    some = f"{', '.join(layers.unused[:5])}{', ...' if len(layers.unused) > 5 else ''}"
    left = f"; {_count(layers.unused, 'tensor')} of the source left out ({printable(some)})" if layers.unused else ""
    return f"{result}: {exact} of {len(layers)} deltas equal, bit for bit, those of {source}{rest}{left}"


def summary(outcomes: Sequence[Outcome], dry_run: bool) -> str:
    """Return the last line: how many files succeeded and how many failed."""
    good = [outcome for outcome in outcomes if outcome.error is None]
    reports = [outcome.result for outcome in good if isinstance(outcome.result, Report)]
    sizes = [report.bytes_out for report in reports if not report.skipped]
    written = f", {_megabytes(sum(sizes))} MB" + (" not written" if dry_run else "") if sizes else ""
    seconds = sum(outcome.seconds for outcome in outcomes)
    before = sum(report.skipped for report in reports)
    skipped = f" ({before} of them skipped, because they are unchanged)" if before else ""
    failed = len(outcomes) - len(good)
    return f"{len(good)} of {len(outcomes)} files done{skipped}, {failed} failed{written}, {seconds:.2f} s"


def bar(done: int, total: int) -> str:
    """Return a progress bar."""
    return f"{_filled(done, total)} {done}/{total}"


def _filled(done: int, total: int) -> str:
    filled = 30 * done // total
    return f"[{'#' * filled}{'.' * (30 - filled)}]"


def within_file(stream: TextIO, after: float = 0.5, every: float = 0.2) -> Progress:
    """Return a function that shows the progress of one file on a line that it overwrites; short files show nothing."""
    shown = [time.perf_counter(), 0]

    def progress(done: int, whole: int) -> None:
        now = time.perf_counter()
        if done < shown[1]:  # the next file
            shown[0] = now
        shown[1] = done
        if now - shown[0] >= after:
            shown[0] = now - after + every
            stream.write(f"\r\x1b[K{_filled(done, whole)} {_megabytes(done)} of {_megabytes(whole)} MB")
            stream.flush()

    return progress


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"


def document(command: str, outcomes: Sequence[Outcome], dry_run: bool, error: str | None = None) -> dict[str, Any]:
    """Return everything for a program: the files, the summary, and the reason if the run ended early."""
    files = [
        {
            "source": str(outcome.job.source),
            "destination": str(outcome.job.destination) if command != "inspect" else None,
            **_fields(outcome.result),
            "seconds": round(outcome.seconds, 4),
            "error": outcome.error,
        }
        for outcome in outcomes
    ]
    done = sum(outcome.error is None for outcome in outcomes)
    skipped = sum(isinstance(outcome.result, Report) and outcome.result.skipped for outcome in outcomes)
    failed = len(outcomes) - done + (error is not None)
    return {
        "version": VERSION,
        "command": command,
        "dry_run": dry_run,
        "files": files,
        "summary": {"files": len(files), "done": done, "failed": failed, **({"skipped": skipped} if skipped else {})},
        **({"error": error} if error else {}),
    }


def _fields(result: Any) -> dict[str, Any]:
    if isinstance(result, Report):
        return {**result._asdict(), "geometry": result.geometry._asdict(), "parts": result.moved + result.computed}
    if isinstance(result, dict):
        return result
    if isinstance(result, Comparison):
        layers = [layer._asdict() for layer in result]
        return {"layers": layers, "exact": all(layer.exact for layer in result), "unused": list(result.unused)}
    return {}
