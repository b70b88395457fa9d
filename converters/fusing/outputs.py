"""Lay out the tensors to be written, in either direction; no byte is touched here.

Fused down [sum r_i, in] is the parts' down factors one above the other; fused up [rows, sum r_i] has the parts' up
factors on a block diagonal, each at its part's rows. So up @ down == cat_i(scale_i up_i down_i), with nothing
approximated. Splitting lays out the same slabs the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..errors import AdapterError
from ..files.header import DTYPE_BYTES, FLOATS, Entry, in_canonical_order
from ..files.slab import Slab
from ..lora import names
from ..lora.layout import place
from ..lora.plan import AdapterFile, Block, FusedLayer
from ..lora.record import Record


class Change(NamedTuple):
    """Arithmetic that is due: multiply by `scale` (divide, if `inverse`) in float32 and round once to `dtype`."""

    dtype: str
    scale: float
    inverse: bool = False


class Piece(NamedTuple):
    """Where rows go: matrices one above the other, from byte `position` of a tensor, `stride` bytes from row to row."""

    position: int
    stride: int
    slabs: tuple[Slab, ...]
    change: Change | None = None


class Output(NamedTuple):
    """A tensor to be written: its entry, and the pieces (or, if it is small, the bytes) that are not zero in it."""

    entry: Entry
    pieces: tuple[Piece, ...] = ()
    data: bytes = b""


Outputs = Mapping[str, Output]

_BY_WIDTH = ("F64", "F32", "BF16", "F16", "F8_E4M3", "F8_E5M2")


def common_dtype(slabs: Iterable[Slab]) -> str:
    """Return the narrowest dtype that holds the values of all the matrices exactly."""
    kinds = {slab.dtype for slab in slabs}
    if kinds >= {"F16", "BF16"}:
        kinds.add("F32")
    if kinds >= {"F8_E4M3", "F8_E5M2"}:
        kinds.add("F16")
    return next(name for name in _BY_WIDTH if name in kinds)


def size_of(outputs: Outputs) -> int:
    """Return how many bytes of data the tensors have."""
    return sum(output.entry.size for output in outputs.values())


def fused_outputs(layers: Mapping[str, FusedLayer], dtype: str | None = None) -> Outputs:
    """Lay out the fused tensors of an adapter's layers; `dtype` None keeps that of the parts.  Raises ValueError."""
    if dtype not in (None, *FLOATS):
        raise ValueError(f"Expected a dtype of {', '.join(FLOATS)}, got {dtype!r}.")
    outputs = {}
    for layer, fused in layers.items():
        down, up = names.fused_keys(layer)
        down_dtype = dtype or common_dtype(block.down for block in fused.blocks)
        up_dtype = dtype or common_dtype(slab for block in fused.blocks for slab in block.up)
        outputs[down] = Output(Entry(down_dtype, (fused.rank, fused.columns)), _stacked(fused, down_dtype))
        outputs[up] = Output(Entry(up_dtype, (fused.rows, fused.rank)), _diagonal(fused, up_dtype))
    # Stable: in layer order, wide dtypes first, so that all data is aligned.
    ordered = sorted(outputs, key=lambda name: -DTYPE_BYTES[outputs[name].entry.dtype])
    return {name: outputs[name] for name in ordered}


def _stacked(fused: FusedLayer, dtype: str) -> tuple[Piece, ...]:
    stride, pieces, row = fused.columns * DTYPE_BYTES[dtype], [], 0
    for block in fused.blocks:
        pieces.append(Piece(row * stride, stride, (block.down,), change_due((block.down,), dtype, 1.0)))
        row += block.rank
    return tuple(pieces)


def _diagonal(fused: FusedLayer, dtype: str) -> tuple[Piece, ...]:
    size, pieces, column = DTYPE_BYTES[dtype], [], 0
    stride = fused.rank * size
    for block in fused.blocks:
        position = block.row * stride + column * size
        pieces.append(Piece(position, stride, block.up, change_due(block.up, dtype, block.scale)))
        column += block.rank
    return tuple(pieces)


def change_due(slabs: Sequence[Slab], dtype: str, scale: float, inverse: bool = False) -> Change | None:
    """Return the arithmetic between matrices and what is written of them; None where bytes are moved."""
    if scale == 1.0 and all(slab.dtype == dtype for slab in slabs):
        return None
    return Change(dtype, scale, inverse)


def split_outputs(adapter: AdapterFile, record: Record) -> Outputs:
    """Lay out the Diffusers tensors of a converted adapter, as they were where `record` says that this is exact."""
    outputs: dict[str, Output] = {}
    for fused in adapter.layers.values():
        for block in fused.blocks:
            for name, output in _split_block(adapter, block, fused.columns, record).items():
                if outputs.setdefault(name, output) is not output:
                    raise AdapterError(
                        f"{adapter.path}: {name}: expected every original tensor once, got it twice; "
                        "the metadata is damaged, so convert the original again."
                    )
    ordered = in_canonical_order({name: output.entry for name, output in outputs.items()})
    return {name: outputs[name] for name in ordered}


def _split_block(adapter: AdapterFile, block: Block, columns: int, record: Record) -> dict[str, Output]:
    source = record.of(block.part)
    rows = _diffusers_order(block)
    down_dtype, up_dtype = source.dtypes or (block.down.dtype, block.up[0].dtype)
    down = Piece(0, columns * DTYPE_BYTES[down_dtype], (block.down,), change_due((block.down,), down_dtype, 1.0, True))
    up = Piece(0, block.rank * DTYPE_BYTES[up_dtype], rows, change_due(rows, up_dtype, source.scale, True))
    outputs = {
        source.down: Output(Entry(down_dtype, (block.rank, columns)), (down,)),
        source.up: Output(Entry(up_dtype, (block.rows, block.rank)), (up,)),
    }
    if source.alpha is not None:
        key, dtype, shape, data = source.alpha
        outputs[key] = Output(Entry(dtype, shape), (), data)
    return outputs


def _diffusers_order(block: Block) -> tuple[Slab, ...]:
    found = place(block.part)
    if found is None or not found.part.swapped:
        return block.up
    (up,) = block.up
    return up.halves_swapped()
