"""Check a converted file against its source, layer by layer, without relying on the block structure in its metadata."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .convert import checked_original
from .errors import AdapterError
from .files.header import DTYPE_BYTES, Entry, read_header
from .files.reading import PIECE, Reader, chunks, reading
from .files.slab import Slab
from .fusing.change import ROUNDING, Change, change_due, load_arithmetic
from .fusing.folding import Fold, beside, folded, lifted
from .lora import names
from .lora.adapter import open_adapter
from .lora.original import matrix
from .lora.plan import BLOCKS_KEY, HEADER_ALPHA_KEY, AdapterFile, Alpha, Block, FusedLayer, Kept
from .lora.scales import IGNORE


class Verified(NamedTuple):
    """Comparison of a converted layer with its source: equal bit for bit, or the relative difference of the deltas."""

    layer: str
    parts: tuple[str, ...]
    exact: bool
    difference: float


class Comparison(tuple[Verified, ...]):
    """The comparisons, layer by layer, then of the other tensors; and the tensors that the result left out."""

    unused: tuple[str, ...]
    """Tensors of the source that are not in the result, because their layers are not FLUX.1's."""

    def __new__(cls, layers: Sequence[Verified], unused: tuple[str, ...] = ()) -> Comparison:
        found = super().__new__(cls, layers)
        found.unused = unused
        return found


MOST_APART = 1e-2
"""The largest allowed relative difference of a delta from the source's; or the rounding of the result's dtype."""


class _Pair(NamedTuple):
    """The factors of a fused layer in the result."""

    down: Slab
    up: Slab


def verify(source: Path | str, result: Path | str) -> Comparison:
    """Compare the deltas of a source and its converted file, layer by layer.

    The factors must be where the table of layers requires them, and everything outside must be zero. Equal factors mean
    equal deltas, bit for bit. If the conversion needed arithmetic, it is done again: the factors must be equal to that
    result, and the deltas within MOST_APART of each other. The blocks in the converted file's metadata must match too.
    `unused` of the returned value names the tensors that are not in the result. Raises AdapterError that names the
    first layer that differs.
    """
    source, result = Path(source), Path(result)
    converted = open_adapter(result)
    header_alpha = converted.metadata.get(HEADER_ALPHA_KEY, IGNORE)
    adapter = checked_original(open_adapter(source, header_alpha), True, header_alpha)
    with reading(source) as read, reading(result) as check:
        return compared(adapter, converted, read_header(result).entries, read, check)


def compared(
    adapter: AdapterFile, converted: AdapterFile, entries: Mapping[str, Entry], read: Reader, check: Reader
) -> Comparison:
    """Compare an original with its converted form, whose tensors are `entries`.  Raises AdapterError."""
    result = converted.path
    if not converted.fused:
        raise AdapterError(
            f"{result}: expected a file in ComfyUI's layout, got a FLUX.1 LoRA in Diffusers layout; convert it first."
        )
    _check_names(adapter, converted, entries)
    found = []
    for layer, fused in adapter.layers.items():
        pair = _Pair(*(matrix(result, entries, key) for key in names.fused_keys(layer)))
        _check_shapes(result, layer, fused, pair)
        if converted.converted:
            _check_blocks(result, layer, fused, converted.layers[layer])
        _check_zeros(result, layer, fused, pair.up, check)
        fold = _fold(f"{result}: {layer}", fused, pair, converted.alphas.get(layer), read)
        found.append(_verified(result, layer, fused, pair, fold, read, check))
    found += [_verified_kept(result, name, kept, entries[name], read, check) for name, kept in adapter.kept.items()]
    return Comparison(found, adapter.unused)


def _fold(where: str, fused: FusedLayer, pair: _Pair, alpha: Alpha | None, read: Reader) -> Fold:
    """Find out from a result's dtypes and alpha how its scales were folded.  Raises AdapterError if nothing fits."""
    plain = folded(fused, pair.down.dtype, pair.up.dtype)
    if alpha is None or not fused.rank:
        return plain
    ways = (lambda: beside(fused, plain), lambda: lifted(where, fused, plain, read))  # the second needs torch
    for fold in (way() for way in ways):
        if fold is not None and math.isclose(fold.scale * fused.rank, alpha.value, rel_tol=1e-12):
            return fold
    raise AdapterError(f"{where}: expected the scales of the source, got alpha {alpha.value:g}; convert it again.")


