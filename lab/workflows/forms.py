"""Write graphs and blueprints in the browser's format: UI form, schema 0.4."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ...converters.version import VERSION
from .boxes import BOXES, end_slots, first_number, output_types, with_boxes
from .graph import MATCHED, Blueprint, Describe, Graph, Link, Node, Slot, output_slot, slots, value
from .layout import Placed, note_boxes, place

PACK, PACK_VERSION = "omnix-panorama", VERSION
CORE, CORE_VERSION = "comfy-core", "0.23.0"
FLUX_1 = "https://huggingface.co/Comfy-Org/flux1-dev/resolve/main"
TEXT = "https://huggingface.co/comfyanonymous/flux_text_encoders/resolve/main"
AE = "https://huggingface.co/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors"
# The area for the graph between bars and menus on a 1920x1080 screen, in pixels; the height of a node's title.
SCREEN, SCREEN_AT, TITLES = (1780, 890), (90, 110), 40
ENTRY, EXIT = -10, -20
# Files that the browser offers to download, by name: where from, where to.
DOWNLOADS = {
    "flux1-dev.safetensors": (f"{FLUX_1}/flux1-dev.safetensors", "diffusion_models"),
    "ae.safetensors": (AE, "vae"),
    "clip_l.safetensors": (f"{TEXT}/clip_l.safetensors", "text_encoders"),
    "t5xxl_fp16.safetensors": (f"{TEXT}/t5xxl_fp16.safetensors", "text_encoders"),
}


class Wire(NamedTuple):
    """One link between nodes, by their numbers and slots, in the order in which a workflow lists them."""

    id: int
    origin_id: int
    origin_slot: int
    target_id: int
    target_slot: int
    type: str


class Wiring:
    """The nodes of a graph, or of a subgraph, with their numbers, slots and links; `first` is the first number."""

    def __init__(self, graph: Graph | Blueprint, describe: Describe, first: int = 1) -> None:
        self.describe, self.first = describe, first
        self.nodes = {node.name: node for node in graph.nodes()}
        self.numbers = {name: number for number, name in enumerate(self.nodes, first)}
        self.slots = {name: self._slots(node) for name, node in self.nodes.items()}
        self.outside: dict[tuple[str, str], tuple[int, str]] = {}
        self.leaving: Mapping[str, Link] = {}
        if isinstance(graph, Blueprint):
            ports = enumerate(end_slots(graph, describe))
            self.outside = {end: (i, port.type) for i, port in ports for end in graph.ends(port.name)}
            self.leaving = graph.outputs
        self.wires = [Wire(number, *ends) for number, ends in enumerate(self._ends(), first)]

    def _slots(self, node: Node) -> list[Slot]:
        """List a node's inputs as the frontend numbers them: sockets first, then fields."""
        return sorted(slots(self.describe(node.type), node), key=lambda slot: slot.is_widget)

    def _ends(self) -> Iterator[tuple[int, int, int, int, str]]:
        """Yield all links but for their numbers: into nodes from the subgraph's inputs and nodes, then out of it."""
        for name, found in self.slots.items():
            for position, slot in enumerate(found):
                given = self.nodes[name].inputs.get(slot.name)
                if (name, slot.name) in self.outside:
                    port, kind = self.outside[name, slot.name]
                    yield ENTRY, port, self.numbers[name], position, kind
                elif isinstance(given, Link):
                    origin = self.output(given)
                    yield self.numbers[given.node], origin, self.numbers[name], position, self.kinds(given.node)[origin]
        for position, link in enumerate(self.leaving.values()):
            origin = self.output(link)
            yield self.numbers[link.node], origin, EXIT, position, self.described(link.node)["output"][origin]

    def described(self, name: str) -> Mapping[str, Any]:
        """Return the host's description of a node by name."""
        return self.describe(self.nodes[name].type)

    def output(self, link: Link) -> int:
        """Return the number of the output that a link names."""
        return output_slot(self.described(link.node), link)

    def kinds(self, name: str) -> list[str]:
        """List the types of a node's outputs; one that takes the type of an input shows what is linked there."""
        return [self._matched(name) if kind == MATCHED else kind for kind in self.described(name)["output"]]

    def _matched(self, name: str) -> str:
        slot = next(slot for slot in self.slots[name] if slot.type == MATCHED)
        if (name, slot.name) in self.outside:
            return self.outside[name, slot.name][1]
        link = self.nodes[name].inputs[slot.name]
        if not isinstance(link, Link):
            raise TypeError(f"{name}: {slot.name}: expected a link, got {link!r}.")
        return self.kinds(link.node)[self.output(link)]

    def into(self, number: int, position: int) -> int | None:
        """Return the number of the link into an input, if there is one."""
        return next((wire.id for wire in self.wires if wire[3:5] == (number, position)), None)

    def out_of(self, number: int, position: int) -> list[int]:
        """List the numbers of the links out of an output."""
        return [wire.id for wire in self.wires if wire[1:3] == (number, position)]

    def entering(self, end: tuple[str, str]) -> int | None:
        """Return the number of the link into an input by name."""
        name, field = end
        return self.into(self.numbers[name], [slot.name for slot in self.slots[name]].index(field))


