"""One stream's adapter: the low-rank deltas of its layers, and reading them from an original or converted file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ...converters import AdapterError, AdapterFile, FusedLayer, Slab, open_adapter
from ...converters.convert import checked_original
from ...converters.fusing.arithmetic import DTYPES


class Rows(NamedTuple):
    """The place of one block in a block-diagonal up factor: `size` rows of the layer from `start`, and its scale."""

    start: int
    size: int
    scale: float


class LowRank(nn.Module):
    """The delta of one layer by blocks: sum_i scale_i up_i (down_i x), added to the rows of block i alone.

    down [sum r_i, in] holds the blocks' down factors one above the other, ups[i] is [rows_i, r_i]. The zeros of the
    dense block-diagonal up factor are neither kept nor multiplied. The factors stay in the dtype of their file.
    """

    def __init__(self, down: Tensor, ups: Sequence[Tensor], rows: Sequence[Rows]) -> None:
        super().__init__()
        self.down = nn.Parameter(down, requires_grad=False)
        # Parameters of this module itself, not of a child: the host moves and counts modules that have no children.
        for number, up in enumerate(ups):
            self.register_parameter(f"up_{number}", nn.Parameter(up, requires_grad=False))
        self.rows = tuple(rows)

    @property
    def ups(self) -> tuple[Tensor, ...]:
        """The blocks' up factors, wherever the host keeps them now."""
        return tuple(self.get_parameter(f"up_{number}") for number in range(len(self.rows)))

    def copied(self) -> LowRank:
        """Return a separate module; tensors on the CPU are shared."""
        return LowRank(self.down.detach().cpu(), [up.detach().cpu() for up in self.ups], self.rows)

    def add_to(self, output: Tensor, x: Tensor, strength: float) -> None:
        """Add strength * delta to `output` [b, n, rows] in place; x [b, n, in]."""
        hidden = linear(x, self.down.to(x))
        start = 0
        for up, rows in zip(self.ups, self.rows, strict=True):
            part = hidden[..., start : start + up.shape[1]]
            target = output[..., rows.start : rows.start + rows.size]
            factor = up.to(target).t().expand(len(x), -1, -1)
            target.baddbmm_(part.to(target), factor, alpha=strength * rows.scale)
            start += up.shape[1]

    def gradients(self, grad: Tensor, x: Tensor, strength: float) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the gradients of x [n, in] and of the factors (down, *ups), given that of the output [n, rows].

        With G_i the rows of block i times its scale and the strength, and h_i = down_i x: up_i gets G_i^T h_i,
        down_i gets (G_i up_i)^T x, and x gets the sum of G_i up_i down_i.
        """
        down = self.down.to(x)
        blocks = [grad[:, rows.start : rows.start + rows.size] * (strength * rows.scale) for rows in self.rows]
        hidden = linear(x, down).split([up.shape[1] for up in self.ups], dim=1)
        inner = torch.cat([block @ up.to(x) for block, up in zip(blocks, self.ups)], dim=1)
        ups = tuple(block.t() @ part for block, part in zip(blocks, hidden))
        return inner @ down, (inner.t() @ x, *ups)


class AdapterWeights(nn.ModuleDict):
    """One stream's layers, `LowRank` by layer name. It is a module so that the host can count, move and offload it."""

    def __init__(self, layers: Mapping[str, LowRank]) -> None:
        super().__init__({name.replace(".", "/"): layer for name, layer in layers.items()})

    def by_name(self) -> dict[str, LowRank]:
        """Return the layers under their names in ComfyUI's FLUX, such as "double_blocks.0.img_attn.qkv"."""
        return {name.replace("/", "."): layer for name, layer in self.items() if isinstance(layer, LowRank)}

    def copied(self) -> AdapterWeights:
        """Return modules of their own; tensors on the CPU are shared."""
        return AdapterWeights({name: layer.copied() for name, layer in self.by_name().items()})


