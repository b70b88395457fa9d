"""The arithmetic of conversion; the only module beside `state` that imports torch, and only when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import AdapterError
from ..files.slab import Slab
from .outputs import Change

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
INTEGERS = {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}
"""What an alpha may be besides; never computed with."""
_TYPES = DTYPES | INTEGERS


class Changed(NamedTuple):
    """The bytes of changed numbers, and whether the change can be undone bit for bit."""

    data: bytes
    exact: bool


def as_tensor(data: bytes, dtype: str) -> Tensor:
    """Return bytes of a safetensors dtype as a flat tensor of their own."""
    return torch.frombuffer(bytearray(data), dtype=_TYPES[dtype]) if data else torch.empty(0, dtype=_TYPES[dtype])


def as_bytes(tensor: Tensor) -> bytes:
    """Return a tensor's bytes in row order."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def changed(where: str, data: bytes, slab: Slab, change: Change) -> Changed:
    """Multiply or divide in float32 and round once to the dtype of the change.  Raises AdapterError on overflow."""
    result = _result(data, slab.dtype, change)
    finite = bool(torch.isfinite(as_tensor(data, slab.dtype).float()).all())
    if finite and not bool(torch.isfinite(as_tensor(result, change.dtype).float()).all()):
        raise AdapterError(
            f"{where}: expected numbers that {change.dtype} can hold, got larger ones after scaling by "
            f"{change.scale:g}; choose a wider type with --dtype."
        )
    back = Change(slab.dtype, change.scale, not change.inverse)
    return Changed(result, change.scale != 0 and _result(result, change.dtype, back) == data)


def _result(data: bytes, dtype: str, change: Change) -> bytes:
    numbers = as_tensor(data, dtype)
    numbers = numbers.double() if "F64" in (dtype, change.dtype) else numbers.float()
    scaled = numbers / change.scale if change.inverse else numbers * change.scale
    return as_bytes(scaled.to(DTYPES[change.dtype]))


class Factors(NamedTuple):
    """A LoRA pair: scale * up [rows, r] @ down [r, columns], in float64."""

    up: Tensor
    down: Tensor


def factors(up: tuple[bytes, str], down: tuple[bytes, str], rank: int, scale: float = 1.0) -> Factors:
    """Return a pair from the bytes and dtypes of its factors, the scale folded into up."""
    ups = as_tensor(*up).double().reshape(-1, rank) if rank else torch.zeros(0, 0)
    downs = as_tensor(*down).double().reshape(rank, -1) if rank else torch.zeros(0, 0)
    return Factors(ups * scale, downs)


def delta_difference(first: Factors, second: Factors) -> float:
    """Return |a - b| / |a| (Frobenius) of the deltas a = up_1 down_1, b = up_2 down_2; |b| where a vanishes.

    a - b = (up_1 - up_2) down_1 + up_2 (down_1 - down_2), a product of thin factors, whose norm needs no big matrix.
    """
    apart = ((first.up - second.up, first.down), (second.up, first.down - second.down))
    whole, rest = _norm([first]), _norm([Factors(*pair) for pair in apart])
    return rest / whole if whole else _norm([second])


def _norm(pairs: Sequence[Factors]) -> float:
    """Return |U V| of U = [up_1 up_2 ..], V = [down_1; down_2; ..] by |U V|^2 = tr(U^T U V V^T)."""
    up, down = torch.cat([pair.up for pair in pairs], dim=1), torch.cat([pair.down for pair in pairs])
    return float(((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt())
