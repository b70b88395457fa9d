"""Plan a converted adapter by the blocks that the converter wrote into its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..errors import AdapterError
from ..files.header import DTYPE_BYTES, Entry
from ..files.slab import Slab
from ..files.strict_json import parsed
from . import names
from .dialects import TEXT
from .extras import find_extras, whole
from .layout import FLUX_1, place
from .original import matrix
from .plan import BLOCKS_KEY, AdapterFile, Alpha, Block, FusedLayer
from .recognise import Recognised

Structure = Mapping[str, list[tuple[str, int, int, int]]]
"""ComfyUI layer -> (Diffusers layer, first row, rows, rank) of its blocks, in row order."""


def converted_plan(
    path: Path,
    metadata: Mapping[str, str],
    entries: Mapping[str, Entry],
    found: Recognised,
    alphas: Mapping[str, Alpha],
) -> AdapterFile:
    """Plan a converted adapter: by the blocks in its metadata; a layer without blocks there is one dense block.

    Raises AdapterError for blocks that do not fit the tensors.
    """
    pairs = names.pair_up(path, found.names)
    structure = read_structure(path, metadata)
    layers = {
        layer: _layer(path, entries, layer, keys, structure, alphas.get(layer))
        for layer, keys in pairs.factors.items()
        if layer in found.places
    }
    extras = find_extras(pairs.others)
    kept = {key: whole(key, entries[key]) for key in (*_text_keys(pairs), *extras.named)}
    if not kept and (found.geometry is None or not layers):
        raise AdapterError(
            f"{path}: expected factors of a FLUX.1 LoRA, got none of its size; is this a FLUX.1 adapter?"
        )
    lost = [key for module, keys in pairs.factors.items() if not _is_placed(module, found) for key in keys]
    lost += [key for keys in pairs.scales.values() for key in keys]
    own = {module: alpha for module, alpha in alphas.items() if module in found.places}
    return AdapterFile(
        path,
        True,
        metadata,
        found.geometry or FLUX_1,
        layers,
        (*extras.rest, *lost),
        own,
        kept=dict(sorted(kept.items())),
    )


def _is_placed(module: str, found: Recognised) -> bool:
    return module in found.places or module.startswith(TEXT)


def _text_keys(pairs: names.Pairs) -> list[str]:
    modules = [module for module in pairs.factors if module.startswith(TEXT)]
    alphas = [pairs.alphas[module] for module in modules if module in pairs.alphas]
    return [*(key for module in modules for key in pairs.factors[module]), *alphas]


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
    """Check one block of the structure.  Raises ValueError for another layer's part or a value that is not a number."""
    found = place(part)
    if found is None or found.layer != layer or found.module != part:
        raise ValueError(f"{part} in {layer}")
    if not all(type(number) is int and number >= 0 for number in (row, rows, rank)):
        raise ValueError(f"{row}, {rows}, {rank} for {part}")
    if found.part.swapped and rows % 2:
        raise ValueError(f"{rows} rows for the halves of {part}")
    return part, row, rows, rank


def _fit(blocks: list[tuple[str, int, int, int]], down: Slab, up: Slab) -> bool:
    """Return whether the blocks follow one another in the rows of up and their ranks add up."""
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
