"""The parts of an adapter, read from its header: layers, blocks, and the places of their bytes."""

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
HEADER_ALPHA_KEY = "omnix_header_alpha"
"""Metadata: whether a plain alpha of the source's header was applied or ignored, if the user chose that."""


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


class KeptPiece(NamedTuple):
    """A kept tensor of the source: its first row in the result, and its multiplier."""

    key: str
    shape: tuple[int, ...]
    row: int
    slabs: tuple[Slab, ...]
    scale: float = 1.0


class Kept(NamedTuple):
    """A tensor of the result other than the fused pairs: pieces of the source, or the bytes of a new tensor."""

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[KeptPiece, ...] = ()
    data: bytes = b""


class AdapterFile(NamedTuple):
    """One adapter: its layers by ComfyUI name, the model's sizes, and the file's metadata."""

    path: Path
    fused: bool
    """All its layers have ComfyUI's names: in files of this converter, in BFL layout, of kohya. Their blocks are then
    whole layers, unless the file records them."""
    metadata: Mapping[str, str]
    geometry: Geometry
    layers: Mapping[str, FusedLayer]
    unused: tuple[str, ...] = ()
    """Tensors that don't belong to a layer of FLUX.1."""
    alphas: Mapping[str, Alpha] = MappingProxyType({})
    """The alpha tensors by Diffusers layer."""
    scaling: str = ""
    """Where the scales come from, if not from alpha tensors alone."""
    kept: Mapping[str, Kept] = MappingProxyType({})
    """Other tensors of the result, by the names that ComfyUI's loaders read: text encoders, biases, norms, shapes."""
    notes: tuple[str, ...] = ()
    """Notes for the user, one sentence each."""
    factor_scales: Mapping[str, tuple[Alpha, ...]] = MappingProxyType({})
    """The multipliers of scaled factors by layer; they are already part of the block's scale."""
    ones: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    """The number of extra axes of length 1 of a layer's down and up factor, as in a convolution."""
    question: str = ""
    """A question for the user before conversion: whether to use an alpha that loaders treat differently."""

    @property
    def converted(self) -> bool:
        """It was made by this converter: it is fused, and its metadata record the blocks in its layers."""
        return self.fused and BLOCKS_KEY in self.metadata

    @property
    def task(self) -> str | None:
        """The task written into a converted file."""
        return self.metadata.get(TASK_KEY)

    @property
    def stream(self) -> str | None:
        """The stream written into a converted file."""
        return self.metadata.get(STREAM_KEY)
