"""Read and write the header of a safetensors file with the standard library. Nothing in the file is trusted.

Format: 8 bytes little-endian N, N bytes of JSON {name: {dtype, shape, data_offsets}, "__metadata__": {str: str}}, data.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import AdapterError
from .strict_json import parsed

DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "C64": 8,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


_MOST_AXES = 64  # as many as any library makes


class Entry(NamedTuple):
    """One tensor: its dtype, its shape, and where its bytes start in the file (0 for a tensor in memory)."""

    dtype: str
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


class Header(NamedTuple):
    """The header of a safetensors file."""

    metadata: dict[str, str]
    entries: dict[str, Entry]


def read_header(path: Path) -> Header:
    """Read and check a file's header.  Raises AdapterError; OSError if the file can't be read."""
    check_ordinary(path)
    if part := _PART.search(path.stem):
        raise AdapterError(
            f"{path}: file: expected a whole adapter, got part {int(part[1])} of {int(part[2])}; "
            "merge the parts into one file first."
        )
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        text = _header_bytes(file, path, size)
    start = 8 + len(text)
    try:
        fields = parsed(text)
    except ValueError as error:
        raise _damaged(path, "header", "JSON", f"something else ({error})") from error
    if not isinstance(fields, dict):
        raise _damaged(path, "header", "a JSON object", type(fields).__name__)
    metadata = fields.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "__metadata__", "strings by name", "something else")
    spans = {name: _span(path, name, field) for name, field in fields.items()}
    _check_spans(path, spans, size - start)
    return Header(
        metadata, {name: Entry(dtype, shape, start + first) for name, (dtype, shape, first, _) in spans.items()}
    )


_PART = re.compile(r"-(\d{5})-of-(?!00001)(\d{5})$", re.ASCII)


def check_ordinary(path: Path) -> None:
    """Raise AdapterError for a pipe or device, OSError if nothing has this name."""
    kind = os.stat(path).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        raise AdapterError(f"{path}: file: expected an ordinary file, got a pipe or device; give a .safetensors file.")


_AGAIN = "download the file itself"
_SAVE = "save it as safetensors"
# First bytes of other file types, their names, and what to do. None of them can be the length of a header.
_BEGINNINGS: tuple[tuple[re.Pattern[bytes], str, str], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), name, advice)
    for pattern, name, advice in (
        (
            rb"version https?://git-lfs|version https?://hawser",
            "a Git LFS pointer, which is only a link to the file",
            "run git lfs pull",
        ),
        (rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|body)", "a web page", _AGAIN + ", not its page"),
        (rb"(\xef\xbb\xbf)?\s*<(\?xml|!--|[a-z])", "an XML text, probably an error page of a server", _AGAIN),
        (rb"PK\x03\x04.{0,300}(data\.pkl|\.data/|/version|byteorder)", "a pickle of PyTorch (.pt, .bin, .ckpt)", _SAVE),
        (rb"PK\x03\x04", "a zip archive", "unpack it"),
        (rb"\x80[\x02-\x05](.{0,10}[\x8a\x95cq}(\]Xu])", "a pickle of PyTorch (.pt, .bin, .ckpt)", _SAVE),
        (rb"GGUF|GGML|ggjt|lmgg", "a GGUF file", _SAVE),
        (rb"\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "a compressed archive", "unpack it"),
        (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF|%PDF|\x89HDF", "a file of another kind", "give a .safetensors file"),
        (rb"(\xef\xbb\xbf)?\s*[{\[][\s\"\[\]{}a-z]", "a JSON text", _AGAIN + ", not what describes it"),
        (rb"[\x09\x0a\x0d\x20-\x7e]{8,}\Z", "a text", _AGAIN),
    )
)


def _refuse_other_kinds(file: Any, path: Path) -> None:
    """Raise AdapterError for a file that begins like another file type."""
    file.seek(0)
    start = file.read(512)
    for pattern, name, advice in _BEGINNINGS:
        if pattern.match(start):
            raise AdapterError(f"{path}: file: expected a safetensors file, got {name}; {advice}.")


_LONGEST = 100_000_000
"""The longest header that the format allows, in bytes."""


def read_metadata(path: Path, key: str) -> dict[str, str]:
    """Return a file's metadata, or nothing if its header does not contain `key` (checked without parsing).

    Raises AdapterError, OSError as `read_header`.
    """
    with open(path, "rb") as file:
        text = _header_bytes(file, path, os.fstat(file.fileno()).st_size)
    return read_header(path).metadata if key.encode() in text else {}


def _header_bytes(file: Any, path: Path, size: int) -> bytes:
    prefix = file.read(8)
    if len(prefix) < 8:
        raise _damaged(path, "header", "at least 8 bytes", f"{len(prefix)}")
    (length,) = struct.unpack("<Q", prefix)
    if length > min(size - 8, _LONGEST):
        _refuse_other_kinds(file, path)
    if length > size - 8:
        raise _damaged(path, "header", f"at most {size - 8} bytes in a file of {size}", f"a length of {length}")
    if length > _LONGEST:
        raise AdapterError(
            f"{path}: header: expected at most {_LONGEST} bytes (the limit of the format), got a length of "
            f"{length}; save the adapter with less metadata."
        )
    return file.read(length)


def _span(path: Path, name: str, field: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Check one tensor's field; return dtype, shape, first and last byte in the data."""
    try:
        dtype, shape, (first, last) = field["dtype"], tuple(field["shape"]), field["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(path, name, "dtype, shape and data_offsets", "something else") from error
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise AdapterError(
            f"{path}: {name}: expected a dtype of {', '.join(FLOATS)}, got {dtype!r}; "
            "save the adapter in bfloat16, float16 or float32."
        )
    if len(shape) > _MOST_AXES or not all(
        type(number) is int and 0 <= number < 1 << 62 for number in (*shape, first, last)
    ):
        raise _damaged(path, name, "whole numbers as shape and offsets", f"{shape} at {first}, {last}")
    if math.prod(shape) * DTYPE_BYTES[dtype] != last - first:
        raise _damaged(path, name, f"{math.prod(shape) * DTYPE_BYTES[dtype]} bytes for {shape}", f"{last - first}")
    return dtype, shape, first, last


def _check_spans(path: Path, spans: Mapping[str, tuple[str, tuple[int, ...], int, int]], size: int) -> None:
    end = 0
    for name, (_, _, first, last) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if last > size:
            raise AdapterError(
                f"{path}: {name}: expected data up to byte {last}, got a file with {max(size, 0)}; "
                "the file is cut off, so download it again."
            )
        if first < end:
            raise _damaged(path, name, f"data from byte {end} on", f"byte {first}, inside another tensor")
        end = last


def _damaged(path: Path, key: str, expected: str, got: str) -> AdapterError:
    return AdapterError(f"{path}: {key}: expected {expected}, got {got}; the file is damaged, so download it again.")


def header_bytes(metadata: Mapping[str, str], entries: Mapping[str, Entry]) -> tuple[bytes, dict[str, int], int]:
    """Arrange tensors one after another; return the file's header, every tensor's offset, and the file's size.

    For tensors in `in_canonical_order`, the header equals that of safetensors' own writer, byte for byte.
    """
    fields: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, entry in entries.items():
        first, end = end, end + entry.size
        fields[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [first, end]}
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    offsets = {name: start + fields[name]["data_offsets"][0] for name in entries}
    return struct.pack("<Q", len(text)) + text, offsets, start + end


_ASCENDING = (
    *("BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16"),
    *("F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64"),
)
# safetensors' writer sorts by this, downwards, so that all data is aligned; then by name.
_RANK = {name: rank for rank, name in enumerate(_ASCENDING)}


def in_canonical_order(entries: Mapping[str, Entry]) -> list[str]:
    """Return the names of tensors in the order in which safetensors' own writer puts them."""
    return sorted(entries, key=lambda name: (-_RANK[entries[name].dtype], name.encode("utf-8", "replace")))
