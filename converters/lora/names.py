"""The names of tensors in LoRA files: wrappers and prefixes before a layer's name, suffixes after it.

`dialects` decides which layer a name means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import AdapterError

DOWN, UP, ALPHA, DORA = "down", "up", "alpha", "dora"
DOWN_SCALE, UP_SCALE = "scale of down", "scale of up"
BIAS, DIFF_B, DIFF, SET, RESHAPE, NORM = "bias", "diff_b", "diff", "set_weight", "reshape_weight", "w_norm"

# PEFT may put the adapter's name between lora_A and weight; lora_B.bias is not a factor.
# Scaled float8 stores one number next to each factor; ComfyUI calls it scale_weight, NVIDIA weight_scale.
_SCALED = r"(?:\.(?!weight_)[^.]+)??(?:\.weight)?\.(?:scale_weight|weight_scale)"
_SUFFIXES = (
    (re.compile(rf"[._]lora(?:_A|[._]down|_linear_layer\.down){_SCALED}"), DOWN_SCALE),
    (re.compile(rf"[._]lora(?:_B|[._]up|_linear_layer\.up){_SCALED}"), UP_SCALE),
    (re.compile(r"\.lora_A(?:\.(?!weight|bias)[^.]+)?(?:\.weight)?"), DOWN),
    (re.compile(r"\.lora_B(?:\.(?!weight|bias)[^.]+)?(?:\.weight)?"), UP),
    (re.compile(r"\.lora[._]down\.weight"), DOWN),
    (re.compile(r"\.lora[._]up\.weight"), UP),
    (re.compile(r"_lora\.down\.weight"), DOWN),
    (re.compile(r"_lora\.up\.weight"), UP),
    (re.compile(r"\.lora_linear_layer\.down\.weight"), DOWN),
    (re.compile(r"\.lora_linear_layer\.up\.weight"), UP),
    (re.compile(r"\.alpha"), ALPHA),
    (re.compile(r"\.(?:lora_magnitude_vector(?:\.[^.]+)*|dora_scale|dora_magnitude|lora_magnitude)"), DORA),
)
# Other tensors of a control LoRA or an extracted LoRA: a bias of the up factor, which scales with it, and differences,
# values and a shape that ComfyUI's loader uses unchanged.
_EXTRAS = (
    (re.compile(r"\.lora_B(?:\.(?!weight|bias)[^.]+)?\.bias"), BIAS),
    (re.compile(r"\.lora[._]up\.bias"), BIAS),
    (re.compile(r"\.diff_b"), DIFF_B),
    (re.compile(r"\.diff"), DIFF),
    (re.compile(r"(?:\.scale)?\.set_weight"), SET),
    (re.compile(r"\.reshape_weight"), RESHAPE),
    (re.compile(r"\.w_norm"), NORM),
)
NORM_ENDS = (".weight", ".scale")
_MARKS = (
    ".lora",
    "_lora.",
    ".alpha",
    ".dora_",
    ".diff",
    ".scale.set_weight",
    ".set_weight",
    ".reshape_weight",
    ".w_norm",
)
# torch.compile's and FSDP's marks can be anywhere in a name, the others before it, in any order and nesting.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_PREFIXES = ("base_model.model.", "model.", "transformer.", "diffusion_model.", "module.", "unet.")
_DEEPEST = 16


class Name(NamedTuple):
    """A tensor's layer, and its role there."""

    module: str
    role: str


def suffixed(key: str) -> Name | None:
    """Split a tensor's name into the part before its role, and the role; None for tensors other than LoRA factors."""
    return _split(key, _SUFFIXES)


def extra(key: str) -> Name | None:
    """Split the name of another tensor of a LoRA, such as a bias; None for other names."""
    return _split(key, _EXTRAS)


def _split(key: str, suffixes: tuple[tuple[re.Pattern[str], str], ...]) -> Name | None:
    # Matches only the last mark, so that the work does not grow with repetitions.
    start = max(key.rfind(mark) for mark in _MARKS)
    if key.endswith(".scale.set_weight"):
        start = len(key) - len(".scale.set_weight")
    if start <= 0:
        return None
    role = next((role for pattern, role in suffixes if pattern.fullmatch(key, start)), None)
    return None if role is None else Name(key[:start], role)


