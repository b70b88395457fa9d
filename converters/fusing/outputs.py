"""Plan the tensors to be written, in either direction; no bytes are read or written here.

Fused down [sum r_i, in] stacks the parts' down factors; fused up [rows, sum r_i] has the parts' up factors on a block
diagonal, each at its part's rows. So up @ down == cat_i(scale_i up_i down_i), with nothing approximated. Splitting
plans the same slabs in the other direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ..errors import AdapterError
from ..files.header import DTYPE_BYTES, FLOATS, Entry, in_canonical_order
from ..files.slab import Slab
from ..lora import names
from ..lora.layout import place
from ..lora.plan import AdapterFile, Block, FusedLayer, Kept
from ..lora.record import Record
from .change import Change, change_due
from .change import common_dtype as common_dtype
from .folding import Fold, Folds, alpha_of


class Placement(NamedTuple):
    """The place of stacked matrices in a tensor: from byte `position`, `stride` bytes from row to row."""

    position: int
    stride: int
    slabs: tuple[Slab, ...]
    change: Change | None = None


class Output(NamedTuple):
    """A tensor to be written: its entry, and its pieces (or bytes, if it is small) that are not zero."""

    entry: Entry
    pieces: tuple[Placement, ...] = ()
    data: bytes = b""


Outputs = Mapping[str, Output]


def size_of(outputs: Outputs) -> int:
    """Return the size of the tensors' data in bytes."""
    return sum(output.entry.size for output in outputs.values())


def fused_outputs(adapter: AdapterFile, folds: Folds) -> Outputs:
    """Plan the fused tensors of an adapter according to `folds`.  Other tensors keep their dtype."""
    outputs = {name: _kept(kept) for name, kept in adapter.kept.items()}
    for layer, fused in adapter.layers.items():
        (down, up), fold = names.fused_keys(layer), folds[layer]
        outputs[down] = Output(Entry(fold.down_dtype, (fused.rank, fused.columns)), _stacked(fused, fold))
        outputs[up] = Output(Entry(fold.up_dtype, (fused.rows, fused.rank)), _diagonal(fused, fold))
        outputs |= _alpha(names.fused_alpha(layer), fold.scale, fused.rank)
    # Stable: in layer order, wide dtypes first, so that all data is aligned.
    ordered = sorted(outputs, key=lambda name: -DTYPE_BYTES[outputs[name].entry.dtype])
    return {name: outputs[name] for name in ordered}


def _alpha(name: str, scale: float, rank: int) -> Outputs:
    alpha = alpha_of(scale, rank)
    return {} if alpha is None else {name: Output(Entry(alpha[0], ()), (), alpha[1])}


def _kept(kept: Kept) -> Output:
    stride = math.prod(kept.shape[1:]) * DTYPE_BYTES[kept.dtype]
    pieces = tuple(
        Placement(piece.row * stride, stride, piece.slabs, change_due(piece.slabs, kept.dtype, piece.scale))
        for piece in kept.pieces
    )
    return Output(Entry(kept.dtype, kept.shape), pieces, kept.data)


def _stacked(fused: FusedLayer, fold: Fold) -> tuple[Placement, ...]:
    stride, pieces, row = fused.columns * DTYPE_BYTES[fold.down_dtype], [], 0
    for block, scale in zip(fused.blocks, fold.downs, strict=True):
        change = change_due((block.down,), fold.down_dtype, scale)
        pieces.append(Placement(row * stride, stride, (block.down,), change))
        row += block.rank
    return tuple(pieces)


def _diagonal(fused: FusedLayer, fold: Fold) -> tuple[Placement, ...]:
    size, pieces, column = DTYPE_BYTES[fold.up_dtype], [], 0
    stride = fused.rank * size
    for block, scale in zip(fused.blocks, fold.ups, strict=True):
        position = block.row * stride + column * size
        pieces.append(Placement(position, stride, block.up, change_due(block.up, fold.up_dtype, scale)))
        column += block.rank
    return tuple(pieces)


def split_outputs(adapter: AdapterFile, record: Record) -> Outputs:
    """Plan the original tensors of a converted adapter, exactly as they were if `record` says so."""
    outputs: dict[str, Output] = {}
    for fused in adapter.layers.values():
        for block in fused.blocks:
            for name, output in _split_block(adapter, block, fused.columns, record).items():
                if outputs.setdefault(name, output) is not output:
                    raise AdapterError(
                        f"{adapter.path}: {name}: expected every original tensor once, got one twice; "
                        "the metadata is damaged, so convert the original again."
                    )
    for name, output in _split_kept(adapter, record):
        outputs.setdefault(name, output)
    ordered = in_canonical_order({name: output.entry for name, output in outputs.items()})
    return {name: outputs[name] for name in ordered}


def _split_block(adapter: AdapterFile, block: Block, columns: int, record: Record) -> dict[str, Output]:
    source = record.of(block.part)
    rows = _diffusers_order(block)
    down_dtype, up_dtype = source.dtypes or (block.down.dtype, block.up[0].dtype)
    below = change_due((block.down,), down_dtype, source.lift, True)
    down = Placement(0, columns * DTYPE_BYTES[down_dtype], (block.down,), below)
    up = Placement(0, block.rank * DTYPE_BYTES[up_dtype], rows, change_due(rows, up_dtype, source.scale, True))
    outputs = {
        source.down: Output(Entry(down_dtype, (block.rank, columns, *(1,) * source.ones[0])), (down,)),
        source.up: Output(Entry(up_dtype, (block.rows, block.rank, *(1,) * source.ones[1])), (up,)),
    }
    for key, dtype, shape, data in (*source.factor_scales, *((source.alpha,) if source.alpha else ())):
        outputs[key] = Output(Entry(dtype, shape), (), data)
    if source.dtypes is None:  # the factors and their separate scale stay unchanged
        outputs |= _alpha(names.alpha_beside(source.down, block.part), block.scale, block.rank)
    return outputs


def _split_kept(adapter: AdapterFile, record: Record) -> Iterator[tuple[str, Output]]:
    """Plan the source's tensors that were kept.  Raises AdapterError for missing rows."""
    for name, kept in adapter.kept.items():
        (slab,) = (slab for piece in kept.pieces for slab in piece.slabs)
        if not record.exact and name not in record.kept and name.endswith(".alpha"):
            yield name, _kept(kept)  # of a text encoder, given by a header entry that the result lacks
        for source in record.kept.get(name, ()):
            rows, columns = (source.shape[0] if source.shape else 1), math.prod(source.shape[1:])
            if columns != slab.columns or source.row + rows > slab.rows:
                raise AdapterError(
                    f"{adapter.path}: {name}: expected {list(source.shape)} from row {source.row} on, got "
                    f"{slab.rows} rows of {slab.columns}; the metadata is damaged, so convert the original again."
                )
            own = slab._replace(rows=rows, offset=slab.offset + source.row * slab.stride)
            slabs = own.halves_swapped() if source.swapped else (own,)
            dtype = source.dtype if source.dtype in FLOATS and slab.dtype in FLOATS else slab.dtype
            change = change_due(slabs, dtype, source.scale, True)
            yield (
                source.key,
                Output(Entry(dtype, source.shape), (Placement(0, columns * DTYPE_BYTES[dtype], slabs, change),)),
            )


def _diffusers_order(block: Block) -> tuple[Slab, ...]:
    found = place(block.part)
    if found is None or not found.part.swapped:
        return block.up
    (up,) = block.up
    return up.halves_swapped()
