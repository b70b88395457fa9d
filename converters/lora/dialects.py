"""The dialects in which files name FLUX.1's layers, as data. Only this file decides what a key means.

A layer of the transformer gets its name in the table of layers, Diffusers' or ComfyUI's. A layer of a text encoder gets
the name that ComfyUI's loaders read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from . import names
from .layout import QKV_OF_LINEAR1, Place, fused_place, norm_place, place, underscored_place
from .names import DIFF, DOWN, NORM, SET, UP, Name

MERGED, BYPASSED = "merged", "merged and bypassed"


class Dialect(NamedTuple):
    """A way to name the layers: its name, the prefix of its names, and how the host loads such files unchanged."""

    name: str
    prefix: str
    find: Callable[[str], Place | None]
    comfy: bool
    """Whether it uses the names of ComfyUI's layers instead of Diffusers'."""
    loads: str = ""


DIFFUSERS, BFL, XLABS = "a FLUX.1 LoRA in Diffusers layout", "a FLUX LoRA in BFL layout", "an XLabs FLUX LoRA"
# From ComfyUI's comfy/lora.py (model_lora_keys_unet) and Diffusers' loaders/lora_conversion_utils.py. The first row
# that fits names a key; the last ones match every prefix that trainers nest.
DIALECTS = (
    Dialect("a kohya/sd-scripts FLUX LoRA", "lora_unet_", underscored_place, True, BYPASSED),
    Dialect("a FLUX slider LoRA", "lora_unet_", underscored_place, False),
    Dialect("a OneTrainer FLUX LoRA", "lora_transformer_", underscored_place, False, MERGED),
    Dialect("a OneTrainer FLUX LoRA", "lora_transformer_", underscored_place, True),
    Dialect("a FLUX LoRA with SimpleTuner's LyCORIS names", "lycoris_", underscored_place, False, MERGED),
    Dialect("a FLUX LoRA with SimpleTuner's LyCORIS names", "lycoris_", underscored_place, True),
    Dialect(BFL, "diffusion_model.", place, True, BYPASSED),
    Dialect(BFL, "", place, True),
    Dialect(DIFFUSERS, "transformer.", place, False, MERGED),
    Dialect(DIFFUSERS, "", place, False),
)
_UNDERSCORED = tuple(dict.fromkeys(row.prefix for row in DIALECTS if row.find is underscored_place))

_XLABS = re.compile(
    r"((?:double|single)_blocks\.\d{1,5}\.)processor\.(qkv|proj)_lora([12]?)\.(?:lora_)?(down|up)\.weight", re.ASCII
)
# XLabs' processors, which USO has too -> ComfyUI's layers.
_XLABS_LAYERS = {
    ("double", "qkv", "1"): "img_attn.qkv",
    ("double", "qkv", "2"): "txt_attn.qkv",
    ("double", "proj", "1"): "img_attn.proj",
    ("double", "proj", "2"): "txt_attn.proj",
    ("single", "qkv", ""): QKV_OF_LINEAR1.removeprefix("single_blocks.{i}."),
    ("single", "proj", ""): "linear2",
}

CLIP, T5 = "text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer."
TEXT = "text_encoders."
# FLUX.1's two text encoders: kohya numbers T5 3, OneTrainer 2.
_TEXT_DOTTED = (
    (CLIP, CLIP),
    (T5, T5),
    ("clip_l.transformer.", CLIP),
    ("t5xxl.transformer.", T5),
    ("clip_l.", CLIP),
    ("t5xxl.", T5),
    ("t5.", T5),
    ("text_encoder_2.", T5),
    ("text_encoder.", CLIP),
)
_TEXT_UNDERSCORED = (("lora_te3_", T5), ("lora_te2_", T5), ("lora_te1_", CLIP), ("lora_te_", CLIP))
_TEXT_LAYERS = {
    CLIP: re.compile(
        r"(?:text_model[._])?(?:(encoder)[._](layers)[._](\d{1,3})[._]"
        r"(?:(self_attn)[._]((?:[qkv]|out)_proj|to_(?:q|k|v|out))|(mlp)[._](fc[12]))|(text_projection))",
        re.ASCII,
    ),
    T5: re.compile(
        r"(encoder)[._](block)[._](\d{1,3})[._](layer)[._](\d{1,3})[._]"
        r"(?:(SelfAttention)[._]([qkvo])|(DenseReluDense)[._](wi_0|wi_1|wi|wo))",
        re.ASCII,
    ),
}
_HOST_TEXT = re.compile(rf"(?:{re.escape(CLIP)}|{re.escape(T5)})[A-Za-z][A-Za-z0-9_.]{{0,120}}", re.ASCII)
"""Any layer of a text encoder, by the name that ComfyUI's own Extract LoRA and Train LoRA write."""
_CLIP_ALIASES = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def parse(key: str) -> Name | None:
    """Return the layer and role of a LoRA's factor or alpha; None for tensors of another kind."""
    key = names.unwrapped(key)
    processor = _processor(key)
    if processor is not None:
        return processor
    found = names.suffixed(key)
    return None if found is None else Name(layer_of(found.module), found.role)


