"""Plan an adapter in Diffusers layout: find every pair's place in ComfyUI's layers, and check its shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import AdapterError
from ..files.header import DTYPE_BYTES, FLOATS, Entry
from ..files.slab import Slab
from . import names
from .formats import foreign_format
from .layout import DOUBLE, LAYOUT, MLP, SINGLE, Geometry, Part, Place, Size, first_row, fused_place, height, place
from .plan import AdapterFile, Alpha, Block, FusedLayer
from .scales import Scaling


def original_plan(
    path: Path, metadata: Mapping[str, str], entries: Mapping[str, Entry], alphas: Mapping[str, Alpha], scaling: Scaling
) -> AdapterFile:
    """Plan an adapter in Diffusers layout.  Raises AdapterError for what is not a FLUX.1 LoRA."""
    _refuse_foreign(path, entries)
    pairs = names.pair_up(path, entries)
    places = {module: found for module in pairs.factors if (found := place(module))}
    geometry = _geometry(path, entries, {found: pairs.factors[module] for module, found in places.items()})
    placed: dict[str, list[Block]] = {}
    for module, found in places.items():
        down, up = (matrix(path, entries, key) for key in pairs.factors[module])
        _check_shapes(path, found, down, up, geometry)
        row = first_row(found.fused, found.part).of(geometry)
        scale = scaling.scale(module, down.rows)
        block = Block(found.module, row, up.rows, down.rows, scale, down, _in_order(up, found.part))
        placed.setdefault(found.layer, []).append(block)
    layers = {layer: _fused_layer(path, layer, placed[layer], geometry) for layer in sorted(placed, key=layer_order)}
    unplaced = [module for module in pairs.factors if module not in places]
    lost = [key for module in unplaced for key in (*pairs.factors[module], pairs.alphas.get(module)) if key]
    own = {places[module].module: alpha for module, alpha in alphas.items() if module in places}
    return AdapterFile(path, False, metadata, geometry, layers, (*pairs.others, *lost), own, scaling.source)


def _refuse_foreign(path: Path, entries: Mapping[str, Entry]) -> None:
    """Raise AdapterError for a file of another architecture, or with nothing of FLUX.1 in it."""
    has_places = any(place(name.module) for key in entries if (name := names.parse(key)))
    found = foreign_format(entries, has_places)
    if found is not None:
        raise AdapterError(f"{path}: expected a FLUX.1 LoRA in Diffusers layout, got {found.name}; {found.advice}.")
    if not has_places:
        some = ", ".join(list(entries)[:5]) or "no tensor at all"
        raise AdapterError(
            f"{path}: expected LoRA layers of FLUX.1 such as transformer.transformer_blocks.0.attn.to_q, got {some}; "
            "is this a FLUX.1 adapter?"
        )


def _geometry(path: Path, entries: Mapping[str, Entry], pairs: Mapping[Place, tuple[str, str]]) -> Geometry:
    """Read the model's sizes from an adapter's shapes.  Raises AdapterError if there is no matrix in it."""
    sizes = []
    for found, (down, up) in pairs.items():
        sizes += [(units, entries[key].shape[axis]) for key, axis, units in _measured(found, down, up, entries)]
    geometry = voted(sizes, [(found.fused.block, found.number) for found in pairs])
    if geometry is None:
        key = next(iter(pairs.values()))[0]
        got = f"{entries[key].dtype} {list(entries[key].shape)}"
        raise AdapterError(f"{path}: {key}: expected a matrix [r, hidden size], got {got}; is this a FLUX.1 adapter?")
    return geometry


def _measured(found: Place, down: str, up: str, entries: Mapping[str, Entry]) -> Iterator[tuple[str, int, Size]]:
    for key, axis, units in ((down, 1, found.fused.columns), (up, 0, found.part.rows)):
        if units is not None and len(entries[key].shape) == 2:
            yield key, axis, units


def voted(sizes: Iterable[tuple[Size, int]], blocks: Iterable[tuple[str, int | None]]) -> Geometry | None:
    """Return the geometry that most of the (size in the table, size in the file) agree on; None without any.

    A majority, so that one wrong tensor is named as such and not all the others. Without an MLP layer it is 4 H wide.
    """
    sizes = list(sizes)
    hidden = _most(number / units for units, number in sizes if not units.mlp)
    if hidden is None:
        return None
    rests = ((number - (units - MLP * units.mlp) * hidden) / units.mlp for units, number in sizes if units.mlp)
    mlp = _most(rests) or MLP * hidden
    last = {kind: max((i for block, i in blocks if block == kind and i is not None), default=-1) for kind in _KINDS}
    return Geometry(hidden, mlp, last[DOUBLE] + 1, last[SINGLE] + 1)


_KINDS = (DOUBLE, SINGLE)


def _most(numbers: Iterable[float]) -> int | None:
    counted = Counter(int(number) for number in numbers if number >= 1 and number == int(number))
    return max(counted, key=counted.__getitem__) if counted else None


def matrix(path: Path, entries: Mapping[str, Entry], key: str) -> Slab:
    """Return a factor's place in the file.  Raises AdapterError if it is no floating point matrix."""
    entry = entries[key]
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
    """Put a layer's blocks in row order.  Raises AdapterError for two of one part (a layer under two names)."""
    taken: dict[int, Block] = {}
    for block in blocks:
        if (other := taken.setdefault(block.row, block)) is not block:
            raise AdapterError(
                f"{path}: {block.down.key}: expected {layer} adapted once, got {other.down.key} too; "
                "remove one of them."
            )
    found = fused_place(layer)
    units = height(found[0]) if found else None
    rows = blocks[0].rows if units is None else units.of(geometry)
    return FusedLayer(rows, blocks[0].down.columns, tuple(taken[row] for row in sorted(taken)))


_ORDER = {fused.name: position for position, fused in enumerate(LAYOUT)}


def layer_order(layer: str) -> tuple[int, int, int]:
    """Sort layers as the model runs them: double blocks by number, single blocks, the rest."""
    found = fused_place(layer)
    if found is None:
        return (3, 0, 0)
    fused, index = found
    kind = 2 if index is None else int(fused.block == SINGLE)
    return (kind, index or 0, _ORDER[fused.name])
