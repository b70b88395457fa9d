"""The same conversion on state dicts in memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from . import names
from .adapter import AdapterFile, Slab, state_plan
from .arithmetic import DTYPES, as_bytes, as_tensor, entries_of
from .convert import Output, fused_metadata, fused_outputs, fused_pieces, split_outputs
from .errors import AdapterError

State = dict[str, Tensor]


def convert_state_dict(
    state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, dtype: str | None = None
) -> tuple[State, dict[str, str]]:
    """Fuse a Diffusers state dict; return ComfyUI's state dict and its metadata.  The input is not changed.

    Raises AdapterError as `convert` does; keys of no FLUX.1 layer are an error.
    """
    adapter = _plan(state, metadata)
    if any(names.fused_keys(layer)[0] in state for layer in adapter.layers):
        raise AdapterError("state dict: expected Diffusers layout, got ComfyUI's; it needs no conversion.")
    if adapter.unused:
        raise AdapterError(
            f"state dict: {adapter.unused[0]}: expected tensors of FLUX.1 layers, got {len(adapter.unused)} others; "
            "remove them first."
        )
    own = fused_metadata(adapter, None, "0" * 64)
    own.pop("omnix_source_sha256")
    return _built(fused_outputs(adapter, dtype), state), {**(metadata or {}), **own}


def split_state_dict(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> State:
    """Return the Diffusers pairs of a converted state dict: the exact inverse of `convert_state_dict`."""
    adapter = _plan(state, metadata)
    if not adapter.converted:
        raise AdapterError("state dict: omnix_blocks: expected it in the metadata, got none; pass the file's metadata.")
    return _built(split_outputs(adapter), state)


def _plan(state: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> AdapterFile:
    alphas = {
        names.without_prefix(key.removesuffix(".alpha")): float(tensor)
        for key, tensor in state.items()
        if key.endswith(".alpha") and tensor.numel() == 1
    }
    return state_plan(metadata or {}, entries_of(state), alphas)


def _built(outputs: Mapping[str, Output], state: Mapping[str, Tensor]) -> State:
    """Assemble the output tensors from the state dict's bytes."""

    def read(slab: Slab) -> bytes:
        tensor = state[slab.key]
        data = as_bytes(tensor)
        width = slab.columns * tensor.element_size()
        rows = range(slab.offset, slab.offset + slab.rows * slab.stride, slab.stride) if slab.stride else ()
        return b"".join([data[start : start + width] for start in rows])

    buffers = {name: bytearray(_bytes(output)) for name, output in outputs.items()}
    for name, position, data in fused_pieces(outputs, read):
        buffers[name][position : position + len(data)] = data
    return {
        name: as_tensor(bytes(buffer), outputs[name].entry.dtype).view(outputs[name].entry.shape)
        for name, buffer in buffers.items()
    }


def _bytes(output: Output) -> int:
    rows, columns = output.entry.shape
    return rows * columns * DTYPES[output.entry.dtype].itemsize


def fuse(pairs: Mapping[str, tuple[Tensor, Tensor, float]], rows: Mapping[str, int]) -> tuple[Tensor, Tensor]:
    """Fuse parts into one pair: down [R, in], up [sum rows, R] with up @ down == cat_i(scale_i * up_i @ down_i).

    `rows` gives every part's height in row order, `pairs` (down [r, in], up [rows, r], scale) of those present.
    """
    down = torch.cat([pairs[part][0] for part in rows if part in pairs])
    up = down.new_zeros(sum(rows.values()), down.shape[0])
    row = column = 0
    for part, height in rows.items():
        if part in pairs:
            _, own, scale = pairs[part]
            folded = own if scale == 1 else (own.float() * scale).to(own.dtype)
            up[row : row + height, column : column + own.shape[1]] = folded
            column += own.shape[1]
        row += height
    return down, up
