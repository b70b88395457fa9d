"""Say what an adapter file is, without converting it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .adapter import open_adapter
from .names import fused_keys, original_keys
from .tasks import slot_of


def inspect(path: Path | str, root: Path | str | None = None) -> dict[str, Any]:
    """Describe an adapter file: format, task and stream if known, ranks, scales, geometry, and what becomes of each layer.

    Raises AdapterError for a damaged file or one of another architecture, OSError if it can't be read.
    """
    path = Path(path)
    adapter = open_adapter(path)
    slot = slot_of(path, Path(root) if root else path.parent)
    blocks = [block for fused in adapter.layers.values() for block in fused.blocks]
    layout = "ComfyUI's layout" if adapter.fused else "Diffusers layout"
    kind = "converted by omnix-convert" if adapter.converted else f"FLUX.1 LoRA in {layout}"
    return {
        "file": str(path),
        "format": kind,
        "task": adapter.task or (slot.task if slot else None),
        "stream": adapter.stream or (slot.stream if slot else None),
        "hidden_size": adapter.hidden,
        "pairs": len(blocks),
        "ranks": sorted({block.rank for block in blocks}),
        "scales": sorted({block.scale for block in blocks}),
        "dtypes": sorted({slab.dtype for block in blocks for slab in (block.down, *block.up)}),
        "unused": list(adapter.unused),
        "layers": {
            layer: {
                "shape": [found.rows, found.columns],
                "parts": {
                    block.part: {"rows": [block.row, block.row + block.rows], "rank": block.rank}
                    for block in found.blocks
                },
            }
            for layer, found in adapter.layers.items()
        },
    }


def becomes(description: dict[str, Any]) -> list[str]:
    """List what each key of an inspected file becomes, one line a pair."""
    lines = []
    for layer, found in description["layers"].items():
        for part, place in found["parts"].items():
            first, last = place["rows"]
            lines.append(f"{original_keys(part)[0]} -> {fused_keys(layer)[0]} rows {first}:{last} rank {place['rank']}")
    return lines
