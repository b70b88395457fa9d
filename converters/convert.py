"""Convert files from Diffusers' layout, and every other dialect, to ComfyUI's fused layers, and back.

If the scale is 1 and the dtype stays the same, bytes are moved. Otherwise the scale is multiplied into the up factor in
float32 and rounded once, and the result has no alpha. If the dtype would lose precision, see `fusing.folding`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from .errors import AdapterError
from .files.header import header_bytes, read_header
from .files.reading import Digest, read_at, reading, sha256_of
from .files.write import check_writable, exists, remove_stale, write_file
from .fusing.copying import Copy
from .fusing.folding import fold_notes, folds_of
from .fusing.outputs import Outputs, fused_outputs, size_of, split_outputs
from .lora.adapter import open_adapter
from .lora.layout import Geometry
from .lora.plan import BLOCKS_KEY, AdapterFile
from .lora.record import EXACT_KEY, Record, read_record
from .lora.scales import APPLY, IGNORE
from .metadata import DIGEST_KEY, fused_metadata, hidden_metadata, split_metadata

_MARKERS = ("scaled_fp8", "diffusion_model.scaled_fp8")
"""Tensors that only mark a file as ComfyUI's scaled float8."""
Progress = Callable[[int, int], None]
"""Called with the number of bytes read so far from a source, and their total."""


def nothing(_done: int, _whole: int) -> None:
    """Tell nobody."""


class Report(NamedTuple):
    """The result of converting or splitting one file."""

    source: str
    destination: str
    task: str | None
    stream: str | None
    geometry: Geometry
    layers: Mapping[str, tuple[str, ...]]
    """ComfyUI layer -> the source's layers in it."""
    ranks: tuple[int, ...]
    dtypes: tuple[str, ...]
    """The ranks of the source."""
    moved: int
    """Pairs whose bytes were moved unchanged."""
    computed: int
    """Pairs whose scale was multiplied in or whose dtype was changed."""
    unused: tuple[str, ...]
    """Tensors that are left out."""
    bytes_in: int
    bytes_out: int
    exact: bool | None = None
    """Converted: `split` can restore all but `unused` bit for bit. Split: it did. None: not written yet."""
    identical: bool | None = None
    """Split: the file is the source, byte for byte."""
    kept: tuple[str, ...] = ()
    """Tensors of the result other than the fused pairs: text encoders', biases, norms, a wider shape."""
    notes: tuple[str, ...] = ()
    """Notes for the user, one sentence each."""
    skipped: bool = False
    """Whether the file already existed, made from the same source in the same way, and was left unchanged."""
    rounded: bool | None = None
    """Converted: rounding is why the source can't be restored bit for bit. None: not written yet, or split."""


def convert(
    source: Path | str,
    destination: Path | str,
    *,
    slot: tuple[str, str] | None = None,
    dtype: object = None,
    force: bool = False,
    dry_run: bool = False,
    allow_unused: bool = False,
    header_alpha: str | None = None,
    skip_done: bool = False,
    progress: Progress = nothing,
) -> Report:
    """Convert one FLUX.1 LoRA, in any of its dialects, into a file for ComfyUI's LoRA loaders.

    `slot` is the (task, stream) to write into the file. `dtype` is torch's dtype or a name (BF16, F16, F32, F8_E4M3,
    F8_E5M2); None keeps the dtype of every part. `header_alpha` "apply" or "ignore" decides about a plain alpha in the
    header. With `skip_done` a destination that would not change is skipped, and the report says so. `progress` is
    called with the progress. Raises AdapterError or OSError; in that case no file has the destination's name.
    """
    source, destination = Path(source), Path(destination)
    if not dry_run:
        remove_stale(destination.parent)
    adapter = checked_original(open_adapter(source, header_alpha), allow_unused, header_alpha)
    looks = skip_done and not force
    _refuse_destination(source, destination, force or looks)
    with reading(source) as read:
        folds = folds_of(adapter, dtype, read)
    outputs = fused_outputs(adapter, folds)
    report = report_of(adapter, destination, slot, outputs, source.stat().st_size)
    report = report._replace(notes=(*report.notes, *fold_notes(adapter, folds, dtype)))
    metadata = {**hidden_metadata(adapter.metadata), **fused_metadata(adapter, slot, folds, header_alpha)}
    if looks and destination.exists():
        if _is_done(adapter, destination, metadata, outputs):
            return report._replace(skipped=True, bytes_out=destination.stat().st_size)
        raise exists(destination)
    if dry_run:
        _rehearse(adapter, destination, outputs)
        return report
    copy = _write(adapter, destination, metadata, outputs, force, progress)
    return report._replace(exact=copy.exact, rounded=copy.rounded, bytes_out=destination.stat().st_size)


