"""The block transform and the optimiser against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comfyui_omnix.lab.micro.blocks import BLOCK, CHANNELS, FIRST, Blocks, fitted
from comfyui_omnix.training.optimizers import Muon, orthogonal


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth pictures, whose blocks have few strong axes, and some noise."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(24, 3, 5, 9, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, (32, 64), mode="bilinear", align_corners=True)
    return (smooth + 0.02 * torch.randn(smooth.shape, generator=draw)).clamp(0, 1)


@pytest.fixture(scope="module")
def blocks(images: torch.Tensor) -> Blocks:
    return fitted(images.split(7))


def cut(images: torch.Tensor) -> np.ndarray:
    """Each block as a row, written without the pattern that is tested."""
    stack = images.double().numpy()
    rows = [
        picture[:, y : y + BLOCK, x : x + BLOCK].reshape(-1)
        for picture in stack
        for y in range(0, stack.shape[2], BLOCK)
        for x in range(0, stack.shape[3], BLOCK)
    ]
    return np.stack(rows)


def test_no_sixteen_axes_keep_more(images: torch.Tensor, blocks: Blocks) -> None:
    rows = cut(images)
    strengths = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    lost = (blocks.decode(blocks.encode(images)) - images).double().square().sum().item()
    assert lost == pytest.approx((strengths[CHANNELS:] ** 2).sum(), rel=1e-3)


def test_coefficients_have_the_given_deviations(images: torch.Tensor, blocks: Blocks) -> None:
    rows = cut(images)
    strengths = np.linalg.svd(rows - rows.mean(0), compute_uv=False)[:CHANNELS]
    wanted = FIRST * np.sqrt(strengths / strengths[0])
    latents = blocks.encode(images)
    assert latents.mean((0, 2, 3)).numpy() == pytest.approx(np.zeros(CHANNELS), abs=1e-4)
    assert latents.square().mean((0, 2, 3)).sqrt().numpy() == pytest.approx(wanted, rel=1e-3)


def test_a_turn_by_whole_blocks_turns_the_latent(images: torch.Tensor, blocks: Blocks) -> None:
    assert torch.equal(blocks.encode(images.roll(3 * BLOCK, -1)), blocks.encode(images).roll(3, -1))


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_orthogonal_keeps_directions_and_evens_strengths(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonal(matrix).double().numpy()
    left, _, right = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    inner = left.T @ result @ right.T
    strengths = np.diag(inner)
    assert strengths.min() > 0.6 and strengths.max() < 1.3
    assert np.abs(inner - np.diag(strengths)).max() < 1e-4


def test_muon_steps_have_the_size_of_adamw() -> None:
    weight = torch.nn.Parameter(torch.zeros(32, 64))
    weight.grad = torch.randn(32, 64, generator=torch.Generator().manual_seed(2))
    Muon([weight], lr=0.01, weight_decay=0.0).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.2)
