"""Read the header of an OpenEXR file: its size, which channels are the picture, and whether the file is complete.

PyAV alone is not enough: it decodes half a file as half a picture, and channels named X, Y, Z as colours, without a
warning.
Layout (openexr.com, OpenEXR File Layout): magic, version and flags, headers, a table of offsets, and one block of
pixels at each of them.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

MAGIC = b"v/1\x01"
TILED, DEEP, PARTS = 0x200, 0x800, 0x1000
UINT = 0
"""The pixel type of integers, which are ids and not light."""
FIRST_READ = 1 << 16
# Layers in which renderers store the finished picture, best first; "" means channels without a layer.
PICTURES = ("", "composite.combined", "combined", "rgba", "rgb", "beauty", "composite", "image", "color", "colour")


class Part(NamedTuple):
    """One part of a file: channels by name with their pixel types, and (height, width) of the display window."""

    name: str
    channels: dict[str, int]
    size: tuple[int, int]
    tiled: bool
    header: bytes
    blocks: int
    """The number of blocks; only files with several parts store it."""
    primaries: tuple[float, ...]
    """x and y of red, green, blue and white; empty if the file has none, which means Rec. 709 as in sRGB."""


class Layer(NamedTuple):
    """Where the picture is: the number of the part, and the prefix of its channels' names."""

    part: int
    prefix: str
    channels: tuple[str, ...]
    size: tuple[int, int]
    primaries: tuple[float, ...]


def picture_layer(file: BinaryIO) -> Layer:
    """Choose the channels that are the picture.  Raises ValueError (the end of a sentence) if the choice is not clear.

    The picture is R, G, B (and A), or Y alone: without a layer, in a layer of `PICTURES`, or in the only layer.
    """
    flags, parts, _ = _header(file)
    if flags & DEEP:
        raise ValueError("it has deep pixels; flatten it in the program that wrote it, or choose another file.")
    found = {key: layer for number, part in enumerate(parts) for key, layer in _layers(number, part, len(parts) > 1)}
    for name in PICTURES:
        for label, layer in found.items():
            if name in (label, label.rpartition(".")[2]):
                return layer
    if len(found) == 1:
        return next(iter(found.values()))
    channels = [f"{part.name}: {channel}" if len(parts) > 1 else channel for part in parts for channel in part.channels]
    listed = ", ".join(channels[:24]) + (", ..." if len(channels) > 24 else "")
    which = "several layers with R, G and B" if found else "no channels R, G and B, or Y"
    raise ValueError(f"it has {which}; its channels are {listed}. Save the picture itself as R, G, B.")


def _layers(number: int, part: Part, several: bool) -> Iterator[tuple[str, Layer]]:
    """Yield the layers of a part that can be a picture, with their names in lower case."""
    known = {name.lower(): name for name in part.channels}
    for prefix in dict.fromkeys(name.rpartition(".")[0] for name in known):
        dotted = f"{prefix}." if prefix else ""
        chroma = {f"{dotted}{name}" for name in ("ry", "by", "x", "z")} & known.keys()
        for names in ("rgb", "y"):
            wanted = [f"{dotted}{name}" for name in names]
            kinds = {part.channels[known[name]] for name in wanted if name in known}
            if all(name in known for name in wanted) and UINT not in kinds and not (names == "y" and chroma):
                own = known[wanted[0]].rpartition(".")[0]
                given = tuple(known[name] for name in (*wanted, f"{dotted}a") if name in known)
                yield (
                    prefix or (part.name.lower() if several else ""),
                    Layer(number, own, given, part.size, part.primaries),
                )
                break


def is_whole(file: BinaryIO) -> bool:
    """Return whether every block of pixels lies inside the OpenEXR file.  Deep files are not checked: True."""
    length = file.seek(0, 2)
    try:
        flags, parts, table = _header(file)
        return bool(flags & DEEP) or all(
            _end_of_block(file, offset, flags, parts) <= length for offset in _offsets(file, table, length)
        )
    except (struct.error, ValueError, IndexError):
        return False


