"""Read matrices from given places in files, and hashes of files, in pieces of limited size."""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ..errors import AdapterError
from .header import DTYPE_BYTES
from .slab import Slab

Reader = Callable[[Slab], bytes]
"""Returns a matrix's bytes, row after row."""

CHUNK = 1 << 22
"""Largest piece in memory, in bytes, unless a single row is longer."""
PIECE = 1 << 20
"""Largest piece for arithmetic, in bytes. In float64 it needs eight times as much, several times over."""
_MOST_ROWS = 1 << 13


def chunks(slab: Slab, stride: int = 0, most: int = CHUNK) -> Iterator[Slab]:
    """Cut a matrix into pieces of whole rows, each at most `most` bytes, also where rows are `stride` apart."""
    rows = min(max(1, most // max(slab.stride, stride, 1)), _MOST_ROWS)
    for first in range(0, slab.rows, rows):
        yield slab._replace(rows=min(rows, slab.rows - first), offset=slab.offset + first * slab.stride)


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """Open a file for reading matrices.  The reader raises AdapterError if the file ends too early."""
    with open(path, "rb", buffering=0) as file:

        def read(slab: Slab) -> bytes:
            width = slab.columns * DTYPE_BYTES[slab.dtype]
            if not slab.rows or not width:
                return b""
            span = (slab.rows - 1) * slab.stride + width
            try:
                data = read_at(file.fileno(), slab.offset, span)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error
            if len(data) < span:
                raise _ends(path, slab, span, len(data))
            if slab.stride == width or slab.rows <= 1:
                return data
            return b"".join(rows_of(width, slab.stride, slab.rows).unpack(data))

        yield read


@cache
def rows_of(width: int, stride: int, rows: int) -> struct.Struct:
    """Return a struct that unpacks rows of `width` bytes, `stride` apart, in one call (3 times faster than slices)."""
    return struct.Struct(f"{width}s{stride - width}x" * (rows - 1) + f"{width}s")


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """Read `size` bytes from `offset`; fewer only at the end of the file."""
    data = _read_once(descriptor, offset, size)
    while len(data) < size and (more := _read_once(descriptor, offset + len(data), size - len(data))):
        data += more
    return data


def _read_once(descriptor: int, offset: int, size: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows
    return os.read(descriptor, size)


def _ends(path: Path, slab: Slab, want: int, got: int) -> AdapterError:
    return AdapterError(
        f"{path}: {slab.key}: expected {want} bytes at {slab.offset}, got {got}; the file changed while it was read, "
        "so start again."
    )


def sha256_of(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    digest = hashlib.sha256()
    buffer = bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


class Digest:
    """The sha256 of a file, computed in parallel with other work (hashlib lets other threads run)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = _state(path)
        self._result: str | OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = sha256_of(self._path)
        except OSError as error:
            self._result = error

    def result(self) -> str:
        """Wait for the hash and return it.  Raises OSError, and AdapterError if the file was changed meanwhile."""
        self._thread.join()
        if not isinstance(self._result, str):
            raise self._result or OSError(f"{self._path}: no hash was computed")
        if _state(self._path) != self._before:
            raise AdapterError(
                f"{self._path}: expected a complete file, got one that another program is writing; try again later."
            )
        return self._result


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
