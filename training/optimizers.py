"""Optimisers by name, Muon, and the learning rate as a function of the step."""

from __future__ import annotations

import importlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .config import Config, TrainingError

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose direction is made orthogonal before it is applied (Jordan et al. 2024), for matrices, in float32.

    lr and weight_decay are AdamW's: an update's root mean square is 0.2 lr (Liu et al. 2025). torch.optim.Muon computes
    in bfloat16, which is slow on many CPUs, handles one matrix after the other, and older versions of torch lack it.
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Do one step from the gradients."""
        for group in self.param_groups:
            for matrices in _by_shape(group["params"]):
                directions = orthogonal(torch.stack([self._direction(matrix) for matrix in matrices]))
                size = 0.2 * group["lr"] * max(matrices[0].shape) ** 0.5
                for matrix, direction in zip(matrices, directions):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-size)

    def _direction(self, matrix: Tensor) -> Tensor:
        """Update the momentum from the gradient; return the direction of Nesterov's step."""
        gradient = torch.zeros_like(matrix) if matrix.grad is None else matrix.grad
        momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
        momentum.lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM)


def _by_shape(matrices: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield matrices of equal shapes together: for small ones, starting the operation takes longer than computing."""
    found = defaultdict(list)
    for matrix in matrices:
        found[matrix.shape].append(matrix)
    yield from found.values()


def orthogonal(matrices: Tensor) -> Tensor:
    """Return nearly the orthogonal factors of the polar decompositions of [.., m, n], by Newton and Schulz."""
    a, b, c = COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.mT


_OWN: dict[str, Any] = {"adamw": torch.optim.AdamW, "muon": Muon}
_OPTIONAL = {
    "adamw8bit": ("bitsandbytes.optim", "AdamW8bit"),
    "prodigy": ("prodigyopt", "Prodigy"),
}
"""Optimisers in packages that ComfyUI does not install: the module and the class."""


def optimizer(config: Config, factors: Iterable[Parameter]) -> torch.optim.Optimizer:
    """Make the optimiser of a run.  Raises TrainingError if its package is not installed."""
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer in _OWN:
        return _OWN[config.optimizer](list(factors), **options)
    module, name = _OPTIONAL[config.optimizer]
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        package = module.partition(".")[0]
        raise TrainingError(
            f"The optimiser {config.optimizer} needs the package {package}; pip install {package}, or use adamw."
        ) from error
    return found(list(factors), **options)


def learning_rate(config: Config, step: int) -> float:
    """Return the learning rate of step 0, 1, ..: a linear rise, then constant or half a cosine down to 0."""
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    end = config.decay_steps or config.steps
    done = max(0, step - config.warmup) / max(1, end - config.warmup)
    return config.learning_rate * rise * (0.5 + 0.5 * math.cos(math.pi * min(1.0, done)) if config.decay else 1.0)
