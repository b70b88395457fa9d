"""Plan an adapter as it was trained: find every pair's place in ComfyUI's layers, in any dialect."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ..errors import AdapterError
from ..files.header import DTYPE_BYTES, FLOATS, Entry
from ..files.slab import Slab
from . import names
from .dialects import T5, TEXT, bare
from .extras import CHANNELS, IMG_IN, find_extras, flux_extras, text_layers
from .layout import FLUX_1, LAYOUT, SINGLE, Geometry, Part, Place, fused_place, height, owner
from .plan import AdapterFile, Alpha, Block, FusedLayer
from .recognise import Recognised, as_matrices
from .scales import LARGEST, Scaling

Scaler = Callable[[str, int], float]
"""Returns the scale of a layer, given its name and rank."""
T = TypeVar("T")


def original_plan(
    path: Path,
    metadata: Mapping[str, str],
    entries: Mapping[str, Entry],
    found: Recognised,
    numbers: Mapping[str, Alpha],
    scalings: Mapping[str, Scaling],
) -> AdapterFile:
    """Plan an adapter; `numbers` are its alphas and the scales of its factors by key.

    The scalings are the transformer's, under "", and the text encoders', under the host's prefixes.

    Raises AdapterError if the file is not a FLUX.1 LoRA, and for a tensor of FLUX.1 that no LoRA of the host can have.
    """
    _refuse_foreign(path, entries, found)
    pairs, scaling = names.pair_up(path, found.names), scalings[""]
    matrices = as_matrices(entries, found.names)
    _refuse_transposed(path, matrices, pairs)
    geometry = _checked_geometry(path, matrices, found, pairs)
    scales = {module: tuple(numbers[key] for key in keys) for module, keys in pairs.scales.items()}
    layers = _layers(path, matrices, found.places, pairs, geometry, _scaler(path, scaling, scales))
    extras = find_extras(pairs.others)
    kept = text_layers(path, matrices, pairs, scalings)
    kept |= flux_extras(path, matrices, extras.named, layers, geometry, scaling)
    unused = (*extras.rest, *_unplaced(found, pairs))
    _refuse_mutilation(path, unused)
    plan = AdapterFile(path, found.fused, metadata, geometry, layers, unused, scaling=scaling.source, kept=kept)
    return plan._replace(
        alphas=_by_part(found, {module: numbers[key] for module, key in pairs.alphas.items()}),
        notes=(*((found.note,) if found.note else ()), *_wide(layers), *(() if found.places else (_TEXT_ALONE,))),
        factor_scales=_by_part(found, scales),
        ones=_by_part(found, _ones(entries, pairs)),
        question=scaling.question(
            {module: matrices[down].shape[0] for module, (down, _) in pairs.factors.items() if module in found.places}
        ),
    )


def _by_part(found: Recognised, values: Mapping[str, T]) -> dict[str, T]:
    """Return the values for FLUX.1's layers by their Diffusers names, given the file's names."""
    return {found.places[module].module: value for module, value in values.items() if module in found.places}


def _unplaced(found: Recognised, pairs: names.Pairs) -> list[str]:
    """List the keys of the pairs that are neither of FLUX.1 nor of a text encoder."""
    unplaced = [module for module in pairs.factors if module not in found.places and not module.startswith(TEXT)]
    return [key for module in unplaced for key in pairs.keys_of(module)]


def _ones(entries: Mapping[str, Entry], pairs: names.Pairs) -> dict[str, tuple[int, ...]]:
    """Return how many axes of length 1 the factors of a layer have after their two axes, if they have any."""
    ones = {
        module: tuple(max(0, len(entries[key].shape) - 2) for key in keys) for module, keys in pairs.factors.items()
    }
    return {module: numbers for module, numbers in ones.items() if any(numbers)}


def _scaler(path: Path, scaling: Scaling, scales: Mapping[str, tuple[Alpha, ...]]) -> Scaler:
    """Return a function that gives a layer's scale, including that of scaled factors."""

    def scale(module: str, rank: int) -> float:
        own = scales.get(module, ())
        found = scaling.scale(module, rank) * math.prod(number.value for number in own)
        if not abs(found) * rank <= LARGEST:
            raise AdapterError(
                f"{path}: {own[0].key}: expected scales that float32 can hold, got {found:g} in all; repair the scale."
            )
        return found

    return scale


