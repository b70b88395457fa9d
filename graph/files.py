"""Where the nodes find files, and what their lists say when there are none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
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
    """Return the host's lookup of relative names below its folders of a kind; it never leaves them."""
    return lambda name: folder_paths.get_full_path(kind, name)


def choices(names: Iterable[str]) -> list[str]:
    """Return the options of a combo; an empty one would make the host reject the graph without saying why."""
    return list(names) or [NOTHING_FOUND]


def allowed(check: Callable[[], object]) -> bool | str:
    """Return True, or the sentence that a check raises: for validate_inputs, whose sentence the host shows at once."""
    try:
        check()
    except ValueError as error:
        return str(error)
    return True


_POSTED: ContextVar[Mapping[str, Any]] = ContextVar("the graph that is being checked", default=MappingProxyType({}))


def remember_posted_graphs() -> None:
    """Have the host's server note each graph that is posted, for the checks of the same request and nobody else."""
    server = _server()
    if hasattr(server, "add_on_prompt_handler"):
        server.add_on_prompt_handler(note_posted)


def note_posted(message: dict[str, Any]) -> dict[str, Any]:
    """Keep what /prompt was sent for the checks of this request; return it as it is."""
    graph = message.get("prompt")
    _POSTED.set(graph if isinstance(graph, dict) else {})
    return message


def posted_input(node: str | None, name: str, default: Any = None) -> Any:
    """Return what a posted graph gives to an input of a node: None if that is a link, `default` if it gives nothing."""
    given = _POSTED.get().get(str(node))
    inputs = given.get("inputs") if isinstance(given, dict) else None
    value = inputs.get(name, default) if isinstance(inputs, dict) else default
    return None if isinstance(value, list) else value


def _server() -> Any:
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def hidden(node: type[Any], name: str) -> Any:
    """Return what the host gives a node besides its inputs; None in a script, where there is no host."""
    return getattr(getattr(node, "hidden", None), name, None)


def say(text: str, node: str | None) -> None:
    """Show a line of text in a node while its graph runs, where a server and a browser are there to show it."""
    server = _server()
    if node is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node)


LONGEST_NAME, LONGEST_PART = 500, 200
"""In bytes: what every file system takes, with the number and the ending that a node adds to the last part."""


def check_name(name: str) -> None:
    """Raise ValueError for a name of a file that no file system takes: too long, or with control characters in it."""
    shown = repr(name[:60])[1:-1] + "..." * (len(name) > 60)
    if any(ord(character) < 32 or character == "\x7f" or "\ud800" <= character <= "\udfff" for character in name):
        raise ValueError(f"{shown}: the name has control characters in it; choose a name without them.")
    size, parts = len(name.encode()), name.replace("\\", "/").split("/")
    if size > LONGEST_NAME or max(len(part.encode()) for part in parts) > LONGEST_PART:
        raise ValueError(
            f"{shown}: the name has {size} bytes, expected at most {LONGEST_NAME}, and {LONGEST_PART} in each folder's "
            "name; choose a shorter name."
        )


def inside(root: Path, name: str) -> Path:
    """Return the path of a relative name below `root`, following links.  Raises ValueError if it leads elsewhere."""
    check_name(name)
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or path == root.resolve():
        raise ValueError(
            f"{name}: expected a name below {root.name}, got a path that leads elsewhere; change the name."
        )
    return path
