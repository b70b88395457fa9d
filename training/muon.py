"""Muon: momentum whose direction is made orthogonal before it is applied (Jordan et al. 2024), in float32.

torch.optim.Muon computes in bfloat16, at which many CPUs are slow, takes one matrix after the other, and is missing
from older versions of torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For matrices. lr and weight_decay are AdamW's: an update's root mean square is 0.2 lr (Liu et al. 2025)."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Do one step from the gradients that are there."""
        for group in self.param_groups:
            for matrices in _by_shape(group["params"]):
                directions = orthogonal(torch.stack([self._direction(matrix) for matrix in matrices]))
                size = 0.2 * group["lr"] * max(matrices[0].shape) ** 0.5
                for matrix, direction in zip(matrices, directions):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-size)

    def _direction(self, matrix: Tensor) -> Tensor:
        """Let the momentum follow the gradient; return where Nesterov's step goes."""
        gradient = torch.zeros_like(matrix) if matrix.grad is None else matrix.grad
        momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
        momentum.lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM)


def _by_shape(matrices: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield matrices of equal shapes together: small ones alone would cost more time to start than to compute."""
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
