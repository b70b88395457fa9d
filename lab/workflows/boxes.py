"""Boxes: the description of a blueprint in the host's format, and the posted form of a graph, with its boxes opened."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from .graph import Blueprint, Definition, Describe, Graph, Link, Node, Slot, Value, output_slot, slots, value
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


def end_slots(blueprint: Blueprint, describe: Describe) -> list[Slot]:
    """List the inputs of a box as the slots at their first ends; the value inside the box is the default."""
    nodes, found = {node.name: node for node in blueprint.nodes()}, []
    for label in blueprint.inputs:
        name, field = blueprint.ends(label)[0]
        slot = next(slot for slot in slots(describe(nodes[name].type), nodes[name]) if slot.name == field)
        default = {"default": nodes[name].inputs[field]} if field in nodes[name].inputs else {}
        found.append(replace(slot, name=label, options={**slot.options, **default}))
    return found


def output_types(blueprint: Blueprint, describe: Describe) -> dict[str, str]:
    """Return the type of each output of a box."""
    kinds = {node.name: describe(node.type) for node in blueprint.nodes()}
    ends = {name: (kinds[link.node], link) for name, link in blueprint.outputs.items()}
    return {name: kind["output"][output_slot(kind, link)] for name, (kind, link) in ends.items()}


def definition(blueprint: Blueprint, describe: Describe) -> Definition:
    """Describe a box in the format in which the host describes a node."""
    found, kinds = end_slots(blueprint, describe), output_types(blueprint, describe)
    return {
        "input": {"required": {slot.name: [slot.type, slot.options] for slot in found}},
        "input_order": {"required": [slot.name for slot in found]},
        "output": [*kinds.values()],
        "output_name": [*kinds],
        "display_name": blueprint.name,
        "python_module": MODULE,
    }


def api_form(graph: Graph, describe: Describe) -> dict[str, dict[str, Any]]:
    """Return the graph for /prompt, with its boxes opened, keyed by our names, with the value of every input."""
    nodes = opened(graph)
    types = {node.name: node.type for node in nodes}
    return {node.name: _api_node(node, types, describe) for node in nodes}


def _api_node(node: Node, types: Mapping[str, str], describe: Describe) -> dict[str, Any]:
    definition = describe(node.type)
    inputs: dict[str, Any] = {}
    for slot in slots(definition, node):
        given = node.inputs.get(slot.name)
        if isinstance(given, Link):
            inputs[slot.name] = [given.node, output_slot(describe(types[given.node]), given)]
        elif slot.is_widget:
            inputs[slot.name] = value(slot, node)
    title = node.title or definition["display_name"] or node.type
    return {"class_type": node.type, "inputs": inputs, "_meta": {"title": title}}


def opened(graph: Graph) -> list[Node]:
    """List the nodes of a graph with its boxes opened; nodes that would do the same work twice are merged.

    The host runs equal nodes once, too. Nodes keep their names; if several have the same, their box's name follows it.
    """
    kept: dict[Any, str] = {}
    same: dict[str, str] = {}
    found: dict[str, Node] = {}
    boxes = {node.name: BOXES[node.type] for node in graph.nodes() if node.type in BOXES}
    for node in graph.nodes():
        outer = {field: _followed(given, "", boxes, same) for field, given in node.inputs.items()}
        for box, inner, given in _inside(node, outer):
            inputs = {field: _followed(own, box, {}, same) for field, own in inner.inputs.items()} | given
            path = f"{box}/{inner.name}"
            same[path] = kept.setdefault((inner.type, tuple(sorted(inputs.items()))), path)
            if same[path] == path:
                found[path] = replace(inner, inputs=inputs)
    counts = Counter(node.name for node in found.values())
    names = {p: n.name if counts[n.name] == 1 else f"{n.name}_{p.partition('/')[0]}" for p, n in found.items()}
    return [_renamed(node, names[path], names) for path, node in found.items()]


def _inside(node: Node, outer: Mapping[str, Value | Link]) -> Iterator[tuple[str, Node, dict[str, Value | Link]]]:
    """Yield (box, node, the inputs that come from outside) for a node that is no box, or for each node in a box."""
    if node.type not in BOXES:
        yield "", replace(node, inputs={}), dict(outer)
        return
    box = BOXES[node.type]
    ends = {end: outer[label] for label in box.inputs if label in outer for end in box.ends(label)}
    for inner in box.nodes():
        yield node.name, inner, {field: given for (name, field), given in ends.items() if name == inner.name}


def _followed(given: Value | Link, box: str, boxes: Mapping[str, Blueprint], same: Mapping[str, str]) -> Value | Link:
    """Return a link to the path "box/name" of the node that does the work, for a link inside of a box or outside."""
    if not isinstance(given, Link):
        return given
    if given.node not in boxes:
        return Link(same[f"{box}/{given.node}"], given.output)
    outputs = boxes[given.node].outputs
    inner = outputs[given.output or next(iter(outputs))]
    return Link(same[f"{given.node}/{inner.node}"], inner.output)


def _renamed(node: Node, name: str, names: Mapping[str, str]) -> Node:
    links = {field: Link(names[v.node], v.output) for field, v in node.inputs.items() if isinstance(v, Link)}
    return replace(node, name=name, inputs={**node.inputs, **links})
