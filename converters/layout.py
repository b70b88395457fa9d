"""Where the layers of a Diffusers FLUX.1 lie in ComfyUI's fused layers: the one table, from which all else is computed.

Sizes are in units of the hidden size H (3072 in FLUX.1-dev), so that models of any size share the table. A fused layer
is a list of parts in row order. A part that covers its layer alone may have a size that H does not tell (None): it is
then read from the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple


@dataclass(frozen=True)
class Part:
    """One Diffusers layer: its name below the block, its height in units of H, and other names for it."""

    name: str
    rows: int | None = 1
    aliases: tuple[str, ...] = ()
    swapped: bool = False
    """The halves of its rows are in the opposite order in ComfyUI (Diffusers: scale, shift; BFL: shift, scale)."""


@dataclass(frozen=True)
class Fused:
    """One ComfyUI layer: its name, the Diffusers block its parts lie in, its parts and its width in units of H."""

    name: str
    block: str
    parts: tuple[Part, ...]
    columns: int | None = 1


DOUBLE, SINGLE = "transformer_blocks.{i}.", "single_transformer_blocks.{i}."
MLP = 4
_TIME, _TEXT, _GUIDANCE = (
    f"time_text_embed.{name}." for name in ("timestep_embedder", "text_embedder", "guidance_embedder")
)

LAYOUT: tuple[Fused, ...] = (
    Fused("double_blocks.{i}.img_attn.qkv", DOUBLE, (Part("attn.to_q"), Part("attn.to_k"), Part("attn.to_v"))),
    Fused(
        "double_blocks.{i}.txt_attn.qkv",
        DOUBLE,
        (Part("attn.add_q_proj"), Part("attn.add_k_proj"), Part("attn.add_v_proj")),
    ),
    Fused("double_blocks.{i}.img_attn.proj", DOUBLE, (Part("attn.to_out.0"),)),
    Fused("double_blocks.{i}.txt_attn.proj", DOUBLE, (Part("attn.to_add_out"),)),
    Fused("double_blocks.{i}.img_mlp.0", DOUBLE, (Part("ff.net.0.proj", MLP, ("ff.linear_in",)),)),
    Fused("double_blocks.{i}.img_mlp.2", DOUBLE, (Part("ff.net.2", 1, ("ff.linear_out",)),), MLP),
    Fused("double_blocks.{i}.txt_mlp.0", DOUBLE, (Part("ff_context.net.0.proj", MLP, ("ff_context.linear_in",)),)),
    Fused("double_blocks.{i}.txt_mlp.2", DOUBLE, (Part("ff_context.net.2", 1, ("ff_context.linear_out",)),), MLP),
    Fused("double_blocks.{i}.img_mod.lin", DOUBLE, (Part("norm1.linear", 6),)),
    Fused("double_blocks.{i}.txt_mod.lin", DOUBLE, (Part("norm1_context.linear", 6),)),
    Fused(
        "single_blocks.{i}.linear1",
        SINGLE,
        (Part("attn.to_q"), Part("attn.to_k"), Part("attn.to_v"), Part("proj_mlp", MLP)),
    ),
    Fused("single_blocks.{i}.linear2", SINGLE, (Part("proj_out"),), 1 + MLP),
    Fused("single_blocks.{i}.modulation.lin", SINGLE, (Part("norm.linear", 3),)),
    Fused("img_in", "", (Part("x_embedder"),), None),
    Fused("txt_in", "", (Part("context_embedder"),), None),
    Fused("time_in.in_layer", "", (Part(f"{_TIME}linear_1"),), None),
    Fused("time_in.out_layer", "", (Part(f"{_TIME}linear_2"),)),
    Fused("vector_in.in_layer", "", (Part(f"{_TEXT}linear_1"),), None),
    Fused("vector_in.out_layer", "", (Part(f"{_TEXT}linear_2"),)),
    Fused("guidance_in.in_layer", "", (Part(f"{_GUIDANCE}linear_1"),), None),
    Fused("guidance_in.out_layer", "", (Part(f"{_GUIDANCE}linear_2"),)),
    Fused("final_layer.linear", "", (Part("proj_out", None),)),
    Fused("final_layer.adaLN_modulation.1", "", (Part("norm_out.linear", 2, swapped=True),)),
)


class Place(NamedTuple):
    """Where a Diffusers layer goes: the row of the table, its block number (None outside the blocks), its part."""

    fused: Fused
    index: int | None
    part: Part

    @property
    def layer(self) -> str:
        """The ComfyUI layer, such as "double_blocks.0.img_attn.qkv"."""
        return numbered(self.fused.name, self.index)

    @property
    def module(self) -> str:
        """The Diffusers layer, such as "transformer_blocks.0.attn.to_q"."""
        return numbered(self.fused.block, self.index) + self.part.name


def numbered(name: str, index: int | None) -> str:
    """Fill a block number into a name of the table."""
    return name if index is None else name.replace("{i}", str(index))


@cache
def _places() -> dict[tuple[str, str], tuple[Fused, Part]]:
    names = ((fused, part, name) for fused in LAYOUT for part in fused.parts for name in (part.name, *part.aliases))
    return {(fused.block, name): (fused, part) for fused, part, name in names}


_BLOCK = re.compile(r"((?:single_)?transformer_blocks\.)(0|[1-9][0-9]{0,4})\.(.+)", re.ASCII)


def place(module: str) -> Place | None:
    """Find a Diffusers layer in the table; None if it is not there."""
    match = _BLOCK.fullmatch(module)
    block, index, rest = (match[1] + "{i}.", int(match[2]), match[3]) if match else ("", None, module)
    found = _places().get((block, rest))
    return None if found is None else Place(found[0], index, found[1])


_FUSED_BLOCK = re.compile(r"((?:double|single)_blocks\.)(0|[1-9][0-9]{0,4})\.(.+)", re.ASCII)


def fused_place(layer: str) -> tuple[Fused, int | None] | None:
    """Find a ComfyUI layer in the table, with its block number; None if it is not there."""
    match = _FUSED_BLOCK.fullmatch(layer)
    name, index = (f"{match[1]}{{i}}.{match[3]}", int(match[2])) if match else (layer, None)
    found = next((fused for fused in LAYOUT if fused.name == name), None)
    return None if found is None else (found, index)


def first_row(fused: Fused, part: Part) -> int:
    """Return where a part starts in its fused layer, in units of H."""
    before = fused.parts[: fused.parts.index(part)]
    return sum(earlier.rows or 0 for earlier in before)


def height(fused: Fused) -> int | None:
    """Return the height of a fused layer in units of H; None if only the file can tell."""
    rows = [part.rows for part in fused.parts]
    return None if None in rows else sum(part.rows or 0 for part in fused.parts)


def table(hidden: int = 3072) -> str:
    """Return the table as Markdown, with the sizes of a model of the given hidden size."""

    def size(units: int | None) -> str:
        return "as in the file" if units is None else str(units * hidden)

    lines = [
        "| ComfyUI layer (`diffusion_model.` …) | rows | columns | Diffusers parts, in row order |",
        "|---|---|---|---|",
    ]
    for fused in LAYOUT:
        parts = ", ".join(f"`{fused.block}{part.name}`" + (" (halves swapped)" * part.swapped) for part in fused.parts)
        lines.append(f"| `{fused.name}` | {size(height(fused))} | {size(fused.columns)} | {parts} |")
    return "\n".join(lines)