def read_layers(path: Path) -> dict[str, LowRank]:
    """Read one adapter file, original or converted, into low-rank layers with the file's own dtype.

    Raises AdapterError, also for tensors that would be left out, and for an alpha that loaders treat differently.
    """
    adapter = _whole(open_adapter(path))
    if adapter.kept:
        raise AdapterError(
            f"{path}: {next(iter(adapter.kept))}: expected only LoRA pairs of FLUX.1's layers, got "
            f"{len(adapter.kept)} tensors of another kind; choose an OmniX adapter."
        )
    with open(path, "rb", buffering=0) as file:
        return {name: _read_layer(file.fileno(), adapter, name, layer) for name, layer in adapter.layers.items()}


def _whole(adapter: AdapterFile) -> AdapterFile:
    """Return an adapter of which nothing would be left out.  Raises AdapterError where the converter asks the user."""
    try:
        return adapter if adapter.converted else checked_original(adapter)
    except AdapterError as error:
        raise AdapterError(f"{error} omnix-convert has this option; load the file that it writes.") from error


def _read_layer(descriptor: int, adapter: AdapterFile, name: str, layer: FusedLayer) -> LowRank:
    def stacked(slabs: Sequence[Slab]) -> Tensor:
        try:
            return read_slabs(descriptor, slabs)
        except EOFError as error:
            raise AdapterError(
                f"{adapter.path}: {name}: expected {slabs[0].rows} rows of data at byte {slabs[0].offset}, got the end "
                "of the file; the file changed while it was read, so download it again."
            ) from error

    down, ups = stacked([block.down for block in layer.blocks]), [stacked(block.up) for block in layer.blocks]
    if not all(_is_finite(factor) for factor in (down, *ups)):
        raise AdapterError(
            f"{adapter.path}: {name}: expected finite numbers, got NaN or infinity; download the file again, or use an "
            "earlier step of the training."
        )
    return LowRank(
        down,
        ups,
        [Rows(block.row, block.rows, block.scale) for block in layer.blocks],
    )


def _is_finite(factor: Tensor) -> bool:
    """Return whether a tensor has neither NaN nor infinity, in one pass and without a copy if its dtype allows it."""
    if not factor.numel():
        return True
    low, high = torch.aminmax(factor.float() if factor.element_size() == 1 else factor)  # NaN comes out of both
    return bool(low.isfinite() & high.isfinite())


def read_slabs(descriptor: int, slabs: Sequence[Slab]) -> Tensor:
    """Read matrices of equal width from a file and stack their rows; different dtypes are stacked as float32.

    Raises EOFError.
    """
    if len({slab.dtype for slab in slabs}) > 1:
        return torch.cat([read_slabs(descriptor, [slab]).float() for slab in slabs])
    result = torch.empty(sum(slab.rows for slab in slabs), slabs[0].columns, dtype=DTYPES[slabs[0].dtype])
    for slab, rows in zip(slabs, result.split([slab.rows for slab in slabs])):
        if rows.numel():
            _read_slab(descriptor, slab, rows.view(torch.uint8))
    return result


def _read_slab(descriptor: int, slab: Slab, target: Tensor) -> None:
    """Fill the bytes [rows, width] of a matrix, skipping the bytes between its rows in the file."""
    width = target.shape[1]
    if slab.stride == width:  # contiguous: read directly into the target
        _read_exactly(descriptor, target.flatten().numpy().data, slab.offset)
        return
    # Read whole rows, except the last: the file may end right after its data.
    buffer = torch.empty(slab.rows, slab.stride, dtype=torch.uint8)
    size = (slab.rows - 1) * slab.stride + width
    _read_exactly(descriptor, buffer.flatten().numpy().data[:size], slab.offset)
    target.copy_(buffer[:, :width])


def _read_exactly(descriptor: int, target: memoryview, offset: int) -> None:
    os.lseek(descriptor, offset, os.SEEK_SET)
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        done = 0
        while done < len(target):
            count = file.readinto(target[done:])
            if not count:
                raise EOFError
            done += count
