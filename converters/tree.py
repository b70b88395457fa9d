"""Convert, split and verify whole folders. Each file is handled separately, so a bad file does not stop the others."""

from __future__ import annotations

import errno
import os
import re
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .convert import convert
from .errors import AdapterError, printable
from .files.header import check_ordinary
from .tasks import (
    PUBLISHED_NAME,
    SUFFIX,
    Slot,
    adapter_paths,
    duplicate,
    is_adapter_name,
    is_result,
    slot_of,
    task_of,
)

_ADVICE = {
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some disk space",
    errno.EFBIG: "write to a file system that supports files of this size",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "choose a folder that can be written to",
    errno.ENOENT: "check the path",
    errno.EEXIST: "a file is where a folder should be, so move it away or choose another destination",
    errno.ENOTDIR: "a file is where a folder should be, so move it away or check the path",
    errno.EISDIR: "check the path",
}


class Job(NamedTuple):
    """One file to process: its task and stream, its destination, and the reason if it is already known to fail."""

    source: Path
    destination: Path
    slot: Slot | None
    problem: str | None = None


class Outcome(NamedTuple):
    """The outcome of a job: a result, or the message that says why there is none."""

    job: Job
    result: Any
    error: str | None
    seconds: float


def jobs(source: Path | str, destination: Path | str, split: bool = False) -> tuple[Job, ...]:
    """List the conversions (or splits) of a file or tree into the folder `destination`.

    Results are {task}/{stream}.safetensors (split: {task}/{stream}/pytorch_lora_weights.safetensors). If a file's place
    does not give its task, the file keeps its own path. A single file goes to `destination` itself if that ends in
    .safetensors. Two files with the same destination are both refused. Raises AdapterError if there is nothing to do.
    """
    source, destination = Path(source), Path(destination)
    if source.exists():
        check_ordinary(source)
    if source.is_file() and is_adapter_name(destination):
        return (Job(source, destination, slot_of(source, source.parent)),)
    if destination.is_file():
        raise AdapterError(f"{destination}: expected a folder, got a file; choose another destination.")
    if _EXTENSION.fullmatch(destination.suffix) and not destination.is_dir():
        want = f"a folder or a name that ends in {SUFFIX}" if source.is_file() else "a folder, as SOURCE is one"
        raise AdapterError(
            f"{destination}: expected {want}, got the name of another file; choose another destination, or make the "
            "folder first."
        )
    root = source if source.is_dir() else source.parent
    # Files that earlier runs wrote into a folder of the source are not sources.
    own = _real(destination) if _real(destination) != _real(root) else None
    found, unread = [], []
    for job in listed(source):
        if job.problem is not None:
            unread.append(job)
        elif own is None or own not in _real(job.source).parents:
            found.append(_placed(job, root, destination, split))
    return (*_without_duplicates(_without_results(found, split)), *unread)


# Matches names that look like file names: "depth.txt", but not "FLUX.1-dev" or "v1.0".
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9_]{0,11}", re.ASCII)


def listed(source: Path | str) -> tuple[Job, ...]:
    """List the adapters of a file or folder, without destinations.  Raises AdapterError if there are none."""
    source = Path(source)
    if source.exists():
        check_ordinary(source)
    if source.is_file():
        return (Job(source, source, slot_of(source, source.parent)),)
    if not source.is_dir():
        raise AdapterError(f"{source}: expected a file or folder, found nothing of that name; check the path.")
    problems: list[OSError] = []
    found = [Job(path, path, slot_of(path, source)) for path in adapter_paths(source, problems.append)]
    if not found and not problems:
        raise AdapterError(f"{source}: expected .safetensors files in this folder, got none; check the path.")
    lost = ((Path(str(error.filename)), sentence(error, source)) for error in problems)
    return (*found, *(Job(folder, folder, None, problem) for folder, problem in lost))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _placed(job: Job, root: Path, destination: Path, split: bool) -> Job:
    target = destination / _name(job.source, root, job.slot, split)
    return job._replace(destination=target, problem=_leads_out(target, destination))


