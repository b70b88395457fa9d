"""Formats that can't be converted: how to recognise their keys, their names, and what to do with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from . import architectures
from .layout import DOUBLE, FLUX_1, SINGLE, Geometry


class Format(NamedTuple):
    """A format that is not converted."""

    pattern: re.Pattern[str]
    name: str
    advice: str


_OTHER = "this converter is for FLUX.1; load it with the model it was trained for"
_NO_PAIRS = "it has no LoRA pairs that could be fused; extract a LoRA from it, or merge it into the model"
_SOME_PAIRS = "some of its layers have LoRA pairs, these have none that could be fused; merge it into the model"
_NODES = "it does not adapt the whole model; load it with the nodes that were made for it"
_WEIGHTS = "give the LoRA, not the model"


def _other(pattern: str, name: str) -> Format:
    return Format(re.compile(pattern), name, _OTHER)


# Adapters that act only on some of the tokens, or outside the model's own layers.
_ADAPTERS = tuple(
    Format(re.compile(pattern), name, _NODES)
    for pattern, name in (
        (r".*processor\.(?:[qkv]|proj)_loras\.\d+\.", "an EasyControl adapter"),
        (r".*(?:ip_adapter|image_proj\.|image_proj_model\.|to_[kv]_ip\b)", "an IP-Adapter"),
        (r".*pulid_(?:ca|encoder)\b", "a PuLID adapter"),
        (r".*(?:controlnet_(?:x_embedder|blocks|single_blocks|mode_embedder)|input_hint_block)\b", "a ControlNet"),
        (r".*redux_(?:up|down)\.", "a FLUX.1 Redux adapter"),
    )
)
# Files that are not LoRAs, with any names of layers (in the spellings of LyCORIS and PEFT).
_NO_LORA = tuple(
    Format(re.compile(rf".*[._](?:{marks})"), f"{name}, which is not a LoRA", _NO_PAIRS)
    for marks, name in (
        (r"lokr_(?:w[12]|t2)", "a LyCORIS LoKr adapter"),
        (r"hada_(?:w[12]|t[12])", "a LyCORIS LoHa adapter"),
        (r"(?:oft_(?:blocks|diag|[RrSs])|boft_[RrSs])", "an OFT adapter"),
        (r"(?:glora_[AB]|[ab][12]\.weight)", "a GLoRA adapter"),
        (r"lora_mid\.", "a LoCon adapter with a core (Tucker)"),
        (r"(?:[qp]_layer\.|lambda_layer\b|base_[qp]\b)", "a T-LoRA adapter, whose rank changes with the step"),
        (r"vera_lambda_[bd]|randlora_", "a VeRA adapter"),
        (r"ia3_l", "an (IA)3 adapter"),
        (r"hra_u|boft_|waveft_|fourierft_|c3a_kernel|shira_", "a PEFT adapter of another kind"),
    )
)
# Extra tensors of a factor from bitsandbytes, GPTQ, quanto and torchao; only scaled float8 is plain arithmetic.
_QUANTISED = Format(
    re.compile(
        r".*[._]lora(?:_A|_B|[._]down|[._]up)\.(?:.*\.)?(?:SCB|absmax|nested_absmax|quant_map|nested_quant_map"
        r"|quant_state\..+|weight_format|qweight|qzeros|g_idx|scales?|zero_point|zeros?|_data|_scale|_shift|qdata"
        r"|weight_scale_(?:inv|2)|input_scale|scale_input|output_scale|comfy_quant|weight_zero_point)$"
    ),
    "a quantised LoRA, whose factors have scales of their own",
    "save it in bfloat16 or float16 with the program that quantised it",
)
# Layers of other models that also have layers named like FLUX.1's; the first row that fits names the file.
_DESCENDANTS = (
    _other(
        r".*(attn[._]to_qkv_mlp_proj|single_transformer_blocks[._]\d+[._]attn[._]to_out[._](?!0[._])"
        r"|(double|single)_stream_modulation)",
        "a FLUX.2 LoRA",
    ),
    _other(
        r".*joint_transformer_blocks[._]|.*single_transformer_blocks[._]\d+[._](ff[._]|attn[._]to_out[._]0)",
        "an AuraFlow LoRA",
    ),
    _other(r".*distilled_guidance_layer[._]", "a Chroma LoRA"),
    _other(
        r".*token_refiner[._]|.*double_blocks\.\d+\.(img|txt)_attn_(qkv|proj)\."
        r"|.*(double|single)_blocks[._]\d+[._]((img|txt)_(mlp[._]fc[12]|mod[._]linear)|modulation[._]linear)",
        "a HunyuanVideo LoRA",
    ),
    _other(r".*transformer_blocks[._]\d+[._]((img|txt)_mlp|(img|txt)_mod)[._]", "a Qwen-Image LoRA"),
    _other(r".*transformer_blocks[._]\d+[._]attn2[._]|.*joint_blocks[._]", "a Stable Diffusion 3 LoRA"),
)
_OTHERS = (
    _other(
        r"(diffusion_model\.|transformer\.|base_model\.model\.|lora_unet__?)?blocks[._]\d+[._]"
        r"((self|cross)_attn|attn[12]\.|ffn[._])",
        "a Wan LoRA",
    ),
    _other(r"(.*\.)?layers\.\d+\.(attention|feed_forward|adaLN_modulation)\.", "a Lumina or Z-Image LoRA"),
    _other(
        r"lora_te2_text_model|text_encoder_2\.text_model|conditioner\.|.*(attentions[._]\d+[._]|_[12]_)transformer_blocks[._][2-9]"
        r"|.*(input|output|middle)_blocks?\.\d+\.\d+\.transformer_blocks\.[2-9]",
        "an SDXL LoRA",
    ),
    _other(
        r"lora_te|text_encoder|unet\.|lora_unet_(down|up|mid|input|output|middle)_"
        r"|(.*\.)?((down|up|input|output)_blocks\.|(mid|middle)_block\.)",
        "a Stable Diffusion LoRA",
    ),
)
_MODEL = Format(
    re.compile(r"(.*\.)?((single_)?transformer|double|single)_blocks\.\d+\.[^.].*\.(weight|bias|scale)$"),
    "the weights of a model, not a LoRA",
    _WEIGHTS,
)


_LONGEST_KEY = 300  # no library has such long names, and regular expressions are slow on them


def foreign_format(keys: Iterable[str], has_flux_layers: bool) -> Format | None:
    """Name the format of a file that is not converted, by its keys, if it is a known one.

    With layers that the table knows, only files that are not LoRAs, and architectures that name some of their layers
    like FLUX.1, are looked for.
    """
    keys = tuple(key for key in keys if len(key) < _LONGEST_KEY)
    known = (_QUANTISED, *_ADAPTERS, *_NO_LORA, *_DESCENDANTS, *(() if has_flux_layers else _OTHERS))
    found = next((row for row in known if any(map(row.pattern.match, keys))), None)
    if found is None or found.advice != _NO_PAIRS or "lora_mid" in found.pattern.pattern:
        return found
    if not any(map(_PAIR.match, keys)):
        return found
    return found._replace(name=found.name.replace(", which is not a LoRA", " next to LoRA pairs"), advice=_SOME_PAIRS)


_PAIR = re.compile(r".*[._](?:lora_(?:A|B)\b|lora[._](?:down|up)\.)")


def model_weights(keys: Iterable[str]) -> Format | None:
    """Name a file without any LoRA tensor in it as a model's weights, if it is that."""
    return _MODEL if any(_MODEL.pattern.match(key) for key in keys if len(key) < _LONGEST_KEY) else None


