"""Where the nodes find files, and what their lists say when there are none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

import folder_paths

CONDITIONING_FOLDER = "conditioning"
NOTHING_FOUND = "none found"


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
    if server is not None:
        server.add_on_prompt_handler(note_posted)


def note_posted(message: dict[str, Any]) -> dict[str, Any]:
    """Keep what /prompt was sent for the checks of this request; return it as it is."""
    graph = message.get("prompt")
    _POSTED.set(graph if isinstance(graph, dict) else {})
    return message


def posted_input(node: str | None, name: str) -> Any:
    """Return what a posted graph gives to an input of a node; None if that is a link, or nothing was posted."""
    given = _POSTED.get().get(str(node))
    inputs = given.get("inputs") if isinstance(given, dict) else None
    value = inputs.get(name) if isinstance(inputs, dict) else None
    return None if isinstance(value, list) else value


def _server() -> Any:
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def say(text: str, node: str | None) -> None:
    """Show a line of text in a node while its graph runs, where a server and a browser are there to show it."""
    server = _server()
    if server is not None and node is not None:
        server.send_progress_text(text, node)


def inside(root: Path, name: str) -> Path:
    """Return the path of a relative name below `root`, following links.  Raises ValueError if it leads elsewhere."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or path == root.resolve():
        raise ValueError(
            f"{name}: expected a name below {root.name}, got a path that leads elsewhere; change the name."
        )
    return path
