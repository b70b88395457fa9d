"""Fuse an adapter's pairs into ComfyUI's layers, and split them again.

Fused down [sum r_i, in] is the parts' down factors one above the other; fused up [rows, sum r_i] has the parts' up
factors on a block diagonal, each at its part's rows. So up @ down == cat_i(scale_i up_i down_i), with nothing
approximated. Where the scale is 1 and the dtype stays, bytes are moved; else the scale is folded into the up factor in
float32 and rounded once, and the file has no alpha.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from . import names
from .adapter import BLOCKS_KEY, STREAM_KEY, TASK_KEY, AdapterFile, Block, FusedLayer, Slab, open_adapter
from .errors import AdapterError
from .header import DTYPE_BYTES, Entry, header_bytes
from .layout import place
from .tasks import Slot
from .version import VERSION
from .write import Piece, exists, write_file

SOURCE_KEY = "omnix_source_sha256"
VERSION_KEY = "omnix_converter"
_OWN_KEYS = (BLOCKS_KEY, TASK_KEY, STREAM_KEY, SOURCE_KEY, VERSION_KEY)
_DIGEST_PLACEHOLDER = "0" * 64
_READ = 1 << 20

Reader = Callable[[Slab], bytes]


@dataclass(frozen=True)
class Report:
    """What went where when one file was converted or split."""

    source: str
    destination: str
    task: str | None
    stream: str | None
    hidden: int | None
    layers: Mapping[str, tuple[str, ...]]
    """ComfyUI layer -> the Diffusers layers in it."""
    ranks: tuple[int, ...]
    dtypes: tuple[str, ...]
    moved: int
    """Pairs whose bytes were moved as they are."""
    computed: int
    """Pairs whose scale was folded or whose dtype was changed."""
    unused: tuple[str, ...]
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True)
class Output:
    """A tensor to be written: its entry, and its pieces (first byte in the tensor, block, role)."""

    entry: Entry
    pieces: tuple[tuple[int, Block, str], ...]


def convert(
    source: Path | str,
    destination: Path | str,
    *,
    slot: tuple[str, str] | None = None,
    dtype: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    allow_unused: bool = False,
) -> Report:
    """Convert one Diffusers FLUX.1 LoRA into a file for ComfyUI's LoRA loaders.

    `dtype` is a safetensors name (BF16, F16, F32); None keeps every layer's.
    Raises AdapterError, or OSError; then nothing stands under the destination's name.
    """
    source, destination = Path(source), Path(destination)
    adapter = convertible(source, allow_unused)
    plan = fused_outputs(adapter, dtype)
    _refuse_destination(source, destination, force)
    report = _report(adapter, destination, slot, dtype, sum(_size(output.entry) for output in plan.values()))
    if not dry_run:
        metadata = {**adapter.metadata, **fused_metadata(adapter, slot, _DIGEST_PLACEHOLDER)}
        _write(adapter.path, destination, metadata, plan, force)
    return report


def convertible(source: Path, allow_unused: bool = False) -> AdapterFile:
    """Open a file that is to be converted.  Raises AdapterError for one that is no original or has unknown keys."""
    adapter = open_adapter(source)
    if adapter.converted:
        raise AdapterError(
            f"{source}: {BLOCKS_KEY}: expected an original adapter, got one that is already converted; "
            "put it under ComfyUI's loras folder, or give it to --split for the original."
        )
    if adapter.fused:
        raise AdapterError(f"{source}: expected a FLUX.1 LoRA in Diffusers layout, got {names.BFL_ADVICE}.")
    if adapter.unused and not allow_unused:
        some = ", ".join(adapter.unused[:5])
        raise AdapterError(
            f"{source}: {adapter.unused[0]}: expected every tensor to belong to a FLUX.1 layer, got {len(adapter.unused)} "
            f"that do not ({some}); use --allow-unused to leave them out."
        )
    return adapter


def fused_outputs(adapter: AdapterFile, dtype: str | None = None) -> dict[str, Output]:
    """Lay out the fused tensors of an adapter: name -> entry and pieces."""
    outputs = {}
    for layer, fused in adapter.layers.items():
        down, up = names.fused_keys(layer)
        kind = dtype or _common_dtype(fused)
        rank = sum(block.rank for block in fused.blocks)
        outputs[down] = Output(Entry(kind, (rank, fused.columns)), _stacked(fused, kind))
        outputs[up] = Output(Entry(kind, (fused.rows, rank)), _diagonal(fused, kind))
    return outputs


def _common_dtype(fused: FusedLayer) -> str:
    """Return the dtype of a fused layer: that of its parts, or float32 where they differ."""
    kinds = {slab.dtype for block in fused.blocks for slab in (block.down, *block.up)}
    return kinds.pop() if len(kinds) == 1 else "F32"


def _stacked(fused: FusedLayer, dtype: str) -> tuple[tuple[int, Block, str], ...]:
    pieces, row = [], 0
    for block in fused.blocks:
        pieces.append((row * fused.columns * DTYPE_BYTES[dtype], block, names.DOWN))
        row += block.rank
    return tuple(pieces)


def _diagonal(fused: FusedLayer, dtype: str) -> tuple[tuple[int, Block, str], ...]:
    rank = sum(block.rank for block in fused.blocks)
    pieces, column = [], 0
    for block in fused.blocks:
        pieces.append(((block.row * rank + column) * DTYPE_BYTES[dtype], block, names.UP))
        column += block.rank
    return tuple(pieces)


def fused_metadata(adapter: AdapterFile, slot: tuple[str, str] | None, digest: str) -> dict[str, str]:
    """Return what a converted file says of itself beside the source's own metadata."""
    blocks = {
        layer: [[block.part, block.row, block.rows, block.rank] for block in fused.blocks]
        for layer, fused in adapter.layers.items()
    }
    own = {BLOCKS_KEY: json.dumps(blocks, separators=(",", ":")), SOURCE_KEY: digest, VERSION_KEY: VERSION}
    return own | (dict(zip((TASK_KEY, STREAM_KEY), slot, strict=True)) if slot else {})


