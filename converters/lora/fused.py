"""Plan an adapter in ComfyUI's layout: by the blocks that the converter wrote into its metadata, else as it stands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import AdapterError
from ..files.header import DTYPE_BYTES, Entry
from ..files.slab import Slab
from ..files.strict_json import parsed
from . import names
from .layout import fused_place, height, place
from .original import matrix, voted
from .plan import BLOCKS_KEY, AdapterFile, Alpha, Block, FusedLayer

Structure = Mapping[str, list[tuple[str, int, int, int]]]
"""ComfyUI layer -> (Diffusers layer, first row, rows, rank) of its blocks, in row order."""


def is_fused(keys: Iterable[str]) -> bool:
    """Tell whether a file names ComfyUI's layers (converted by us, or by a tool with the same layout)."""
    parsed = [name for key in keys if (name := names.parse(key))]
    return bool(parsed) and all(fused_place(name.module) is not None for name in parsed)


def fused_plan(
    path: Path, metadata: Mapping[str, str], entries: Mapping[str, Entry], alphas: Mapping[str, Alpha]
) -> AdapterFile:
    """Plan an adapter in ComfyUI's layout: by the blocks in its metadata, else one dense block a layer.

    Raises AdapterError for blocks that do not fit the tensors.
    """
    pairs = names.pair_up(path, entries)
    structure = read_structure(path, metadata)
    layers = {
        layer: _layer(path, entries, layer, keys, structure, alphas.get(layer)) for layer, keys in pairs.factors.items()
    }
    found = {layer: place for layer in layers if (place := fused_place(layer))}
    sizes = [(units, layers[layer].rows) for layer, (fused, _) in found.items() if (units := height(fused)) is not None]
    sizes += [
        (units, layers[layer].columns) for layer, (fused, _) in found.items() if (units := fused.columns) is not None
    ]
    geometry = voted(sizes, [(fused.block, index) for fused, index in found.values()])
    if geometry is None:
        raise AdapterError(
            f"{path}: expected factors of a FLUX.1 LoRA, got none of its size; is this a FLUX.1 adapter?"
        )
    return AdapterFile(path, True, metadata, geometry, layers, pairs.others, alphas)


def write_structure(layers: Mapping[str, FusedLayer]) -> str:
    """Return the block structure as JSON: {layer: [[part, row, rows, rank], ...]}."""
    blocks = {
        layer: [[block.part, block.row, block.rows, block.rank] for block in fused.blocks]
        for layer, fused in layers.items()
    }
    return json.dumps(blocks, separators=(",", ":"))


def read_structure(path: Path, metadata: Mapping[str, str]) -> Structure:
    """Read the block structure that `write_structure` made.  Raises AdapterError."""
    try:
        table = parsed(metadata.get(BLOCKS_KEY, "{}"))
        return {layer: [_placed(layer, *block) for block in blocks] for layer, blocks in table.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{path}: {BLOCKS_KEY}: expected the blocks of each layer, got {error}; convert the original again."
        ) from error


def _placed(layer: str, part: str, row: int, rows: int, rank: int) -> tuple[str, int, int, int]:
    """Check one block of the structure.  Raises ValueError for a part of another layer and for what is no number."""
    found = place(part)
    if found is None or found.layer != layer or found.module != part:
        raise ValueError(f"{part} in {layer}")
    if not all(type(number) is int and number >= 0 for number in (row, rows, rank)):
        raise ValueError(f"{row}, {rows}, {rank} for {part}")
    if found.part.swapped and rows % 2:
        raise ValueError(f"{rows} rows for the halves of {part}")
    return part, row, rows, rank


def _fit(blocks: list[tuple[str, int, int, int]], down: Slab, up: Slab) -> bool:
    """Tell whether blocks lie one below the other in the rows of up, and share the rank."""
    ends = [0, *(row + rows for _, row, rows, _ in blocks)]
    apart = all(end <= row for end, (_, row, _, _) in zip(ends, blocks))
    return apart and ends[-1] <= up.rows and sum(rank for *_, rank in blocks) == down.rows == up.columns


def _layer(
    path: Path,
    entries: Mapping[str, Entry],
    layer: str,
    keys: tuple[str, str],
    structure: Structure,
    alpha: Alpha | None,
) -> FusedLayer:
    down, up = (matrix(path, entries, key) for key in keys)
    blocks = structure.get(layer, [(layer, 0, up.rows, down.rows)])
    if not _fit(blocks, down, up):
        got = f"down [{down.rows}, {down.columns}], up [{up.rows}, {up.columns}]"
        raise AdapterError(
            f"{path}: {up.key}: expected factors that fit the blocks {blocks}, got {got}; convert the original again."
        )
    scale = 1.0 if alpha is None or not down.rows else alpha.value / down.rows
    cut, column = [], 0
    for part, row, rows, rank in blocks:
        below = down._replace(rows=rank, offset=down.offset + column * down.stride)
        beside = up.offset + row * up.stride + column * DTYPE_BYTES[up.dtype]
        own = up._replace(rows=rows, columns=rank, offset=beside)
        cut.append(Block(part, row, rows, rank, scale, below, (own,)))
        column += rank
    return FusedLayer(up.rows, down.columns, tuple(cut))
