"""The place of a matrix in a file."""

from __future__ import annotations

from typing import NamedTuple


class Slab(NamedTuple):
    """A matrix in a file: `rows` x `columns` of `dtype`, from byte `offset`, `stride` bytes from row to row."""

    dtype: str
    rows: int
    columns: int
    offset: int
    stride: int
    key: str

    def halves_swapped(self) -> tuple[Slab, Slab]:
        """Return the second half of its rows, then the first."""
        half = self.rows // 2
        return self._replace(rows=half, offset=self.offset + half * self.stride), self._replace(rows=half)
