"""LoRA formats that are not converted: how their keys look, what they are, and what to do with them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Format(NamedTuple):
    """A format that is not converted."""

    pattern: re.Pattern[str]
    name: str
    advice: str


_AS_IT_IS = "ComfyUI's LoRA loaders take it as it is, so it needs no conversion"
_OTHER = "this converter is for FLUX.1; load it with the model it was trained for"

_FLUX_2 = Format(re.compile(r".*(attn\.to_qkv_mlp_proj|(double|single)_stream_modulation)"), "a FLUX.2 LoRA", _OTHER)
_QWEN = Format(re.compile(r".*transformer_blocks\.\d+\.((img|txt)_mlp\.|(img|txt)_mod\.)"), "a Qwen-Image LoRA", _OTHER)
_SD3 = Format(re.compile(r".*transformer_blocks\.\d+\.attn2\.|.*joint_blocks[._]"), "a Stable Diffusion 3 LoRA", _OTHER)
BFL = Format(re.compile(r"(.*\.)?(double|single)_blocks\.\d+\."), "a FLUX LoRA in BFL layout", _AS_IT_IS)

FORMATS = (
    Format(re.compile(r"lora_unet_(double|single)_blocks_\d+_"), "a kohya/sd-scripts FLUX LoRA", _AS_IT_IS),
    Format(
        re.compile(r"(lora_transformer|lycoris)_(single_)?transformer_blocks_"), "a OneTrainer FLUX LoRA", _AS_IT_IS
    ),
    Format(
        re.compile(r".*(double|single)_blocks\.\d+\.processor\."),
        "an XLabs FLUX LoRA",
        "ComfyUI's stock loaders leave it out; load it with the x-flux-comfyui nodes",
    ),
    Format(re.compile(r".*transformer_blocks.*\.(lokr_w|hada_w|oft_)"), "a LyCORIS FLUX adapter", _AS_IT_IS),
    _FLUX_2,
    BFL,
    _QWEN,
    Format(
        re.compile(
            r"(diffusion_model\.|transformer\.|base_model\.model\.|lora_unet__?)?blocks[._]\d+[._]"
            r"((self|cross)_attn|attn[12]\.|ffn[._])"
        ),
        "a Wan LoRA",
        _OTHER,
    ),
    _SD3,
    Format(
        re.compile(
            r"lora_te2_|text_encoder_2\.|conditioner\.|.*(attentions[._]\d+[._]|_[12]_)transformer_blocks[._][2-9]"
        ),
        "an SDXL LoRA",
        _OTHER,
    ),
    Format(
        re.compile(
            r"lora_te|text_encoder|unet\.|lora_unet_(down|up|mid|input|output|middle)_|(down|up)_blocks\.|mid_block\."
        ),
        "a Stable Diffusion LoRA",
        _OTHER,
    ),
)
_QWEN_BLOCKS = 60  # named like FLUX's 19, with no single blocks beside them
_BLOCK = re.compile(r"(?:^|\.)transformer_blocks\.(\d{1,5})\.")


def foreign_format(keys: Iterable[str], has_flux_layers: bool) -> Format | None:
    """Name the format of a file that is not converted, if it is a known one.

    With layers that the table knows, only the architectures that name some of theirs like FLUX.1 are looked for.
    """
    keys = tuple(keys)
    formats = (_FLUX_2, _QWEN, _SD3) if has_flux_layers else FORMATS
    found = next((known for known in formats if any(map(known.pattern.match, keys))), None)
    if found is None and not any("single_transformer_blocks" in key for key in keys):
        last = max((int(match[1]) for key in keys if (match := _BLOCK.search(key))), default=-1)
        return _QWEN if last == _QWEN_BLOCKS - 1 else None
    return found
