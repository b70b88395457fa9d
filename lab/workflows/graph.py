"""A graph before it is written in one of ComfyUI's formats: nodes by name, in titled groups, with notes.

The slots and widgets of a node are read from the host's /object_info, so that they are not typed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Value = str | int | float | bool


class Link(NamedTuple):
    """An input that comes from another node's output; an empty name means its first output."""

    node: str
    output: str = ""


@dataclass(frozen=True)
class Node:
    """One node: `inputs` holds what is set, by input name; what it leaves out keeps the host's default.

    `after` is what happens to a seed after each run in the browser: fixed, randomize, increment or decrement.
    """

    name: str
    type: str
    inputs: Mapping[str, Value | Link] = field(default_factory=dict)
    title: str = ""
    after: str = "fixed"


def node(name: str, type: str, title: str = "", /, **inputs: Value | Link) -> Node:
    """Return a node with these inputs."""
    return Node(name, type, inputs, title)


@dataclass(frozen=True)
class Group:
    """Nodes that stand one below the other under a title; groups of a column stand one below the other too.

    `lower` is how many pixels the column starts below the others, so that wires pass above it.
    """

    title: str
    column: int
    nodes: tuple[Node, ...]
    lower: int = 0


@dataclass(frozen=True)
class Note:
    """A note for users, in Markdown, to the left of the graph."""

    title: str
    text: str


@dataclass(frozen=True)
class Graph:
    """One graph: `slug` names its posted form, `name` the form that people open.

    `app` lists the fields that newer frontends show in app mode, as "node.field", with the pictures of the node `save`.
    """

    slug: str
    name: str
    groups: tuple[Group, ...]
    notes: tuple[Note, ...] = ()
    app: tuple[str, ...] = ()

    def nodes(self) -> Iterator[Node]:
        """Yield the nodes in the order of the groups, each after those that it needs."""
        for group in self.groups:
            yield from group.nodes


@dataclass(frozen=True)
class Blueprint:
    """A graph as one box: `inputs` map labels to the ends inside, `outputs` names to links inside.

    The ends of an input are written "node.field node.field". In a graph, a box is a node whose type is the blueprint's
    name.
    """

    name: str
    description: str
    aliases: tuple[str, ...]
    groups: tuple[Group, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, Link]

    def nodes(self) -> Iterator[Node]:
        """Yield the nodes inside, each after those that it needs."""
        for group in self.groups:
            yield from group.nodes

    def ends(self, label: str) -> list[tuple[str, str]]:
        """List the ends of an input inside, each as (node, field)."""
        return [(name, field) for name, _, field in (end.partition(".") for end in self.inputs[label].split())]


Definition = Mapping[str, Any]
Describe = Callable[[str], Definition]

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
MATCHED = "COMFY_MATCHTYPE_V3"


@dataclass(frozen=True)
class Slot:
    """One input of a node: `type` as the frontend writes it, `options` as the host gave them."""

    name: str
    type: str
    optional: bool
    options: Mapping[str, Any]

    @property
    def is_widget(self) -> bool:
        """Return whether the frontend draws a field for it."""
        return self.type in WIDGETS and not self.options.get("forceInput", False)

    def followers(self, after: str) -> list[str]:
        """List the values of the fields that the frontend adds behind this one."""
        return [after] if self.options.get("control_after_generate") else []

    @property
    def ending(self) -> list[str]:
        """List the values of the fields that the frontend adds behind all others: its button for uploads."""
        return ["image"] if self.options.get("image_upload") else []


def slots(definition: Definition, node: Node) -> list[Slot]:
    """List the inputs of a node in the host's order; those of a chosen option follow their choice."""
    found: list[Slot] = []
    for section in ("required", "optional"):
        inputs = definition["input"].get(section, {})
        for name in definition["input_order"].get(section, []):
            found += _slots_of(name, inputs[name], section == "optional", node)
    return found


def _slots_of(name: str, described: list[Any], optional: bool, node: Node) -> Iterator[Slot]:
    kind, options = described[0], described[1] if len(described) > 1 else {}
    if isinstance(kind, list):
        kind, options = "COMBO", {**options, "options": kind}
    yield Slot(name, kind, optional, options)
    if kind != "COMFY_DYNAMICCOMBO_V3":
        return
    chosen = next(option for option in options["options"] if option["key"] == node.inputs[name])
    for section in ("required", "optional"):
        for child, inner in chosen["inputs"].get(section, {}).items():
            yield from _slots_of(f"{name}.{child}", inner, section == "optional", node)


def value(slot: Slot, node: Node) -> Value:
    """Return the value in the widget of a slot.  Raises KeyError if neither the graph nor the host gives it."""
    given = node.inputs.get(slot.name)
    if given is not None and not isinstance(given, Link):
        return given
    if "default" in slot.options:
        return slot.options["default"]
    blank = {"STRING": "", "INT": 0, "FLOAT": 0.0, "BOOLEAN": False}
    if isinstance(given, Link) and slot.type in blank:
        return blank[slot.type]
    raise KeyError(f"{node.name} ({node.type}): {slot.name}: expected a value, got none and no default.")


def output_slot(definition: Definition, link: Link) -> int:
    """Return the number of the output that a link names.  Raises ValueError if there is none."""
    return list(definition["output_name"]).index(link.output) if link.output else 0
