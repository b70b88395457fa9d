"""Where nodes stand in the browser: groups in columns from left to right, nodes one below the other. Pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .definitions import Describe, slots
from .graph import Group, Node, Note

WIDTH, GAP, MARGIN, TITLE = 330, 50, 30, 60
SLOT, FIELD, TEXT_FIELD, HEAD = 22, 28, 110, 40
COLUMN_GAP, GROUP_GAP = 70, 60
NOTE_WIDTH, NOTE_LINE, NOTE_LETTERS = 520, 21, 80
COLOURS = ("#3f789e", "#8a5f2f", "#3f6e4a", "#6d4a8a", "#88414a")
# Nodes that show something: (width, height added to what slots and fields need).
SHOWING = {
    "GetImageSize": (WIDTH, 60),
    "LoadImage": (WIDTH, 260),
    "SaveImage": (WIDTH, 200),
    "SaveImageAdvanced": (WIDTH, 200),
    "PreviewImage": (WIDTH, 200),
    "OmniXPanoramaViewer": (720, 400),
}


@dataclass(frozen=True)
class Placed:
    """The place and size of a node."""

    at: tuple[int, int]
    size: tuple[int, int]


def size_of(node: Node, describe: Describe) -> tuple[int, int]:
    """Return width and height that hold a node's slots, fields and what it shows."""
    definition = describe(node.type)
    found = slots(definition, node)
    sockets = max(sum(not slot.is_widget for slot in found), len(definition["output"]))
    fields = [slot for slot in found if slot.is_widget]
    extra = sum(len(slot.followers("fixed")) for slot in fields)
    tall = sum(bool(slot.options.get("multiline")) for slot in fields)
    width, shown = SHOWING.get(node.type, (WIDTH, 0))
    return width, HEAD + sockets * SLOT + (len(fields) + extra) * FIELD + tall * TEXT_FIELD + shown


def place(groups: Sequence[Group], describe: Describe) -> tuple[dict[str, Placed], list[dict[str, Any]]]:
    """Return the place of every node by name, and the frames of the groups."""
    boxes: dict[str, Placed] = {}
    frames: list[dict[str, Any]] = []
    left = 0
    for column in sorted({group.column for group in groups}):
        stacked = [group for group in groups if group.column == column]
        sizes = {node.name: size_of(node, describe) for group in stacked for node in group.nodes}
        width = max(size[0] for size in sizes.values()) + 2 * MARGIN
        top = 0
        for group in stacked:
            found = dict(_stack(group, sizes, left + MARGIN, top + TITLE))
            bottom = max(box.at[1] + box.size[1] for box in found.values()) + MARGIN
            frames.append(_frame(len(frames), group.title, [left, top, width, bottom - top]))
            boxes |= found
            top = bottom + GROUP_GAP
        left += width + COLUMN_GAP
    return boxes, frames


def _stack(group: Group, sizes: Mapping[str, tuple[int, int]], x: int, y: int) -> Iterator[tuple[str, Placed]]:
    for node in group.nodes:
        yield node.name, Placed((x, y), sizes[node.name])
        y += sizes[node.name][1] + GAP


def _frame(index: int, title: str, bounding: list[int]) -> dict[str, Any]:
    colour = COLOURS[index % len(COLOURS)]
    return {"id": index + 1, "title": title, "bounding": bounding, "color": colour, "font_size": 24, "flags": {}}


def note_boxes(notes: Sequence[Note]) -> Iterator[tuple[Note, Placed]]:
    """Yield the notes with their places, left of the graph, one below the other."""
    top = 0
    for note in notes:
        lines = sum(1 + len(line) // NOTE_LETTERS for line in note.text.splitlines())
        height = 80 + NOTE_LINE * lines
        yield note, Placed((-NOTE_WIDTH - COLUMN_GAP, top), (NOTE_WIDTH, height))
        top += height + GROUP_GAP
