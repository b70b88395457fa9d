"""How LoRA files spell their tensors; nowhere else do these spellings appear."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import AdapterError

DOWN, UP, ALPHA, DORA = "down", "up", "alpha", "dora"

# PEFT may put the adapter's name between lora_A and weight; lora_B.bias is no factor.
_SUFFIXES = (
    (re.compile(r"\.lora_A(?:\.(?!weight|bias)[^.]+)?(?:\.weight)?"), DOWN),
    (re.compile(r"\.lora_B(?:\.(?!weight|bias)[^.]+)?(?:\.weight)?"), UP),
    (re.compile(r"\.lora[._]down\.weight"), DOWN),
    (re.compile(r"\.lora[._]up\.weight"), UP),
    (re.compile(r"\.lora_linear_layer\.down\.weight"), DOWN),
    (re.compile(r"\.lora_linear_layer\.up\.weight"), UP),
    (re.compile(r"\.alpha"), ALPHA),
    (re.compile(r"\.(?:lora_magnitude_vector(?:\.[^.]+)*|dora_scale)"), DORA),
)
_MARKS = (".lora", ".alpha", ".dora_scale")
_PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.")


class Name(NamedTuple):
    """A tensor's layer without prefix, and its role there."""

    module: str
    role: str


def parse(key: str) -> Name | None:
    """Split a tensor's name into layer and role; None if it is no tensor of a LoRA."""
    start = max(key.rfind(mark) for mark in _MARKS)
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


def alpha_key(module: str) -> str:
    """Return the alpha's name of a Diffusers layer, beside `original_keys`."""
    return f"transformer.{module}.alpha"


def fused_keys(layer: str) -> tuple[str, str]:
    """Return the down and up names of a ComfyUI layer that the host's LoRA loaders take."""
    return f"diffusion_model.{layer}.lora_A.weight", f"diffusion_model.{layer}.lora_B.weight"


class Pairs(NamedTuple):
    """The tensors of a file by layer: (down, up) keys, alpha keys, and the keys that belong to no LoRA pair."""

    factors: Mapping[str, tuple[str, str]]
    alphas: Mapping[str, str]
    others: tuple[str, ...]


def pair_up(path: object, keys: Mapping[str, object]) -> Pairs:
    """Match the tensors of a file by layer.  Raises AdapterError for half a pair, a second one, and DoRA."""
    found: dict[str, dict[str, str]] = {}
    others = []
    for key in keys:
        name = parse(key)
        if name is None:
            others.append(key)
        elif name.role == DORA:
            raise dora(path, key)
        elif (other := found.setdefault(name.module, {}).setdefault(name.role, key)) != key:
            raise AdapterError(
                f"{path}: {key}: expected one {name.role} per layer, got {other} too; remove one of them."
            )
    factors = {module: _factors(path, module, roles) for module, roles in found.items() if set(roles) != {ALPHA}}
    alphas = {module: roles[ALPHA] for module, roles in found.items() if ALPHA in roles and module in factors}
    lonely = [roles[ALPHA] for module, roles in found.items() if module not in factors]
    return Pairs(factors, alphas, (*others, *lonely))


def _factors(path: object, module: str, roles: Mapping[str, str]) -> tuple[str, str]:
    if DOWN in roles and UP in roles:
        return roles[DOWN], roles[UP]
    have, want = (roles[DOWN], "lora_B (up)") if DOWN in roles else (roles[UP], "lora_A (down)")
    raise AdapterError(f"{path}: {have}: expected {want} beside it for {module}, got none; get the file again.")


def dora(path: object, key: str) -> AdapterError:
    """Return the error of a DoRA file."""
    return AdapterError(
        f"{path}: {key}: expected plain LoRA, got DoRA, which can't be fused into a LoRA; merge it into the model."
    )
