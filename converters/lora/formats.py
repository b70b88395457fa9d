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

_FLUX_2 = Format(
    re.compile(
        r".*(attn\.to_qkv_mlp_proj|single_transformer_blocks\.\d+\.attn\.to_out\.|(double|single)_stream_modulation)"
    ),
    "a FLUX.2 LoRA",
    _OTHER,
)
_QWEN = Format(
    re.compile(r".*transformer_blocks\.\d+\.((img|txt)_mlp\.|(img|txt)_mod\.)|lora_unet_transformer_blocks_\d+_"),
    "a Qwen-Image LoRA",
    _OTHER,
)
_HUNYUAN_VIDEO = Format(re.compile(r".*token_refiner\."), "a HunyuanVideo LoRA", _OTHER)
_SD3 = Format(re.compile(r".*transformer_blocks\.\d+\.attn2\.|.*joint_blocks[._]"), "a Stable Diffusion 3 LoRA", _OTHER)
BFL = Format(re.compile(r"(.*\.)?(double|single)_blocks\.\d+\."), "a FLUX LoRA in BFL layout", _AS_IT_IS)

FORMATS = (
    Format(re.compile(r"lora_unet_(double|single)_blocks_\d+_"), "a kohya/sd-scripts FLUX LoRA", _AS_IT_IS),
    Format(re.compile(r"lora_transformer_(single_)?transformer_blocks_"), "a OneTrainer FLUX LoRA", _AS_IT_IS),
    Format(
        re.compile(r"lycoris_(single_)?transformer_blocks_|.*transformer_blocks.*\.(lokr_w|hada_w|oft_)"),
        "a LyCORIS FLUX adapter",
        _AS_IT_IS,
    ),
    Format(
        re.compile(r".*(double|single)_blocks\.\d+\.processor\."),
        "an XLabs FLUX LoRA",
        "ComfyUI's LoRA loaders take it as it is if it has all blocks; else load it with the x-flux-comfyui nodes",
    ),
    _FLUX_2,
    BFL,
    _QWEN,
    _HUNYUAN_VIDEO,
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
            r"|.*(input|output|middle)_blocks?\.\d+\.\d+\.transformer_blocks\.[2-9]"
        ),
        "an SDXL LoRA",
        _OTHER,
    ),
    Format(
        re.compile(
            r"lora_te|text_encoder|unet\.|lora_unet_(down|up|mid|input|output|middle)_"
            r"|(.*\.)?((down|up|input|output)_blocks\.|(mid|middle)_block\.)"
        ),
        "a Stable Diffusion LoRA",
        _OTHER,
    ),
)
# Models whose layers are named like FLUX.1's, by how many transformer_blocks and single_transformer_blocks they have.
_BLOCKS = {(60, 0): _QWEN, (8, 48): _FLUX_2, (20, 40): _HUNYUAN_VIDEO}
_BLOCK = re.compile(r"(?:^|\.)(single_)?transformer_blocks\.(\d{1,5})\.")


def foreign_format(keys: Iterable[str], has_flux_layers: bool) -> Format | None:
    """Name the format of a file that is not converted, if it is a known one.

    With layers that the table knows, only the architectures that name some of theirs like FLUX.1 are looked for.
    """
    keys = tuple(keys)
    formats = (_FLUX_2, _QWEN, _HUNYUAN_VIDEO, _SD3) if has_flux_layers else FORMATS
    found = next((known for known in formats if any(map(known.pattern.match, keys))), None)
    return found or _BLOCKS.get(_block_counts(keys))


def _block_counts(keys: Iterable[str]) -> tuple[int, int]:
    """Return how many double and single blocks the keys count up to."""
    found = [(match[1] is not None, int(match[2]) + 1) for key in keys if (match := _BLOCK.search(key))]
    double, single = (max((count for kind, count in found if kind is single), default=0) for single in (False, True))
    return double, single
