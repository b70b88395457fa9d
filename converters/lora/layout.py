"""The places of a Diffusers FLUX.1's layers in ComfyUI's fused layers: one table from which the rest is computed.

Sizes are in units of the hidden size H and the MLP's width M (3072 and 12288 in FLUX.1-dev), so that models of any size
share the table. A fused layer is a list of parts in row order. If one part covers a whole layer, its size may depend on
neither (None): then it is read from the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

MLP = 4
"""Width of FLUX.1's MLP in units of H."""


class Geometry(NamedTuple):
    """The sizes of a model: hidden size, width of the MLP, and the numbers of adapted double and single blocks."""

    hidden: int
    mlp: int
    double: int = 0
    single: int = 0


class Size(NamedTuple):
    """A number of rows or columns, as multiples of the hidden size H and the MLP width M."""

    hidden: int
    mlp: int = 0

    def of(self, geometry: Geometry) -> int:
        """Return the number in a model of the given geometry."""
        return self.hidden * geometry.hidden + self.mlp * geometry.mlp


H, M, NOTHING = Size(1), Size(0, 1), Size(0)


class Part(NamedTuple):
    """One Diffusers layer: its name below the block, its height, and other names for it."""

    name: str
    rows: Size | None = H
    aliases: tuple[str, ...] = ()
    swapped: bool = False  # the halves of its rows: Diffusers has scale, shift; ComfyUI shift, scale


class Fused(NamedTuple):
    """One ComfyUI layer: its name, the Diffusers block with its parts, the parts and its width."""

    name: str
    block: str
    parts: tuple[Part, ...]
    columns: Size | None = H


DOUBLE, SINGLE = "transformer_blocks.{i}.", "single_transformer_blocks.{i}."
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
    Fused("double_blocks.{i}.img_mlp.0", DOUBLE, (Part("ff.net.0.proj", M, ("ff.linear_in",)),)),
    Fused("double_blocks.{i}.img_mlp.2", DOUBLE, (Part("ff.net.2", H, ("ff.linear_out",)),), M),
    Fused("double_blocks.{i}.txt_mlp.0", DOUBLE, (Part("ff_context.net.0.proj", M, ("ff_context.linear_in",)),)),
    Fused("double_blocks.{i}.txt_mlp.2", DOUBLE, (Part("ff_context.net.2", H, ("ff_context.linear_out",)),), M),
    Fused("double_blocks.{i}.img_mod.lin", DOUBLE, (Part("norm1.linear", Size(6)),)),
    Fused("double_blocks.{i}.txt_mod.lin", DOUBLE, (Part("norm1_context.linear", Size(6)),)),
    Fused(
        "single_blocks.{i}.linear1",
        SINGLE,
        (Part("attn.to_q"), Part("attn.to_k"), Part("attn.to_v"), Part("proj_mlp", M)),
    ),
    Fused("single_blocks.{i}.linear2", SINGLE, (Part("proj_out"),), Size(1, 1)),
    Fused("single_blocks.{i}.modulation.lin", SINGLE, (Part("norm.linear", Size(3)),)),
    Fused("img_in", "", (Part("x_embedder"),), None),
    Fused("txt_in", "", (Part("context_embedder"),), None),
    Fused("time_in.in_layer", "", (Part(f"{_TIME}linear_1"),), None),
    Fused("time_in.out_layer", "", (Part(f"{_TIME}linear_2"),)),
    Fused("vector_in.in_layer", "", (Part(f"{_TEXT}linear_1"),), None),
    Fused("vector_in.out_layer", "", (Part(f"{_TEXT}linear_2"),)),
    Fused("guidance_in.in_layer", "", (Part(f"{_GUIDANCE}linear_1"),), None),
    Fused("guidance_in.out_layer", "", (Part(f"{_GUIDANCE}linear_2"),)),
    Fused("final_layer.linear", "", (Part("proj_out", None),)),
    Fused("final_layer.adaLN_modulation.1", "", (Part("norm_out.linear", Size(2), swapped=True),)),
)

