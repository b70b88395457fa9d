"""Check a converted file against its source, layer by layer, without the block structure it was written with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from . import names
from .adapter import open_adapter
from .convert import convertible
from .copying import load_arithmetic
from .errors import AdapterError
from .header import Entry, read_header
from .original import matrix
from .plan import Block, FusedLayer, Slab
from .reading import Reader, chunks, reading

# Largest relative difference of a delta whose two factors were each rounded once.
_TOLERANCE = {
    "F64": 2.0**-51,
    "F32": 2.0**-22,
    "F16": 2.0**-10,
    "BF16": 2.0**-7,
    "F8_E4M3": 2.0**-3,
    "F8_E5M2": 2.0**-2,
}


class Verified(NamedTuple):
    """How a converted layer compares with its source: bit for bit, or by the relative difference of the deltas."""

    layer: str
    parts: tuple[str, ...]
    exact: bool
    difference: float


class _Pair(NamedTuple):
    """The factors of a fused layer as they stand in the result."""

    down: Slab
    up: Slab


def verify(source: Path | str, result: Path | str) -> tuple[Verified, ...]:
    """Compare the deltas of a source and its converted file, layer by layer.

    Factors are looked for where the table of layers says they must be, and all beside them must be zero. Equal factors
    are equal deltas, bit for bit; where arithmetic was due the deltas are computed in float64. Raises AdapterError
    naming the first layer that differs by more than one rounding of each factor.
    """
    source, result = Path(source), Path(result)
    adapter = convertible(source, allow_unused=True)
    if not open_adapter(result).fused:
        raise AdapterError(
            f"{result}: expected a file in ComfyUI's layout, got a FLUX.1 LoRA in Diffusers layout; convert it first."
        )
    entries = read_header(result).entries
    _check_names(adapter.layers, result, entries)
    with reading(source) as read, reading(result) as check:
        found = []
        for layer, fused in adapter.layers.items():
            pair = _Pair(*(matrix(result, entries, key) for key in names.fused_keys(layer)))
            _check_shapes(result, layer, fused, pair)
            _check_zeros(result, layer, fused, pair.up, check)
            found.append(_compared(result, layer, fused, pair, read, check))
        return tuple(found)


def _check_names(layers: Mapping[str, FusedLayer], result: Path, entries: Mapping[str, Entry]) -> None:
    want = {key for layer in layers for key in names.fused_keys(layer)}
    for key in sorted(want ^ set(entries)):
        state = ("a tensor", "none") if key in want else ("no such tensor", "one")
        raise AdapterError(f"{result}: {key}: expected {state[0]} as in the source, got {state[1]}; convert it again.")


def _check_shapes(result: Path, layer: str, fused: FusedLayer, pair: _Pair) -> None:
    down, up = pair
    if (down.rows, down.columns, up.rows, up.columns) != (fused.rank, fused.columns, fused.rows, fused.rank):
        got = f"down [{down.rows}, {down.columns}], up [{up.rows}, {up.columns}]"
        want = f"down [{fused.rank}, {fused.columns}], up [{fused.rows}, {fused.rank}]"
        raise AdapterError(f"{result}: {layer}: expected {want}, got {got}; convert it again.")


def _check_zeros(result: Path, layer: str, fused: FusedLayer, up: Slab, check: Reader) -> None:
    """Refuse an up factor that has anything beside its blocks."""
    size = up.stride // up.columns if up.columns else 0
    taken, column = [], 0
    for block in fused.blocks:
        taken.append((block.row, block.row + block.rows, column * size, (column + block.rank) * size))
        column += block.rank
    for first, last, left, right in _gaps(taken, up.rows, up.stride):
        rest = up._replace(
            rows=last - first, columns=(right - left) // max(size, 1), offset=up.offset + first * up.stride + left
        )
        for part in chunks(rest):
            data = check(part)
            if data != bytes(len(data)):
                raise AdapterError(
                    f"{result}: {layer}: expected zeros beside the blocks, got other values in rows {first} to "
                    f"{last - 1}; convert it again."
                )


def _gaps(taken: list[tuple[int, int, int, int]], rows: int, width: int) -> list[tuple[int, int, int, int]]:
    """List the rectangles (first row, last row, left, right) of a matrix that blocks in row order leave free."""
    gaps, row = [], 0
    for first, last, left, right in taken:
        gaps += [(row, first, 0, width), (first, last, 0, left), (first, last, right, width)]
        row = last
    gaps.append((row, rows, 0, width))
    return [gap for gap in gaps if gap[0] < gap[1] and gap[2] < gap[3]]


def _compared(result: Path, layer: str, fused: FusedLayer, pair: _Pair, read: Reader, check: Reader) -> Verified:
    worst, column = 0.0, 0
    for block in fused.blocks:
        own = _own(block, pair, column)
        column += block.rank
        same = _same(block.down, own.down, read, check) and _same_up(block, own.up, read, check)
        due = block.scale != 1.0 or any(a.dtype != b.dtype for a, b in zip((block.down, *block.up), (own.down, own.up)))
        difference = _difference(result, block, own, read, check) if due else 0.0
        if difference > max(_TOLERANCE[own.down.dtype], _TOLERANCE[own.up.dtype]) or not (same or due):
            want = f"rounded to {own.up.dtype}" if due else "bit for bit"
            got = f"a relative difference of {difference:.1e}" if due else "other bytes"
            raise AdapterError(
                f"{result}: {layer}: expected the source's {block.part}, {want}, got {got}; convert it again."
            )
        worst = max(worst, difference)
    return Verified(layer, tuple(block.part for block in fused.blocks), worst == 0.0, worst)


def _own(block: Block, pair: _Pair, column: int) -> _Pair:
    """Return where a block's factors must be in the result."""
    size = pair.up.stride // pair.up.columns if pair.up.columns else 0
    down = pair.down._replace(rows=block.rank, offset=pair.down.offset + column * pair.down.stride)
    offset = pair.up.offset + block.row * pair.up.stride + column * size
    return _Pair(down, pair.up._replace(rows=block.rows, columns=block.rank, offset=offset))


def _same(first: Slab, second: Slab, read: Reader, check: Reader) -> bool:
    if first.dtype != second.dtype:
        return False
    stride = max(first.stride, second.stride)
    return all(read(a) == check(b) for a, b in zip(chunks(first, stride), chunks(second, stride), strict=True))


def _same_up(block: Block, up: Slab, read: Reader, check: Reader) -> bool:
    row, same = 0, True
    for slab in block.up:
        same = same and _same(slab, up._replace(rows=slab.rows, offset=up.offset + row * up.stride), read, check)
        row += slab.rows
    return same


def _difference(where: Path, block: Block, own: _Pair, read: Reader, check: Reader) -> float:
    numbers = load_arithmetic(f"{where}: {block.up[0].key}")
    up = b"".join(map(read, block.up))
    first = numbers.factors((up, block.up[0].dtype), (read(block.down), block.down.dtype), block.rank, block.scale)
    second = numbers.factors((check(own.up), own.up.dtype), (check(own.down), own.down.dtype), block.rank)
    return float(numbers.delta_difference(first, second))