def fused_pieces(outputs: Mapping[str, Output], read: Reader) -> Iterator[tuple[str, int, bytes]]:
    """Yield (tensor, byte within it, bytes) for all that is not zero."""
    for name, output in outputs.items():
        width = output.entry.shape[1] * DTYPE_BYTES[output.entry.dtype]
        for position, block, role in output.pieces:
            data = _factor(block, role, output.entry.dtype, read)
            own = (block.rank if role == names.UP else output.entry.shape[1]) * DTYPE_BYTES[output.entry.dtype]
            if own:
                yield name, position, data if own == width else _spread(data, own, width)


def _spread(data: bytes, own: int, width: int) -> bytes:
    """Spread rows of `own` bytes to rows of `width` bytes, zeros between; the last row ends with its data."""
    gap = bytes(width - own)
    return gap.join([data[start : start + own] for start in range(0, len(data), own)])


def _factor(block: Block, role: str, dtype: str, read: Reader) -> bytes:
    """Return the bytes of a block's factor: as they are, or with the scale folded in (up) and in another dtype."""
    slabs = block.up if role == names.UP else (block.down,)
    scale = block.scale if role == names.UP else 1.0
    if scale == 1.0 and all(slab.dtype == dtype for slab in slabs):
        return b"".join(map(read, slabs)) if len(slabs) > 1 else read(slabs[0])
    from .arithmetic import rescaled

    return b"".join(rescaled(read(slab), slab.dtype, dtype, scale) for slab in slabs)


def _write(source: Path, destination: Path, metadata: dict[str, str], plan: Mapping[str, Output], force: bool) -> None:
    head, offsets, size = header_bytes(metadata, {name: output.entry for name, output in plan.items()})
    digest = Digest(source) if SOURCE_KEY in metadata else None
    with open(source, "rb", buffering=0) as file:
        data = fused_pieces(plan, file_reader(file, source))
        write_file(destination, size, _positioned(head, offsets, data, digest), force)


def _positioned(
    head: bytes, offsets: Mapping[str, int], data: Iterator[tuple[str, int, bytes]], digest: Digest | None
) -> Iterator[Piece]:
    """Turn pieces of tensors into pieces of the file; the header, which holds the source's hash, comes last."""
    for name, position, piece in data:
        yield offsets[name] + position, piece
    if digest is not None:
        head = head.replace(_DIGEST_PLACEHOLDER.encode(), digest.result().encode(), 1)
    yield 0, head


