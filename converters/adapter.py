"""Understand one adapter: which blocks lie where in ComfyUI's fused layers, and where their bytes are.

Everything else is computed from this plan: the converted file, its inverse, and what the runtime multiplies by. Only
the header is read, and of the data the alphas alone.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from . import names
from .errors import AdapterError
from .header import DTYPE_BYTES, FLOATS, Entry, read_header
from .layout import LAYOUT, Part, Place, first_row, fused_place, height, numbered, place
from .scales import Scaling, header_scaling, read_scaling

BLOCKS_KEY = "omnix_blocks"
TASK_KEY = "omnix_task"
STREAM_KEY = "omnix_stream"


class Slab(NamedTuple):
    """A matrix in a file: `rows` x `columns` of `dtype`, from byte `offset`, `stride` bytes from row to row."""

    dtype: str
    rows: int
    columns: int
    offset: int
    stride: int
    key: str


@dataclass(frozen=True)
class Block:
    """One LoRA pair in a fused layer: scale * up @ down, added to `rows` rows from `row` on.

    `up` is one matrix, or the pieces of one from top to bottom where ComfyUI has its rows in another order.
    """

    part: str
    row: int
    rows: int
    rank: int
    scale: float
    down: Slab
    up: tuple[Slab, ...]


@dataclass(frozen=True)
class FusedLayer:
    """One ComfyUI layer [rows, columns] and the blocks that adapt it, in row order."""

    rows: int
    columns: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class AdapterFile:
    """One adapter: its layers by ComfyUI name, the hidden size, and what the file says of itself."""

    path: Path
    fused: bool
    """It names ComfyUI's layers, not Diffusers'."""
    metadata: Mapping[str, str]
    hidden: int | None
    layers: Mapping[str, FusedLayer]
    unused: tuple[str, ...]

    @property
    def converted(self) -> bool:
        """It was made by this converter, and tells its blocks."""
        return self.fused and BLOCKS_KEY in self.metadata

    @property
    def task(self) -> str | None:
        """The task written into a converted file."""
        return self.metadata.get(TASK_KEY)

    @property
    def stream(self) -> str | None:
        """The stream written into a converted file."""
        return self.metadata.get(STREAM_KEY)


def open_adapter(path: Path | str) -> AdapterFile:
    """Read the plan of an adapter file, original or converted.  Raises AdapterError, or OSError."""
    path = Path(path)
    header = read_header(path)
    if is_fused(header.entries):
        return fused_plan(path, header.metadata, header.entries)
    keys = [key for key in header.entries if (name := names.parse(key)) and name.role == names.ALPHA]
    with open(path, "rb") as file:
        alphas = {}
        for key in keys:
            entry = header.entries[key]
            file.seek(entry.offset)
            alphas[names.without_prefix(key.removesuffix(".alpha"))] = _alpha(path, key, entry, file.read)
    return original_plan(path, header.metadata, header.entries, read_scaling(path, header.metadata, alphas))


def is_fused(entries: Iterable[str]) -> bool:
    """Tell whether a file names ComfyUI's layers (converted by us, or by a tool with the same layout)."""
    parsed = [name for key in entries if (name := names.parse(key))]
    return bool(parsed) and all(fused_place(name.module) is not None for name in parsed)


_SCALARS = {"F64": "<d", "F32": "<f", "F16": "<e"}


def _alpha(path: Path, key: str, entry: Entry, read: Callable[[int], bytes]) -> float:
    """Read an alpha, a tensor of one number."""
    if math.prod(entry.shape) != 1 or entry.dtype not in (*_SCALARS, "BF16"):
        got = f"{entry.dtype} {list(entry.shape)}"
        raise AdapterError(f"{path}: {key}: expected one floating point number, got {got}; repair the alpha.")
    data = read(DTYPE_BYTES[entry.dtype])
    if entry.dtype == "BF16":
        return struct.unpack("<f", b"\0\0" + data)[0]
    return struct.unpack(_SCALARS[entry.dtype], data)[0]