def _wide(layers: Mapping[str, FusedLayer]) -> tuple[str, ...]:
    layer = layers.get(IMG_IN)
    if layer is None or layer.columns <= CHANNELS:
        return ()
    return (
        f"{IMG_IN} has {layer.columns} columns, but {CHANNELS} in FLUX.1-dev; a model with the same number (FLUX.1 "
        "Fill: 384, Canny and Depth: 128) loads it merged and bypassed, FLUX.1-dev only merged (Load LoRA)",
    )


_TEXT_ALONE = "it adapts only text encoders, which FLUX.1 shares with other models; load it with its own model"


def _refuse_transposed(path: Path, entries: Mapping[str, Entry], pairs: names.Pairs) -> None:
    """Raise AdapterError if most factors are transposed: a rank is never larger than a layer's width."""
    for number, want in ((0, "down [r, columns]"), (1, "up [rows, r]")):
        keys = [keys[number] for keys in pairs.factors.values() if len(entries[keys[number]].shape) == 2]
        tall = [key for key in keys if entries[key].shape[number] > entries[key].shape[1 - number]]
        if 2 * len(tall) > len(keys):
            got = list(entries[tall[0]].shape)
            raise AdapterError(
                f"{path}: {tall[0]}: expected {want}, got {got}, as if transposed; save the LoRA with its factors as "
                "PEFT has them."
            )


def _refuse_foreign(path: Path, entries: Mapping[str, Entry], found: Recognised) -> None:
    """Raise AdapterError for a file of another architecture, or without any layer of FLUX.1."""
    if found.foreign is not None:
        raise AdapterError(f"{path}: expected a FLUX.1 LoRA, got {found.foreign.name}; {found.foreign.advice}.")
    if not found.places and not any(name and name.module.startswith(T5) for name in found.names.values()):
        some = ", ".join(list(entries)[:5]) or "no tensor at all"
        raise AdapterError(
            f"{path}: expected LoRA layers of FLUX.1 such as transformer.transformer_blocks.0.attn.to_q, got {some}; "
            "is this a FLUX.1 adapter?"
        )


def _refuse_mutilation(path: Path, unused: tuple[str, ...]) -> None:
    """Raise AdapterError for a tensor that acts on a layer of FLUX.1: leaving it out would change the LoRA."""
    for key in unused:
        layer = owner(bare(key))
        if layer is not None:
            raise AdapterError(
                f"{path}: {key}: expected only plain LoRA pairs for {layer}, got a tensor that can't be fused; "
                "it can't be left out, so merge the LoRA into the model."
            )


def _checked_geometry(path: Path, entries: Mapping[str, Entry], found: Recognised, pairs: names.Pairs) -> Geometry:
    """Return the model's sizes; FLUX.1's for text encoders alone.  Raises AdapterError if no matrix gives them."""
    if found.geometry is not None or not found.places:
        return found.geometry or FLUX_1._replace(double=0, single=0)
    keys = next((pairs.factors[module] for module in found.places if module in pairs.factors), None)
    if keys is None:
        some = ", ".join(list(entries)[:5])
        raise AdapterError(
            f"{path}: expected LoRA pairs for layers of FLUX.1, got none ({some}); it is an adapter of another kind, "
            "so merge it into the model with the program that made it."
        )
    got = f"{entries[keys[0]].dtype} {list(entries[keys[0]].shape)}"
    raise AdapterError(f"{path}: {keys[0]}: expected a matrix [r, hidden size], got {got}; is this a FLUX.1 adapter?")


