"""Choose where the scales of a fused layer go, so that no precision is lost.

A scale is multiplied into the up factors if the result's dtype can hold the products. If not (float8 and float16 have
few exponents) and if all parts share the scale, it stays in the file as `.alpha`, which ComfyUI's loaders read once for
the whole fused layer. If a narrower dtype is requested, its numbers are brought near 1 by powers of two, and the alpha
compensates for them. If all this loses more than the dtype's own rounding, a wider dtype is written.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..files.reading import PIECE, Reader, chunks
from ..files.slab import Slab
from ..lora.plan import AdapterFile, FusedLayer
from .change import ROUNDING, Change, change_due, common_dtype, dtype_of, load_changing


class Fold(NamedTuple):
    """How a fused layer is written: dtypes, the multipliers of each block's factors, and the separate scale."""

    down_dtype: str
    up_dtype: str
    downs: tuple[float, ...]
    ups: tuple[float, ...]
    scale: float = 1.0
    """The loaders multiply by this: alpha / rank. If it is 1, no alpha is written."""

    def changes(self, fused: FusedLayer) -> Iterator[tuple[Sequence[Slab], Change]]:
        """Yield the factors that need arithmetic, and the arithmetic."""
        for block, down, up in zip(fused.blocks, self.downs, self.ups, strict=True):
            for slabs, dtype, scale in (((block.down,), self.down_dtype, down), (block.up, self.up_dtype, up)):
                change = change_due(slabs, dtype, scale)
                if change is not None and block.rank:
                    yield slabs, change


Folds = Mapping[str, Fold]
"""ComfyUI layer -> how it is written."""

_WIDER = {"F8_E4M3": "BF16", "F8_E5M2": "BF16", "F16": "F32", "BF16": "F32"}
_LIKE_FLOAT32 = ("F64", "F32", "BF16")
_ORDINARY = 2.0**60
"""For scales up to this and down to its inverse, the usual numbers of a LoRA are far from float32's limits."""
_FLOAT8 = ("F8_E4M3", "F8_E5M2")


def folds_of(adapter: AdapterFile, dtype: object, read: Reader) -> Folds:
    """Choose the fold of every fused layer; `dtype` None keeps that of the parts.  Raises ValueError if unknown."""
    asked = None if dtype is None else dtype_of(dtype)
    return {
        layer: _chosen(f"{adapter.path}: {fused.blocks[0].up[0].key}", fused, asked, read)
        for layer, fused in adapter.layers.items()
    }


def folded(fused: FusedLayer, down_dtype: str, up_dtype: str) -> Fold:
    """Return the fold that multiplies every scale into its block's up factor."""
    blocks = fused.blocks
    return Fold(down_dtype, up_dtype, (1.0,) * len(blocks), tuple(block.scale for block in blocks))


def beside(fused: FusedLayer, fold: Fold) -> Fold | None:
    """Return the fold that keeps the factors and stores their scale separately; None if there are several scales."""
    scales = {block.scale for block in fused.blocks if block.rank}
    return fold._replace(ups=fold.downs, scale=scales.pop()) if len(scales) == 1 else None