def original_plan(
    path: Path, metadata: Mapping[str, str], entries: Mapping[str, Entry], scaling: Scaling
) -> AdapterFile:
    """Plan an adapter in Diffusers layout.  Raises AdapterError for what is not a FLUX.1 LoRA."""
    pairs, unused = _pairs(path, entries)
    places = {module: found for module in pairs if (found := place(module))}
    _refuse_foreign(path, entries, bool(places))
    unused += [key for module, pair in pairs.items() if module not in places for key in pair]
    unused += [
        key for key in entries if (name := names.parse(key)) and name.role == "alpha" and name.module not in places
    ]
    hidden = _hidden_size(path, entries, {places[module]: pairs[module] for module in places})
    layers: dict[str, list[Block]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for module, found in places.items():
        scale = scaling.scale(module, _rank(entries, pairs[module]))
        block, sizes[found.layer] = _block(path, entries, found, pairs[module], hidden, scale)
        layers.setdefault(found.layer, []).append(block)
    _refuse_twice(path, layers)
    fused = {
        layer: FusedLayer(*sizes[layer], tuple(sorted(layers[layer], key=lambda block: block.row)))
        for layer in sorted(layers, key=_layer_order)
    }
    return AdapterFile(path, False, metadata, hidden, fused, tuple(unused))


def _pairs(path: Path, entries: Mapping[str, Entry]) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Match down and up tensors by layer; also return the keys that belong to no LoRA pair."""
    found: dict[str, dict[str, str]] = {}
    unused = []
    for key in entries:
        name = names.parse(key)
        if name is None:
            unused.append(key)
        elif name.role == names.DORA:
            raise AdapterError(
                f"{path}: {key}: expected plain LoRA, got DoRA, which can't be fused into a LoRA; merge it into the model."
            )
        elif name.role != names.ALPHA and found.setdefault(name.module, {}).setdefault(name.role, key) != key:
            other = found[name.module][name.role]
            raise AdapterError(
                f"{path}: {key}: expected one {name.role} per layer, got {other} too; remove one of them."
            )
    for module, pair in found.items():
        if len(pair) < 2:
            have = next(iter(pair.values()))
            want = "lora_B (up)" if names.DOWN in pair else "lora_A (down)"
            raise AdapterError(f"{path}: {have}: expected {want} beside it for {module}, got none; get the file again.")
    return {module: (pair[names.DOWN], pair[names.UP]) for module, pair in found.items()}, unused


def _refuse_foreign(path: Path, entries: Mapping[str, Entry], has_places: bool) -> None:
    """Raise AdapterError for a file of another architecture, or with nothing of FLUX.1 in it."""
    advice = names.foreign_format(entries, has_places)
    if advice is not None:
        raise AdapterError(f"{path}: expected a FLUX.1 LoRA in Diffusers layout, got {advice}.")
    if not has_places:
        some = ", ".join(list(entries)[:5]) or "no tensor at all"
        raise AdapterError(
            f"{path}: expected LoRA layers of FLUX.1 such as transformer.transformer_blocks.0.attn.to_q, got {some}; "
            "is this a FLUX.1 adapter?"
        )


def _rank(entries: Mapping[str, Entry], pair: tuple[str, str]) -> int:
    shape = entries[pair[0]].shape
    return shape[0] if shape else 0


def _hidden_size(path: Path, entries: Mapping[str, Entry], pairs: Mapping[Place, tuple[str, str]]) -> int:
    """Read the hidden size from the first layer whose sizes depend on it.  Raises AdapterError."""
    for (fused, _, part), (down, up) in pairs.items():
        for key, axis, units in ((down, 1, fused.columns), (up, 0, part.rows)):
            shape = entries[key].shape
            if units is not None and len(shape) == 2:
                return shape[axis] // units
    key = next(iter(pairs.values()))[0]
    raise AdapterError(f"{path}: {key}: expected a matrix, got {list(entries[key].shape)}; is this a LoRA?")


def _block(
    path: Path, entries: Mapping[str, Entry], found: Place, pair: tuple[str, str], hidden: int, scale: float
) -> tuple[Block, tuple[int, int]]:
    """Check one pair and place it; return its block and the fused layer's size."""
    fused, _, part = found
    down, up = (_matrix(path, entries, key) for key in pair)
    columns = down.columns if fused.columns is None else fused.columns * hidden
    rows = up.rows if part.rows is None else part.rows * hidden
    for key, want, slab in ((pair[0], f"down [r, {columns}]", down), (pair[1], f"up [{rows}, {down.rows}]", up)):
        if (slab.columns != columns) if slab is down else ((slab.rows, slab.columns) != (rows, down.rows)):
            got = f"[{slab.rows}, {slab.columns}]"
            raise AdapterError(f"{path}: {key}: expected {want}, got {got}; is this a FLUX.1 adapter?")
    start = first_row(fused, part) * hidden
    size = (rows if height(fused) is None else (height(fused) or 0) * hidden, columns)
    return Block(found.module, start, rows, down.rows, scale, down, _in_order(up, part)), size


def _in_order(up: Slab, part: Part) -> tuple[Slab, ...]:
    """Return an up factor's rows in ComfyUI's order."""
    if not part.swapped:
        return (up,)
    half = up.rows // 2
    return up._replace(rows=half, offset=up.offset + half * up.stride), up._replace(rows=half)


def _matrix(path: Path, entries: Mapping[str, Entry], key: str) -> Slab:
    entry = entries[key]
    if len(entry.shape) != 2 or entry.dtype not in FLOATS:
        got = f"{entry.dtype} {list(entry.shape)}"
        raise AdapterError(f"{path}: {key}: expected a floating point matrix, got {got}; is this a FLUX.1 adapter?")
    rows, columns = entry.shape
    return Slab(entry.dtype, rows, columns, entry.offset, columns * DTYPE_BYTES[entry.dtype], key)


def _refuse_twice(path: Path, layers: Mapping[str, list[Block]]) -> None:
    for layer, blocks in layers.items():
        taken: dict[int, Block] = {}
        for block in blocks:
            if block.row in taken:
                other = taken[block.row].down.key
                raise AdapterError(
                    f"{path}: {block.down.key}: expected {layer} adapted once, got {other} too; remove one of them."
                )
            taken[block.row] = block


_ORDER = {fused.name: position for position, fused in enumerate(LAYOUT)}


def _layer_order(layer: str) -> tuple[int, int, int]:
    """Sort layers as the model runs them: double blocks by number, single blocks, the rest."""
    found = fused_place(layer)
    if found is None:
        return (3, 0, 0)
    fused, index = found
    kind = 2 if index is None else int(fused.name.startswith("single"))
    return (kind, index or 0, _ORDER[fused.name])


def fused_plan(path: Path, metadata: Mapping[str, str], entries: Mapping[str, Entry]) -> AdapterFile:
    """Plan an adapter in ComfyUI's layout: by the blocks in its metadata, else one dense block a layer."""
    pairs, unused = _pairs(path, entries)
    structure = _structure(path, metadata)
    alphas = [key for key in entries if (name := names.parse(key)) and name.role == names.ALPHA]
    if alphas:
        raise AdapterError(
            f"{path}: {alphas[0]}: expected the alpha folded into the factors, got a tensor of it; "
            "ComfyUI's LoRA loaders take this file, OmniX needs the original or one converted here."
        )
    layers = {layer: _fused_layer(path, entries, layer, pair, structure) for layer, pair in pairs.items()}
    hidden = next((size for layer, found in layers.items() if (size := _fused_hidden(layer, found))), None)
    return AdapterFile(path, True, metadata, hidden, layers, tuple(unused))


def _fused_hidden(layer: str, found: FusedLayer) -> int | None:
    spot = fused_place(layer)
    units = height(spot[0]) if spot else None
    return found.rows // units if units else None


Structure = Mapping[str, list[tuple[str, int, int, int]]]


def _structure(path: Path, metadata: Mapping[str, str]) -> Structure:
    """Read the block structure a converter wrote: {layer: [[part, row, rows, rank], ...]}.  Raises AdapterError."""
    try:
        table = json.loads(metadata.get(BLOCKS_KEY, "{}"))
        return {
            layer: [(str(p), int(row), int(rows), int(rank)) for p, row, rows, rank in blocks]
            for layer, blocks in table.items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise AdapterError(
            f"{path}: {BLOCKS_KEY}: expected the blocks of each layer, got {error}; convert the original again."
        ) from error


def _fused_layer(
    path: Path, entries: Mapping[str, Entry], layer: str, pair: tuple[str, str], structure: Structure
) -> FusedLayer:
    down, up = (_matrix(path, entries, key) for key in pair)
    blocks = structure.get(layer, [(layer, 0, up.rows, down.rows)])
    ranks = [rank for *_, rank in blocks]
    fits = all(row >= 0 and rows >= 0 and row + rows <= up.rows and rank >= 0 for _, row, rows, rank in blocks)
    if not fits or sum(ranks) != down.rows or up.columns != down.rows:
        got = f"down [{down.rows}, {down.columns}], up [{up.rows}, {up.columns}]"
        raise AdapterError(
            f"{path}: {pair[1]}: expected factors that fit blocks {blocks}, got {got}; convert it again."
        )
    cut, column = [], 0
    for part, row, rows, rank in blocks:
        below = down._replace(rows=rank, offset=down.offset + column * down.stride)
        beside = up.offset + row * up.stride + column * DTYPE_BYTES[up.dtype]
        own = up._replace(rows=rows, columns=rank, offset=beside)
        cut.append(Block(part, row, rows, rank, 1.0, below, (own,)))
        column += rank
    return FusedLayer(up.rows, down.columns, tuple(cut))


def state_plan(metadata: Mapping[str, str], entries: Mapping[str, Entry], alphas: Mapping[str, float]) -> AdapterFile:
    """Plan a state dict in memory, original or fused.  Raises AdapterError."""
    path = Path("state dict")
    if is_fused(entries):
        return fused_plan(path, metadata, entries)
    return original_plan(path, metadata, entries, header_scaling(path, metadata, alphas))


def layer_of(module: str) -> str | None:
    """Return the ComfyUI layer a Diffusers layer is fused into; None if the table has none."""
    found = place(module)
    return None if found is None else numbered(found.fused.name, found.index)
