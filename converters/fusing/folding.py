"""Choose where the scales of a fused layer go, so that nothing is lost.

A scale is multiplied into the up factors where the result's dtype holds the products. Where it does not (float8 and
float16 have few exponents), the scale stays in the file as `.alpha`, which ComfyUI's loaders read once for the whole
fused layer, if all parts share it. A narrower dtype that was asked for gets numbers near 1, by powers of two that the
alpha takes back. Where all of that loses more than the dtype's own rounding, a wider dtype is written.
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
    """How a fused layer is written: dtypes, what multiplies each block's factors, and the scale beside them."""

    down_dtype: str
    up_dtype: str
    downs: tuple[float, ...]
    ups: tuple[float, ...]
    scale: float = 1.0
    """What the loaders multiply by: alpha / rank. 1: no alpha is written."""

    def changes(self, fused: FusedLayer) -> Iterator[tuple[Sequence[Slab], Change]]:
        """Yield the factors that are computed, and how."""
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
"""Up to which scale, and down to its inverse, the usual numbers of a LoRA stay far within float32's exponents."""
_FLOAT8 = ("F8_E4M3", "F8_E5M2")


def folds_of(adapter: AdapterFile, dtype: object, read: Reader) -> Folds:
    """Choose for every fused layer; `dtype` None keeps that of the parts.  Raises ValueError for an unknown one."""
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
    """Return the fold that leaves the factors as they are and their scale beside them; None if they have several."""
    scales = {block.scale for block in fused.blocks if block.rank}
    return fold._replace(ups=fold.downs, scale=scales.pop()) if len(scales) == 1 else None


def lifted(where: str, fused: FusedLayer, fold: Fold, read: Reader) -> Fold:
    """Return the fold whose factors are brought near 1 by powers of two, which the scale beside them takes back."""
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
    if excess <= 0 or (asked and math.isinf(excess)):  # too large for what was asked for: it is said when it is written
        return plain
    if kept is not None and _excess(where, fused, kept, read) <= 0:
        return kept
    if asked and _excess(where, fused, near_one := lifted(where, fused, plain, read), read) <= 0:
        return near_one
    return folded(fused, *(_WIDER.get(dtype, dtype) for dtype in (plain.down_dtype, plain.up_dtype)))


def _is_ordinary(change: Change) -> bool:
    return change.dtype in _LIKE_FLOAT32 and (not change.scale or 1 / _ORDINARY < abs(change.scale) < _ORDINARY)


def _excess(where: str, fused: FusedLayer, fold: Fold, read: Reader) -> float:
    """Return by how much a factor loses more than is allowed, at worst; infinite where a number becomes too large."""
    losses = (
        _measured(where, slabs, change, read).lost - _allowed(slabs, change.dtype)
        for slabs, change in fold.changes(fused)
    )
    return max(losses, default=0.0)


def _allowed(slabs: Sequence[Slab], dtype: str) -> float:
    """Return how much of a factor may be lost: by folding alone no more than float16's rounding.

    By a new dtype its own rounding, over both factors of a delta, whose losses add up in squares.
    """
    if any(slab.dtype != dtype for slab in slabs):
        return max(ROUNDING[dtype], ROUNDING["F32"]) / math.sqrt(2)
    return 0.0 if dtype in _FLOAT8 else ROUNDING["F16"]


def _measured(where: str, slabs: Sequence[Slab], change: Change, read: Reader) -> Any:
    numbers = load_changing(where, *(slab.dtype for slab in slabs), change.dtype)
    pieces = ((read(part), part.dtype) for slab in slabs for part in chunks(slab, most=PIECE))
    return numbers.measured(pieces, change)


def alpha_of(scale: float, rank: int) -> tuple[str, bytes] | None:
    """Return the dtype and bytes of the alpha that tells a scale; None for scale 1. float32, if it holds the number."""
    if scale == 1.0 or not rank:
        return None
    value = scale * rank
    try:
        short = struct.pack("<f", value)
    except OverflowError:
        return "F64", struct.pack("<d", value)
    return ("F32", short) if struct.unpack("<f", short)[0] == value else ("F64", struct.pack("<d", value))


def multipliers(adapter: AdapterFile, folds: Folds) -> tuple[dict[str, float], dict[str, float]]:
    """Return by part what multiplies its up factor, and what its down factor."""
    ups, downs = {}, {}
    for layer, fused in adapter.layers.items():
        parts = [block.part for block in fused.blocks]
        ups |= dict(zip(parts, folds[layer].ups, strict=True))
        downs |= dict(zip(parts, folds[layer].downs, strict=True))
    return ups, downs


def fold_notes(adapter: AdapterFile, folds: Folds, dtype: object) -> tuple[str, ...]:
    """Say where a scale stays beside the factors, and where a wider dtype had to be written, a sentence each."""
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