def _check_names(adapter: AdapterFile, converted: AdapterFile, entries: Mapping[str, Entry]) -> None:
    result = converted.path
    want = {key for layer in adapter.layers for key in names.fused_keys(layer)} | {*adapter.kept}
    want |= {names.fused_alpha(layer) for layer in adapter.layers if layer in converted.alphas}
    for key in sorted(want ^ set(entries)):
        state = ("a tensor", "none") if key in want else ("no such tensor", "one")
        raise AdapterError(f"{result}: {key}: expected {state[0]} as in the source, got {state[1]}; convert it again.")


def _check_shapes(result: Path, layer: str, fused: FusedLayer, pair: _Pair) -> None:
    down, up = pair
    if (down.rows, down.columns, up.rows, up.columns) != (fused.rank, fused.columns, fused.rows, fused.rank):
        got = f"down [{down.rows}, {down.columns}], up [{up.rows}, {up.columns}]"
        want = f"down [{fused.rank}, {fused.columns}], up [{fused.rows}, {fused.rank}]"
        raise AdapterError(f"{result}: {layer}: expected {want}, got {got}; convert it again.")


def _check_blocks(result: Path, layer: str, fused: FusedLayer, recorded: FusedLayer) -> None:
    """Refuse a structure in the metadata that does not match the layer, which splitting and the runtime use."""
    want, got = (
        [(block.part, block.row, block.rows, block.rank) for block in each.blocks] for each in (fused, recorded)
    )
    if got != want:
        raise AdapterError(f"{result}: {layer}: expected {want} in {BLOCKS_KEY}, got {got}; convert it again.")


def _check_zeros(result: Path, layer: str, fused: FusedLayer, up: Slab, check: Reader) -> None:
    """Refuse an up factor that is not zero outside its blocks."""
    size = up.stride // up.columns if up.columns else 0
    taken, column = [], 0
    for block in fused.blocks:
        taken.append((block.row, block.row + block.rows, column * size, (column + block.rank) * size))
        column += block.rank
    _check_gaps(result, layer, taken, up, size, check)


