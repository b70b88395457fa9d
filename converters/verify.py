"""Check a converted file against its source, tensor by tensor, without the block structure it was written with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import names
from .adapter import AdapterFile, Block, FusedLayer, Slab, open_adapter
from .convert import Reader, convertible, file_reader
from .errors import AdapterError
from .header import DTYPE_BYTES, Entry, read_header

_EPSILON = {"F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8, "F8_E4M3": 2.0**-4, "F8_E5M2": 2.0**-3}


@dataclass(frozen=True)
class Verified:
    """How a converted layer compares with its source: bit for bit, or by the largest relative difference."""

    layer: str
    parts: tuple[str, ...]
    exact: bool
    difference: float


def verify(source: Path | str, result: Path | str) -> tuple[Verified, ...]:
    """Compare the deltas of a source and its converted file, layer by layer.

    The factors are read from where the table of layers says they must be, everything beside them must be zero, so
    equal factors are equal deltas. Raises AdapterError naming the first layer that differs by more than one rounding.
    """
    source, result = Path(source), Path(result)
    adapter = convertible(source, allow_unused=True)
    if not open_adapter(result).converted:
        raise AdapterError(
            f"{result}: omnix_blocks: expected a converted file, got none in its metadata; convert again."
        )
    entries = read_header(result).entries
    _check_names(adapter, result, entries)
    with open(source, "rb", buffering=0) as first, open(result, "rb", buffering=0) as second:
        read, check = file_reader(first, source), file_reader(second, result)
        return tuple(_layer(adapter, layer, result, entries, read, check) for layer in adapter.layers)


def _check_names(adapter: AdapterFile, result: Path, entries: Mapping[str, Entry]) -> None:
    want = {key for layer in adapter.layers for key in names.fused_keys(layer)}
    for key in sorted(want ^ set(entries)):
        state = ("a tensor", "none") if key in want else ("no such tensor", "one")
        raise AdapterError(f"{result}: {key}: expected {state[0]} as in the source, got {state[1]}; convert it again.")


def _layer(
    adapter: AdapterFile, layer: str, result: Path, entries: Mapping[str, Entry], read: Reader, check: Reader
) -> Verified:
    fused = adapter.layers[layer]
    down, up = (_slab(entries, key) for key in names.fused_keys(layer))
    rank = sum(block.rank for block in fused.blocks)
    if (down.rows, down.columns, up.rows, up.columns) != (rank, fused.columns, fused.rows, rank):
        got = f"down [{down.rows}, {down.columns}], up [{up.rows}, {up.columns}]"
        want = f"down [{rank}, {fused.columns}], up [{fused.rows}, {rank}]"
        raise AdapterError(f"{result}: {layer}: expected {want}, got {got}; convert it again.")
    found = check(up)
    rebuilt, differences, column = bytearray(len(found)), [], 0
    for block in fused.blocks:
        own = down._replace(rows=block.rank, offset=down.offset + column * down.stride)
        differences.append(_difference(read(block.down), block.down.dtype, 1.0, check(own), down.dtype))
        data = _cut(found, block, up, column)
        _paste(rebuilt, data, block, up, column)
        differences.append(_difference(b"".join(map(read, block.up)), block.up[0].dtype, block.scale, data, up.dtype))
        column += block.rank
    if bytes(rebuilt) != found:
        raise AdapterError(f"{result}: {layer}: expected zeros beside the blocks, got other values; convert it again.")
    return _judged(layer, fused, result, max(differences, default=0.0), down.dtype)


def _slab(entries: Mapping[str, Entry], key: str) -> Slab:
    dtype, (rows, columns), offset = entries[key]
    return Slab(dtype, rows, columns, offset, columns * DTYPE_BYTES[dtype], key)


def _rows(block: Block, up: Slab, column: int) -> tuple[range, int]:
    size = DTYPE_BYTES[up.dtype]
    first = block.row * up.stride + column * size
    return range(first, first + block.rows * up.stride, up.stride) if up.stride else range(0), block.rank * size


def _cut(data: bytes, block: Block, up: Slab, column: int) -> bytes:
    starts, width = _rows(block, up, column)
    return b"".join([data[start : start + width] for start in starts])


def _paste(data: bytearray, own: bytes, block: Block, up: Slab, column: int) -> None:
    starts, width = _rows(block, up, column)
    for number, start in enumerate(starts):
        data[start : start + width] = own[number * width : (number + 1) * width]


def _difference(source: bytes, source_dtype: str, scale: float, result: bytes, result_dtype: str) -> float:
    if scale == 1.0 and source_dtype == result_dtype:
        return 0.0 if source == result else float("inf")
    from .arithmetic import relative_difference

    return relative_difference((source, source_dtype, scale), (result, result_dtype, 1.0))


def _judged(layer: str, fused: FusedLayer, result: Path, difference: float, dtype: str) -> Verified:
    if difference > _EPSILON[dtype]:
        raise AdapterError(
            f"{result}: {layer}: expected the source's delta within one rounding to {dtype}, got a relative difference of "
            f"{difference:.1e}; convert it again."
        )
    return Verified(layer, tuple(block.part for block in fused.blocks), difference == 0.0, difference)
