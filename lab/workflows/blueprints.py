"""Blueprints: a whole graph as one node, in the form that the browser's node library reads (schema of subgraphs: 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .catalog import GRAPHS
from .definitions import Describe, Slot, output_slot
from .formats import PACK, PACK_VERSION, Wire, Wiring, identity, ui_node
from .graph import Graph, Group, Link, Node
from .layout import place

CATEGORY = "OmniX"
ENTRY, EXIT = -10, -20
MODEL_FIELDS = (
    ("flux", "unet_name", "unet_name"),
    ("clip", "clip_name1", "clip_name1"),
    ("clip", "clip_name2", "clip_name2"),
    ("vae", "vae_name", "vae_name"),
    ("adapters", "folder", "adapters_folder"),
)
SAMPLER_FIELDS = (("sampler", "seed", "seed"), ("sampler", "steps", "steps"))


@dataclass(frozen=True)
class Blueprint:
    """A graph as one node: `inputs` are (node, input, label) of sockets and fields, `outputs` map names to links."""

    name: str
    description: str
    aliases: tuple[str, ...]
    graph: Graph
    inputs: tuple[tuple[str, str, str], ...]
    outputs: Mapping[str, Link]

    def inner(self) -> list[Node]:
        """List the nodes inside: those that the outputs need, without the user's own input."""
        opened = {(node, name) for node, name, _ in self.inputs}
        sources = {
            value
            for node in self.graph.nodes()
            for name, value in node.inputs.items()
            if isinstance(value, Link) and (node.name, name) in opened
        }
        return self.graph.needed({link.node for link in self.outputs.values()}, sources)


def _perceiver(slug: str, what: str, words: str, aliases: tuple[str, ...], outputs: Mapping[str, Link]) -> Blueprint:
    graph = next(graph for graph in GRAPHS if graph.slug == slug)
    own = (("panorama", "input", "panorama"), ("panorama", "resize_type.width", "width"))
    return Blueprint(
        f"Panorama to {what} (OmniX)",
        f"{words} of a 360-degree panorama, with OmniX on FLUX.1-dev.",
        ("360", "equirectangular", *aliases),
        graph,
        own + SAMPLER_FIELDS + MODEL_FIELDS,
        {**outputs, "panorama": Link("panorama")},
    )


def blueprints() -> tuple[Blueprint, ...]:
    """Return all blueprints."""
    graph = next(graph for graph in GRAPHS if graph.slug == "image_to_pano")
    own = (("placed", "image", "image"), ("prompt", "prompt", "prompt"))
    sizes = tuple(("placed", name, name) for name in ("width", "height", "fov_x", "yaw", "pitch"))
    depth = {"depth": Link("depth", "depth"), "mask": Link("depth", "mask")}
    material = {name: Link("material", name) for name in ("roughness", "metallic")}
    return (
        _perceiver("rgb_to_depth", "depth", "Relative distance", ("depth map", "distance"), depth),
        _perceiver("rgb_to_normal", "normal", "World-space normals", ("normal map",), {"normal": Link("normal")}),
        _perceiver("rgb_to_albedo", "albedo", "Albedo", ("intrinsic", "base color"), {"albedo": Link("decoded")}),
        _perceiver("rgb_to_pbr", "roughness and metallic", "Roughness and metallic", ("pbr", "material"), material),
        _perceiver("rgb_to_semantic", "semantic", "Semantics", ("segmentation",), {"semantic": Link("decoded")}),
        Blueprint(
            "Image to panorama (OmniX)",
            "Complete a picture to a seamless 360-degree panorama, with OmniX on FLUX.1-dev.",
            ("360", "equirectangular", "outpaint", "skybox"),
            graph,
            own + sizes + SAMPLER_FIELDS + MODEL_FIELDS,
            {"panorama": Link("decoded")},
        ),
    )


def blueprint_form(blueprint: Blueprint, describe: Describe) -> dict[str, Any]:
    """Return a workflow whose one node is the blueprint's subgraph."""
    inner = blueprint.inner()
    entries = list(_entries(blueprint, inner, describe))
    key, number = identity(blueprint.name), len(inner) + 1
    return {
        "id": identity(f"{blueprint.name} blueprint"),
        "revision": 0,
        "last_node_id": number,
        "last_link_id": 0,
        "nodes": [_outer(blueprint, key, number, entries, inner, describe)],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [_definition(blueprint, key, inner, entries, describe)]},
        "extra": {"BlueprintSearchAliases": list(blueprint.aliases)},
    }


@dataclass(frozen=True)
class Entry:
    """One input of the subgraph: the slot that it leads to, and its label."""

    node: Node
    slot: Slot
    label: str
    type: str


