"""Move the bytes of tensors to their places in the result; compute only where arithmetic is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..files.reading import CHUNK, PIECE, Reader, chunks, rows_of
from ..files.slab import Slab
from .change import Change, changed, load_changing
from .outputs import Outputs, Placement


class Placed(NamedTuple):
    """Bytes of a tensor and their offset in it."""

    name: str
    position: int
    data: bytes


class Copy:
    """One pass over the pieces of a file.

    At the end, `exact` is whether all arithmetic can be undone bit for bit. If not, `rounded` is whether rounding is
    the reason (a scale of 0 is another). `read` is the number of bytes read so far.
    """

    def __init__(self, source: object, read: Reader) -> None:
        self.exact = True
        self.rounded = False
        self.read = 0
        self._source = source
        self._read = read

    def placed(self, outputs: Outputs) -> Iterator[Placed]:
        """Yield everything that is not zero, in pieces of limited size."""
        for name, output in outputs.items():
            if output.data:
                yield Placed(name, 0, output.data)
            for piece in output.pieces:
                yield from self._piece(name, piece)

    def _piece(self, name: str, piece: Placement) -> Iterator[Placed]:
        position = piece.position
        most = CHUNK if piece.change is None else PIECE
        for slab in (part for whole in piece.slabs for part in chunks(whole, piece.stride, most)):
            data = self._read(slab)
            self.read += len(data)
            if piece.change is not None:
                data = self._changed(data, slab, piece.change)
            if data:
                yield Placed(name, position, _spread(data, slab.rows, piece.stride))
            position += slab.rows * piece.stride

    def _changed(self, data: bytes, slab: Slab, change: Change) -> bytes:
        where = f"{self._source}: {slab.key}"
        numbers = load_changing(where, slab.dtype, change.dtype)
        result = changed(numbers, where, data, slab.dtype, change, look=self.exact or not self.rounded)
        self.exact = self.exact and result.exact
        self.rounded = self.rounded or (not result.exact and change.scale != 0)
        return result.data


def _spread(data: bytes, rows: int, stride: int) -> bytes:
    """Put zeros between rows so that they are `stride` bytes apart; the last row ends with its data."""
    own = len(data) // rows
    if own == stride or rows == 1:
        return data
    return bytes(stride - own).join(rows_of(own, own, rows).unpack(data))
