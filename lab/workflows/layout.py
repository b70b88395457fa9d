"""The positions of nodes in the browser, in pixels: groups in columns from left to right, nodes below one another."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .graph import Describe, Group, Node, Note, slots

WIDTH, GAP, MARGIN, TITLE = 310, 50, 30, 60
VIEWER = 600
SLOT, FIELD, TEXT_FIELD, HEAD = 20, 26, 110, 40
COLUMN_GAP, GROUP_GAP = 70, 60
# Between columns of single boxes, wide enough for wires that go far up or down, and how much lower the second stands:
# the wire from the first to the third passes above it.
WIRES, BELOW_WIRES = 90, 60
# web/notes.css makes the letters of our notes 16 pixels high.
NOTE_WIDTH, NOTE_LINE, NOTE_LETTERS, CODE_LETTERS, PARAGRAPH, CODE_RIM = 600, 26, 70, 56, 6, 20
COLOURS = ("#3f789e", "#8a5f2f", "#3f6e4a", "#6d4a8a", "#88414a")
# Nodes that show something: (width, height added to what slots and fields need).
SHOWING = {
    "GetImageSize": (WIDTH, 60),
    "LoadImage": (WIDTH, 260),
    "OmniXLoadPanorama": (WIDTH, 280),
    "OmniXSavePanorama": (VIEWER, 280),
    "SaveImage": (WIDTH, 200),
    "SaveImageAdvanced": (WIDTH, 200),
    "PreviewImage": (WIDTH, 200),
    "PreviewAny": (VIEWER, 180),
    "SaveGLB": (VIEWER, 420),
    "OmniXPanoramaViewer": (VIEWER, 310),
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
    extra = sum(len([*slot.followers("fixed"), *slot.ending]) for slot in fields)
    tall = sum(bool(slot.options.get("multiline")) for slot in fields)
    width, shown = SHOWING.get(node.type, (WIDTH, 0))
    return width, HEAD + sockets * SLOT + (len(fields) + extra) * FIELD + tall * TEXT_FIELD + shown


def place(
    groups: Sequence[Group], describe: Describe, first: int = 1
) -> tuple[dict[str, Placed], list[dict[str, Any]]]:
    """Return the place of every node by name, and the frames of the groups from number `first` on.

    A group without a title has no frame.
    """
    boxes: dict[str, Placed] = {}
    frames: list[dict[str, Any]] = []
    left = 0
    for column in sorted({group.column for group in groups}):
        stacked = [group for group in groups if group.column == column]
        framed = any(group.title for group in stacked)
        margin, title = (MARGIN, TITLE) if framed else (0, 0)
        sizes = {node.name: size_of(node, describe) for group in stacked for node in group.nodes}
        width = max(size[0] for size in sizes.values()) + 2 * margin
        top = max(BELOW_WIRES if column == 1 and not framed else 0, *(group.lower for group in stacked))
        for group in stacked:
            found = dict(_stack(group, sizes, left + margin, top + title))
            bottom = max(box.at[1] + box.size[1] for box in found.values()) + margin
            if group.title:
                frames.append(_frame(first, len(frames), group.title, [left, top, width, bottom - top]))
            boxes |= found
            top = bottom + GROUP_GAP
        left += width + (COLUMN_GAP if framed else WIRES)
    return boxes, frames


def _stack(group: Group, sizes: Mapping[str, tuple[int, int]], x: int, y: int) -> Iterator[tuple[str, Placed]]:
    for node in group.nodes:
        yield node.name, Placed((x, y), sizes[node.name])
        y += sizes[node.name][1] + GAP


def _frame(first: int, index: int, title: str, bounding: list[int]) -> dict[str, Any]:
    colour = COLOURS[index % len(COLOURS)]
    return {"id": first + index, "title": title, "bounding": bounding, "color": colour, "font_size": 24, "flags": {}}


def note_boxes(notes: Sequence[Note]) -> Iterator[tuple[Note, Placed]]:
    """Yield the notes with their places, left of the graph, one below the other."""
    top = 0
    for note in notes:
        height = 20 + note_height(note.text)
        yield note, Placed((-NOTE_WIDTH - COLUMN_GAP, top), (NOTE_WIDTH, height))
        top += height + GROUP_GAP


def note_height(text: str) -> int:
    """Return how high a text is on the screen: addresses and stars are not seen, lines of code hold fewer letters."""
    height, code = 0, False
    for line in re.sub(r"\]\([^)]*\)|\*", "", text).splitlines():
        if line.startswith("```"):
            code, height = not code, height + CODE_RIM // 2
        else:
            letters = CODE_LETTERS if code else NOTE_LETTERS
            height += NOTE_LINE * math.ceil(len(line) / letters) + (0 if code else PARAGRAPH)
    return height
