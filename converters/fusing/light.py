"""The arithmetic of a scale with NumPy only, bit for bit the same as in `arithmetic`.

Importing torch takes seconds and 500 MB. NumPy has no float8, and verification needs torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .change import Change, Measured

NUMPY_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def measured(pieces: Iterable[tuple[bytes, str]], change: Change) -> Measured:
    """Measure a change on a factor's pieces, each with its dtype. Too large a number makes the loss infinite."""
    largest = lost = total = 0.0
    for data, dtype in pieces:
        with np.errstate(all="ignore"):
            want = _wide(data, dtype).astype(np.float64) * change.scale
            got = _wide(result(data, dtype, change), change.dtype).astype(np.float64)
        finite = np.isfinite(want)
        want, apart = want[finite], np.nan_to_num(got[finite] - want[finite], nan=np.inf, posinf=np.inf, neginf=-np.inf)
        largest = max(largest, float(np.abs(want).max(initial=0.0)))
        total, lost = total + float(want @ want), lost + float(apart @ apart)
    return Measured(largest, (lost / total) ** 0.5 if total else 0.0)


def is_finite(data: bytes, dtype: str) -> bool:
    """Return whether bytes contain neither NaN nor infinity."""
    return bool(np.isfinite(_wide(data, dtype)).all())


def result(data: bytes, dtype: str, change: Change) -> bytes:
    """Multiply or divide in float32 and round once to the dtype of the change."""
    kind = np.float64 if "F64" in (dtype, change.dtype) else np.float32
    with np.errstate(all="ignore"):
        numbers, scale = _wide(data, dtype).astype(kind, copy=False), kind(change.scale)
        return _narrow(numbers / scale if change.inverse else numbers * scale, change.dtype)


def _wide(data: bytes, dtype: str) -> Any:
    numbers = np.frombuffer(data, NUMPY_DTYPES[dtype])
    return (numbers.astype("<u4") << np.uint32(16)).view("<f4") if dtype == "BF16" else numbers


def _narrow(numbers: Any, dtype: str) -> bytes:
    if dtype in ("F64", "F32"):
        return numbers.astype(NUMPY_DTYPES[dtype], copy=False).tobytes()
    single = numbers.astype("<f4", copy=False)
    if dtype == "F16":
        return single.astype("<f2").tobytes()
    bits = single.view("<u4")  # bfloat16 is the upper half: round to the nearest, and ties to even
    rounded = ((bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)).astype("<u2")
    rounded[np.isnan(single)] = 0x7FC0
    return rounded.tobytes()