def _layers(
    path: Path,
    entries: Mapping[str, Entry],
    places: Mapping[str, Place],
    pairs: names.Pairs,
    geometry: Geometry,
    scale_of: Scaler,
) -> dict[str, FusedLayer]:
    placed: dict[str, list[Block]] = {}
    for module, found in places.items():
        if module not in pairs.factors:
            continue
        down, up = (matrix(path, entries, key) for key in pairs.factors[module])
        _check_shapes(path, found, down, up, geometry)
        scale = scale_of(module, down.rows)
        if module in pairs.scales and not {down.dtype, up.dtype} & {"F8_E4M3", "F8_E5M2"}:
            raise AdapterError(
                f"{path}: {pairs.scales[module][0]}: expected this scale next to a float8 tensor, got {down.dtype}; "
                "is this a FLUX.1 adapter?"
            )
        row = found.row.of(geometry)
        block = Block(found.module, row, up.rows, down.rows, scale, down, _in_order(up, found.part))
        placed.setdefault(found.layer, []).append(block)
    return {layer: _fused_layer(path, layer, placed[layer], geometry) for layer in sorted(placed, key=layer_order)}


def matrix(path: Path, entries: Mapping[str, Entry], key: str) -> Slab:
    """Return a factor's place in the file.  Raises AdapterError if it is not a floating point matrix."""
    entry = entries[key]
    if entry.dtype in ("I8", "U8"):
        raise AdapterError(
            f"{path}: {key}: expected a floating point matrix, got {entry.dtype} {list(entry.shape)}; the LoRA is "
            "quantised, so save it in bfloat16 or float16."
        )
    if len(entry.shape) != 2 or entry.dtype not in FLOATS:
        got = f"{entry.dtype} {list(entry.shape)}"
        raise AdapterError(f"{path}: {key}: expected a floating point matrix, got {got}; is this a FLUX.1 adapter?")
    rows, columns = entry.shape
    return Slab(entry.dtype, rows, columns, entry.offset, columns * DTYPE_BYTES[entry.dtype], key)


def _check_shapes(path: Path, found: Place, down: Slab, up: Slab, geometry: Geometry) -> None:
    columns = found.fused.columns.of(geometry) if found.fused.columns is not None else down.columns
    rows = found.part.rows.of(geometry) if found.part.rows is not None else up.rows
    if down.columns != columns:
        got, key, want = down, down.key, f"down [r, {columns}]"
    elif (up.rows, up.columns) != (rows, down.rows):
        got, key, want = up, up.key, f"up [{rows}, {down.rows}]"
    else:
        return
    raise AdapterError(f"{path}: {key}: expected {want}, got [{got.rows}, {got.columns}]; is this a FLUX.1 adapter?")


def _in_order(up: Slab, part: Part) -> tuple[Slab, ...]:
    """Return an up factor's rows in ComfyUI's order."""
    return up.halves_swapped() if part.swapped else (up,)


def _fused_layer(path: Path, layer: str, blocks: list[Block], geometry: Geometry) -> FusedLayer:
    """Put a layer's blocks in row order.  Raises AdapterError if two of them adapt the same rows under two names."""
    ordered = sorted(blocks, key=lambda block: block.row)
    for block, other in zip(ordered[1:], ordered):
        if block.row < other.row + other.rows:
            raise AdapterError(
                f"{path}: {block.down.key}: expected {layer} adapted once, got {other.down.key} too; "
                "remove one of them."
            )
    found = fused_place(layer)
    units = height(found[0]) if found else None
    rows = blocks[0].rows if units is None else units.of(geometry)
    return FusedLayer(rows, blocks[0].down.columns, tuple(ordered))


_ORDER = {fused.name: position for position, fused in enumerate(LAYOUT)}


def layer_order(layer: str) -> tuple[int, int, int]:
    """Sort layers as the model runs them: double blocks by number, single blocks, the rest."""
    found = fused_place(layer)
    if found is None:
        return (3, 0, 0)
    fused, index = found
    kind = 2 if index is None else int(fused.block == SINGLE)
    return (kind, index or 0, _ORDER[fused.name])
