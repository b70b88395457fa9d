"""Write blueprints: as files for the browser's node library, and as definitions inside a workflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .boxes import BOXES, end_slot, first_number, output_type, with_boxes
from .formats import PACK, PACK_VERSION, Wire, Wiring, identity, ui_form, ui_node
from .graph import Blueprint, Describe, Graph, output_slot
from .layout import place

CATEGORY = "OmniX"
ENTRY, EXIT = -10, -20


def workflow_form(graph: Graph, describe: Describe) -> dict[str, Any]:
    """Return a graph as the browser opens it, with the definitions of its boxes."""
    known = with_boxes(describe)
    used = dict.fromkeys(node.type for node in graph.nodes() if node.type in BOXES)
    form, inner = ui_form(graph, known), [definition_form(BOXES[name], known) for name in used]
    last = {
        f"last_{kind.lower()}_id": max(
            [form[f"last_{kind.lower()}_id"], *(each["state"][f"last{kind}Id"] for each in inner)]
        )
        for kind in ("Node", "Link")
    }
    return form | last | ({"definitions": {"subgraphs": inner}} if inner else {})


def blueprint_form(blueprint: Blueprint, describe: Describe) -> dict[str, Any]:
    """Return a workflow whose one node is the blueprint's box."""
    known = with_boxes(describe)
    inner = definition_form(blueprint, known)
    return {
        "id": identity(f"{blueprint.name} blueprint"),
        "revision": 0,
        "last_node_id": inner["state"]["lastNodeId"],
        "last_link_id": inner["state"]["lastLinkId"],
        "nodes": [_outer(blueprint, known)],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [inner]},
        "extra": {"BlueprintSearchAliases": list(blueprint.aliases)},
    }


@dataclass(frozen=True)
class Entry:
    """One input of a box: its label, its type, and whether it is a field."""

    label: str
    type: str
    is_field: bool


def _entries(blueprint: Blueprint, describe: Describe) -> list[Entry]:
    slots = [end_slot(blueprint, label, describe) for label in blueprint.inputs]
    return [Entry(slot.name, slot.type, slot.is_widget) for slot in slots]


def _outer(blueprint: Blueprint, describe: Describe) -> dict[str, Any]:
    entries = _entries(blueprint, describe)
    kinds = _output_types(blueprint, describe)
    return {
        "id": 1,
        "type": identity(blueprint.name),
        "pos": [0, 0],
        "size": [400, 120 + 30 * len(entries)],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [_outer_input(entry) for entry in entries],
        "outputs": [{"name": name, "type": kind, "links": []} for name, kind in kinds.items()],
        # The fields of a box are its inputs that have a widget. `proxyWidgets` would name them a second time, and
        # means other things to other frontends: 1.39 drops a field whose inner node it names.
        "properties": {"cnr_id": PACK, "ver": PACK_VERSION},
        "widgets_values": [],
        "title": blueprint.name,
    }


def _outer_input(entry: Entry) -> dict[str, Any]:
    written: dict[str, Any] = {"name": entry.label, "type": entry.type, "link": None}
    return {**written, "widget": {"name": entry.label}} if entry.is_field else written


def _output_types(blueprint: Blueprint, describe: Describe) -> dict[str, str]:
    return {name: output_type(blueprint, link, describe) for name, link in blueprint.outputs.items()}


def definition_form(blueprint: Blueprint, describe: Describe) -> dict[str, Any]:
    """Return the definition of a subgraph, as workflows and blueprints carry it."""
    entries, inner = _entries(blueprint, describe), list(blueprint.nodes())
    ends = enumerate(zip(entries, blueprint.inputs.values()))
    outside = {end: (i, entry.type) for i, (entry, led) in ends for end in led}
    first = first_number(blueprint)
    wiring = Wiring(inner, describe, outside, first)
    kinds = _output_types(blueprint, describe)
    leaving = list(_leaving(blueprint, wiring, kinds))
    boxes, frames = place(blueprint.groups, describe, first)
    right = max(box.at[0] + box.size[0] for box in boxes.values()) + 120
    wires = [*wiring.wires, *leaving]
    return {
        "id": identity(blueprint.name),
        "version": 1,
        "state": {
            "lastGroupId": first + len(frames) - 1,
            "lastNodeId": first + len(inner) - 1,
            "lastLinkId": first + len(wires) - 1,
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": blueprint.name,
        "category": CATEGORY,
        "description": blueprint.description,
        "inputNode": {"id": ENTRY, "bounding": [-260, 0, 160, 40 + 20 * len(entries)]},
        "outputNode": {"id": EXIT, "bounding": [right, 0, 120, 40 + 20 * len(leaving)]},
        "inputs": [_port(blueprint, "in", e.label, e.type, _entering(blueprint, wiring, e.label)) for e in entries],
        "outputs": [
            _port(blueprint, "out", name, kind, [wire.id for wire in leaving if wire.target_slot == i])
            for i, (name, kind) in enumerate(kinds.items())
        ],
        "widgets": [],
        "nodes": [
            ui_node(node, wiring, boxes[node.name], _leaving_from(leaving, wiring.numbers[node.name])) for node in inner
        ],
        "groups": frames,
        "links": [wire.named() for wire in wires],
        "extra": {},
    }


def _leaving(blueprint: Blueprint, wiring: Wiring, kinds: Mapping[str, str]) -> Iterator[Wire]:
    for position, (name, link) in enumerate(blueprint.outputs.items()):
        number = wiring.first + len(wiring.wires) + position
        slot = output_slot(wiring.describe(wiring.types[link.node]), link)
        yield Wire(number, wiring.numbers[link.node], slot, EXIT, position, kinds[name])


def _leaving_from(leaving: list[Wire], number: int) -> dict[int, list[int]]:
    slots = {wire.origin_slot for wire in leaving if wire.origin == number}
    return {slot: [w.id for w in leaving if (w.origin, w.origin_slot) == (number, slot)] for slot in slots}


def _entering(blueprint: Blueprint, wiring: Wiring, label: str) -> list[int]:
    """List the links from an input of the box; the browser shows the field at the end of the first link."""
    return [wiring.entering(end) for end in blueprint.inputs[label]]


def _port(blueprint: Blueprint, side: str, name: str, kind: str, links: list[int]) -> dict[str, Any]:
    """Return one input or output of the subgraph, with the links that meet there."""
    return {"id": identity(f"{blueprint.name}/{side}/{name}"), "name": name, "type": kind, "linkIds": links}
