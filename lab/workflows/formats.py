"""Write a graph in the server's format (API format) and in the browser's format (UI format, schema 0.4)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...converters.version import VERSION
from .boxes import BOXES, opened
from .graph import MATCHED, Describe, Graph, Link, Node, Slot, output_slot, slots, value
from .layout import Placed, note_boxes, place

PACK, PACK_VERSION = "omnix-panorama", VERSION
CORE, CORE_VERSION = "comfy-core", "0.23.0"
FLUX_1 = "https://huggingface.co/Comfy-Org/flux1-dev/resolve/main"
TEXT = "https://huggingface.co/comfyanonymous/flux_text_encoders/resolve/main"
AE = "https://huggingface.co/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors"
# The area for the graph between bars and menus on a 1920x1080 screen, in pixels; the height of a node's title.
SCREEN, SCREEN_AT, TITLES = (1780, 890), (90, 110), 40
# Files that the browser offers to download, by name: where from, where to.
DOWNLOADS = {
    "flux1-dev.safetensors": (f"{FLUX_1}/flux1-dev.safetensors", "diffusion_models"),
    "ae.safetensors": (AE, "vae"),
    "clip_l.safetensors": (f"{TEXT}/clip_l.safetensors", "text_encoders"),
    "t5xxl_fp16.safetensors": (f"{TEXT}/t5xxl_fp16.safetensors", "text_encoders"),
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


@dataclass(frozen=True)
class Wire:
    """One link between nodes, by their numbers and slots."""

    id: int
    origin: int
    origin_slot: int
    target: int
    target_slot: int
    type: str

    def listed(self) -> list[Any]:
        """Return the link as a workflow lists it."""
        return [self.id, self.origin, self.origin_slot, self.target, self.target_slot, self.type]

    def named(self) -> dict[str, Any]:
        """Return the link as a subgraph lists it."""
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        return dict(zip(keys, self.listed(), strict=True))


class Wiring:
    """The nodes of a graph with their numbers, slots and links.

    `outside` maps outputs that come from the subgraph's own inputs to that input's number and type; `first` is the
    number of the first node, and of the first link.
    """

    def __init__(
        self,
        nodes: list[Node],
        describe: Describe,
        outside: Mapping[tuple[str, str], tuple[int, str]] | None = None,
        first: int = 1,
    ) -> None:
        self.nodes = nodes
        self.describe = describe
        self.numbers = {node.name: number for number, node in enumerate(nodes, first)}
        self.first = first
        self.types = {node.name: node.type for node in nodes}
        self.outside = dict(outside or {})
        self.wires: list[Wire] = []
        for node in nodes:
            for position, slot in enumerate(self.inputs(node)):
                self._wire(node, position, slot)

    def inputs(self, node: Node) -> list[Slot]:
        """List a node's inputs as the frontend numbers them: sockets first, then fields."""
        found = slots(self.describe(node.type), node)
        return [s for s in found if not s.is_widget] + [s for s in found if s.is_widget]

    def _wire(self, node: Node, position: int, slot: Slot) -> None:
        number, target = self.first + len(self.wires), self.numbers[node.name]
        inner = self.outside.get((node.name, slot.name))
        given = node.inputs.get(slot.name)
        if inner is not None:
            self.wires.append(Wire(number, -10, inner[0], target, position, inner[1]))
        elif isinstance(given, Link):
            origin_slot = output_slot(self.describe(self.types[given.node]), given)
            kind = self.output_types(given.node)[origin_slot]
            self.wires.append(Wire(number, self.numbers[given.node], origin_slot, target, position, kind))

    def output_types(self, name: str) -> list[str]:
        """List the types of a node's outputs; one that takes the type of an input shows what is linked there."""
        node = next(node for node in self.nodes if node.name == name)
        return [self._matched(node) if kind == MATCHED else kind for kind in self.describe(node.type)["output"]]

    def _matched(self, node: Node) -> str:
        slot = next(slot for slot in self.inputs(node) if slot.type == MATCHED)
        inner = self.outside.get((node.name, slot.name))
        if inner is not None:
            return inner[1]
        link = node.inputs[slot.name]
        if not isinstance(link, Link):
            raise TypeError(f"{node.name}: {slot.name}: expected a link, got {link!r}.")
        return self.output_types(link.node)[output_slot(self.describe(self.types[link.node]), link)]

    def entering(self, end: tuple[str, str]) -> int:
        """Return the number of the link into an input by name."""
        node = next(node for node in self.nodes if node.name == end[0])
        slot = (self.numbers[node.name], [slot.name for slot in self.inputs(node)].index(end[1]))
        return next(wire.id for wire in self.wires if (wire.target, wire.target_slot) == slot)

    def into(self, node: Node, position: int) -> int | None:
        """Return the number of the link into an input, if there is one."""
        ends = (
            wire.id for wire in self.wires if (wire.target, wire.target_slot) == (self.numbers[node.name], position)
        )
        return next(ends, None)

    def out_of(self, node: Node, position: int) -> list[int]:
        """List the numbers of the links out of an output."""
        here = (self.numbers[node.name], position)
        return [wire.id for wire in self.wires if (wire.origin, wire.origin_slot) == here]


