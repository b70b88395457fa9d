"""The tensors of a file other than the factors of FLUX.1's layers, under the names that ComfyUI's loaders read.

Text encoders' pairs keep their factors and alphas. A bias of an up factor acts as scale * bias, so it becomes `diff_b`
of the fused layer, with zeros outside the part's rows; `set_weight` sets a norm; `reshape_weight` widens a layer.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import AdapterError
from ..files.header import DTYPE_BYTES, FLOATS, Entry
from ..files.slab import Slab
from . import names
from .dialects import CLIP, T5, TEXT, is_comfy, parse_extra
from .layout import Geometry, Place, height, norm_place, place
from .names import BIAS, RESHAPE, SET, Name
from .plan import FusedLayer, Kept, KeptPiece
from .scales import Scaling

IMG_IN = "img_in"
CHANNELS = 64
"""Columns of FLUX.1's img_in: 16 latent channels in patches of 2 x 2. A wider img_in also gets a control image."""


def target_of(layer: str, role: str) -> str:
    """Return the name under which the host's loaders read another tensor of a layer."""
    return f"{layer}.{role}" if layer.startswith(TEXT) else names.fused_extra(layer, role)


def slab_of(key: str, entry: Entry) -> Slab:
    """Return a whole tensor as a matrix: its first axis in rows, the others in columns."""
    rows = entry.shape[0] if entry.shape else 1
    columns = math.prod(entry.shape[1:])
    return Slab(entry.dtype, rows, columns, entry.offset, columns * DTYPE_BYTES[entry.dtype], key)


def whole(key: str, entry: Entry) -> Kept:
    """Keep a tensor unchanged."""
    return Kept(entry.dtype, entry.shape, (KeptPiece(key, entry.shape, 0, (slab_of(key, entry),)),))


def text_layers(
    path: Path, entries: Mapping[str, Entry], pairs: names.Pairs, scalings: Mapping[str, Scaling]
) -> dict[str, Kept]:
    """Keep the text encoders' pairs.  Raises AdapterError for factors that do not fit each other."""
    kept: dict[str, Kept] = {}
    for module, (down, up) in pairs.factors.items():
        if not module.startswith(TEXT):
            continue
        factors = [entries[key] for key in (down, up)]
        shapes = [entry.shape for entry in factors]
        if module in pairs.scales:
            raise AdapterError(
                f"{path}: {pairs.scales[module][0]}: expected factors of a text encoder without scales, got "
                "quantised ones; save the LoRA in bfloat16 or float16."
            )
        floats = all(len(entry.shape) == 2 and entry.dtype in FLOATS for entry in factors)
        if not floats or shapes[0][0] != shapes[1][1]:
            got = " and ".join(f"{entry.dtype} {list(entry.shape)}" for entry in factors)
            raise AdapterError(
                f"{path}: {down}: expected floating point down [r, columns] and up [rows, r], got {got}; "
                "download the file again."
            )
        kept |= {f"{module}.lora_A.weight": whole(down, entries[down])}
        kept |= {f"{module}.lora_B.weight": whole(up, entries[up])}
        scaling = next(scalings[encoder] for encoder in (CLIP, T5) if module.startswith(encoder))
        kept |= _text_alpha(module, entries, pairs.alphas.get(module), scaling, shapes[0][0])
    return kept


def _text_alpha(
    module: str, entries: Mapping[str, Entry], key: str | None, scaling: Scaling, rank: int
) -> dict[str, Kept]:
    """Keep a layer's alpha, or write one if only a configuration gives it."""
    scale = scaling.scale(module.partition(".transformer.")[2], rank)
    if key is not None:
        return {f"{module}.alpha": whole(key, entries[key])}
    return {} if scale == 1.0 else {f"{module}.alpha": Kept("F32", (), (), struct.pack("<f", scale * rank))}


class Found(NamedTuple):
    """Other tensors of a file: those that the host's loaders can apply, and unknown ones."""

    named: Mapping[str, Name]
    rest: tuple[str, ...]


def find_extras(keys: tuple[str, ...]) -> Found:
    """Find the tensors, other than factors, that ComfyUI's loaders can apply to layers of FLUX.1."""
    named = {key: name for key in keys if (name := parse_extra(key)) and _is_known(name)}
    return Found(named, tuple(key for key in keys if key not in named))


