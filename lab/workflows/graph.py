"""A graph before it is written in one of ComfyUI's formats: nodes by name, in titled groups, with notes."""

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
class App:
    """The contents of app mode in newer frontends: inputs as (node, field), and the nodes whose pictures are shown."""

    inputs: tuple[tuple[str, str], ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """One graph: `slug` names its posted form, `name` the form that people open."""

    slug: str
    name: str
    groups: tuple[Group, ...]
    notes: tuple[Note, ...] = ()
    app: App = App()

    def nodes(self) -> Iterator[Node]:
        """Yield the nodes in the order of the groups."""
        for group in self.groups:
            yield from group.nodes


@dataclass(frozen=True)
class Blueprint:
    """A graph as one box: `inputs` map labels to the (node, input) ends inside, `outputs` names to links inside.

    In a graph, a box is a node whose type is the blueprint's name.
    """

    name: str
    description: str
    aliases: tuple[str, ...]
    groups: tuple[Group, ...]
    inputs: Mapping[str, tuple[tuple[str, str], ...]]
    outputs: Mapping[str, Link]

    def nodes(self) -> Iterator[Node]:
        """Yield the nodes inside, each after those that it needs."""
        for group in self.groups:
            yield from group.nodes
