"""The same conversion on state dicts in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .adapter import alpha_keys, state_plan
from .arithmetic import DTYPES, as_bytes, as_tensor
from .convert import DIGEST_KEY, fused_metadata, record_of, unused
from .copying import Copy
from .errors import AdapterError
from .header import DTYPE_BYTES, Entry
from .outputs import Outputs, fused_outputs, split_outputs
from .plan import AdapterFile, Slab
from .reading import rows_of
from .record import EXACT_KEY

State = dict[str, Tensor]
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def convert_state_dict(
    state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, dtype: str | None = None
) -> tuple[State, dict[str, str]]:
    """Fuse a Diffusers state dict; return ComfyUI's state dict (on the CPU) and its metadata.

    The input is not changed. Raises AdapterError as `convert` does; keys of no FLUX.1 layer are an error.
    """
    adapter = _plan(state, metadata)
    if adapter.fused:
        raise AdapterError("state dict: expected Diffusers layout, got ComfyUI's; it needs no conversion.")
    if adapter.unused:
        raise unused("state dict", adapter)
    own = {key: value for key, value in fused_metadata(adapter, None).items() if key != DIGEST_KEY}
    tensors, exact = _built(fused_outputs(adapter.layers, dtype), state)
    return tensors, {**(metadata or {}), **own, EXACT_KEY: str(int(exact))}


def split_state_dict(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> State:
    """Return the Diffusers tensors of a converted state dict: the inverse of `convert_state_dict`, as `split` is."""
    adapter = _plan(state, metadata)
    if not adapter.converted:
        raise AdapterError("state dict: omnix_blocks: expected it in the metadata, got none; pass the file's metadata.")
    return _built(split_outputs(adapter, record_of(adapter)), state)[0]


def _plan(state: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> AdapterFile:
    entries = {
        name: Entry(_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)) for name, tensor in state.items()
    }
    small = {key: as_bytes(state[key]) for key in alpha_keys(entries) if state[key].numel() == 1}
    return state_plan(metadata or {}, entries, small)


def _built(outputs: Outputs, state: Mapping[str, Tensor]) -> tuple[State, bool]:
    """Assemble the output tensors from the state dict's bytes."""
    contents: dict[str, bytes] = {}

    def read(slab: Slab) -> bytes:
        data = contents.get(slab.key)
        if data is None:
            data = contents[slab.key] = as_bytes(state[slab.key])
        width = slab.columns * DTYPE_BYTES[slab.dtype]
        span = (slab.rows - 1) * slab.stride + width if slab.rows and width else 0
        cut = data[slab.offset : slab.offset + span]
        return cut if slab.stride == width or not span else b"".join(rows_of(width, slab.stride, slab.rows).unpack(cut))

    buffers = {name: bytearray(_bytes(output.entry)) for name, output in outputs.items()}
    copy = Copy("state dict", read)
    for name, position, data in copy.placed(outputs):
        buffers[name][position : position + len(data)] = data
    tensors = {
        name: as_tensor(bytes(buffer), outputs[name].entry.dtype).reshape(outputs[name].entry.shape)
        for name, buffer in buffers.items()
    }
    return tensors, copy.exact


def _bytes(entry: Entry) -> int:
    size = DTYPE_BYTES[entry.dtype]
    for length in entry.shape:
        size *= length
    return size


def fuse(pairs: Mapping[str, tuple[Tensor, Tensor, float]], rows: Mapping[str, int]) -> tuple[Tensor, Tensor]:
    """Fuse parts into one pair: down [R, in], up [sum rows, R] with up @ down == cat_i(scale_i * up_i @ down_i).

    `rows` gives every part's height in row order, `pairs` (down [r, in], up [rows, r], scale) of those present.
    Raises ValueError for factors that do not fit.
    """
    _check_fit(pairs, rows)
    present = [pairs[part] for part in rows if part in pairs]
    down = torch.cat([down for down, _, _ in present])
    up = torch.zeros(sum(rows.values()), down.shape[0], dtype=_promoted([up for _, up, _ in present]))
    row = column = 0
    for part, height in rows.items():
        if part in pairs:
            _, own, scale = pairs[part]
            folded = own if scale == 1 else (own.float() * scale).to(own.dtype)
            up[row : row + height, column : column + own.shape[1]] = folded
            column += own.shape[1]
        row += height
    return down, up


def _promoted(tensors: Sequence[Tensor]) -> torch.dtype:
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _check_fit(pairs: Mapping[str, tuple[Tensor, Tensor, float]], rows: Mapping[str, int]) -> None:
    if not pairs or not set(pairs) <= set(rows):
        raise ValueError(f"Expected pairs for some of {', '.join(rows)}, got {', '.join(pairs) or 'none'}.")
    for part, (down, up, _) in pairs.items():
        if up.shape != (rows[part], down.shape[0]):
            raise ValueError(f"{part}: expected up [{rows[part]}, {down.shape[0]}], got {list(up.shape)}.")
