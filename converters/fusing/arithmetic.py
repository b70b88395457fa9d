"""The arithmetic of conversion with torch. Only this module and `state` import torch, and only when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from .change import Change, Measured

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
INTEGERS = {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}
"""Other dtypes that an alpha may have; they are never used in arithmetic."""
_TYPES = DTYPES | INTEGERS
NAMES = {dtype: name for name, dtype in _TYPES.items()}


def as_tensor(data: bytes, dtype: str) -> Tensor:
    """Return bytes of a safetensors dtype as a flat tensor with its own memory."""
    return torch.frombuffer(bytearray(data), dtype=_TYPES[dtype]) if data else torch.empty(0, dtype=_TYPES[dtype])


def as_bytes(tensor: Tensor) -> bytes:
    """Return a tensor's bytes in row order."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


Given = ParamSpec("Given")
Made = TypeVar("Made")


def _on_one_thread(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Run a function on one thread: for pieces of a megabyte, distributing the work would take longer."""

    @wraps(function)
    def alone(*arguments: Given.args, **options: Given.kwargs) -> Made:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function(*arguments, **options)
        finally:
            torch.set_num_threads(threads)

    return alone


@_on_one_thread
def is_finite(data: bytes, dtype: str) -> bool:
    """Return whether bytes contain neither NaN nor infinity."""
    numbers = as_tensor(data, dtype).float()
    return bool(numbers.sum().isfinite()) or bool(numbers.isfinite().all())  # the sum is quick, and may overflow


@_on_one_thread
def result(data: bytes, dtype: str, change: Change) -> bytes:
    """Multiply or divide in float32 and round once to the dtype of the change."""
    numbers = as_tensor(data, dtype)
    numbers = numbers.double() if "F64" in (dtype, change.dtype) else numbers.float()
    scaled = numbers / change.scale if change.inverse else numbers * change.scale
    return as_bytes(scaled.to(DTYPES[change.dtype]))


@_on_one_thread
def measured(pieces: Iterable[tuple[bytes, str]], change: Change) -> Measured:
    """Measure a change on a factor's pieces, each with its dtype. Too large a number makes the loss infinite."""
    largest = lost = total = 0.0
    for data, dtype in pieces:
        want = _scaled(data, dtype, change.scale)
        apart = (_scaled(result(data, dtype, change), change.dtype) - want)[want.isfinite()]
        finite = want[want.isfinite()]
        if finite.numel():
            largest = max(largest, float(finite.abs().max()))
            total += float(finite.square().sum())
            lost += float(apart.nan_to_num(nan=torch.inf).square().sum())
    return Measured(largest, (lost / total) ** 0.5 if total else 0.0)


class Compared(NamedTuple):
    """Whether a result equals the converted source, and whether nothing was rounded."""

    same: bool
    exact: bool


@_on_one_thread
def redone(source: bytes, dtype: str, written: bytes, change: Change, look: bool) -> Compared:
    """Repeat a change and compare; whether it rounded is determined only if `look` is true."""
    if result(source, dtype, change) != written:
        return Compared(False, False)
    return Compared(True, look and torch.equal(_scaled(source, dtype, change.scale), _scaled(written, change.dtype)))


def _scaled(data: bytes, dtype: str, scale: float = 1.0) -> Tensor:
    return as_tensor(data, dtype).double() * scale


class PiecePair(NamedTuple):
    """The same piece of a factor in the source (scaled) and in the result: bytes and dtypes."""

    source: bytes
    dtype: str
    result: bytes
    other: str


EXACT_RANK, DIRECTIONS = 32, 8
"""The rank up to which the difference of deltas is exact, and the number of random directions for higher ranks."""


Scales = tuple[float, float]
"""The multipliers of the factors in the source and in the result."""


@_on_one_thread
def delta_difference(
    ups: Iterable[PiecePair], downs: Iterable[PiecePair], rank: int, up_scales: Scales, down_scales: Scales, moved: bool
) -> float:
    """Return |a - b| / |a| (Frobenius) of the deltas a = up_1 down_1, b = up_2 down_2; |b| where a vanishes.

    The pieces of up are rows, those of down are columns. a - b = (up_1 - up_2) down_1 + up_2 (down_1 - down_2) = U D,
    and the deltas themselves are never computed. `moved`: down_1 is down_2. Up to rank 32, |U D|^2 = tr(U^T U D D^T),
    summed over the pieces. For higher ranks that would take much longer than the conversion. There |U D|^2 is estimated
    as the mean of |U D g|^2 over 8 normal vectors g (Hutchinson, 1990): 0 only if U D is 0, and accurate to a few
    percent.
    """
    if rank > EXACT_RANK:
        return _estimated(ups, downs, rank, up_scales, down_scales, moved)
    up, both_up, other_up = 0.0, 0.0, 0.0
    for piece in ups:
        first, second, rest = _factors(piece, (-1, rank), up_scales)
        rest = rest if moved else torch.cat([rest, second], dim=1)
        up, both_up, other_up = up + first.T @ first, both_up + rest.T @ rest, other_up + second.T @ second
    down, both_down, other_down = 0.0, 0.0, 0.0
    for piece in downs:
        first, second, rest = _factors(piece, (rank, -1), down_scales)
        rest = first if moved else torch.cat([first, rest])
        down, both_down, other_down = down + first @ first.T, both_down + rest @ rest.T, other_down + second @ second.T
    whole, apart = _norm(up, down), _norm(both_up, both_down)
    return apart / whole if whole else _norm(other_up, other_down)


def _estimated(
    ups: Iterable[PiecePair], downs: Iterable[PiecePair], rank: int, up_scales: Scales, down_scales: Scales, moved: bool
) -> float:
    draw, seen = torch.Generator().manual_seed(0), torch.zeros(3, rank, DIRECTIONS, dtype=torch.float64)
    for piece in downs:
        factors = torch.stack(_factors(piece, (rank, -1), down_scales))
        seen += factors @ torch.randn(factors.shape[2], DIRECTIONS, generator=draw, dtype=torch.float64)
    down, other, between = seen
    squares = torch.zeros(3, dtype=torch.float64)
    for piece in ups:
        first, second, rest = _factors(piece, (-1, rank), up_scales)
        apart = rest @ down if moved else rest @ down + second @ between
        squares += torch.stack([(first @ down).square().sum(), (second @ other).square().sum(), apart.square().sum()])
    whole, theirs, difference = (float(square) ** 0.5 for square in squares)
    return difference / whole if whole else theirs / DIRECTIONS**0.5


def _factors(piece: PiecePair, shape: tuple[int, int], scales: Scales) -> tuple[Tensor, Tensor, Tensor]:
    """Return a piece of the source's factor, of the result's, and their difference, in float64."""
    first = _scaled(piece.source, piece.dtype, scales[0]).reshape(shape)
    second = _scaled(piece.result, piece.other, scales[1]).reshape(shape)
    return first, second, first - second


def _norm(up: Tensor | float, down: Tensor | float) -> float:
    return float(torch.as_tensor(up * down).sum().clamp(min=0).sqrt())
