"""Write safetensors whole or not at all, the same bytes for the same tensors, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from ..converters.files.header import Entry, header_bytes, in_canonical_order
from ..converters.files.write import write_file
from ..converters.fusing.arithmetic import DTYPES, INTEGERS, as_bytes

_NAMES = {dtype: name for name, dtype in (DTYPES | INTEGERS).items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], force: bool = False) -> None:
    """Write a file.  Raises AdapterError if it exists and not `force`, OSError if the disk does not take it."""
    entries = {name: Entry(_NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    ordered = {name: entries[name] for name in in_canonical_order(entries)}
    header, offsets, size = header_bytes(metadata, ordered)

    def pieces() -> Iterator[tuple[int, bytes]]:
        yield 0, header
        for name in ordered:
            yield offsets[name], as_bytes(tensors[name])

    write_file(path, size, pieces(), force, durable=True)
