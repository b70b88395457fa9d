"""The arithmetic of conversion; the only module here that imports torch, and only when it is needed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .header import Entry

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def as_tensor(data: bytes, dtype: str) -> Tensor:
    """Return bytes of a safetensors dtype as a flat tensor of their own."""
    return torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]) if data else torch.empty(0, dtype=DTYPES[dtype])


def as_bytes(tensor: Tensor) -> bytes:
    """Return a tensor's bytes in row order."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def rescaled(data: bytes, source: str, target: str, scale: float) -> bytes:
    """Multiply by `scale` in float32 and round once to the target dtype."""
    return as_bytes((as_tensor(data, source).float() * scale).to(DTYPES[target]))


def entries_of(state: Mapping[str, Tensor]) -> dict[str, Entry]:
    """Describe a state dict as the header of a file would; a dtype that has no name there is spelled as torch does."""
    return {
        name: Entry(_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)) for name, tensor in state.items()
    }


def relative_difference(first: tuple[bytes, str, float], second: tuple[bytes, str, float]) -> float:
    """Return |a - b| / |a| of two factors (bytes, dtype, scale) in float64; 0 where both vanish."""
    a, b = (as_tensor(data, dtype).double() * scale for data, dtype, scale in (first, second))
    size = float(a.norm())
    return float((a - b).norm()) / size if size else float(b.norm())
