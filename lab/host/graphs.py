"""The shipped graphs, changed to use the files that exist here."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from .pack import ROOT

Graph = dict[str, dict[str, Any]]
API = ROOT / "lab" / "workflows" / "api"
"""The shipped workflows in the form that clients post."""


def graph_of(task: str) -> Graph:
    """Return the shipped graph that runs only this task.  Raises LookupError if there is none."""
    for path in sorted(API.glob("*.json")):
        graph = json.loads(path.read_text(encoding="utf-8"))
        tasks = {node["inputs"]["task"] for node in of_type(graph, "OmniXLoadAdapters").values()}
        if tasks == {task} and not of_type(graph, "OmniXContactSheet"):
            return graph
    raise LookupError(f"{API} has no graph for {task}; run `python lab/workflows/build.py`.")


def of_type(graph: Mapping[str, Mapping[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Return the nodes of a type by id."""
    return {name: dict(node) for name, node in graph.items() if node["class_type"] == kind}


def pointed(graph: Graph, changes: Mapping[str, Mapping[str, object]]) -> Graph:
    """Return the graph with other inputs: `changes` maps a node type to inputs; unknown inputs are ignored."""
    changed = copy.deepcopy(graph)
    for node in changed.values():
        wanted = changes.get(node["class_type"], {})
        node["inputs"].update({name: value for name, value in wanted.items() if name in node["inputs"]})
    return changed
