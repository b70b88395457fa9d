"""Find the nodes' files, check their names, and fill the lists that nodes offer."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import folder_paths

CONDITIONING_FOLDER = "conditioning"
NOTHING_FOUND = "none found"


@cache
def located(kind: str) -> Callable[[str], str | None]:
    """Return the host's function that finds a relative name in its folders of a kind; it never leaves them."""
    return lambda name: folder_paths.get_full_path(kind, name)


def choices(names: Iterable[str]) -> list[str]:
    """Return the options of a combo; with an empty list the host would reject the graph without a reason."""
    return list(names) or [NOTHING_FOUND]


def allowed(check: Callable[[], object]) -> bool | str:
    """Return True, or the message of the ValueError that a check raises, for the host to show (validate_inputs)."""
    try:
        check()
    except ValueError as error:
        return str(error)
    return True


_POSTED: ContextVar[Mapping[str, Any]] = ContextVar("the graph that is being checked", default=MappingProxyType({}))


def remember_posted_graphs() -> None:
    """Make the host's server remember each posted graph, for the checks of the same request only."""
    host = server()
    if hasattr(host, "add_on_prompt_handler"):
        host.add_on_prompt_handler(note_posted)


def note_posted(message: dict[str, Any]) -> dict[str, Any]:
    """Remember the graph that was sent to /prompt for the checks of this request; return the message unchanged."""
    graph = message.get("prompt")
    _POSTED.set(graph if isinstance(graph, dict) else {})
    return message


def posted_input(node: str | None, name: str, default: Any = None) -> Any:
    """Return the value of a node's input in the posted graph: None for a link, `default` if the input is missing."""
    given = _POSTED.get().get(str(node))
    inputs = given.get("inputs") if isinstance(given, dict) else None
    value = inputs.get(name, default) if isinstance(inputs, dict) else default
    return None if isinstance(value, list) else value


def server() -> Any:
    """Return the host's server; None in a script without one."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def hidden(node: type[Any], name: str) -> Any:
    """Return a hidden value that the host gives a node next to its inputs; None in a script without a host."""
    return getattr(getattr(node, "hidden", None), name, None)


def say(text: str, node: str | None) -> None:
    """Show a line of text on a node while its graph runs; does nothing without a server that can show it."""
    host = server()
    if node is not None and hasattr(host, "send_progress_text"):
        host.send_progress_text(text, node)


LONGEST_NAME, LONGEST_PART = 500, 200
"""In bytes: short enough for every file system, even after a node has added a number and an ending."""


def check_name(name: str) -> None:
    """Raise ValueError for a file name that file systems reject: too long, or with control characters."""
    shown = repr(name[:60])[1:-1] + "..." * (len(name) > 60)
    if any(ord(character) < 32 or character == "\x7f" or "\ud800" <= character <= "\udfff" for character in name):
        raise ValueError(f"{shown}: the name contains control characters; choose a name without them.")
    size, parts = len(name.encode()), name.replace("\\", "/").split("/")
    if size > LONGEST_NAME or max(len(part.encode()) for part in parts) > LONGEST_PART:
        raise ValueError(
            f"{shown}: the name has {size} bytes, expected at most {LONGEST_NAME} in all and {LONGEST_PART} for each "
            "folder or file; choose a shorter name."
        )


def inside(root: Path, name: str) -> Path:
    """Return the path of a relative name in `root`, following links.  Raises ValueError if it leads elsewhere."""
    check_name(name)
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or path == root.resolve():
        raise ValueError(
            f"{name}: expected a name inside the folder {root.name}, got a path that leads elsewhere; change the name."
        )
    return path


def stems(prefix: str, width: int = 0, height: int = 0) -> tuple[Iterator[Path], str]:
    """Return the paths name_00001_ and on below the output folder, without endings, and their subfolder.

    The host's own check and count; where the prefix ends in a slash, the host counts from 1 again.
    """
    root = folder_paths.get_output_directory()
    inside(Path(root), prefix)  # ComfyUI before 0.30 follows links that lead out of the folder
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, width, height)
    return (Path(folder, f"{name}_{number:05}_") for number in itertools.count(counter)), subfolder
