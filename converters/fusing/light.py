"""The arithmetic of a scale with NumPy alone, bit for bit that of `arithmetic`.

Importing torch takes seconds and 500 MB. NumPy has no float8, and what verifies needs torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..files.slab import Slab
from .change import Change, Changed, too_large

KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def changed(where: str, data: bytes, slab: Slab, change: Change, look: bool = True) -> Changed:
    """Multiply or divide in float32 and round once to the dtype of the change.  Raises AdapterError on overflow.

    Only if `look` is it told whether that can be undone.
    """
    with np.errstate(all="ignore"):
        result = _result(data, slab.dtype, change)
        if not _is_finite(result, change.dtype) and _is_finite(data, slab.dtype):
            raise too_large(where, change)
        back = Change(slab.dtype, change.scale, not change.inverse)
        return Changed(result, look and change.scale != 0 and _result(result, change.dtype, back) == data)


def _is_finite(data: bytes, dtype: str) -> bool:
    return bool(np.isfinite(_wide(data, dtype)).all())


def _result(data: bytes, dtype: str, change: Change) -> bytes:
    kind = np.float64 if "F64" in (dtype, change.dtype) else np.float32
    numbers, scale = _wide(data, dtype).astype(kind, copy=False), kind(change.scale)
    return _narrow(numbers / scale if change.inverse else numbers * scale, change.dtype)


def _wide(data: bytes, dtype: str) -> Any:
    numbers = np.frombuffer(data, KINDS[dtype])
    return (numbers.astype("<u4") << np.uint32(16)).view("<f4") if dtype == "BF16" else numbers


def _narrow(numbers: Any, dtype: str) -> bytes:
    if dtype in ("F64", "F32"):
        return numbers.astype(KINDS[dtype], copy=False).tobytes()
    single = numbers.astype("<f4", copy=False)
    if dtype == "F16":
        return single.astype("<f2").tobytes()
    bits = single.view("<u4")  # of bfloat16 the upper half, to the nearest and in the middle to the even one
    rounded = ((bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)).astype("<u2")
    rounded[np.isnan(single)] = 0x7FC0
    return rounded.tobytes()