class Digest:
    """The sha256 of a file, computed beside other work (hashlib lets other threads run)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hex: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        digest = hashlib.sha256()
        with open(self._path, "rb", buffering=0) as file:
            buffer = bytearray(_READ)
            while count := file.readinto(buffer):
                digest.update(memoryview(buffer)[:count])
        self._hex = digest.hexdigest()

    def result(self) -> str:
        """Wait for the hash and return it.  Raises AdapterError if the file could not be read to the end."""
        self._thread.join()
        if self._hex is None:
            raise AdapterError(f"{self._path}: file: expected to read it to the end, got an error; get it again.")
        return self._hex


def file_reader(file: BinaryIO, path: Path) -> Reader:
    """Return a reader of matrices from an open, unbuffered file; what lies between the rows of one is left out."""

    def read(slab: Slab) -> bytes:
        width = slab.columns * DTYPE_BYTES[slab.dtype]
        span = (slab.rows - 1) * slab.stride + width if slab.rows and width else 0
        data = _read_at(file, path, slab, span)
        if slab.stride == width or slab.rows <= 1:
            return data
        return b"".join([data[start : start + width] for start in range(0, slab.rows * slab.stride, slab.stride)])

    return read


def _read_at(file: BinaryIO, path: Path, slab: Slab, size: int) -> bytes:
    file.seek(slab.offset)
    data = file.read(size)
    while data is not None and len(data) < size and (more := file.read(size - len(data))):
        data += more
    if data is None or len(data) < size:
        raise AdapterError(
            f"{path}: {slab.key}: expected {size} bytes at {slab.offset}, got {len(data or b'')}; "
            "the file changed while it was read, so get it again."
        )
    return data


def _refuse_destination(source: Path, destination: Path, force: bool) -> None:
    if destination.exists() and source.exists() and destination.samefile(source):
        raise AdapterError(f"{destination}: file: expected a name of its own, got the source; choose another one.")
    if destination.exists() and not force:
        raise exists(destination)


def _report(
    adapter: AdapterFile, destination: Path, slot: tuple[str, str] | None, dtype: str | None, size: int
) -> Report:
    blocks = [(fused, block) for fused in adapter.layers.values() for block in fused.blocks]
    moved = [
        block.scale == 1.0 and all(slab.dtype == (dtype or _common_dtype(fused)) for slab in (block.down, *block.up))
        for fused, block in blocks
    ]
    return Report(
        source=str(adapter.path),
        destination=str(destination),
        task=slot[0] if slot else adapter.task,
        stream=slot[1] if slot else adapter.stream,
        hidden=adapter.hidden,
        layers={layer: tuple(block.part for block in fused.blocks) for layer, fused in adapter.layers.items()},
        ranks=tuple(sorted({block.rank for _, block in blocks})),
        dtypes=tuple(sorted({slab.dtype for _, block in blocks for slab in (block.down, *block.up)})),
        moved=sum(moved),
        computed=len(moved) - sum(moved),
        unused=adapter.unused,
        bytes_in=adapter.path.stat().st_size,
        bytes_out=size,
    )


def _size(entry: Entry) -> int:
    return entry.shape[0] * entry.shape[1] * DTYPE_BYTES[entry.dtype]


def split(source: Path | str, destination: Path | str, *, force: bool = False, dry_run: bool = False) -> Report:
    """Write the Diffusers pairs of a converted file again: the exact inverse of `convert`.

    A scale that was folded stays folded (its rounding can't be undone), so such a file comes back without alpha.
    Raises AdapterError, or OSError; then nothing stands under the destination's name.
    """
    source, destination = Path(source), Path(destination)
    adapter = open_adapter(source)
    if not adapter.converted:
        raise AdapterError(
            f"{source}: {BLOCKS_KEY}: expected a converted file, got none in its metadata; give an original to convert."
        )
    plan = split_outputs(adapter)
    _refuse_destination(source, destination, force)
    slot = Slot(adapter.task, adapter.stream) if adapter.task and adapter.stream else None
    if not dry_run:
        metadata = {key: value for key, value in adapter.metadata.items() if key not in _OWN_KEYS}
        _write(source, destination, metadata, plan, force)
    return _report(adapter, destination, slot, None, sum(_size(output.entry) for output in plan.values()))


def split_outputs(adapter: AdapterFile) -> dict[str, Output]:
    """Lay out the Diffusers tensors of a converted adapter: name -> entry and the piece it is made of."""
    outputs = {}
    for fused in adapter.layers.values():
        for block in fused.blocks:
            down, up = names.original_keys(block.part)
            own = replace(block, up=_diffusers_order(block))
            outputs[down] = Output(Entry(block.down.dtype, (block.rank, fused.columns)), ((0, own, names.DOWN),))
            outputs[up] = Output(Entry(block.up[0].dtype, (block.rows, block.rank)), ((0, own, names.UP),))
    return outputs


def _diffusers_order(block: Block) -> tuple[Slab, ...]:
    found = place(block.part)
    if found is None or not found.part.swapped:
        return block.up
    (up,) = block.up
    half = up.rows // 2
    return up._replace(rows=half, offset=up.offset + half * up.stride), up._replace(rows=half)