def parse_extra(key: str) -> Name | None:
    """Return the layer and role of another tensor of a FLUX.1 LoRA, such as a bias; None for other tensors."""
    key = names.unwrapped(key)
    found = names.extra(key)
    if found is not None:
        layer = layer_of(found.module)
        norm = norm_place(bare(layer)) if found.role in (SET, DIFF, NORM) else None
        return Name(norm or layer, found.role)
    for end in names.NORM_ENDS:
        norm = norm_place(names.without_prefix(key[: -len(end)])) if key.endswith(end) else None
        if norm is not None:
            return Name(norm, SET)
    return None


def layer_of(stem: str) -> str:
    """Return the table's name of a layer, ComfyUI's of a text encoder's, or the name without prefixes."""
    stem = names.unwrapped(stem)
    text = _text_layer(stem)
    if text is not None:
        return text
    for prefix in _UNDERSCORED:
        found = underscored_place(stem.removeprefix(prefix)) if stem.startswith(prefix) else None
        if found is not None:
            return found.module
    plain = names.without_prefix(stem)
    before, mark, rest = plain.partition(".attn.processor.")  # as Diffusers named them in 2023
    return f"{before}.attn.{'to_out.0' if rest == 'to_out' else rest}" if mark else plain


def bare(key: str) -> str:
    """Return a key without any dialect's prefix, to find its layer."""
    key = names.without_prefix(key)
    return next((key[len(prefix) :] for prefix in _UNDERSCORED if key.startswith(prefix)), key)


def _processor(key: str) -> Name | None:
    match = _XLABS.fullmatch(names.without_prefix(key))
    if match is None:
        return None
    block, kind, number, role = match.groups()
    layer = _XLABS_LAYERS.get((block.partition("_")[0], kind, number))
    return None if layer is None else Name(block + layer, DOWN if role == "down" else UP)


def _text_layer(stem: str) -> str | None:
    """Return ComfyUI's name of a text encoder's layer; None if it is not one."""
    bare_stem = names.without_prefix(stem)
    if _HOST_TEXT.fullmatch(bare_stem):
        return bare_stem
    for prefix, encoder in (*_TEXT_DOTTED, *_TEXT_UNDERSCORED):
        if bare_stem.startswith(prefix):
            match = _TEXT_LAYERS[encoder].fullmatch(names.without_prefix(bare_stem[len(prefix) :]))
            if match is None:
                return None
            steps = [_CLIP_ALIASES.get(step, step) for step in match.groups() if step is not None]
            above = "text_model." if encoder == CLIP and steps != ["text_projection"] else ""
            return encoder + above + ".".join(steps)
    return None


def dialect_of(keys: Iterable[str]) -> Dialect | None:
    """Return the dialect in which most of a file's layers are named; None without a layer of FLUX.1."""
    counted: dict[Dialect, int] = {}
    for key in keys:
        found = _dialect(key)
        if found is not None:
            counted[found] = counted.get(found, 0) + 1
    return max(counted, key=counted.__getitem__) if counted else None


_NUMBERED = re.compile(r"\.(?:qkv|linear1)\.\d$", re.ASCII)


def _dialect(key: str) -> Dialect | None:
    name = parse(key)
    found = place(name.module) if name else None
    if name is None or found is None:
        return None
    comfy = is_comfy(name.module)
    if _processor(names.unwrapped(key)) is not None:
        return Dialect(XLABS, "", place, True)
    if _NUMBERED.search(name.module):
        return Dialect("a OneTrainer FLUX LoRA (OMI)", "", place, False)
    return next(row for row in DIALECTS if row.comfy is comfy and key.startswith(row.prefix))


def is_comfy(module: str) -> bool:
    """Return whether a layer of the table is named as in ComfyUI."""
    found = place(module)
    return found is not None and (fused_place(module) is not None or found.part.name == QKV_OF_LINEAR1)


# The suffixes that the host's loader looks for (comfy/weight_adapter/lora.py), behind names that are whole layers.
_HOST_ENDS = (
    *(".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight", ".lora_A", ".lora_B"),
    *("_lora.down.weight", "_lora.up.weight", ".lora.down.weight", ".lora.up.weight"),
    *(".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    *(".lora_A.default.weight", ".lora_B.default.weight", ".alpha"),
)


def host_takes(keys: Iterable[str]) -> bool:
    """Return whether the host's loaders read every tensor under its present name, merged and bypassed."""
    return all(any(_is_host_key(key, row) for row in DIALECTS if row.loads == BYPASSED) for key in keys)


def _is_host_key(key: str, row: Dialect) -> bool:
    end = next((end for end in _HOST_ENDS if key.endswith(end)), None)
    if end is None or not key.startswith(row.prefix):
        return False
    found = row.find(key[len(row.prefix) : -len(end)])
    return found is not None and found.module == found.layer
