"""Find the adapter files of a task, one for each of its streams, and read them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from torch import nn

from ...converters import STREAM_KEY, TASK_KEY, AdapterError, read_metadata
from .low_rank import AdapterWeights, LowRank, read_layers
from .tasks import TASK_HEADER, TASKS, Task, task_from_header

Find = Callable[[str], str | None]
"""Turns the relative name of an adapter's file into its path, or None."""

# Where a stream's file may be in a folder; a converted file is preferred to an original.
_LAYOUTS = (
    "{task}/{stream}.safetensors",
    "{task}/{stream}/pytorch_lora_weights.safetensors",
    "{task}_{stream}.safetensors",
)


_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class TaskAdapters:
    """The adapters of one task, one file a stream, in the order of the task's streams."""

    task: Task
    files: tuple[Path, ...]
    weights: nn.ModuleList

    def stream_layers(self) -> tuple[dict[str, LowRank], ...]:
        """Return every stream's layers by name."""
        return tuple(weights.by_name() for weights in streams_of(self.weights))

    def copied(self) -> TaskAdapters:
        """Return the same adapters in modules of their own, which may be moved to another device."""
        return replace(self, weights=nn.ModuleList(weights.copied() for weights in streams_of(self.weights)))


def streams_of(weights: nn.Module) -> list[AdapterWeights]:
    """Return every stream's weights, given the `weights` of a task."""
    return [each for each in weights.children() if isinstance(each, AdapterWeights)]


def known_tasks(names: Iterable[str], find: Find) -> dict[str, Task]:
    """Return OmniX's tasks, then those that the headers of adapter files describe, sorted by name.

    A header counts only if its file is in a place for that task and stream. If two headers describe one task
    differently, the first in order counts. OmniX's own tasks can't be replaced.

    Files without a task in the header are not opened again until a file in their folder is added, removed or replaced,
    as long as `find` is the same function each time.
    """
    places = _places(tuple(names))
    described: dict[str, Task] = {}
    for name in _describing(places, _states(places, find), find):
        found = _described_by(find(name))
        if found and any(True for _ in _slots(name, _endings((found[0],)))):
            described.setdefault(found[0].name, found[0])
    return TASKS | {name: described[name] for name in sorted(described) if name not in TASKS}


