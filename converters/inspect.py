"""Describe an adapter file without converting it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .files.header import Entry, read_header
from .lora.adapter import open_adapter
from .lora.dialects import DIFFUSERS, host_takes
from .lora.names import fused_keys
from .lora.plan import AdapterFile, Alpha, Block
from .lora.recognise import Recognised, recognised
from .tasks import Slot, slot_of, task_of


def inspect(path: Path | str, root: Path | str | None = None) -> dict[str, Any]:
    """Describe an adapter file: format, advice, task and stream if known, geometry, ranks, scales, what keys become.

    The file's place below `root` gives its task. For a format that can't be converted, the result names the format and
    what to do. Raises AdapterError for a damaged file and for a file that is not a LoRA, OSError if it can't be read.
    """
    path = Path(path)
    slot = task_of(slot_of(path, Path(root) if root else path.parent))
    header = read_header(path)
    return {"file": str(path), **described(header.entries, header.metadata, lambda: open_adapter(path), slot)}


def described(
    entries: Mapping[str, Entry], metadata: Mapping[str, str], plan: Callable[[], AdapterFile], slot: Slot | None
) -> dict[str, Any]:
    """Describe the tensors of an adapter; `plan` makes its plan, which exists only for known formats."""
    found = recognised(entries, metadata)
    if found.foreign is not None:
        return {"format": found.foreign.name, "advice": found.foreign.advice, "tensors": len(entries)}
    adapter = plan()
    return {
        **_format(adapter, found, entries),
        "tensors": len(entries),
        "task": adapter.task or (slot.task if slot else None),
        "stream": adapter.stream or (slot.stream if slot else None),
        **_facts(adapter),
        "notes": [*adapter.notes, *([adapter.question] if adapter.question else [])],
        "kept": {name: [piece.key for piece in kept.pieces] for name, kept in adapter.kept.items()},
        "unused": list(adapter.unused),
        "layers": {
            layer: {
                "shape": [found.rows, found.columns],
                "keys": list(fused_keys(layer)),
                "parts": [_part(block, adapter.alphas.get(block.part)) for block in found.blocks],
            }
            for layer, found in adapter.layers.items()
        },
    }


def _format(adapter: AdapterFile, found: Recognised, entries: Mapping[str, Entry]) -> dict[str, str]:
    if adapter.converted:
        return {"format": "converted by omnix-convert", "advice": "put it under ComfyUI's loras folder"}
    advice = "convert it, or give it to Load OmniX Adapters"
    if host_takes(entries):
        advice += "; ComfyUI's LoRA loaders also accept it unchanged, merged and bypassed"
    return {"format": found.dialect.name if found.dialect else DIFFUSERS, "advice": advice}


def _facts(adapter: AdapterFile) -> dict[str, Any]:
    blocks = [block for fused in adapter.layers.values() for block in fused.blocks]
    return {
        "geometry": adapter.geometry._asdict(),
        "pairs": len(blocks),
        "ranks": sorted({block.rank for block in blocks}),
        "alphas": sorted({alpha.value for alpha in adapter.alphas.values()}),
        "scales": sorted({block.scale for block in blocks}),
        "dtypes": sorted({slab.dtype for block in blocks for slab in (block.down, *block.up)}),
    }


def _part(block: Block, alpha: Alpha | None) -> dict[str, Any]:
    return {
        "part": block.part,
        "down": block.down.key,
        "up": block.up[0].key,
        "alpha": alpha.key if alpha else None,
        "rows": [block.row, block.row + block.rows],
        "rank": block.rank,
        "scale": block.scale,
    }
