"""Understand one adapter: which blocks lie where in ComfyUI's fused layers, and where their bytes are.

Everything else is computed from this plan: the converted file, its inverse, and what the runtime multiplies by. Only
the header is read, and of the data the alphas alone.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

from ..errors import AdapterError
from ..files.header import DTYPE_BYTES, Entry, read_header
from . import names
from .fused import fused_plan, is_fused
from .original import original_plan
from .plan import AdapterFile, Alpha
from .scales import header_scaling, read_scaling


def open_adapter(path: Path | str) -> AdapterFile:
    """Read the plan of an adapter file, original or converted.  Raises AdapterError, or OSError."""
    path = Path(path)
    header = read_header(path)
    alphas = _read_alphas(path, header.entries)
    if is_fused(header.entries):
        return fused_plan(path, header.metadata, header.entries, alphas)
    scaling = read_scaling(path, header.metadata, {module: alpha.value for module, alpha in alphas.items()})
    return original_plan(path, header.metadata, header.entries, alphas, scaling)


def state_plan(
    path: Path, metadata: Mapping[str, str], entries: Mapping[str, Entry], data: Mapping[str, bytes]
) -> AdapterFile:
    """Plan a state dict in memory, original or fused; `data` are the bytes of its alphas.  Raises AdapterError."""
    alphas = {
        names.without_prefix(_layer(key)): alpha(path, key, entries[key], data[key]) for key in alpha_keys(entries)
    }
    if is_fused(entries):
        return fused_plan(path, metadata, entries, alphas)
    scaling = header_scaling(path, metadata, {module: found.value for module, found in alphas.items()})
    return original_plan(path, metadata, entries, alphas, scaling)


def alpha_keys(entries: Mapping[str, Entry]) -> list[str]:
    """Return the names of a file's alpha tensors."""
    return [key for key in entries if (name := names.parse(key)) and name.role == names.ALPHA]


def _layer(key: str) -> str:
    return key.removesuffix(".alpha")


def _read_alphas(path: Path, entries: Mapping[str, Entry]) -> dict[str, Alpha]:
    keys = alpha_keys(entries)
    if not keys:
        return {}
    found = {}
    with open(path, "rb") as file:
        for key in keys:
            entry = entries[key]
            file.seek(entry.offset)
            data = file.read(entry.size) if math.prod(entry.shape) == 1 else b""
            found[names.without_prefix(_layer(key))] = alpha(path, key, entry, data)
    return found


_SCALARS = {
    **{"F64": "<d", "F32": "<f", "F16": "<e"},
    **{"I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b", "U8": "<B"},
}


def alpha(path: Path, key: str, entry: Entry, data: bytes) -> Alpha:
    """Understand an alpha, a tensor of one finite number.  Raises AdapterError."""
    if math.prod(entry.shape) != 1 or entry.dtype not in (*_SCALARS, "BF16"):
        raise AdapterError(
            f"{path}: {key}: expected one number as alpha, got {entry.dtype} {list(entry.shape)}; repair the alpha."
        )
    if len(data) != DTYPE_BYTES[entry.dtype]:
        raise AdapterError(f"{path}: {key}: expected the alpha's bytes, got the end of the file; get the file again.")
    if entry.dtype == "BF16":
        value = struct.unpack("<f", b"\0\0" + data)[0]
    else:
        value = float(struct.unpack(_SCALARS[entry.dtype], data)[0])
    if not math.isfinite(value):
        raise AdapterError(f"{path}: {key}: expected a finite number as alpha, got {value}; repair the alpha.")
    return Alpha(key, entry.dtype, entry.shape, data, value)