def _check_gaps(
    result: Path, layer: str, taken: list[tuple[int, int, int, int]], whole: Slab, size: int, check: Reader
) -> None:
    """Refuse a matrix (`size` bytes per number) that is not zero where no block was written."""
    for first, last, left, right in _gaps(taken, whole.rows, whole.stride):
        rest = whole._replace(
            rows=last - first, columns=(right - left) // max(size, 1), offset=whole.offset + first * whole.stride + left
        )
        for part in chunks(rest):
            data = check(part)
            if data != bytes(len(data)):
                raise AdapterError(
                    f"{result}: {layer}: expected zeros outside the blocks, got other values in rows {first} to "
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


def _verified(
    result: Path, layer: str, fused: FusedLayer, pair: _Pair, fold: Fold, read: Reader, check: Reader
) -> Verified:
    worst, exact, column = 0.0, True, 0
    where = f"{result}: {layer}"
    for block, lift, scale in zip(fused.blocks, fold.downs, fold.ups, strict=True):
        own = _own(block, pair, column)
        column += block.rank
        kept_down = _is_exact(where, (block.down,), own.down, lift, read, check)
        kept_up = _is_exact(where, block.up, own.up, scale, read, check)
        if not (kept_down and kept_up):
            difference = _difference(where, block, own, fold.scale, lift, read, check)
            exact, worst = exact and difference == 0.0, max(worst, difference)
    allowed = max(MOST_APART, *(ROUNDING[slab.dtype] for slab in pair))
    if worst > allowed:
        raise AdapterError(
            f"{where}: expected a delta within {allowed:.1e} of the source's, got one that is {worst:.1e} off; "
            "convert it again, or to a wider --dtype."
        )
    return Verified(layer, tuple(block.part for block in fused.blocks), exact, worst)


def _verified_kept(result: Path, name: str, kept: Kept, entry: Entry, read: Reader, check: Reader) -> Verified:
    """Compare a tensor outside the fused pairs; rows that no piece of the source covers must be zero."""
    if (entry.dtype, entry.shape) != (kept.dtype, kept.shape):
        want, got = (f"{each.dtype} {list(each.shape)}" for each in (kept, entry))
        raise AdapterError(f"{result}: {name}: expected {want}, got {got}; convert it again.")
    columns = math.prod(entry.shape[1:])
    whole = Slab(
        entry.dtype,
        entry.shape[0] if entry.shape else 1,
        columns,
        entry.offset,
        columns * DTYPE_BYTES[entry.dtype],
        name,
    )
    if kept.data and check(whole) != kept.data:
        raise AdapterError(f"{result}: {name}: expected the number in the source, got another one; convert it again.")
    taken, exact = [], True
    for piece in kept.pieces:
        rows = sum(slab.rows for slab in piece.slabs)
        own = whole._replace(rows=rows, offset=whole.offset + piece.row * whole.stride)
        exact = _is_exact(f"{result}: {name}", piece.slabs, own, piece.scale, read, check) and exact
        taken.append((piece.row, piece.row + rows, 0, whole.stride))
    if not kept.data:
        _check_gaps(result, name, sorted(taken), whole, DTYPE_BYTES[entry.dtype], check)
    return Verified(name, tuple(piece.key for piece in kept.pieces), exact, 0.0 if exact else ROUNDING[entry.dtype])


def _is_exact(where: str, slabs: Sequence[Slab], own: Slab, scale: float, read: Reader, check: Reader) -> bool:
    """Return whether a factor equals the source's without rounding.  Raises AdapterError if it is not its result."""
    change, row, exact = change_due(slabs, own.dtype, scale), 0, True
    for slab in slabs:
        theirs = own._replace(rows=slab.rows, offset=own.offset + row * own.stride)
        row += slab.rows
        for part, other in _together(slab, theirs):
            same, exact = _compared(read(part), part, check(other), change, exact)
            if not same:
                want = f"rounded once to {own.dtype}" if change else "bit for bit"
                raise AdapterError(
                    f"{where}: expected the source's {slabs[0].key}, {want}, got other bytes; convert it again."
                )
    return exact


def _compared(data: bytes, part: Slab, other: bytes, change: Change | None, exact: bool) -> tuple[bool, bool]:
    if change is None:
        return data == other, exact
    found = load_arithmetic(part.key).redone(data, part.dtype, other, change, exact)
    return found.same, found.exact


def _together(slab: Slab, own: Slab) -> Iterator[tuple[Slab, Slab]]:
    """Cut two matrices of one shape into the same pieces."""
    stride = max(slab.stride, own.stride)
    return zip(chunks(slab, stride, PIECE), chunks(own, stride, PIECE), strict=True)


def _own(block: Block, pair: _Pair, column: int) -> _Pair:
    """Return the required places of a block's factors in the result."""
    size = pair.up.stride // pair.up.columns if pair.up.columns else 0
    down = pair.down._replace(rows=block.rank, offset=pair.down.offset + column * pair.down.stride)
    offset = pair.up.offset + block.row * pair.up.stride + column * size
    return _Pair(down, pair.up._replace(rows=block.rows, columns=block.rank, offset=offset))


def _difference(where: str, block: Block, own: _Pair, scale: float, lift: float, read: Reader, check: Reader) -> float:
    """Compare the deltas of a block in pieces, by its up factor's rows and its down factor's columns.

    The result's `scale` is separate from its factors, and its down factor was multiplied by `lift`.
    """
    numbers = load_arithmetic(f"{where}: {block.up[0].key}")

    def ups() -> Iterator[object]:
        row = 0
        for slab in block.up:
            theirs = own.up._replace(rows=slab.rows, offset=own.up.offset + row * own.up.stride)
            row += slab.rows
            for part, other in _together(slab, theirs):
                yield numbers.PiecePair(read(part), part.dtype, check(other), other.dtype)

    def downs() -> Iterator[object]:
        width = max(1, 2 * PIECE // (8 * block.rank))
        for first in range(0, own.down.columns, width):
            cut, other = (_columns(slab, first, width) for slab in (block.down, own.down))
            yield numbers.PiecePair(_read(cut, read), cut.dtype, _read(other, check), other.dtype)

    moved = change_due((block.down,), own.down.dtype, lift) is None
    up_scales, down_scales = (block.scale, scale * lift), (1.0, 1.0 / lift)
    return float(numbers.delta_difference(ups(), downs(), block.rank, up_scales, down_scales, moved))


def _columns(slab: Slab, first: int, count: int) -> Slab:
    size = DTYPE_BYTES[slab.dtype]
    return slab._replace(columns=min(count, slab.columns - first), offset=slab.offset + first * size)


def _read(slab: Slab, read: Reader) -> bytes:
    return b"".join(map(read, chunks(slab, most=PIECE)))