def ui_nodes(wiring: Wiring, boxes: Mapping[str, Placed]) -> list[dict[str, Any]]:
    """Return the nodes of a graph as the browser saves them."""
    return [_ui_node(node, wiring, boxes[name]) for name, node in wiring.nodes.items()]


def _ui_node(node: Node, wiring: Wiring, placed: Placed) -> dict[str, Any]:
    definition, number = wiring.describe(node.type), wiring.numbers[node.name]
    outputs = enumerate(zip(definition["output_name"], wiring.kinds(node.name)))
    written: dict[str, Any] = {
        "id": number,
        "type": identity(node.type) if node.type in BOXES else node.type,
        **_placed(placed, number - wiring.first),
        "inputs": [_ui_input(slot, wiring.into(number, i)) for i, slot in enumerate(wiring.slots[node.name])],
        "outputs": [{"name": name, "type": kind, "links": wiring.out_of(number, i)} for i, (name, kind) in outputs],
        "properties": properties(node, definition),
        "widgets_values": [] if node.type in BOXES else widget_values(node, wiring.describe),
    }
    title = node.title or (node.type.removesuffix(" (OmniX)") if node.type in BOXES else "")
    return {**written, "title": title} if title else written


def _placed(placed: Placed, order: int) -> dict[str, Any]:
    return {"pos": list(placed.at), "size": list(placed.size), "flags": {}, "order": order, "mode": 0}


def _ui_input(slot: Slot, link: int | None) -> dict[str, Any]:
    kind = slot.options["template"]["allowed_types"] if slot.type == MATCHED else slot.type
    shape = {"shape": 7} if slot.optional else {}
    widget = {"widget": {"name": slot.name}} if slot.is_widget else {}
    return {"name": slot.name, "type": kind, **shape, **widget, "link": link}


def widget_values(node: Node, describe: Describe) -> list[Any]:
    """List what the fields of a node show, in their order, with those that the frontend adds."""
    fields = [slot for slot in slots(describe(node.type), node) if slot.is_widget]
    shown = [each for slot in fields for each in (value(slot, node), *slot.followers(node.after))]
    return shown + [each for slot in fields for each in slot.ending]