def _is_known(name: Name) -> bool:
    """Differences and values must be for ComfyUI's whole layers; biases may be for Diffusers' parts."""
    if name.module.startswith(TEXT):
        return name.role in (names.DIFF, names.DIFF_B, names.NORM, SET)
    if name.role in (SET, names.NORM):
        return norm_place(name.module) is not None
    if name.role == BIAS:
        return place(name.module) is not None
    if name.role == names.DIFF and norm_place(name.module) is not None:
        return True
    return is_comfy(name.module) or (name.role == names.DIFF_B and place(name.module) is not None)


def flux_extras(
    path: Path,
    entries: Mapping[str, Entry],
    found: Mapping[str, Name],
    layers: Mapping[str, FusedLayer],
    geometry: Geometry,
    scaling: Scaling,
) -> dict[str, Kept]:
    """Keep biases, norms, differences and shapes of FLUX.1's layers.  Raises AdapterError for other tensors."""
    kept: dict[str, Kept] = {}
    for key, name in found.items():
        where = place(name.module)
        if name.role in (BIAS, names.DIFF_B) and where is not None:
            target = names.fused_extra(where.layer, BIAS)
            piece = _bias(path, key, entries[key], where, name, _ranks(layers), geometry, scaling)
            kept[target] = _joined(path, key, kept.get(target), piece, _rows(where, geometry, entries[key]), entries)
        else:
            target = target_of(name.module, name.role)
            if target in kept:
                raise AdapterError(f"{path}: {key}: expected {target} once, got it twice; remove one of them.")
            kept[target] = whole(key, entries[key])
    return kept | _reshaped(layers, kept)


def _ranks(layers: Mapping[str, FusedLayer]) -> dict[str, int]:
    return {block.part: block.rank for fused in layers.values() for block in fused.blocks}


def _rows(where: Place, geometry: Geometry, entry: Entry) -> int:
    units = height(where.fused)
    return units.of(geometry) if units is not None else math.prod(entry.shape)


def _bias(
    path: Path,
    key: str,
    entry: Entry,
    where: Place,
    name: Name,
    ranks: Mapping[str, int],
    geometry: Geometry,
    scaling: Scaling,
) -> KeptPiece:
    rows = where.part.rows.of(geometry) if where.part.rows is not None else math.prod(entry.shape)
    if entry.shape != (rows,) or entry.dtype not in FLOATS:
        got = f"{entry.dtype} {list(entry.shape)}"
        raise AdapterError(
            f"{path}: {key}: expected {rows} floating point numbers, got {got}; download the file again."
        )
    slab = slab_of(key, entry)
    slabs = slab.halves_swapped() if where.part.swapped else (slab,)
    if name.role == BIAS and where.module not in ranks:
        raise AdapterError(f"{path}: {key}: expected the factors of this layer too, got none; download the file again.")
    scale = scaling.scale(where.module, ranks[where.module]) if name.role == BIAS else 1.0
    return KeptPiece(key, entry.shape, where.row.of(geometry), slabs, scale)


def _joined(
    path: Path, key: str, before: Kept | None, piece: KeptPiece, rows: int, entries: Mapping[str, Entry]
) -> Kept:
    """Add a part's bias to those of the other parts."""
    pieces = (*(before.pieces if before else ()), piece)
    if len({one.row for one in pieces}) < len(pieces) or any(one.shape == (rows,) for one in pieces[1:]):
        raise AdapterError(f"{path}: {key}: expected a layer's bias once, got {pieces[0].key} too; remove one of them.")
    kinds = {entries[one.key].dtype for one in pieces}
    # A scaled bias is small compared with its factors, so it is never written in a narrow dtype.
    wide = len(kinds) > 1 or (any(one.scale != 1.0 for one in pieces) and not kinds & {"F64", "F32", "BF16"})
    return Kept("F32" if wide else kinds.pop(), (rows,), pieces)


def _reshaped(layers: Mapping[str, FusedLayer], kept: Mapping[str, Kept]) -> dict[str, Kept]:
    """Tell the host the shape of a wider img_in, which the host would otherwise ignore."""
    key, layer = names.fused_extra(IMG_IN, RESHAPE), layers.get(IMG_IN)
    if layer is None or key in kept or layer.columns <= CHANNELS:
        return {}
    return {key: Kept("I64", (2,), (), struct.pack("<2q", layer.rows, layer.columns))}
