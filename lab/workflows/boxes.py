"""Boxes: the description of a blueprint in the host's format, and a graph with all its boxes opened."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .graph import Blueprint, Definition, Describe, Graph, Link, Node, Slot, output_slot, slots
from .shelf import BLUEPRINTS

BOXES: Mapping[str, Blueprint] = {blueprint.name: blueprint for blueprint in BLUEPRINTS}
MODULE = "custom_nodes.omnix-panorama"
NUMBERS = 1000
"""The range of numbers for each blueprint's nodes, links and groups, because the browser renumbers duplicates."""


def with_boxes(describe: Describe) -> Describe:
    """Return `describe` that knows the blueprints too."""

    @functools.cache
    def known(kind: str) -> Definition:
        return definition(BOXES[kind], known) if kind in BOXES else describe(kind)

    return known


def first_number(blueprint: Blueprint) -> int:
    """Return the number of the first node inside, and of the first link and group."""
    return NUMBERS * (1 + list(BOXES).index(blueprint.name)) + 1


def end_slot(blueprint: Blueprint, label: str, describe: Describe) -> Slot:
    """Return the slot at the first end of a box's input; the value inside the box is its default."""
    name, field = blueprint.inputs[label][0]
    node = next(node for node in blueprint.nodes() if node.name == name)
    slot = next(slot for slot in slots(describe(node.type), node) if slot.name == field)
    default = {"default": node.inputs[field]} if field in node.inputs else {}
    return replace(slot, name=label, options={**slot.options, **default})


def output_type(blueprint: Blueprint, link: Link, describe: Describe) -> str:
    """Return the type of what a link inside carries."""
    kind = describe(next(node.type for node in blueprint.nodes() if node.name == link.node))
    return kind["output"][output_slot(kind, link)]


def definition(blueprint: Blueprint, describe: Describe) -> Definition:
    """Describe a box in the format in which the host describes a node."""
    found = [end_slot(blueprint, label, describe) for label in blueprint.inputs]
    return {
        "input": {"required": {slot.name: [slot.type, slot.options] for slot in found}},
        "input_order": {"required": [slot.name for slot in found]},
        "output": [output_type(blueprint, link, describe) for link in blueprint.outputs.values()],
        "output_name": list(blueprint.outputs),
        "display_name": blueprint.name,
        "python_module": MODULE,
    }


def opened(graph: Graph) -> list[Node]:
    """List the nodes of a graph with its boxes opened; nodes that would do the same work twice are merged.

    The host runs equal nodes once, too. Nodes keep their names; where several have one, their box's is put behind it.
    """
    boxes = {node.name: node for node in graph.nodes() if node.type in BOXES}
    kept: dict[Any, tuple[str, str]] = {}
    same: dict[tuple[str, str], tuple[str, str]] = {}
    found: dict[tuple[str, str], Node] = {}
    for box, node in _parts(graph):
        inputs = {key: _link(value, box, boxes, same) for key, value in node.inputs.items()}
        key = (box, node.name)
        same[key] = kept.setdefault((node.type, tuple(sorted(inputs.items()))), key)
        if same[key] == key:
            found[key] = replace(node, inputs=inputs)
    counts = Counter(name for _, name in found)
    names = {f"{box}/{name}": name if counts[name] == 1 else f"{name}_{box}" for box, name in found}
    return [_renamed(node, names[f"{box}/{name}"], names) for (box, name), node in found.items()]


def _renamed(node: Node, name: str, names: Mapping[str, str]) -> Node:
    inputs = {
        field: Link(names[value.node], value.output) if isinstance(value, Link) else value
        for field, value in node.inputs.items()
    }
    return replace(node, name=name, inputs=inputs)


def _parts(graph: Graph) -> list[tuple[str, Node]]:
    """List all nodes with the name of their box; what is given to a box from outside is a link from the box ""."""
    parts: list[tuple[str, Node]] = []
    for node in graph.nodes():
        if node.type not in BOXES:
            parts.append(("", node))
            continue
        blueprint = BOXES[node.type]
        for inner in blueprint.nodes():
            given = {
                field: node.inputs[label]
                for label, ends in blueprint.inputs.items()
                for name, field in ends
                if name == inner.name and label in node.inputs
            }
            outside = {key: _Outside(*value) if isinstance(value, Link) else value for key, value in given.items()}
            parts.append((node.name, replace(inner, inputs={**inner.inputs, **outside})))
    return parts


class _Outside(Link):
    """A link that comes from outside the node's box."""


def _link(value: Any, box: str, boxes: Mapping[str, Node], same: Mapping[tuple[str, str], tuple[str, str]]) -> Any:
    """Return a link to the node "box/name" that does the work, for a link as it stands inside of a box or outside."""
    if not isinstance(value, Link):
        return value
    key, output = (box, value.node), value.output
    if isinstance(value, _Outside) or not box:
        key = ("", value.node)
        if value.node in boxes:
            outputs = BOXES[boxes[value.node].type].outputs
            inner = outputs[value.output or next(iter(outputs))]
            key, output = (value.node, inner.node), inner.output
    return Link("/".join(same[key]), output)