NORMS: tuple[tuple[str, str], ...] = (
    (f"{DOUBLE}attn.norm_q", "double_blocks.{i}.img_attn.norm.query_norm"),
    (f"{DOUBLE}attn.norm_k", "double_blocks.{i}.img_attn.norm.key_norm"),
    (f"{DOUBLE}attn.norm_added_q", "double_blocks.{i}.txt_attn.norm.query_norm"),
    (f"{DOUBLE}attn.norm_added_k", "double_blocks.{i}.txt_attn.norm.key_norm"),
    (f"{SINGLE}attn.norm_q", "single_blocks.{i}.norm.query_norm"),
    (f"{SINGLE}attn.norm_k", "single_blocks.{i}.norm.key_norm"),
)
"""Diffusers' norms and ComfyUI's: no LoRA adapts them, but a control LoRA sets their weights."""
FUSED_ALREADY = (
    ("double_blocks.{i}.img_attn.qkv", "attn.to_qkv", 0, 3),
    ("double_blocks.{i}.img_attn.qkv", "attn.to_kv", 1, 3),
    ("double_blocks.{i}.txt_attn.qkv", "attn.to_added_qkv", 0, 3),
    ("double_blocks.{i}.txt_attn.qkv", "attn.to_added_kv", 1, 3),
    ("single_blocks.{i}.linear1", "attn.to_qkv", 0, 3),
    ("single_blocks.{i}.linear1", "attn.to_kv", 1, 3),
)
"""Diffusers' own fused layers (`fuse_qkv_projections`): ComfyUI's layer, Diffusers' name, and the parts in it."""


class Place(NamedTuple):
    """Where a layer of a LoRA goes: the row of the table, its block number (None outside the blocks), its part."""

    fused: Fused
    number: int | None
    part: Part
    module: str
    """The layer as the table names it: of Diffusers, such as "transformer_blocks.0.attn.to_q", or of ComfyUI."""
    row: Size = NOTHING
    """Where its rows start in the fused layer."""

    @property
    def layer(self) -> str:
        """The ComfyUI layer, such as "double_blocks.0.img_attn.qkv"."""
        return numbered(self.fused.name, self.number)


def numbered(name: str, index: int | None) -> str:
    """Fill a block number into a name of the table."""
    return name if index is None else name.replace("{i}", str(index))


@cache
def _places() -> dict[tuple[str, str], Place]:
    """Map (block, name below it) to a place without number: Diffusers' parts, and ComfyUI's layers as one part."""
    found = {}
    for fused in LAYOUT:
        for part in fused.parts:
            own = Place(fused, None, part, fused.block + part.name, first_row(fused, part))
            found |= {(fused.block, name): own for name in (part.name, *part.aliases)}
            if len(fused.parts) > 1:  # as OneTrainer numbers them in its own (OMI) names
                found[_below(f"{fused.name}.{fused.parts.index(part)}")] = own
        whole = Place(fused, None, Part(fused.name, height(fused)), fused.name)
        found[_below(fused.name)] = whole
        for _, name, first, last in (row for row in FUSED_ALREADY if row[0] == fused.name):
            rows, module = _sum(fused.parts[first:last]), fused.block + name
            start = first_row(fused, fused.parts[first])
            found[fused.block, name] = Place(fused, None, Part(name, rows), module, start)
    (linear1,) = (fused for fused in LAYOUT if fused.name == "single_blocks.{i}.linear1")
    found[_below(QKV_OF_LINEAR1)] = Place(linear1, None, Part(QKV_OF_LINEAR1, Size(3)), QKV_OF_LINEAR1)
    return found


QKV_OF_LINEAR1 = "single_blocks.{i}.linear1_qkv"
"""The first rows of linear1 under their own name, as in ComfyUI, XLabs and USO."""


def _below(name: str) -> tuple[str, str]:
    block, mark, rest = name.partition("{i}.")
    return (block + mark, rest) if mark else ("", name)


_BLOCKS = r"((?:(?:single_)?transformer|double|single)_blocks)"
_DOTTED, _UNDERSCORED = (re.compile(rf"{_BLOCKS}{dot}(0|[1-9][0-9]{{0,4}}){dot}(.+)", re.ASCII) for dot in (r"\.", "_"))


def place(module: str) -> Place | None:
    """Find a layer in the table, by Diffusers' or ComfyUI's name; None if the table lacks it."""
    return _found(module, _DOTTED, _places())