def single_part(file: BinaryIO, number: int) -> bytes:
    """Return one part of a multi-part file as a file of its own, because PyAV decodes only the first part."""
    flags, parts, table = _header(file)
    part = parts[number]
    file.seek(table + 8 * sum(before.blocks for before in parts[:number]))
    offsets = struct.unpack(f"<{part.blocks}Q", file.read(8 * part.blocks))
    start = MAGIC + struct.pack("<I", (flags & ~PARTS & ~TILED) | (TILED if part.tiled else 0)) + part.header
    blocks: list[bytes] = []
    for offset in offsets:
        end = _end_of_block(file, offset, flags, parts)
        file.seek(offset + 4)  # after the number of the part
        blocks.append(file.read(end - file.tell()))
    places = itertools.accumulate(map(len, blocks[:-1]), initial=len(start) + 8 * len(blocks))
    return start + struct.pack(f"<{len(blocks)}Q", *places) + b"".join(blocks)


def _header(file: BinaryIO) -> tuple[int, list[Part], int]:
    """Return the flags, the parts, and where the table of offsets begins.  Raises ValueError, IndexError."""
    size, length = FIRST_READ, file.seek(0, 2)
    while True:
        file.seek(0)
        data = file.read(size)
        try:
            (flags,) = struct.unpack_from("<I", data, 4)
            return flags, *_parts(data, flags)
        except (struct.error, ValueError, IndexError):
            if size >= length:
                raise
            size *= 16


def _parts(data: bytes, flags: int) -> tuple[list[Part], int]:
    position, parts = 8, []
    while True:
        first = position
        attributes, position = _attributes(data, first)
        parts.append(_part(attributes, flags, data[first:position]))
        if not flags & PARTS:
            return parts, position
        if data[position] == 0:
            return parts, position + 1


def _attributes(data: bytes, position: int) -> tuple[dict[bytes, bytes], int]:
    """Return a header's attributes, and where it ends."""
    found: dict[bytes, bytes] = {}
    while data[position]:
        name_end = data.index(b"\0", position)
        type_end = data.index(b"\0", name_end + 1)
        (size,) = struct.unpack_from("<I", data, type_end + 1)
        found[data[position:name_end]] = data[type_end + 5 : type_end + 5 + size]
        position = type_end + 5 + size
    return found, position + 1


def _part(attributes: dict[bytes, bytes], flags: int, header: bytes) -> Part:
    data, position, channels = attributes.get(b"channels", b"\0"), 0, {}
    while data[position]:
        end = data.index(b"\0", position)
        (channels[data[position:end].decode("latin-1")],) = struct.unpack_from("<i", data, end + 1)
        position = end + 17  # type, linearity and reserved, sampling across and down
    left, top, right, bottom = struct.unpack("<4i", attributes.get(b"displayWindow", bytes(16)))
    tiled = attributes.get(b"type") == b"tiledimage" or (not flags & PARTS and bool(flags & TILED))
    name = attributes.get(b"name", b"").decode("latin-1")
    (blocks,) = struct.unpack("<i", attributes.get(b"chunkCount", bytes(4)))
    colours = attributes.get(b"chromaticities", b"")
    primaries = struct.unpack("<8f", colours) if colours else ()
    return Part(name, channels, (bottom - top + 1, right - left + 1), tiled, header, blocks, primaries)


def _offsets(file: BinaryIO, table: int, length: int) -> list[int]:
    """List the offsets of the blocks; the first block begins where the table ends.  An offset never written is 0."""
    offsets: list[int] = []
    first = length
    file.seek(table)
    while table < first:
        (offset,) = struct.unpack("<Q", file.read(8))
        offsets.append(offset)
        first, table = min(first, offset), table + 8
    if not first or not offsets:
        raise ValueError("an offset was never written.")
    return offsets


def _end_of_block(file: BinaryIO, offset: int, flags: int, parts: list[Part]) -> int:
    file.seek(offset)
    part = 0
    if flags & PARTS:
        (part,) = struct.unpack("<I", file.read(4))
        offset += 4
    offset += 16 if parts[part].tiled else 4
    file.seek(offset)
    (size,) = struct.unpack("<I", file.read(4))
    return offset + 4 + size
