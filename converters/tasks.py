"""Which task and stream an adapter file belongs to, by its name and place in a folder tree."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .errors import AdapterError
from .files.header import read_header
from .lora.plan import BLOCKS_KEY

PUBLISHED_NAME = "pytorch_lora_weights"
_PUBLISHED = (PUBLISHED_NAME, "adapter_model")
SUFFIX = ".safetensors"


class Slot(NamedTuple):
    """The task of an adapter, and one of its streams."""

    task: str
    stream: str


def slot_of(path: Path, root: Path) -> Slot | None:
    """Return the task and stream of an adapter file from its place below `root`; None if the place has none.

    Known places: published `{task}/{stream}/pytorch_lora_weights.safetensors`, flattened `{task}_{stream}.safetensors`
    and converted `{task}/{stream}.safetensors`. `root` itself may be the task's or the stream's folder. In a tree, two
    folders (or a folder and a file) may have any names; everywhere else the names must be those of a task.
    """
    inside = path.relative_to(root).with_suffix("").parts
    parts = [*Path(os.path.abspath(root)).parts[1:][-2:], *inside]
    flat = _flattened(parts[-1])
    if flat is not None:
        return flat
    named = parts[:-1] if parts[-1] in _PUBLISHED else parts
    if len(named) < 2 or not all(map(is_plain, named[-2:])):
        return None
    slot = Slot(*named[-2:])
    whole = len(inside) - (len(parts) - len(named)) >= 2
    return slot if whole else task_of(slot)


def task_of(slot: Slot | None) -> Slot | None:
    """Return a slot whose names are those of a task and its stream, else None.

    A task is named "x_to_y". The last word of its stream is a word of that name, or "rgb" (image_to_pano, filled_rgb).
    """
    if slot is None or "_to_" not in slot.task:
        return None
    return slot if slot.stream.split("_")[-1] in {"rgb", *slot.task.split("_")} else None


def slot_of_name(name: str) -> Slot | None:
    """Return the task and stream of an adapter file from its relative name; None if it names no task."""
    parts = Path(name).parts
    return task_of(slot_of(Path("/", *parts), Path("/"))) if parts else None


def _flattened(stem: str) -> Slot | None:
    """Split `{task}_{stream}`. The task ends with the first word after "_to_"."""
    found = _FLAT.fullmatch(stem)
    return task_of(Slot(*found.groups())) if found and all(map(is_plain, found.groups())) else None


_FLAT = re.compile(r"(.+?_to_[^_]+)_(.+)")

# No control characters, no surrogates (names that are not UTF-8), no characters that Windows reserves.
_PLAIN = re.compile(r"(?!\.)[^\x00-\x1f\x7f\ud800-\udfff/\\:*?\"<>|]{1,120}(?<![. ])")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)


def is_plain(name: str) -> bool:
    """Return whether a name can be one part of a path on every platform."""
    return _PLAIN.fullmatch(name) is not None and _DEVICE.match(name) is None


def is_adapter_name(path: Path) -> bool:
    """Return whether a file name ends in .safetensors, in upper or lower case."""
    return path.suffix.lower() == SUFFIX


def is_result(path: Path) -> bool:
    """Return whether this converter made a file."""
    try:
        return BLOCKS_KEY in read_header(path).metadata
    except (AdapterError, OSError):
        return False


def adapter_paths(
    root: Path, on_error: Callable[[OSError], None], above: frozenset[str] = frozenset()
) -> Iterator[Path]:
    """Yield the safetensors files of a folder tree in a fixed order; `on_error` is called for unreadable folders.

    Links to folders are followed, except links that lead back to a folder `above`.
    """
    real = os.path.realpath(root)
    if real in above:
        return
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        on_error(error)
        return
    paths = [root / name for name in names]
    # os.path's, which takes what it may not look at for a file: its own error comes when it is opened.
    folders = dict.fromkeys(path for path in paths if os.path.isdir(path))
    yield from (path for path in paths if is_adapter_name(path) and path.name[0] != "." and path not in folders)
    for folder in folders:
        yield from adapter_paths(folder, on_error, above | {real})


def find_adapters(root: Path | str) -> dict[tuple[str, str], Path]:
    """Map (task, stream) to its adapter file in a folder tree.

    An original and the file that was converted from it count as one. Raises AdapterError if one stream has two files,
    OSError if a folder can't be read.
    """

    def stop(error: OSError) -> None:
        raise error

    root = Path(root)
    found: dict[tuple[str, str], Path] = {}
    for path in adapter_paths(root, stop):
        slot = slot_of(path, root)
        if slot is None or found.setdefault(slot, path) == path:
            continue
        other = found[slot]
        if is_result(path) is is_result(other):
            raise duplicate(path, other, slot)
        found[slot] = path if is_result(path) else other
    return found


def duplicate(path: Path, other: Path, target: object) -> AdapterError:
    """Return the error for two files of one stream."""
    name = "/".join(target) if isinstance(target, tuple) else target
    return AdapterError(f"{path}: {name}: expected one file, got {other} too; move one of them away.")