@lru_cache(maxsize=4)
def _places(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the sorted names that may belong to a task. A task has at least two files next to each other:

    in one folder, or in sibling folders under the published name. A file name that contains "_to_" also counts.
    """
    split = {name: name.replace("\\", "/").split("/") for name in sorted(names) if name.endswith(_SUFFIX)}
    beside = Counter(tuple(parts[:-1]) for parts in split.values())
    below = Counter(tuple(parts[:-2]) for parts in split.values() if _is_published(parts))
    return tuple(
        name
        for name, parts in split.items()
        if "_to_" in parts[-1]
        or (len(parts) > 1 and beside[tuple(parts[:-1])] > 1)
        or (_is_published(parts) and below[tuple(parts[:-2])] > 1)
    )


def _is_published(parts: Sequence[str]) -> bool:
    return len(parts) > 2 and parts[-1] == PurePosixPath(_LAYOUTS[1]).name


def _states(names: Sequence[str], find: Find) -> tuple[tuple[int, ...], ...]:
    """Return a value that changes when a file in the folders of these names is added, removed or replaced."""
    one_each = {os.path.dirname(name): name for name in names}
    folders = (os.path.dirname(path) for name in one_each.values() if (path := find(name)))
    states = (os.stat(folder) for folder in folders)
    return tuple((state.st_dev, state.st_ino, state.st_mtime_ns) for state in states)


@lru_cache(maxsize=4)
def _describing(names: tuple[str, ...], _folders: tuple[tuple[int, ...], ...], find: Find) -> tuple[str, ...]:
    """Return the names of the files whose header describes a task, or that can't be read (still downloading, say)."""
    return tuple(name for name in names if _described_by(find(name), otherwise=True))


def _described_by(path: str | None, otherwise: Any = None) -> Any:
    """Return the task and stream in a file's header, None if it has none, `otherwise` if it can't be read."""
    try:
        return _task_in_header(*_facts(Path(path))) if path else None
    except (AdapterError, OSError):
        return otherwise  # loading the file gives the reason


@lru_cache(maxsize=4096)
def _task_in_header(path: str, *_facts: int) -> tuple[Task, str] | None:
    """Read the task from a file's header; the facts identify the contents, so each version is read only once."""
    return task_from_header(read_metadata(Path(path), TASK_HEADER))


def folders_with_tasks(names: Iterable[str], tasks: Mapping[str, Task] = TASKS) -> dict[str, tuple[str, ...]]:
    """Map folders to the tasks for which they contain every stream's file; names are relative paths of adapter files.

    "." is the folder that the names are relative to.
    """
    found: dict[str, set[tuple[str, str]]] = {}
    endings = _endings(tuple(tasks.values()))
    for name in names:
        for folder, slot in _slots(name, endings):
            found.setdefault(folder, set()).add(slot)
    complete = {folder: tuple(t.name for t in tasks.values() if _has_all(t, slots)) for folder, slots in found.items()}
    return {folder: complete[folder] for folder in sorted(complete) if complete[folder]}


def _has_all(task: Task, slots: set[tuple[str, str]]) -> bool:
    return all((task.name, stream) in slots for stream in task.streams)


@lru_cache(maxsize=256)
def _endings(tasks: tuple[Task, ...]) -> Mapping[str, tuple[str, str]]:
    """Map the endings of the names that a task's files can have to (task, stream)."""
    slots = ((task.name, stream) for task in tasks for stream in task.streams)
    return {layout.format(task=task, stream=stream): (task, stream) for task, stream in slots for layout in _LAYOUTS}


def _slots(name: str, endings: Mapping[str, tuple[str, str]]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield each (folder, (task, stream)) that a file's relative name can mean."""
    parts = name.replace("\\", "/").split("/")
    for length in range(1, min(3, len(parts)) + 1):
        slot = endings.get("/".join(parts[-length:]))
        if slot is not None:
            yield "/".join(parts[:-length]) or ".", slot


def task_in(folder: str, name: str, tasks: Mapping[str, Task], find: Find) -> Task:
    """Return the task of that name from the headers of a folder's files, else from `tasks`.  Raises ValueError.

    Two trainings with one name may differ in their streams, so each folder's own header counts.
    """
    if name not in tasks:
        raise ValueError(f"There is no task {name}; choose one of {', '.join(tasks)}.")
    if name in TASKS:
        return TASKS[name]
    for stream in tasks[name].streams:
        file = _first_file(find, folder, name, stream)
        if file and (found := _described_by(str(file))) and found[0].name == name:
            return found[0]
    return tasks[name]


def task_files(locate: Find, folder: str, task: Task) -> tuple[Path, ...]:
    """Return the task's files in stream order; `locate` turns a relative name into a path, or None.

    Raises AdapterError that names the streams whose files are missing.
    """
    files = {stream: _first_file(locate, folder, task.name, stream) for stream in task.streams}
    missing = [stream for stream, file in files.items() if file is None]
    if missing:
        paths = ", ".join(_LAYOUTS[1].format(task=task.name, stream=stream) for stream in missing)
        raise AdapterError(
            f"{folder}: {', '.join(missing)}: expected a file for each stream of {task.name} "
            f"({', '.join(task.streams)}); missing in that folder: {paths}."
        )
    return tuple(file for file in files.values() if file is not None)


def _first_file(locate: Find, folder: str, task: str, stream: str) -> Path | None:
    names = (str(PurePosixPath(folder, layout.format(task=task, stream=stream))) for layout in _LAYOUTS)
    return next((Path(path) for name in names if (path := locate(name))), None)


def misplaced(files: Sequence[Path], task: Task) -> Iterator[str]:
    """Yield a warning for each file, one a stream, whose header names another task or stream than its place."""
    for file, stream in zip(files, task.streams, strict=True):
        metadata = read_metadata(file, "omnix_")
        found = task_from_header(metadata)
        own = (found[0].name, found[1]) if found else (metadata.get(TASK_KEY), metadata.get(STREAM_KEY))
        if None not in own and own != (task.name, stream):
            yield (
                f"{file}: its header says that it is the adapter {own[1]} of {own[0]}, and its name that it is "
                f"{stream} of {task.name}. Exchange the files, unless you want this."
            )


def fingerprint(files: Sequence[Path]) -> str:
    """Return a text that changes when one of the files, or the adapter_config.json next to it, is replaced.

    ctime cannot be set by users, so it distinguishes files whose size and mtime are equal (for example after `cp -p`).
    """
    beside = [file.with_name("adapter_config.json") for file in files]
    return repr([_facts(file) for file in files] + [_facts(file) for file in beside if file.is_file()])


def _facts(file: Path) -> tuple[str, int, int, int, int]:
    stat = file.stat()
    return str(file), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns


def load_task(files: Sequence[Path], task: Task) -> TaskAdapters:
    """Read a task's adapters, one file a stream.  Raises AdapterError for a damaged file, OSError for a missing one."""
    return TaskAdapters(task, tuple(files), nn.ModuleList(AdapterWeights(read_layers(file)) for file in files))
