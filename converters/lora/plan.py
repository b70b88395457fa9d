"""What an adapter is made of, once its header is understood: layers, blocks, and where their bytes lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ..files.slab import Slab
from .layout import Geometry

BLOCKS_KEY = "omnix_blocks"
TASK_KEY = "omnix_task"
STREAM_KEY = "omnix_stream"


class Block(NamedTuple):
    """One LoRA pair in a fused layer: scale * up @ down, added to `rows` rows from `row` on.

    `part` is the Diffusers layer. `up` is one matrix, or the pieces of one from top to bottom where ComfyUI has its
    rows in another order.
    """

    part: str
    row: int
    rows: int
    rank: int
    scale: float
    down: Slab
    up: tuple[Slab, ...]


class FusedLayer(NamedTuple):
    """One ComfyUI layer [rows, columns] and the blocks that adapt it, in row order."""

    rows: int
    columns: int
    blocks: tuple[Block, ...]

    @property
    def rank(self) -> int:
        """The rank of the fused pair, that is of all blocks together."""
        return sum(block.rank for block in self.blocks)


class Alpha(NamedTuple):
    """An alpha tensor of one number: its name and form in the file, its bytes, and what they mean."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes
    value: float


class AdapterFile(NamedTuple):
    """One adapter: its layers by ComfyUI name, the model's sizes, and what the file says of itself."""

    path: Path
    fused: bool
    """It names ComfyUI's layers, not Diffusers'."""
    metadata: Mapping[str, str]
    geometry: Geometry
    layers: Mapping[str, FusedLayer]
    unused: tuple[str, ...] = ()
    """Tensors that belong to no layer of FLUX.1."""
    alphas: Mapping[str, Alpha] = MappingProxyType({})
    """The alpha tensors by Diffusers layer."""
    scaling: str = ""
    """Where the scales come from, if not from alpha tensors alone."""

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
