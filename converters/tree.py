"""Convert, split and verify whole trees: every file on its own, so that one bad file does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import AdapterError
from .tasks import Slot, adapter_paths, duplicate, slot_of
from .write import exists


@dataclass(frozen=True)
class Job:
    """One file to be worked on, what it is for, and where its result goes."""

    source: Path
    destination: Path
    slot: Slot | None


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a result, or the sentence that says why there is none."""

    job: Job
    result: object | None
    error: str | None
    seconds: float


def jobs(source: Path, destination: Path) -> tuple[Job, ...]:
    """List the conversions of a file or tree into `destination`, which keeps {task}/{stream}.safetensors.

    A single file goes to `destination` itself if that ends in .safetensors. A file whose place does not tell its task
    keeps its own path below `destination`. Raises AdapterError if there is nothing to convert, OSError for a folder
    that can't be read.
    """
    if source.is_file():
        slot = slot_of(source, source.parent)
        target = (
            destination if destination.suffix == ".safetensors" else destination / _name(source, source.parent, slot)
        )
        return (Job(source, target, slot),)
    if not source.is_dir():
        raise AdapterError(f"{source}: expected a file or folder, got none of that name; check the path.")
    found = []
    for path in adapter_paths(source):
        slot = slot_of(path, source)
        found.append(Job(path, destination / _name(path, source, slot), slot))
    if not found:
        raise AdapterError(f"{source}: expected .safetensors files somewhere in it, got none; check the path.")
    return tuple(found)


def _name(path: Path, root: Path, slot: Slot | None) -> Path:
    return Path(slot.task, f"{slot.stream}.safetensors") if slot else path.relative_to(root)


def run(work: Sequence[Job], action: Callable[[Job], object]) -> Iterator[Outcome]:
    """Do the jobs one after another; a file that fails, or shares its destination with another, is reported as such."""
    first: dict[Path, Job] = {}
    for job in work:
        started = time.perf_counter()
        other = first.setdefault(job.destination, job)
        try:
            if other is not job:
                raise duplicate(job.source, other.source, job.slot) if job.slot else exists(job.destination)
            yield Outcome(job, action(job), None, time.perf_counter() - started)
        except AdapterError as error:
            yield Outcome(job, None, str(error), time.perf_counter() - started)
        except OSError as error:
            reason = (
                f"{error.filename or job.source}: {error.strerror or error}; free the disk or check the permissions."
            )
            yield Outcome(job, None, reason, time.perf_counter() - started)
