"""The same conversion on state dicts in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .convert import Report, checked_original, record_of, report_of
from .errors import AdapterError
from .files.header import DTYPE_BYTES, Entry
from .files.reading import Reader, rows_of
from .files.slab import Slab
from .fusing.arithmetic import NAMES, as_bytes, as_tensor
from .fusing.copying import Copy
from .fusing.folding import fold_notes, folds_of
from .fusing.outputs import Outputs, fused_outputs, split_outputs
from .inspect import described
from .lora.adapter import number_keys, state_plan
from .lora.plan import BLOCKS_KEY, HEADER_ALPHA_KEY, AdapterFile
from .lora.recognise import recognised
from .lora.record import EXACT_KEY
from .lora.scales import IGNORE
from .metadata import DIGEST_KEY, fused_metadata, hidden_metadata, split_metadata
from .verify import Verified, compared

State = dict[str, Tensor]
STATE = Path("state dict")
"""Replaces the file name in reports and errors."""


class Converted(NamedTuple):
    """A state dict in the other layout (on the CPU), its metadata and its report."""

    state: State
    metadata: dict[str, str]
    report: Report


def convert_state_dict(
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    slot: tuple[str, str] | None = None,
    dtype: object = None,
    allow_unused: bool = False,
    header_alpha: str | None = None,
) -> Converted:
    """Fuse a Diffusers state dict in the way `convert` fuses a file.  The input is unchanged.  Raises AdapterError."""
    adapter = checked_original(_plan(state, metadata, header_alpha), allow_unused, header_alpha)
    folds = folds_of(adapter, dtype, _reader(state))
    outputs = fused_outputs(adapter, folds)
    own = {key: value for key, value in fused_metadata(adapter, slot, folds, header_alpha).items() if key != DIGEST_KEY}
    tensors, copy = _built(outputs, state)
    report = report_of(adapter, STATE, slot, outputs, _size(state))
    report = report._replace(
        exact=copy.exact, rounded=copy.rounded, notes=(*report.notes, *fold_notes(adapter, folds, dtype))
    )
    return Converted(tensors, {**hidden_metadata(metadata or {}), **own, EXACT_KEY: str(int(copy.exact))}, report)


def split_state_dict(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Converted:
    """Return the Diffusers tensors of a converted state dict, like `split` for a file.  Raises AdapterError."""
    adapter = _plan(state, metadata)
    if not adapter.converted:
        raise AdapterError(
            f"{STATE}: {BLOCKS_KEY}: expected this entry in the metadata, got none; pass the file's metadata too."
        )
    outputs = split_outputs(adapter, record_of(adapter))
    exact = metadata.get(EXACT_KEY) == "1"
    report = report_of(adapter, STATE, None, outputs, _size(state))._replace(exact=exact)
    return Converted(_built(outputs, state)[0], split_metadata(adapter), report)


def inspect_state_dict(state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Describe a state dict in the way `inspect` describes a file."""
    return described(_entries(state), metadata or {}, lambda: _plan(state, metadata), None)


def verify_state_dict(
    source: Mapping[str, Tensor],
    result: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    result_metadata: Mapping[str, str] | None = None,
) -> tuple[Verified, ...]:
    """Compare a Diffusers state dict with its converted form, like `verify` for files; each has its own metadata."""
    converted = _plan(result, result_metadata)
    header_alpha = converted.metadata.get(HEADER_ALPHA_KEY, IGNORE)
    adapter = checked_original(_plan(source, metadata, header_alpha), True, header_alpha)
    return compared(adapter, converted, _entries(result), _reader(source), _reader(result))


def _entries(state: Mapping[str, Tensor]) -> dict[str, Entry]:
    return {
        name: Entry(NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)) for name, tensor in state.items()
    }


def _size(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def _plan(
    state: Mapping[str, Tensor], metadata: Mapping[str, str] | None, header_alpha: str | None = None
) -> AdapterFile:
    entries = _entries(state)
    numbers = number_keys(recognised(entries, metadata or {}))
    small = {key: as_bytes(state[key]) if state[key].numel() == 1 else b"" for key in numbers}
    return state_plan(STATE, metadata or {}, entries, small, header_alpha)


def _reader(state: Mapping[str, Tensor]) -> Reader:
    """Return a function that reads matrices from a state dict, like `reading` from a file."""
    contents: dict[str, bytes] = {}

    def read(slab: Slab) -> bytes:
        data = contents.get(slab.key)
        if data is None:
            data = contents[slab.key] = as_bytes(state[slab.key])
        width = slab.columns * DTYPE_BYTES[slab.dtype]
        span = (slab.rows - 1) * slab.stride + width if slab.rows and width else 0
        cut = data[slab.offset : slab.offset + span]
        return cut if slab.stride == width or not span else b"".join(rows_of(width, slab.stride, slab.rows).unpack(cut))

    return read


def _built(outputs: Outputs, state: Mapping[str, Tensor]) -> tuple[State, Copy]:
    """Assemble the output tensors from the state dict's bytes; also return the pass that knows if it can be undone."""
    buffers = {name: bytearray(output.entry.size) for name, output in outputs.items()}
    copy = Copy(STATE, _reader(state))
    for name, position, data in copy.placed(outputs):
        buffers[name][position : position + len(data)] = data
    tensors = {
        name: as_tensor(bytes(buffer), outputs[name].entry.dtype).reshape(outputs[name].entry.shape)
        for name, buffer in buffers.items()
    }
    return tensors, copy
