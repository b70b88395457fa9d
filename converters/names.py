"""How LoRA files spell their tensors, and which format a file is in; nowhere else do these spellings appear."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

DOWN, UP, ALPHA, DORA = "down", "up", "alpha", "dora"

_SUFFIXES = (
    (re.compile(r"\.lora_A(?:\.(?!weight)[^.]+)?(?:\.weight)?"), DOWN),
    (re.compile(r"\.lora_B(?:\.(?!weight)[^.]+)?(?:\.weight)?"), UP),
    (re.compile(r"\.lora[._]down\.weight"), DOWN),
    (re.compile(r"\.lora[._]up\.weight"), UP),
    (re.compile(r"\.lora_linear_layer\.down\.weight"), DOWN),
    (re.compile(r"\.lora_linear_layer\.up\.weight"), UP),
    (re.compile(r"\.alpha"), ALPHA),
    (re.compile(r"\.(?:lora_magnitude_vector(?:\.[^.]+)*|dora_scale)"), DORA),
)
_PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.")


class Name(NamedTuple):
    """A tensor's layer without prefix, and its role there."""

    module: str
    role: str


def parse(key: str) -> Name | None:
    """Split a tensor's name into layer and role; None if it is no tensor of a LoRA."""
    start = max((key.rfind(mark) for mark in (".lora", ".alpha", ".dora_scale")), default=-1)
    if start <= 0:
        return None
    role = next((role for pattern, role in _SUFFIXES if pattern.fullmatch(key, start)), None)
    return None if role is None else Name(without_prefix(key[:start]), role)


def without_prefix(module: str) -> str:
    """Strip the prefixes that trainers put before a layer's name."""
    for prefix in _PREFIXES:
        module = module.removeprefix(prefix)
    return module


def original_keys(module: str) -> tuple[str, str]:
    """Return the down and up names of a Diffusers layer as OmniX publishes them."""
    return f"transformer.{module}.lora_A.weight", f"transformer.{module}.lora_B.weight"


def fused_keys(layer: str) -> tuple[str, str]:
    """Return the down and up names of a ComfyUI layer that the host's LoRA loaders take."""
    return f"diffusion_model.{layer}.lora_A.weight", f"diffusion_model.{layer}.lora_B.weight"


class Format(NamedTuple):
    """A format that is not converted: how its keys look, what it is, what to do."""

    pattern: re.Pattern[str]
    advice: str


_AS_IT_IS = "ComfyUI's LoRA loaders take it as it is, so it needs no conversion"
_OTHER = "OmniX and this converter are for FLUX.1; load it with the model it was trained for"
BFL_ADVICE = f"a FLUX LoRA in BFL layout; {_AS_IT_IS}"
_FLUX_2 = Format(
    re.compile(r".*(attn\.to_qkv_mlp_proj|double_stream_modulation|single_stream_modulation)"),
    f"a FLUX.2 LoRA; {_OTHER}",
)
_QWEN = Format(
    re.compile(r".*transformer_blocks\.\d+\.((img|txt)_mlp\.|(img|txt)_mod\.)"), f"a Qwen-Image LoRA; {_OTHER}"
)
FORMATS = (
    Format(re.compile(r"lora_unet_(double|single)_blocks_\d+_"), f"a kohya/sd-scripts FLUX LoRA; {_AS_IT_IS}"),
    Format(re.compile(r"(lora_transformer|lycoris)_(single_)?transformer_blocks_"), f"a OneTrainer LoRA; {_AS_IT_IS}"),
    _FLUX_2,
    Format(re.compile(r"(.*\.)?(double|single)_blocks\.\d+\."), BFL_ADVICE),
    _QWEN,
    Format(
        re.compile(
            r"(diffusion_model\.|transformer\.|base_model\.model\.|lora_unet_)?blocks[._]\d+[._](self|cross)_attn|"
            r"(transformer\.)?blocks\.\d+\.(attn[12]|ffn)\."
        ),
        f"a Wan LoRA; {_OTHER}",
    ),
    Format(
        re.compile(r"(lora_te2_|text_encoder_2\.|lora_unet_(input|output)_blocks_[4-8]_[01]_|conditioner\.)"),
        f"an SDXL LoRA; {_OTHER}",
    ),
    Format(
        re.compile(
            r"(lora_te|text_encoder|unet\.|lora_unet_(down|up|mid|input|output|middle)_|"
            r"(down|up)_blocks\.|mid_block\.)"
        ),
        f"a Stable Diffusion LoRA; {_OTHER}",
    ),
)


def foreign_format(keys: Iterable[str], has_flux_layers: bool) -> str | None:
    """Say what a file is and what to do with it, if it is of a known format that is not converted.

    With layers that the table knows, only the architectures that name some of theirs like FLUX.1 are looked for.
    """
    keys = tuple(keys)
    formats = (_FLUX_2, _QWEN) if has_flux_layers else FORMATS
    found = next((known.advice for known in formats if any(map(known.pattern.match, keys))), None)
    if found is None and max(map(_double_block, keys), default=-1) >= 59 and not any("single_" in key for key in keys):
        return _QWEN.advice  # Qwen-Image has 60 blocks named like FLUX's 19, and no single blocks.
    return found


def _double_block(key: str) -> int:
    match = re.search(r"(?:^|\.)transformer_blocks\.(\d{1,5})\.", key)
    return int(match[1]) if match else -1