def _name(path: Path, root: Path, slot: Slot | None, split: bool) -> Path:
    """Return the name of a result in the destination.

    Folders above a task's folder stay, so that the steps of a training don't meet; a flattened file leaves its folder.
    """
    inside = path.relative_to(root)
    if slot is None:
        return inside.with_suffix(SUFFIX)
    flat = inside.stem == f"{slot.task}_{slot.stream}"
    above = Path() if flat else Path(*inside.parts[: -2 if inside.stem == slot.stream else -3])
    if split:
        return above / slot.task / slot.stream / f"{PUBLISHED_NAME}{SUFFIX}"
    return above / slot.task / f"{slot.stream}{SUFFIX}"


def _leads_out(target: Path, root: Path) -> str | None:
    """Return an error if a link in the destination leads out of it."""
    real = os.path.realpath(target.parent)
    if Path(real).is_relative_to(os.path.realpath(root)):
        return None
    return f"{target}: expected a path in {root}, got a link that leads to {real}; remove the link."


def _without_results(found: Sequence[Job], split: bool) -> list[Job]:
    """Leave out files that an earlier run made from files of the same tree; for a split, leave out their originals."""
    sharing: dict[Path, list[Job]] = {}
    for job in found:
        sharing.setdefault(job.destination, []).append(job)
    results = {job.source: is_result(job.source) for jobs in sharing.values() if len(jobs) > 1 for job in jobs}
    mixed = {target for target, jobs in sharing.items() if len({results.get(job.source) for job in jobs}) > 1}
    return [job for job in found if job.destination not in mixed or results[job.source] is split]


def _without_duplicates(found: Sequence[Job]) -> Iterator[Job]:
    """Refuse all files that share a destination, also if the names differ only in case or in the form of accents."""
    sharing: dict[str, list[Job]] = {}
    for job in found:
        sharing.setdefault(unicodedata.normalize("NFC", str(job.destination)).casefold(), []).append(job)
    for job in found:
        same = sharing[unicodedata.normalize("NFC", str(job.destination)).casefold()]
        others = [other for other in same if other is not job and not _is_own_result(other)]
        if others and _is_own_result(job):
            continue  # what an earlier run made of the other one, in the same tree
        yield job._replace(problem=str(_shared(job, others[0]))) if others else job


def _is_own_result(job: Job) -> bool:
    return os.path.abspath(job.source) == os.path.abspath(job.destination)


def _shared(job: Job, other: Job) -> AdapterError:
    return duplicate(job.source, other.source, job.slot or job.destination)


def run(work: Iterable[Job], action: Callable[[Job], Any]) -> Iterator[Outcome]:
    """Run the jobs one after another; a failed file is reported and the run continues."""
    for job in work:
        started = time.perf_counter()
        result, error = None, job.problem
        if error is None:
            try:
                result = action(job)
            except AdapterError as refusal:
                error = str(refusal)
            except OSError as failure:
                error = sentence(failure, job.source)
            except Exception as fault:  # noqa: BLE001  whatever is wrong with one file, the others are converted
                reason = printable(f"{type(fault).__name__} ({fault})")
                error = f"{printable(str(job.source))}: the converter failed with {reason}; report it with this file."
        yield Outcome(job, result, error, time.perf_counter() - started)


def sentence(error: OSError, path: Path) -> str:
    """Return a system error as a message that names the file and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{printable(str(error.filename or path))}: {reason}; {_ADVICE.get(error.errno or 0, 'try again')}."


def convert_tree(source: Path | str, destination: Path | str, **options: Any) -> tuple[Outcome, ...]:
    """Convert a file or folder, like `omnix-convert SOURCE DESTINATION`; the options are those of `convert`."""
    options = {"skip_done": Path(source).is_dir(), **options}
    return tuple(
        run(
            jobs(source, destination),
            lambda job: convert(job.source, job.destination, slot=task_of(job.slot), **options),
        )
    )
