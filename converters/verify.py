"""Check a converted file against its source, layer by layer, without the block structure it was written with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .convert import checked_original
from .errors import AdapterError
from .files.header import Entry, read_header
from .files.reading import Reader, chunks, reading
from .files.slab import Slab
from .fusing.copying import load_arithmetic
from .fusing.outputs import Change, change_due
from .lora import names
from .lora.adapter import open_adapter
from .lora.original import matrix
from .lora.plan import BLOCKS_KEY, AdapterFile, Block, FusedLayer


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
    are equal deltas, bit for bit; where arithmetic was due it is done again, and the factors must be equal to that.
    The blocks that a converted file tells must be these too. Raises AdapterError naming the first layer that differs.
    """
    source, result = Path(source), Path(result)
    adapter, converted = checked_original(open_adapter(source), allow_unused=True), open_adapter(result)
    with reading(source) as read, reading(result) as check:
        return compared(adapter, converted, read_header(result).entries, read, check)


def compared(
    adapter: AdapterFile, converted: AdapterFile, entries: Mapping[str, Entry], read: Reader, check: Reader
) -> tuple[Verified, ...]:
    """Compare an original with its converted form, of which `entries` are the tensors.  Raises AdapterError."""
    result = converted.path
    if not converted.fused:
        raise AdapterError(
            f"{result}: expected a file in ComfyUI's layout, got a FLUX.1 LoRA in Diffusers layout; convert it first."
        )
    _check_names(adapter.layers, result, entries)
    found = []
    for layer, fused in adapter.layers.items():
        pair = _Pair(*(matrix(result, entries, key) for key in names.fused_keys(layer)))
        _check_shapes(result, layer, fused, pair)
        if converted.converted:
            _check_blocks(result, layer, fused, converted.layers[layer])
        _check_zeros(result, layer, fused, pair.up, check)
        found.append(_verified(result, layer, fused, pair, read, check))
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


def _check_blocks(result: Path, layer: str, fused: FusedLayer, told: FusedLayer) -> None:
    """Refuse a structure in the metadata that is not the layer's: splitting and the runtime go by it."""
    want, got = ([(block.part, block.row, block.rows, block.rank) for block in each.blocks] for each in (fused, told))
    if got != want:
        raise AdapterError(f"{result}: {layer}: expected {want} in {BLOCKS_KEY}, got {got}; convert it again.")


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


def _verified(result: Path, layer: str, fused: FusedLayer, pair: _Pair, read: Reader, check: Reader) -> Verified:
    worst, exact, column = 0.0, True, 0
    for block in fused.blocks:
        own = _own(block, pair, column)
        column += block.rank
        down = _was_computed(f"{result}: {layer}", (block.down,), own.down, 1.0, read, check)
        up = _was_computed(f"{result}: {layer}", block.up, own.up, block.scale, read, check)
        if down or up:
            difference = _difference(result, block, own, read, check)
            exact, worst = exact and difference == 0.0, max(worst, difference)
    return Verified(layer, tuple(block.part for block in fused.blocks), exact, worst)


def _was_computed(where: str, slabs: Sequence[Slab], own: Slab, scale: float, read: Reader, check: Reader) -> bool:
    """Tell whether arithmetic was due for a factor.  Raises AdapterError if the result is not what came of it."""
    change = change_due(slabs, own.dtype, scale)
    if not _same(slabs, own, change, read, check):
        want = f"rounded once to {own.dtype}" if change else "bit for bit"
        raise AdapterError(f"{where}: expected the source's {slabs[0].key}, {want}, got other bytes; convert it again.")
    return change is not None


def _own(block: Block, pair: _Pair, column: int) -> _Pair:
    """Return where a block's factors must be in the result."""
    size = pair.up.stride // pair.up.columns if pair.up.columns else 0
    down = pair.down._replace(rows=block.rank, offset=pair.down.offset + column * pair.down.stride)
    offset = pair.up.offset + block.row * pair.up.stride + column * size
    return _Pair(down, pair.up._replace(rows=block.rows, columns=block.rank, offset=offset))


def _same(slabs: Sequence[Slab], own: Slab, change: Change | None, read: Reader, check: Reader) -> bool:
    """Tell whether a factor of the result is the source's, given as matrices one above the other."""
    row = 0
    for slab in slabs:
        theirs = own._replace(rows=slab.rows, offset=own.offset + row * own.stride)
        stride = max(slab.stride, own.stride)
        row += slab.rows
        for part, other in zip(chunks(slab, stride), chunks(theirs, stride), strict=True):
            data = read(part)
            want = load_arithmetic(slab.key).changed(slab.key, data, part, change).data if change else data
            if want != check(other):
                return False
    return True


def _difference(where: Path, block: Block, own: _Pair, read: Reader, check: Reader) -> float:
    numbers = load_arithmetic(f"{where}: {block.up[0].key}")
    up = b"".join(map(read, block.up))
    first = numbers.factors((up, block.up[0].dtype), (read(block.down), block.down.dtype), block.rank, block.scale)
    second = numbers.factors((check(own.up), own.up.dtype), (check(own.down), own.down.dtype), block.rank)
    return float(numbers.delta_difference(first, second))