def properties(node: Node, definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a node comes from and which files it wants, so that the browser can offer what is missing."""
    ours = str(definition["python_module"]).startswith("custom_nodes.")
    written: dict[str, Any] = {"cnr_id": PACK if ours else CORE, "ver": PACK_VERSION if ours else CORE_VERSION}
    if node.type in BOXES:
        return written
    files = [v for v in node.inputs.values() if isinstance(v, str) and v in DOWNLOADS]
    models = [{"name": name, "url": DOWNLOADS[name][0], "directory": DOWNLOADS[name][1]} for name in files]
    return {**written, "Node name for S&R": node.type, **({"models": models} if models else {})}


def workflow_form(graph: Graph, describe: Describe) -> dict[str, Any]:
    """Return a graph as the browser opens it, with the definitions of its boxes."""
    known = with_boxes(describe)
    wiring, notes = Wiring(graph, known), [*note_boxes(graph.notes)]
    boxes, frames = place(graph.groups, known)
    inner = [definition_form(BOXES[n], known) for n in dict.fromkeys(n.type for n in graph.nodes()) if n in BOXES]
    nodes = ui_nodes(wiring, boxes)
    nodes += [_ui_note(len(nodes) + i, box, note.title, note.text) for i, (note, box) in enumerate(notes)]
    return {
        "id": identity(graph.name),
        "revision": 0,
        "last_node_id": max(len(nodes), *(each["state"]["lastNodeId"] for each in inner), 0),
        "last_link_id": max(len(wiring.wires), *(each["state"]["lastLinkId"] for each in inner), 0),
        "nodes": nodes,
        "links": [list(wire) for wire in wiring.wires],
        "groups": frames,
        "config": {},
        "extra": {"ds": _view([*boxes.values(), *(box for _, box in notes)]), **_app(graph, wiring)},
        "version": 0.4,
        **({"definitions": {"subgraphs": inner}} if inner else {}),
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
    inputs = [[wiring.numbers[node], field] for node, _, field in (end.partition(".") for end in graph.app)]
    return {"linearData": {"inputs": inputs, "outputs": [wiring.numbers["save"]]}} if inputs else {}


def _ui_note(order: int, box: Placed, title: str, text: str) -> dict[str, Any]:
    return {
        "id": order + 1,
        "type": "MarkdownNote",
        **_placed(box, order),
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


def _outer(blueprint: Blueprint, describe: Describe) -> dict[str, Any]:
    entries = end_slots(blueprint, describe)
    kinds = output_types(blueprint, describe)
    return {
        "id": 1,
        "type": identity(blueprint.name),
        **_placed(Placed((0, 0), (400, 120 + 30 * len(entries))), 0),
        "inputs": [_outer_input(entry) for entry in entries],
        "outputs": [{"name": name, "type": kind, "links": []} for name, kind in kinds.items()],
        # The fields of a box are its inputs that have a widget. `proxyWidgets` would name them a second time, and
        # means other things to other frontends: 1.39 drops a field whose inner node it names.
        "properties": {"cnr_id": PACK, "ver": PACK_VERSION},
        "widgets_values": [],
        "title": blueprint.name,
    }


def _outer_input(entry: Slot) -> dict[str, Any]:
    written: dict[str, Any] = {"name": entry.name, "type": entry.type, "link": None}
    return {**written, "widget": {"name": entry.name}} if entry.is_widget else written


def definition_form(blueprint: Blueprint, describe: Describe) -> dict[str, Any]:
    """Return the definition of a subgraph, as workflows and blueprints carry it."""
    first, entries = first_number(blueprint), end_slots(blueprint, describe)
    wiring = Wiring(blueprint, describe, first)
    boxes, frames = place(blueprint.groups, describe, first)
    right = max(box.at[0] + box.size[0] for box in boxes.values()) + 120
    wires = wiring.wires
    # The browser shows the field at the end of an input's first link.
    inputs = [_port(blueprint, "in", e.name, e.type, map(wiring.entering, blueprint.ends(e.name))) for e in entries]
    leaving = {wire.target_slot: wire for wire in wires if wire.target_id == EXIT}
    outputs = [_port(blueprint, "out", n, leaving[i].type, [leaving[i].id]) for i, n in enumerate(blueprint.outputs)]
    return {
        "id": identity(blueprint.name),
        "version": 1,
        "state": {
            "lastGroupId": first + len(frames) - 1,
            "lastNodeId": first + len(boxes) - 1,
            "lastLinkId": first + len(wires) - 1,
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": blueprint.name,
        "category": "OmniX",
        "description": blueprint.description,
        "inputNode": {"id": ENTRY, "bounding": [-260, 0, 160, 40 + 20 * len(inputs)]},
        "outputNode": {"id": EXIT, "bounding": [right, 0, 120, 40 + 20 * len(outputs)]},
        "inputs": inputs,
        "outputs": outputs,
        "widgets": [],
        "nodes": ui_nodes(wiring, boxes),
        "groups": frames,
        "links": [wire._asdict() for wire in wires],
        "extra": {},
    }


def _port(blueprint: Blueprint, side: str, name: str, kind: str, links: Iterable[int | None]) -> dict[str, Any]:
    """Return one input or output of the subgraph, with the links that meet there."""
    return {"id": identity(f"{blueprint.name}/{side}/{name}"), "name": name, "type": kind, "linkIds": [*links]}