def underscored_place(stem: str) -> Place | None:
    """Find a layer whose name is written with underscores for dots."""
    return _found(stem, _UNDERSCORED, _underscored())


def _found(module: str, blocks: re.Pattern[str], places: Mapping[tuple[str, str], Place]) -> Place | None:
    match = blocks.fullmatch(module)
    index = int(match[2]) if match else None
    found = places.get((match[1] + ".{i}.", match[3]) if match else ("", module))
    return None if found is None else found._replace(number=index, module=numbered(found.module, index))


@cache
def _underscored() -> dict[tuple[str, str], Place]:
    return {(block, name.replace(".", "_")): found for (block, name), found in _places().items()}


def fused_place(layer: str) -> tuple[Fused, int | None] | None:
    """Find a ComfyUI layer in the table, with its block number; None if the table lacks it."""
    found = place(layer)
    return (found.fused, found.number) if found is not None and found.module == found.layer else None


def norm_place(module: str) -> str | None:
    """Return ComfyUI's name of a norm, by Diffusers' or its own, or one of underscores; None if there is none."""
    for blocks, dot in ((_DOTTED, "."), (_UNDERSCORED, "_")):
        match = blocks.fullmatch(module)
        own = _norms(dot).get((match[1], match[3])) if match else None
        if match and own:
            return own.replace("{i}", match[2])
    return None


@cache
def _norms(dot: str = ".") -> dict[tuple[str, str], str]:
    pairs = ((name, own) for theirs, own in NORMS for name in (theirs, own))
    return {(block, rest.replace(".", dot)): own for name, own in pairs for block, _, rest in [name.partition(".{i}.")]}


def owner(name: str) -> str | None:
    """Return the layer of FLUX.1 that contains a tensor, by its name without prefixes; None if there is none.

    This includes the layers that Diffusers fuses and the norms, so that no tensor of a LoRA is silently left out.
    """
    for places, blocks, dot in ((_places(), _DOTTED, "."), (_underscored(), _UNDERSCORED, "_")):
        match = blocks.match(name)
        block, rest = (match[1] + ".{i}.", match[3]) if match else ("", name)
        known = [below for above, below in places if above == block]
        if match:
            known += [other.replace(".", dot) for other in _owned(block)]
        found = next((below for below in known if _is_below(rest, below)), None)
        if found is not None:
            return found
    return None


def _owned(block: str) -> tuple[str, ...]:
    norms = tuple(rest for above, rest in _norms() if above + ".{i}." == block)
    return (*norms, "attn.to_qkv_mlp_proj") if "transformer" in block else norms


_BELOW = re.compile(r"(?:\.|_(?:lora|dora|magnitude|weight|bias)|$)")


def _is_below(name: str, layer: str) -> bool:
    return name.startswith(layer) and _BELOW.match(name, len(layer)) is not None


def first_row(fused: Fused, part: Part) -> Size:
    """Return where a part starts in its fused layer."""
    return _sum(fused.parts[: fused.parts.index(part)])


def height(fused: Fused) -> Size | None:
    """Return the height of a fused layer; None if it must be read from the file."""
    return None if any(part.rows is None for part in fused.parts) else _sum(fused.parts)


def _sum(parts: tuple[Part, ...]) -> Size:
    sizes = [part.rows or NOTHING for part in parts]
    return Size(sum(size.hidden for size in sizes), sum(size.mlp for size in sizes))


FLUX_1 = Geometry(3072, 12288, 19, 38)


def table(geometry: Geometry = FLUX_1) -> str:
    """Return the table as Markdown, with the sizes of a model of the given geometry."""

    def size(units: Size | None) -> str:
        return "as in the file" if units is None else str(units.of(geometry))

    lines = [
        "| ComfyUI layer, after `diffusion_model.` | rows | columns | Diffusers layers, in row order |",
        "|---|---|---|---|",
    ]
    for fused in LAYOUT:
        parts = ", ".join(f"`{fused.block}{part.name}`" + " (halves swapped)" * part.swapped for part in fused.parts)
        lines.append(f"| `{fused.name}` | {size(height(fused))} | {size(fused.columns)} | {parts} |")
    return "\n".join(lines)