def checked_original(adapter: AdapterFile, allow_unused: bool = False, header_alpha: str | None = None) -> AdapterFile:
    """Return an adapter to convert.  Raises AdapterError if it is already converted or has unknown keys."""
    source = adapter.path
    if adapter.converted:
        raise AdapterError(
            f"{source}: {BLOCKS_KEY}: expected an original adapter, got one that is already converted; "
            "put it under ComfyUI's loras folder, or give it to --split for the original."
        )
    unused = [key for key in adapter.unused if key not in _MARKERS]
    if unused and not allow_unused:
        some = ", ".join(unused[:5])
        raise AdapterError(
            f"{source}: {unused[0]}: expected every tensor to belong to a FLUX.1 layer, got "
            f"{len(unused)} that do not ({some}); use --allow-unused to leave them out."
        )
    if header_alpha not in (None, APPLY, IGNORE):
        raise ValueError(f"Expected {APPLY!r} or {IGNORE!r} as header_alpha, got {header_alpha!r}.")
    if adapter.question and header_alpha is None:
        raise AdapterError(f"{source}: {adapter.question}.")
    return adapter


def _is_done(adapter: AdapterFile, destination: Path, metadata: Mapping[str, str], outputs: Outputs) -> bool:
    """Return whether an earlier run made this file from this source with these options."""
    try:
        found = read_header(destination)
    except AdapterError:
        return False
    shapes = {name: (entry.dtype, entry.shape) for name, entry in found.entries.items()}
    if shapes != {name: (output.entry.dtype, output.entry.shape) for name, output in outputs.items()}:
        return False
    expected = {**metadata, EXACT_KEY: found.metadata.get(EXACT_KEY, "")}
    return found.metadata == {**expected, DIGEST_KEY: sha256_of(adapter.path)}


def _is_written(adapter: AdapterFile, destination: Path, outputs: Outputs) -> bool:
    """Return whether a file is, byte for byte, what a split would write."""
    header, offsets, size = header_bytes(split_metadata(adapter), {name: out.entry for name, out in outputs.items()})
    if destination.stat().st_size != size:
        return False
    with reading(adapter.path) as read, open(destination, "rb", buffering=0) as file:
        pieces = ((offsets[name] + at, data) for name, at, data in Copy(adapter.path, read).placed(outputs))
        return all(read_at(file.fileno(), at, len(data)) == data for at, data in chain(((0, header),), pieces))


def _rehearse(adapter: AdapterFile, destination: Path, outputs: Outputs) -> None:
    """Do everything except the writing.  Raises the same errors as the writing."""
    check_writable(destination.parent)
    if any(piece.change for output in outputs.values() for piece in output.pieces):
        with reading(adapter.path) as read:
            for _ in Copy(adapter.path, read).placed(outputs):
                pass


def _write(
    adapter: AdapterFile,
    destination: Path,
    metadata: dict[str, str],
    outputs: Outputs,
    force: bool,
    progress: Progress,
) -> Copy:
    """Write the outputs; return the pass that knows whether their arithmetic can be undone."""
    entries = {name: output.entry for name, output in outputs.items()}
    _, offsets, size = header_bytes(metadata, entries)
    digest = Digest(adapter.path) if DIGEST_KEY in metadata else None
    with reading(adapter.path) as read:
        copy = Copy(adapter.path, read)

        def pieces() -> Iterator[tuple[int, bytes]]:
            done, whole = 0, adapter.path.stat().st_size
            for name, position, data in copy.placed(outputs):
                yield offsets[name] + position, data
                done = copy.read
                progress(min(done, whole), whole)
            # The header comes last, because its content is known only now. Its length stays the same.
            known = {EXACT_KEY: str(int(copy.exact)), DIGEST_KEY: digest.result()} if digest else {}
            yield 0, header_bytes({**metadata, **known}, entries)[0]

        write_file(destination, size, pieces(), force)
    return copy