def _entries(blueprint: Blueprint, inner: list[Node], describe: Describe) -> Iterator[Entry]:
    wiring = Wiring([replace(node, inputs=_unlinked(node)) for node in inner], describe)
    for name, field, label in blueprint.inputs:
        node = next(node for node in inner if node.name == name)
        slot = next(slot for slot in wiring.inputs(node) if slot.name == field)
        yield Entry(node, slot, label, slot.type if slot.is_widget else "IMAGE")


def _unlinked(node: Node) -> dict[str, Any]:
    return {name: value for name, value in node.inputs.items() if not isinstance(value, Link)}


def _outer(
    blueprint: Blueprint, key: str, number: int, entries: list[Entry], inner: list[Node], describe: Describe
) -> dict[str, Any]:
    numbers = {node.name: str(position) for position, node in enumerate(inner, 1)}
    fields = [entry for entry in entries if entry.slot.is_widget]
    shown = [[numbers[entry.node.name], entry.slot.name] for entry in fields]
    kinds = _output_types(blueprint, inner, entries, describe)
    return {
        "id": number,
        "type": key,
        "pos": [0, 0],
        "size": [400, 120 + 30 * len(entries)],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [_outer_input(entry) for entry in entries],
        "outputs": [{"name": name, "type": kind, "links": []} for name, kind in kinds.items()],
        "properties": {
            "proxyWidgets": shown,
            "cnr_id": PACK,
            "ver": PACK_VERSION,
        },
        "widgets_values": [],
        "title": blueprint.name,
    }


def _outer_input(entry: Entry) -> dict[str, Any]:
    written: dict[str, Any] = {"name": entry.label, "type": entry.type, "link": None}
    return {**written, "widget": {"name": entry.label}} if entry.slot.is_widget else written


def _wiring(inner: list[Node], entries: list[Entry], describe: Describe) -> Wiring:
    outside = {(entry.node.name, entry.slot.name): (i, entry.type) for i, entry in enumerate(entries)}
    return Wiring(inner, describe, outside)


def _output_types(blueprint: Blueprint, inner: list[Node], entries: list[Entry], describe: Describe) -> dict[str, str]:
    wiring = _wiring(inner, entries, describe)
    return {
        name: wiring.output_types(link.node)[output_slot(describe(wiring.types[link.node]), link)]
        for name, link in blueprint.outputs.items()
    }


def _definition(
    blueprint: Blueprint, key: str, inner: list[Node], entries: list[Entry], describe: Describe
) -> dict[str, Any]:
    wiring = _wiring(inner, entries, describe)
    kinds = _output_types(blueprint, inner, entries, describe)
    leaving = list(_leaving(blueprint, wiring, kinds))
    names = {node.name for node in inner}
    groups = [Group(g.title, g.column, tuple(n for n in g.nodes if n.name in names)) for g in blueprint.graph.groups]
    boxes, frames = place([group for group in groups if group.nodes], describe)
    right = max(box.at[0] + box.size[0] for box in boxes.values()) + 120
    wires = [*wiring.wires, *leaving]
    return {
        "id": key,
        "version": 1,
        "state": {"lastGroupId": len(frames), "lastNodeId": len(inner), "lastLinkId": len(wires), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": blueprint.name,
        "category": CATEGORY,
        "description": blueprint.description,
        "inputNode": {"id": ENTRY, "bounding": [-260, 0, 160, 40 + 20 * len(entries)]},
        "outputNode": {"id": EXIT, "bounding": [right, 0, 120, 40 + 20 * len(leaving)]},
        "inputs": [_port(blueprint.name, "in", i, e.label, e.type, wires, ENTRY) for i, e in enumerate(entries)],
        "outputs": [_port(blueprint.name, "out", i, n, k, wires, EXIT) for i, (n, k) in enumerate(kinds.items())],
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
        number, slot = len(wiring.wires) + 1 + position, output_slot(wiring.describe(wiring.types[link.node]), link)
        yield Wire(number, wiring.numbers[link.node], slot, EXIT, position, kinds[name])


def _leaving_from(leaving: list[Wire], number: int) -> dict[int, list[int]]:
    slots = {wire.origin_slot for wire in leaving if wire.origin == number}
    return {slot: [w.id for w in leaving if (w.origin, w.origin_slot) == (number, slot)] for slot in slots}


def _port(owner: str, side: str, position: int, name: str, kind: str, wires: list[Wire], end: int) -> dict[str, Any]:
    """Return one input or output of the subgraph, with the links that meet there."""
    if end == ENTRY:
        ids = [wire.id for wire in wires if (wire.origin, wire.origin_slot) == (ENTRY, position)]
    else:
        ids = [wire.id for wire in wires if (wire.target, wire.target_slot) == (EXIT, position)]
    return {"id": identity(f"{owner}/{side}/{name}"), "name": name, "type": kind, "linkIds": ids}
