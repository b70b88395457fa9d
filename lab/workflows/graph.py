"""What a graph is, before it is written in any of ComfyUI's formats: nodes by name, in titled groups, with notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

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


@dataclass(frozen=True)
class Group:
    """Nodes that stand one below the other under a title; groups of a column stand one below the other too."""

    title: str
    column: int
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Note:
    """Words for people, in Markdown, left of the graph."""

    title: str
    text: str


@dataclass(frozen=True)
class Graph:
    """One graph: `slug` names its posted form, `name` the form that people open."""

    slug: str
    name: str
    groups: tuple[Group, ...]
    notes: tuple[Note, ...] = ()

    def nodes(self) -> Iterator[Node]:
        """Yield the nodes in the order of the groups."""
        for group in self.groups:
            yield from group.nodes

    def needed(self, wanted: set[str], given: set[Link]) -> list[Node]:
        """List the nodes that `wanted` nodes need, themselves included, if the outputs `given` come from elsewhere."""
        by_name = {node.name: node for node in self.nodes()}
        found: set[str] = set()
        open_names = set(wanted)
        while open_names:
            name = open_names.pop()
            found.add(name)
            sources = {v.node for v in by_name[name].inputs.values() if isinstance(v, Link) and v not in given}
            open_names |= sources - found
        return [node for node in self.nodes() if node.name in found]