def _refuse_destination(source: Path, destination: Path, force: bool) -> None:
    if destination.exists() and destination.samefile(source):
        raise AdapterError(f"{destination}: file: expected another name than the source; choose another one.")
    if destination.is_dir():
        raise AdapterError(f"{destination}: file: expected a file name, got a folder; choose another one.")
    if destination.exists() and not force:
        raise exists(destination)


def report_of(
    adapter: AdapterFile, destination: Path, slot: tuple[str, str] | None, outputs: Outputs, bytes_in: int
) -> Report:
    """Return the report of outputs that are laid out but not written yet; `slot` None keeps the file's own."""
    blocks = [block for fused in adapter.layers.values() for block in fused.blocks]
    changed = {
        (slab.key, slab.offset)
        for output in outputs.values()
        for piece in output.pieces
        if piece.change
        for slab in piece.slabs
    }
    computed = sum(any((slab.key, slab.offset) in changed for slab in (block.down, *block.up)) for block in blocks)
    return Report(
        source=str(adapter.path),
        destination=str(destination),
        task=slot[0] if slot else adapter.task,
        stream=slot[1] if slot else adapter.stream,
        geometry=adapter.geometry,
        layers={layer: tuple(block.part for block in fused.blocks) for layer, fused in adapter.layers.items()},
        ranks=tuple(sorted({block.rank for block in blocks})),
        dtypes=tuple(sorted({slab.dtype for block in blocks for slab in (block.down, *block.up)})),
        moved=len(blocks) - computed,
        computed=computed,
        unused=adapter.unused,
        bytes_in=bytes_in,
        bytes_out=size_of(outputs),
        kept=tuple(adapter.kept),
        notes=adapter.notes,
    )


def split(
    source: Path | str,
    destination: Path | str,
    *,
    force: bool = False,
    dry_run: bool = False,
    skip_done: bool = False,
    progress: Progress = nothing,
) -> Report:
    """Write the Diffusers pairs of a converted file again: the inverse of `convert`, bit for bit.

    Names, dtypes, scales and alphas are those of the source again. If a scale or a dtype change had to round, the
    source can't be restored: then the factors and the scale stay as in the converted file, and the report says
    `exact=False`.
    `skip_done` skips a destination that would not change. Raises AdapterError or OSError; in that case no file has the
    destination's name.
    """
    source, destination = Path(source), Path(destination)
    if not dry_run:
        remove_stale(destination.parent)
    adapter = open_adapter(source)
    if not adapter.converted:
        raise AdapterError(
            f"{source}: {BLOCKS_KEY}: expected a converted file, got none in its metadata; give an original to convert."
        )
    outputs = split_outputs(adapter, record_of(adapter))
    exact = adapter.metadata.get(EXACT_KEY) == "1"
    report = report_of(adapter, destination, None, outputs, source.stat().st_size)._replace(exact=exact)
    if skip_done and not force and destination.is_file() and _is_written(adapter, destination, outputs):
        return report._replace(skipped=True, bytes_out=destination.stat().st_size)
    _refuse_destination(source, destination, force)
    if dry_run:
        _rehearse(adapter, destination, outputs)
        return report
    _write(adapter, destination, split_metadata(adapter), outputs, force, progress)
    identical = exact and sha256_of(destination) == adapter.metadata.get(DIGEST_KEY)
    return report._replace(identical=identical, bytes_out=destination.stat().st_size)


def record_of(adapter: AdapterFile) -> Record:
    """Return the names that the source of a converted adapter used for its layers."""
    parts = [block.part for fused in adapter.layers.values() for block in fused.blocks]
    return read_record(adapter.path, adapter.metadata, parts)