def lifted(where: str, fused: FusedLayer, fold: Fold, read: Reader) -> Fold:
    """Return the fold that brings the factors near 1 by powers of two; the separate scale compensates for them."""
    base = max((block.scale for block in fused.blocks if block.rank), key=abs) or 1.0
    parts = [block.scale / base if block.rank else 1.0 for block in fused.blocks]
    sizes = [
        tuple(_measured(where, slabs, Change(slabs[0].dtype, 1.0), read).largest for slabs in ((b.down,), b.up))
        for b in fused.blocks
    ]
    lifts = [(-math.frexp(down)[1], -math.frexp(up * part)[1]) for (down, up), part in zip(sizes, parts, strict=True)]
    least = min((sum(lift) for lift, size in zip(lifts, sizes, strict=True) if all(size)), default=0)
    below = [down - (down + up - least) // 2 for down, up in lifts]
    return fold._replace(
        downs=tuple(2.0**down for down in below),
        ups=tuple(part * 2.0 ** (least - down) for part, down in zip(parts, below, strict=True)),
        scale=base * 2.0**-least,
    )


def _chosen(where: str, fused: FusedLayer, asked: str | None, read: Reader) -> Fold:
    plain = folded(
        fused,
        asked or common_dtype(block.down for block in fused.blocks),
        asked or common_dtype(slab for block in fused.blocks for slab in block.up),
    )
    kept = beside(fused, plain)
    if kept is not None and kept.scale == 0:
        return kept
    if all(_is_ordinary(change) for _, change in plain.changes(fused)):
        return plain
    excess = _excess(where, fused, plain, read)
    if excess <= 0 or (asked and math.isinf(excess)):  # too large for the requested dtype: writing it raises the error
        return plain
    if kept is not None and _excess(where, fused, kept, read) <= 0:
        return kept
    if asked and _excess(where, fused, near_one := lifted(where, fused, plain, read), read) <= 0:
        return near_one
    return folded(fused, *(_WIDER.get(dtype, dtype) for dtype in (plain.down_dtype, plain.up_dtype)))


def _is_ordinary(change: Change) -> bool:
    return change.dtype in _LIKE_FLOAT32 and (not change.scale or 1 / _ORDINARY < abs(change.scale) < _ORDINARY)


def _excess(where: str, fused: FusedLayer, fold: Fold, read: Reader) -> float:
    """Return the largest loss of a factor beyond the limit; infinite if a number becomes too large."""
    losses = (
        _measured(where, slabs, change, read).lost - _allowed(slabs, change.dtype)
        for slabs, change in fold.changes(fused)
    )
    return max(losses, default=0.0)


def _allowed(slabs: Sequence[Slab], dtype: str) -> float:
    """Return the allowed loss of a factor. For folding alone it is at most float16's rounding.

    For a new dtype it is that dtype's rounding, shared by both factors of a delta (their losses add up in squares).
    """
    if any(slab.dtype != dtype for slab in slabs):
        return max(ROUNDING[dtype], ROUNDING["F32"]) / math.sqrt(2)
    return 0.0 if dtype in _FLOAT8 else ROUNDING["F16"]


def _measured(where: str, slabs: Sequence[Slab], change: Change, read: Reader) -> Any:
    numbers = load_changing(where, *(slab.dtype for slab in slabs), change.dtype)
    pieces = ((read(part), part.dtype) for slab in slabs for part in chunks(slab, most=PIECE))
    return numbers.measured(pieces, change)


def alpha_of(scale: float, rank: int) -> tuple[str, bytes] | None:
    """Return the dtype and bytes of the alpha for a scale, None for scale 1; float32 if it can hold the number."""
    if scale == 1.0 or not rank:
        return None
    value = scale * rank
    try:
        short = struct.pack("<f", value)
    except OverflowError:
        return "F64", struct.pack("<d", value)
    return ("F32", short) if struct.unpack("<f", short)[0] == value else ("F64", struct.pack("<d", value))


def multipliers(adapter: AdapterFile, folds: Folds) -> tuple[dict[str, float], dict[str, float]]:
    """Return the multipliers of each part's up factor and down factor."""
    ups, downs = {}, {}
    for layer, fused in adapter.layers.items():
        parts = [block.part for block in fused.blocks]
        ups |= dict(zip(parts, folds[layer].ups, strict=True))
        downs |= dict(zip(parts, folds[layer].downs, strict=True))
    return ups, downs


def fold_notes(adapter: AdapterFile, folds: Folds, dtype: object) -> tuple[str, ...]:
    """Return notes: one about scales that stay separate, one about layers that were written in a wider dtype."""
    asked = None if dtype is None else dtype_of(dtype)
    beside_them = sum(fold.scale != 1.0 for fold in folds.values())
    wider: Counter[tuple[str, str]] = Counter()
    for layer, fold in folds.items():
        for block in adapter.layers[layer].blocks[:1]:
            narrow = asked or block.up[0].dtype
            if _WIDER.get(narrow) == fold.up_dtype and fold.up_dtype != common_dtype(block.up):
                wider[narrow, fold.up_dtype] += 1
    notes = (
        [f"{beside_them} layers keep their scale as .alpha, which ComfyUI's LoRA loaders apply"] if beside_them else []
    )
    notes += [
        f"{count} layers are written in {wide}: {narrow} would lose their numbers"
        for (narrow, wide), count in wider.items()
    ]
    return tuple(notes)
