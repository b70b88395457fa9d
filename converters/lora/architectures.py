"""Recognise other models with layer names like FLUX.1's, by the width of their layers and their numbers of blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .layout import DOUBLE, FLUX_1, MLP, SINGLE, Geometry


class Architecture(NamedTuple):
    """A model: hidden size, double (or joint) and single blocks, width of the MLP in units of the hidden size.

    `alike` marks a descendant of FLUX.1 with fewer blocks. Its LoRAs convert exactly, but only for that model.
    """

    name: str
    hidden: int
    double: int
    single: int
    mlp: float = MLP
    alike: bool = False


# From the models' config.json (transformer/ in their Diffusers repositories), the defaults and conversion scripts of
# Diffusers (src/diffusers/models/transformers, scripts/convert_*_to_diffusers.py) and ComfyUI's model_detection.py.
# Chroma has FLUX.1's sizes: `formats` recognises it by layers that FLUX.1 lacks.
ARCHITECTURES = (
    Architecture("Stable Diffusion 3 or 3.5 Medium", 1536, 24, 0),
    Architecture("Stable Diffusion 3.5 Large", 2432, 38, 0),
    Architecture("Nucleus-Image", 2048, 24, 0),
    Architecture("HunyuanVideo 1.5", 2048, 54, 0),
    Architecture("HunyuanImage 2.1", 3584, 20, 40),
    Architecture("FLUX.2 klein 9B", 4096, 8, 24, 3),
    Architecture("Qwen-Image 2.1", 4096, 32, 0, 3),
    Architecture("FLUX.2", 6144, 8, 48, 3),
    Architecture("FLUX.2 klein 4B", 3072, 5, 20, 3),
    Architecture("FLUX.3", 3072, 5, 28, 3),
    Architecture("AuraFlow", 3072, 0, 32, 8 / 3),  # its double blocks are called joint_transformer_blocks
    Architecture("HunyuanVideo", 3072, 20, 40),
    Architecture("Qwen-Image", 3072, 60, 0),
    Architecture("LongCat-Image", 3072, 10, 20),
    Architecture("Ovis-Image", 3072, 6, 27),
    Architecture("Bria 3.2", 3072, 8, 28),
    Architecture("Flex.1 or FLUX.1 lite", 3072, 8, 38, alike=True),
)

Blocks = Mapping[str, frozenset[int]]
"""Kind of block (`DOUBLE`, `SINGLE`) -> the numbers that are adapted."""


class Verdict(NamedTuple):
    """The model with these layers: its name if it is not FLUX.1, and a note for the user."""

    foreign: str | None = None
    note: str | None = None


def judged(geometry: Geometry, blocks: Blocks) -> Verdict:
    """Return the model with layers of these sizes and block numbers."""
    double, single = (max(blocks.get(kind, ()), default=-1) + 1 for kind in (DOUBLE, SINGLE))
    beyond = double > FLUX_1.double or single > FLUX_1.single
    rows = [row for row in ARCHITECTURES if row.hidden == geometry.hidden]
    fit = [row.name for row in rows if double <= row.double and single <= row.single and not row.alike]
    if geometry.hidden != FLUX_1.hidden:
        same = [row.name for row in ARCHITECTURES if beyond and _is_whole(row, blocks)]
        return (
            Verdict(foreign=" or ".join(fit or same)) if fit or same else Verdict(note=_unknown(geometry, bool(rows)))
        )
    mlp = geometry.mlp / geometry.hidden
    if mlp != MLP:
        known = [row.name for row in rows if row.mlp != MLP and row.name in fit]
        return Verdict(
            foreign=known[0] if known else f"another model's, with an MLP {mlp:g} times as wide as its layers"
        )
    if beyond:
        return Verdict(foreign=" or ".join(fit) or f"another model's, with {double} double and {single} single blocks")
    whole = next((row for row in rows if _is_whole(row, blocks)), None)
    if whole is None:
        return Verdict()
    return Verdict(note=_alike(whole)) if whole.alike else Verdict(foreign=whole.name)


def _is_whole(row: Architecture, blocks: Blocks) -> bool:
    """Return whether all of a model's blocks are adapted, and no others."""
    wanted = {DOUBLE: row.double, SINGLE: row.single}
    return all(blocks.get(kind, frozenset()) == frozenset(range(count)) for kind, count in wanted.items())


def _unknown(geometry: Geometry, is_known_width: bool) -> str:
    lacks = "with layers {0} wide has these blocks" if is_known_width else "has layers {0} wide"
    return (
        f"no known model {lacks.format(geometry.hidden)} (FLUX.1: {FLUX_1.hidden}); it is taken for a FLUX.1 of that "
        "size, so load it with the model that it was trained for"
    )


def _alike(row: Architecture) -> str:
    return (
        f"its blocks are those of {row.name} ({row.double} double, {row.single} single); if it was trained for that "
        "model, load it with that model"
    )
