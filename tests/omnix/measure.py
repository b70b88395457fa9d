"""The difference between two results."""

import torch
from torch import Tensor


def relative_error(result: Tensor, reference: Tensor) -> float:
    """L2 norm of the difference over L2 norm of the reference, in float64; shapes must be equal."""
    if result.shape != reference.shape:
        raise AssertionError(f"shapes differ: {tuple(result.shape)} and {tuple(reference.shape)}")
    result, reference = result.detach().to("cpu", torch.float64), reference.detach().to("cpu", torch.float64)
    return (torch.linalg.vector_norm(result - reference) / torch.linalg.vector_norm(reference)).item()