def unwrapped(key: str) -> str:
    """Remove what torch.compile and FSDP put into a name."""
    for wrapper in _WRAPPERS:
        key = key.replace(wrapper, "")
    return key


def without_prefix(module: str) -> str:
    """Strip the prefixes that trainers put before a layer's name, in any order."""
    module = unwrapped(module)
    for _ in range(_DEEPEST):
        prefix = next((prefix for prefix in _PREFIXES if module.startswith(prefix)), None)
        if prefix is None:
            break
        module = module[len(prefix) :]
    return module


def original_keys(module: str) -> tuple[str, str]:
    """Return the down and up names of a Diffusers layer as OmniX publishes them."""
    return f"transformer.{module}.lora_A.weight", f"transformer.{module}.lora_B.weight"


def alpha_key(module: str) -> str:
    """Return the alpha's name of a Diffusers layer, to go with `original_keys`."""
    return f"transformer.{module}.alpha"


def alpha_beside(down: str, module: str) -> str:
    """Return the alpha's name of a layer, spelled like the name of its down factor if that has a plain suffix."""
    found = suffixed(down)
    return f"{found.module}.alpha" if found else alpha_key(module)


def fused_alpha(layer: str) -> str:
    """Return the name of the alpha that the host's LoRA loaders read with `fused_keys`."""
    return f"diffusion_model.{layer}.alpha"


def fused_keys(layer: str) -> tuple[str, str]:
    """Return the down and up names of a ComfyUI layer that the host's LoRA loaders read."""
    return f"diffusion_model.{layer}.lora_A.weight", f"diffusion_model.{layer}.lora_B.weight"


def fused_extra(layer: str, role: str) -> str:
    """Return the name under which the host's loaders read another tensor of a ComfyUI layer."""
    return f"diffusion_model.{layer}.{DIFF_B if role == BIAS else role}"


class Pairs(NamedTuple):
    """The tensors of a file by layer: (down, up) keys, alpha keys, and the keys that belong to no LoRA pair.

    `scales` are the keys of the numbers that scaled factors are multiplied by.
    """

    factors: Mapping[str, tuple[str, str]]
    alphas: Mapping[str, str]
    others: tuple[str, ...]
    scales: Mapping[str, tuple[str, ...]]

    def keys_of(self, module: str) -> tuple[str, ...]:
        """Return all keys of a layer that has factors."""
        alpha = (self.alphas[module],) if module in self.alphas else ()
        return (*self.factors[module], *alpha, *self.scales.get(module, ()))


def pair_up(path: object, names: Mapping[str, Name | None]) -> Pairs:
    """Match the tensors of a file by layer.  Raises AdapterError for half a pair, a second one, and DoRA."""
    found: dict[str, dict[str, str]] = {}
    others = []
    for key, name in names.items():
        if name is None:
            others.append(key)
        elif name.role == DORA:
            raise dora(path, key)
        elif (other := found.setdefault(name.module, {}).setdefault(name.role, key)) != key:
            raise AdapterError(
                f"{path}: {key}: expected one {name.role} per layer, got {other} too; remove one of them."
            )
    factors = {module: _factors(path, module, roles) for module, roles in found.items() if {*roles} & {DOWN, UP}}
    alphas = {module: roles[ALPHA] for module, roles in found.items() if ALPHA in roles and module in factors}
    scales = {module: tuple(found[module][role] for role in _NUMBERS if role in found[module]) for module in factors}
    lonely = [key for module, roles in found.items() if module not in factors for key in roles.values()]
    return Pairs(factors, alphas, (*others, *lonely), {module: keys for module, keys in scales.items() if keys})


_NUMBERS = (DOWN_SCALE, UP_SCALE)


def _factors(path: object, module: str, roles: Mapping[str, str]) -> tuple[str, str]:
    if DOWN in roles and UP in roles:
        return roles[DOWN], roles[UP]
    have, want = (roles[DOWN], "lora_B (up)") if DOWN in roles else (roles[UP], "lora_A (down)")
    raise AdapterError(f"{path}: {have}: expected {want} for {module}, got none; download the file again.")


def dora(path: object, key: str) -> AdapterError:
    """Return the error for a DoRA file."""
    return AdapterError(
        f"{path}: {key}: expected plain LoRA, got DoRA, which can't be fused into a LoRA; merge it into the model."
    )