def ui_node(node: Node, wiring: Wiring, placed: Placed, extra_links: Mapping[int, list[int]]) -> dict[str, Any]:
    """Return a node as the browser saves it; `extra_links` are links that leave the subgraph, by output."""
    definition = wiring.describe(node.type)
    number = wiring.numbers[node.name]
    written: dict[str, Any] = {
        "id": number,
        "type": identity(node.type) if node.type in BOXES else node.type,
        "pos": list(placed.at),
        "size": list(placed.size),
        "flags": {},
        "order": number - wiring.first,
        "mode": 0,
        "inputs": [_ui_input(slot, wiring.into(node, i)) for i, slot in enumerate(wiring.inputs(node))],
        "outputs": [
            {"name": name, "type": kind, "links": [*wiring.out_of(node, i), *extra_links.get(i, [])]}
            for i, (name, kind) in enumerate(zip(definition["output_name"], wiring.output_types(node.name)))
        ],
        "properties": properties(node, definition),
        "widgets_values": [] if node.type in BOXES else widget_values(node, wiring.describe),
    }
    title = node.title or (node.type.removesuffix(" (OmniX)") if node.type in BOXES else "")
    return {**written, "title": title} if title else written


def _ui_input(slot: Slot, link: int | None) -> dict[str, Any]:
    kind = slot.options["template"]["allowed_types"] if slot.type == MATCHED else slot.type
    written: dict[str, Any] = {"name": slot.name, "type": kind}
    if slot.optional:
        written["shape"] = 7
    if slot.is_widget:
        written["widget"] = {"name": slot.name}
    return {**written, "link": link}


def widget_values(node: Node, describe: Describe) -> list[Any]:
    """List what the fields of a node show, in their order, with those that the frontend adds."""
    fields = [slot for slot in slots(describe(node.type), node) if slot.is_widget]
    shown = [each for slot in fields for each in (value(slot, node), *slot.followers(node.after))]
    return shown + [each for slot in fields for each in slot.ending]


def properties(node: Node, definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a node comes from and which files it wants, so that the browser can offer what is missing."""
    ours = str(definition["python_module"]).startswith("custom_nodes.")
    pack, version = (PACK, PACK_VERSION) if ours else (CORE, CORE_VERSION)
    if node.type in BOXES:
        return {"cnr_id": pack, "ver": version}
    written: dict[str, Any] = {"cnr_id": pack, "ver": version, "Node name for S&R": node.type}
    files = [v for v in node.inputs.values() if isinstance(v, str) and v in DOWNLOADS]
    if files:
        written["models"] = [
            {"name": name, "url": DOWNLOADS[name][0], "directory": DOWNLOADS[name][1]} for name in files
        ]
    return written


def ui_form(graph: Graph, describe: Describe) -> dict[str, Any]:
    """Return the graph as the browser opens it, but for the definitions of its boxes; `describe` knows those."""
    wiring = Wiring(list(graph.nodes()), describe)
    boxes, frames = place(graph.groups, describe)
    nodes = [ui_node(node, wiring, boxes[node.name], {}) for node in graph.nodes()]
    notes = [
        _ui_note(len(nodes) + i, box, note.title, note.text) for i, (note, box) in enumerate(note_boxes(graph.notes))
    ]
    return {
        "id": identity(graph.name),
        "revision": 0,
        "last_node_id": len(nodes) + len(notes),
        "last_link_id": len(wiring.wires),
        "nodes": nodes + notes,
        "links": [wire.listed() for wire in wiring.wires],
        "groups": frames,
        "config": {},
        "extra": {"ds": _view([*boxes.values(), *(box for _, box in note_boxes(graph.notes))]), **_app(graph, wiring)},
        "version": 0.4,
    }


def _view(boxes: list[Placed]) -> dict[str, Any]:
    """Return the view on opening that shows all boxes on a screen of 1920x1080."""
    left, top = (min(box.at[axis] for box in boxes) for axis in (0, 1))
    right, bottom = (max(box.at[axis] + box.size[axis] for box in boxes) for axis in (0, 1))
    scale = min(SCREEN[0] / (right - left), SCREEN[1] / (bottom - top + TITLES), 1.0)
    offset = [round(SCREEN_AT[0] / scale - left), round(SCREEN_AT[1] / scale - top + TITLES)]
    return {"scale": round(scale, 3), "offset": offset}


def _app(graph: Graph, wiring: Wiring) -> dict[str, Any]:
    """Return the settings for the app mode of newer frontends, in their format."""
    inputs = [[wiring.numbers[node], field] for node, field in graph.app.inputs]
    outputs = [wiring.numbers[node] for node in graph.app.outputs]
    return {"linearData": {"inputs": inputs, "outputs": outputs}} if outputs else {}


def _ui_note(order: int, box: Placed, title: str, text: str) -> dict[str, Any]:
    return {
        "id": order + 1,
        "type": "MarkdownNote",
        "pos": list(box.at),
        "size": list(box.size),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": title,
        "properties": {},
        "widgets_values": [text],
        "color": "#432",
        "bgcolor": "#000",
    }


def identity(name: str) -> str:
    """Return the same UUID for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://registry.comfy.org/nodes/{PACK}/{name}"))
