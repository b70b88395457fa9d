"""The graph of any task: its conditions in order, its adapters, its map."""

from __future__ import annotations

import pytest
from comfyui_omnix.lab.workflows.catalog import graph_of
from comfyui_omnix.lab.workflows.graph import Link
from comfyui_omnix.omnix.runtime.tasks import TASKS, Task

MADE_UP = Task("rgb_camray_edges_to_shading", ("rgb", "camray", "edges", "shading"))


@pytest.mark.parametrize("task", [MADE_UP, *(task for name, task in TASKS.items() if name.startswith("rgb_"))])
def test_a_graph_chains_the_conditions_in_order(task: Task) -> None:
    nodes = {node.name: node for node in graph_of(task, "mine").nodes()}
    assert nodes["adapters"].inputs == {"task": task.name, "folder": "mine"}
    chained, at = [], nodes["sampler"].inputs["positive"]
    while isinstance(at, Link) and nodes[at.node].type == "ReferenceLatent":
        chained.append(at.node.removesuffix("_condition"))
        at = nodes[at.node].inputs["conditioning"]
    assert tuple(reversed(chained)) == task.conditions
    assert at == Link("text")
    links = [link for node in nodes.values() for link in node.inputs.values() if isinstance(link, Link)]
    assert {link.node for link in links} <= {*nodes}
    loaders = sum(node.type in ("LoadImage", "OmniXLoadPanorama") for node in nodes.values())
    assert loaders == len({*task.conditions} - {"camray"})
    assert any(node.type == "SaveImage" for node in nodes.values())
