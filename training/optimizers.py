"""Optimisers by name, and the learning rate as a function of the step."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch.nn import Parameter

from .config import Config
from .errors import TrainingError
from .muon import Muon


class Optional(NamedTuple):
    """An optimiser of a package that ComfyUI does not bring."""

    module: str
    name: str
    package: str


_OWN: dict[str, Any] = {"adamw": torch.optim.AdamW, "muon": Muon}
_OPTIONAL = {
    "adamw8bit": Optional("bitsandbytes.optim", "AdamW8bit", "bitsandbytes"),
    "prodigy": Optional("prodigyopt", "Prodigy", "prodigyopt"),
}


def optimizer(config: Config, factors: Iterable[Parameter]) -> torch.optim.Optimizer:
    """Make the optimiser of a run.  Raises TrainingError if its package is not installed."""
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer in _OWN:
        return _OWN[config.optimizer](list(factors), **options)
    wanted = _OPTIONAL[config.optimizer]
    try:
        found = getattr(importlib.import_module(wanted.module), wanted.name)
    except ImportError as error:
        raise TrainingError(
            f"The optimiser {config.optimizer} needs the package {wanted.package}; pip install {wanted.package}, "
            "or use adamw."
        ) from error
    return found(list(factors), **options)


def learning_rate(config: Config, step: int) -> float:
    """Return the learning rate of step 0, 1, ..: a linear rise, then constant or half a cosine down to 0."""
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    done = max(0, step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * rise * (0.5 + 0.5 * math.cos(math.pi * min(1.0, done)) if config.decay else 1.0)
