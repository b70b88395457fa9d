"""Understand one adapter: the places of its blocks in ComfyUI's fused layers, and the places of their bytes.

Everything else is computed from this plan: the converted file, its inverse, and what the runtime multiplies by. Only
the header is read, and of the data the alphas alone.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import AdapterError
from ..files.header import DTYPE_BYTES, Entry, read_header
from . import names
from .dialects import CLIP, T5
from .fused import converted_plan
from .original import original_plan
from .plan import BLOCKS_KEY, AdapterFile, Alpha
from .recognise import Recognised, recognised
from .scales import APPLY, Adapted, Scaling, header_scaling, read_scaling


def open_adapter(path: Path | str, header_alpha: str | None = None) -> AdapterFile:
    """Read the plan of an adapter file, original or converted.  Raises AdapterError, or OSError.

    `header_alpha` "apply" lets a plain alpha in the header count, which ComfyUI ignores.
    """
    path = Path(path)
    header = read_header(path)
    found = recognised(header.entries, header.metadata)
    numbers = _read_numbers(path, header.entries, found)

    def scaling() -> Scaling:
        return read_scaling(path, header.metadata, _values(_alphas(numbers, found)), _adapted(header.entries, found))

    return _plan(path, header.metadata, header.entries, found, numbers, scaling, header_alpha)


def state_plan(
    path: Path,
    metadata: Mapping[str, str],
    entries: Mapping[str, Entry],
    data: Mapping[str, bytes],
    header_alpha: str | None = None,
) -> AdapterFile:
    """Plan a state dict, original or fused; `data` are the bytes of its `number_keys`.  Raises AdapterError."""
    found = recognised(entries, metadata)
    numbers = {key: alpha(path, key, entries[key], data[key]) for key in number_keys(found)}

    def scaling() -> Scaling:
        return header_scaling(path, metadata, _values(_alphas(numbers, found)), _adapted(entries, found))

    return _plan(path, metadata, entries, found, numbers, scaling, header_alpha)


def _plan(
    path: Path,
    metadata: Mapping[str, str],
    entries: Mapping[str, Entry],
    found: Recognised,
    numbers: Mapping[str, Alpha],
    scaling: Callable[[], Scaling],
    header_alpha: str | None,
) -> AdapterFile:
    alphas = _alphas(numbers, found)
    if BLOCKS_KEY in metadata and (found.fused or not found.places):
        return converted_plan(path, metadata, entries, found, alphas)
    scalings = {"": scaling()._replace(applies_flat=header_alpha == APPLY)}
    for encoder, component in ((CLIP, "text_encoder"), (T5, "text_encoder_2")):
        values = _values(alphas, encoder)
        scalings[encoder] = header_scaling(path, metadata, values, _adapted(entries, found), component)
    return original_plan(path, metadata, entries, found, numbers, scalings)


def _values(alphas: Mapping[str, Alpha], prefix: str = "") -> dict[str, float]:
    return {m.removeprefix(prefix): found.value for m, found in alphas.items() if m.startswith(prefix)}


def _adapted(entries: Mapping[str, Entry], found: Recognised) -> Adapted:
    named = {key: name for key, name in found.names.items() if name and name.module in found.places}
    ranks = {name.module: entries[key].shape[0] for key, name in named.items() if _is_down(name, entries[key])}
    return Adapted(tuple(entries), ranks)


def _is_down(name: names.Name, entry: Entry) -> bool:
    return name.role == names.DOWN and len(entry.shape) == 2


def number_keys(found: Recognised) -> list[str]:
    """List the tensors that are single numbers: alphas, also those of text encoders, and scales of the factors."""
    roles = (names.ALPHA, names.DOWN_SCALE, names.UP_SCALE)
    return [key for key, name in found.names.items() if name and name.role in roles]


def _alphas(numbers: Mapping[str, Alpha], found: Recognised) -> dict[str, Alpha]:
    """Return the alphas by layer."""
    named = ((found.names[key], number) for key, number in numbers.items())
    return {name.module: number for name, number in named if name and name.role == names.ALPHA}


def _read_numbers(path: Path, entries: Mapping[str, Entry], found: Recognised) -> dict[str, Alpha]:
    keys = number_keys(found)
    if not keys:
        return {}
    numbers = {}
    with open(path, "rb") as file:
        for key in keys:
            entry = entries[key]
            file.seek(entry.offset)
            data = file.read(entry.size) if math.prod(entry.shape) == 1 else b""
            numbers[key] = alpha(path, key, entry, data)
    return numbers


_UNQUANTISED = "the LoRA is quantised, so save it in bfloat16 or float16"
_SCALARS = {
    **{"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b"},
    **{"U64": "<Q", "U32": "<I", "U16": "<H", "U8": "<B"},
}
# Formats that are the upper bytes of a wider format, and the number of bytes that they lack.
_UPPER = {"BF16": ("<f", 2), "F8_E5M2": ("<e", 1)}


def _number(data: bytes, dtype: str) -> float:
    """Return the number in a tensor with one element."""
    if dtype in _UPPER:
        form, lacking = _UPPER[dtype]
        return float(struct.unpack(form, bytes(lacking) + data)[0])
    if dtype == "F8_E4M3":
        return _e4m3(data[0])
    return float(struct.unpack(_SCALARS[dtype], data)[0])


def _e4m3(byte: int) -> float:
    """Return a float8_e4m3fn: 4 bits of exponent with bias 7, 3 of mantissa, no infinity (arXiv 2209.05433)."""
    exponent, mantissa = byte >> 3 & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    size = math.ldexp(8 + mantissa, exponent - 10) if exponent else math.ldexp(mantissa, -9)
    return -size if byte & 128 else size


def alpha(path: Path, key: str, entry: Entry, data: bytes) -> Alpha:
    """Understand an alpha, a tensor of one finite number.  Raises AdapterError."""
    if math.prod(entry.shape) != 1 or entry.dtype not in (*_SCALARS, *_UPPER, "F8_E4M3"):
        what, advice = ("alpha", "repair the alpha") if key.endswith("alpha") else ("scale of a factor", _UNQUANTISED)
        raise AdapterError(
            f"{path}: {key}: expected one number as {what}, got {entry.dtype} {list(entry.shape)}; {advice}."
        )
    if len(data) != DTYPE_BYTES[entry.dtype]:
        raise AdapterError(
            f"{path}: {key}: expected the alpha's bytes, got the end of the file; download the file again."
        )
    value = _number(data, entry.dtype)
    if not math.isfinite(value):
        raise AdapterError(f"{path}: {key}: expected a finite number as alpha, got {value}; repair the alpha.")
    return Alpha(key, entry.dtype, entry.shape, data, value)
