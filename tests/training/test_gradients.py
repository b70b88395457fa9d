"""The gradient of every factor, against Diffusers + PEFT: plain joint attention, plain loss, none of our code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from comfyui_omnix.omnix.pictures.panorama import widen
from comfyui_omnix.training import adapters as own
from comfyui_omnix.training.flow import Prompt, loss_of, noisy, predict, recording
from comfyui_omnix.training.host import differentiable
from gradient_oracle import gradients
from rig import Case, load_flux, make_case
from torch import Tensor

EXACT = 1e-5


def own_gradients(
    case: Case, t: list[float], seam: int, checkpointing: bool, weights: Tensor | None = None
) -> tuple[float, list[dict[str, Tensor]]]:
    """One step of the trainer on the host's FLUX; gradients under the names of the published files."""
    files = [case.folder / case.task.name / stream / "pytorch_lora_weights.safetensors" for stream in case.task.streams]
    adapters = [own.from_file(file) for file in files]
    streams = own.streams_of(adapters)
    flux = load_flux(case.flux).model.diffusion_model
    clean = torch.flip(case.conditions[0], (-1,))
    *conditions, clean, noise = (widen(x, seam) for x in (*case.conditions, clean, case.noise))
    level = torch.tensor(t)
    batch = len(t)
    prompt = Prompt(case.text.expand(batch, -1, -1), case.pooled.expand(batch, -1), case.guidance)
    with differentiable(), recording(flux, streams):
        velocity = predict(flux, streams, [*conditions, noisy(clean, noise, level)], level, prompt, checkpointing)
        loss = loss_of(velocity, clean, noise, None if weights is None else widen(weights, seam))
        loss.backward()
    for factor in (factor for adapter in adapters for factor in adapter.parameters()):
        assert factor.grad is not None
        factor.data = factor.grad
    return loss.item(), [own.published(adapter, torch.float32) for adapter in adapters]


def holes_in(*shape: int) -> Tensor:
    """Random weights [b, 1, h, w]; half of them are 0, and most in the last sample."""
    count, height, width = shape
    drawn = torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(3))
    drawn[-1, :, :, width // 3 :] = 0
    return torch.where(drawn > 0.5, drawn, 0.0)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize(
    ("task", "seam", "t", "weighted"),
    [
        ("rgb_to_depth", 6, [0.3], False),
        ("rgb_camray_to_normal", 6, [0.7], False),
        ("rgb_to_depth", 0, [0.2, 0.8], False),
        ("rgb_to_depth", 6, [0.2, 0.8], True),
    ],
)
def test_gradients_equal_those_of_diffusers_and_peft(
    tmp_path: Path, task: str, seam: int, t: list[float], weighted: bool, checkpointing: bool, measured
) -> None:
    """With weights: soft ones and holes, of which one sample has many more than the other."""
    case = make_case(tmp_path, task, batch=len(t))
    clean = torch.flip(case.conditions[0], (-1,))
    oracle = (case.flux, case.states, [*case.conditions, clean], case.noise, t, case.text, case.pooled, case.guidance)
    weights = holes_in(len(t), *case.noise.shape[-2:]) if weighted else None
    expected_loss, expected = gradients(*oracle, seam, torch.float64, weights)
    loss, found = own_gradients(case, t, seam, checkpointing, weights)
    assert loss == pytest.approx(expected_loss, rel=EXACT)
    label = f"{task}, seam {seam}{', weighted' if weighted else ''}"
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        # Last layers of other streams that no stream reads have no gradient in the oracle and a zero here.
        assert set(theirs) <= set(ours)
        scale = max(gradient.norm().item() for gradient in theirs.values())
        for name, gradient in ours.items():
            reference = theirs.get(name, torch.zeros_like(gradient))
            error = (gradient - reference).norm().item() / max(reference.norm().item(), 1e-3 * scale)
            worst = max(worst, error)
            assert error <= EXACT, name
    measured(f"gradients of {label}, {'again' if checkpointing else 'kept'}: largest error", worst)
