"""The arithmetic between a factor of the source and the written factor, and the dtypes that can hold the result."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import NamedTuple

from ..errors import AdapterError
from ..files.header import FLOATS
from ..files.slab import Slab


class Change(NamedTuple):
    """Multiply by `scale` (divide if `inverse`) in float32 and round once to `dtype`."""

    dtype: str
    scale: float
    inverse: bool = False


def change_due(slabs: Sequence[Slab], dtype: str, scale: float, inverse: bool = False) -> Change | None:
    """Return the arithmetic between matrices and the written ones; None if the bytes are just moved."""
    if scale == 1.0 and all(slab.dtype == dtype for slab in slabs):
        return None
    return Change(dtype, scale, inverse)


ROUNDING = {"F64": 2**-53, "F32": 2**-24, "F16": 2**-11, "BF16": 2**-8, "F8_E4M3": 2**-4, "F8_E5M2": 2**-3}
"""The largest relative error of a number that is rounded once."""
_BY_WIDTH = ("F64", "F32", "BF16", "F16", "F8_E4M3", "F8_E5M2")


def common_dtype(slabs: Iterable[Slab]) -> str:
    """Return the narrowest dtype that holds the values of all the matrices exactly."""
    kinds = {slab.dtype for slab in slabs}
    if kinds >= {"F16", "BF16"}:
        kinds.add("F32")
    if kinds >= {"F8_E4M3", "F8_E5M2"}:
        kinds.add("F16")
    return next(name for name in _BY_WIDTH if name in kinds)


_ALIASES = {
    **{"float64": "F64", "double": "F64", "fp64": "F64"},
    **{"float32": "F32", "float": "F32", "fp32": "F32"},
    **{"float16": "F16", "half": "F16", "fp16": "F16"},
    **{"bfloat16": "BF16"},
    **{"float8_e4m3fn": "F8_E4M3", "fp8_e4m3fn": "F8_E4M3", "fp8_e4m3": "F8_E4M3", "float8_e4m3": "F8_E4M3"},
    **{"float8_e5m2": "F8_E5M2", "fp8_e5m2": "F8_E5M2"},
}


def dtype_of(name: object) -> str:
    """Return safetensors' name of a floating point dtype, given torch's name or dtype, a short name or its own name.

    Raises ValueError.
    """
    plain = str(name).removeprefix("torch.")
    found = _ALIASES.get(plain.lower(), plain.upper())
    if found not in FLOATS:
        raise ValueError(f"Expected a dtype of {', '.join(FLOATS)}, got {plain!r}.")
    return found


class Changed(NamedTuple):
    """The bytes of the changed numbers, and whether the change can be undone bit for bit."""

    data: bytes
    exact: bool


class Measured(NamedTuple):
    """The largest number of a changed factor, and the loss by the change (Frobenius norm, relative)."""

    largest: float
    lost: float


def changed(numbers: ModuleType, where: str, data: bytes, dtype: str, change: Change, look: bool = True) -> Changed:
    """Change bytes with one of the arithmetic modules; whether this can be undone is determined only if `look` is true.

    Raises AdapterError for numbers that the dtype can't hold.
    """
    result = numbers.result(data, dtype, change)
    if not numbers.is_finite(result, change.dtype) and numbers.is_finite(data, dtype):
        raise AdapterError(
            f"{where}: expected numbers that {change.dtype} can hold, got larger ones after scaling by "
            f"{change.scale:g}; choose a wider type with --dtype."
        )
    back = Change(dtype, change.scale, not change.inverse)
    return Changed(result, look and change.scale != 0 and numbers.result(result, change.dtype, back) == data)


def load_changing(where: str, *dtypes: str) -> ModuleType:
    """Import the module that changes numbers of these dtypes: NumPy's, unless torch is loaded or float8 needs it."""
    if "torch" not in sys.modules and not any(dtype.startswith("F8") for dtype in dtypes):
        try:
            from . import light
        except ImportError:
            return load_arithmetic(where)
        return light
    return load_arithmetic(where)


def load_arithmetic(where: str) -> ModuleType:
    """Import the arithmetic with torch, for the tensor `where`.  Raises AdapterError if torch is not installed."""
    try:
        from . import arithmetic
    except ImportError as error:
        raise AdapterError(
            f"{where}: expected torch for the arithmetic of a scale or dtype, got {error}; "
            "install torch, or run this in ComfyUI's Python."
        ) from error
    return arithmetic
