"""Check PEFT's settings: which values mean plain LoRA, and which change the meaning of the factors.

The settings are those of PEFT's LoraConfig (peft/tuners/lora/config.py, up to 0.19). Unknown settings are refused
unless they are switched off, because they may change the meaning of the factors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import AdapterError
from .names import dora

_OFF = (None, False, 0, "", [], {})
# They describe the training, or are read by `scales`.
_NEUTRAL = frozenset(
    {
        *("task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version"),
        *("r", "rank_pattern", "lora_alpha", "alpha_pattern", "use_rslora", "lora_dropout"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"),
        *("megatron_core", "qalora_group_size", "runtime_config", "eva_config", "corda_config", "loftq_config"),
        *("lora_ga_config", "velora_config"),
    }
)


class _Plain(NamedTuple):
    """The values of a setting with which the factors are plain LoRA, and what to do about others."""

    values: tuple[Any, ...]
    advice: str


_CONVERT = (
    "the factors belong to a base model with other weights, so save it as plain LoRA with PEFT's "
    "save_pretrained(..., path_initial_model_for_weight_conversion=...)"
)
_MERGE = "merge it into the model"
_PLAIN = {
    "peft_type": _Plain(("LORA", None), _MERGE),
    "bias": _Plain(("none", None), "train it with bias none, or merge it into the model"),
    "fan_in_fan_out": _Plain(_OFF, "the factors are transposed, so save them with fan_in_fan_out false"),
    # eva and orthogonal only choose the initial factors; the others also change the base model's weights.
    "init_lora_weights": _Plain((True, False, None, "gaussian", "eva", "orthogonal", "default"), _CONVERT),
}


def check_settings(path: Path | str, key: str, config: Mapping[str, Any], entries: Iterable[str]) -> None:
    """Raise AdapterError for a setting with which the factors (`entries`) are not plain LoRA."""
    for name, value in config.items():
        if name == "use_dora" and value not in _OFF:
            raise dora(path, key)
        if name == "lora_bias":
            _check_bias(path, key, value, entries)
            continue
        plain = _PLAIN.get(name, _Plain(_OFF, _MERGE))
        if name in _NEUTRAL or any(value == good and type(value) is type(good) for good in plain.values):
            continue
        if name == "peft_type" and str(value).rpartition(".")[2].upper() == "LORA":  # also the name of an enumeration
            continue
        raise AdapterError(
            f"{path}: {key}: {name}: expected a value that means plain LoRA, got {value!r}; {plain.advice}."
        )


def _check_bias(path: Path | str, key: str, value: Any, entries: Iterable[str]) -> None:
    """Raise AdapterError if the settings announce biases of the up factors but the file has none."""
    if value not in _OFF and not any(name.endswith(".bias") for name in entries):
        raise AdapterError(
            f"{path}: {key}: lora_bias: expected the biases that this setting announces, got a file without them; "
            "save the adapter with its biases."
        )


def targets(config: Mapping[str, Any], modules: Mapping[str, int]) -> bool:
    """Return whether settings belong to an adapter: it has exactly the layers that they target, with their ranks."""
    target, rank, ranks = config.get("target_modules"), config.get("r"), config.get("rank_pattern") or {}
    if not modules or type(rank) is not int or not isinstance(ranks, dict):
        return False
    if isinstance(target, str):
        names: tuple[str, ...] = ()
    elif isinstance(target, list) and target and all(isinstance(name, str) for name in target):
        names = tuple(target)
        if not all(any(_ends(module, name) for module in modules) for name in names):
            return False
        if not all(any(_ends(module, name) for name in names) for module in modules):
            return False
    else:
        return False
    return all(found == rank for found in modules.values()) or (bool(ranks) and rank in modules.values())


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")