def architecture(geometry: Geometry, blocks: architectures.Blocks) -> tuple[Format | None, str | None]:
    """Name the model if layers named like FLUX.1's belong to another one; otherwise return a note for the user."""
    verdict = architectures.judged(geometry, blocks)
    if verdict.foreign is None:
        return None, verdict.note
    name = verdict.foreign
    named = name if name.startswith("another") else f"{'an' if name[0] in 'AO' else 'a'} {name} LoRA"
    return Format(re.compile(""), named.replace("another model's", "another model's LoRA"), _OTHER), None


# Entries of a header that name the base model, and the models whose LoRAs may look like FLUX.1's. Those of FLUX.1
# itself, FLUX.1-Krea-dev too, need no note.
_BASE = re.compile(
    r"(?:.*[._])?(?:architecture|base_?model(?:_.*)?|model_?(?:name|type|version|spec)|sd_model_name)", re.I
)
_BASE_IN_JSON = re.compile(r'base_model_name_or_path"\s*:\s*"([^"]{1,200})"')
_FLUX_1 = re.compile(r"flux[ ._/-]*1", re.I)
_NAMED = tuple(
    (re.compile(pattern, re.I), name)
    for pattern, name in (
        (r"flux[ ._/-]*2[ ._/-]*klein[a-z ._/-]*4 ?b", "FLUX.2 klein 4B"),
        (r"flux[ ._/-]*2[ ._/-]*klein[a-z ._/-]*9 ?b", "FLUX.2 klein 9B"),
        (r"flux[ ._/-]*2[ ._/-]*klein", "FLUX.2 klein"),
        (r"flux[ ._/-]*2", "FLUX.2"),
        (r"krea[ ._/-]*(?:krea[ ._/-]*)?2", "Krea 2"),
        (r"krea", "Krea"),
    )
)


def named_by(metadata: Mapping[str, str]) -> str | None:
    """Return the name of a model other than FLUX.1 that a header gives as the one it was trained for."""
    named = [value[:200] for key, value in metadata.items() if len(key) < 100 and _BASE.fullmatch(key)]
    named += [name for value in metadata.values() for name in _BASE_IN_JSON.findall(value[:100_000])]
    other = [value for value in named if not _FLUX_1.search(value)]
    if len(other) < len(named):
        return None
    return next((name for value in other for pattern, name in _NAMED if pattern.search(value)), None)


def by_header(
    name: str, foreign: Format | None, geometry: Geometry | None, blocks: architectures.Blocks, has_mlp: bool
) -> Format | None:
    """Name a file as its header does, unless its layers are clearly FLUX.1's."""
    if foreign is not None and foreign.advice != _OTHER:
        return foreign
    double, single = (max(blocks.get(kind, ()), default=-1) + 1 for kind in (DOUBLE, SINGLE))
    row = next(row for row in architectures.ARCHITECTURES if row.name == "FLUX.2 klein 4B")  # the one as wide as FLUX.1
    is_flux_1 = geometry is not None and geometry.hidden == FLUX_1.hidden
    beyond = double > row.double or single > row.single or has_mlp if name.startswith("FLUX.2") else bool(single)
    if foreign is None and is_flux_1 and beyond:
        return None
    return Format(re.compile(""), f"a {name} LoRA, as its header says", _OTHER)
