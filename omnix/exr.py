"""Tell whether an OpenEXR file is whole: PyAV decodes half a file as half a picture, without a word.

Layout (openexr.com, OpenEXR File Layout): magic, version and flags, headers, a table of offsets, and one block of
pixels at each of them.
"""

from __future__ import annotations

import struct

MAGIC = b"v/1\x01"
TILED, DEEP, PARTS = 0x200, 0x800, 0x1000


def is_whole(data: bytes) -> bool:
    """Tell whether every block of pixels of an OpenEXR file lies within it.  Deep files are not told apart: True."""
    try:
        (flags,) = struct.unpack_from("<I", data, 4)
        if flags & DEEP:
            return True
        tiled, table = _headers(data, flags)
        return all(_end_of_block(data, offset, flags, tiled) <= len(data) for offset in _offsets(data, table))
    except (struct.error, ValueError, IndexError):
        return False


def _headers(data: bytes, flags: int) -> tuple[list[bool], int]:
    """Return whether each part is of tiles, and where the table of offsets begins."""
    position, parts = 8, []
    while True:
        kind, position = _header(data, position)
        parts.append(kind == b"tiledimage" or (not flags & PARTS and bool(flags & TILED)))
        if not flags & PARTS:
            return parts, position
        if data[position] == 0:
            return parts, position + 1


def _header(data: bytes, position: int) -> tuple[bytes, int]:
    """Return a header's type, if it tells one, and where it ends."""
    kind = b""
    while data[position]:
        name_end = data.index(b"\0", position)
        type_end = data.index(b"\0", name_end + 1)
        (size,) = struct.unpack_from("<I", data, type_end + 1)
        if data[position:name_end] == b"type":
            kind = data[type_end + 5 : type_end + 5 + size]
        position = type_end + 5 + size
    return kind, position + 1


def _offsets(data: bytes, table: int) -> list[int]:
    """List the offsets of the blocks; the first block begins where the table ends.  An offset never written is 0."""
    offsets: list[int] = []
    first = len(data)
    while table < first:
        (offset,) = struct.unpack_from("<Q", data, table)
        offsets.append(offset)
        first, table = min(first, offset), table + 8
    if not first or not offsets:
        raise ValueError("an offset was never written.")
    return offsets


def _end_of_block(data: bytes, offset: int, flags: int, tiled: list[bool]) -> int:
    part = 0
    if flags & PARTS:
        (part,) = struct.unpack_from("<I", data, offset)
        offset += 4
    offset += 16 if tiled[part] else 4
    (size,) = struct.unpack_from("<I", data, offset)
    return offset + 4 + size
