"""The seam under every sampler of the host: the noise that it draws between steps is the same on both of its sides.

FLUX is left out here. A stand-in says that the denoised picture is half of what it is given, so that what is left of
the noise can be told.
"""

from typing import Any

import comfy.samplers
import pytest
import torch
from comfyui_omnix.omnix.noise import PeriodicNoise
from rig import Case, Model, ksample, load_flux, make_case, patched
from torch import Tensor

SEAM, WIDTH, BATCH, STEPS = 6, 16, 16, 5
NOISY = [
    *("euler_ancestral", "euler_ancestral_cfg_pp", "exp_heun_2_x0_sde", "dpm_2_ancestral", "dpmpp_2s_ancestral"),
    *("dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu"),
    *("dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm", "lcm"),
    *("res_multistep_ancestral", "res_multistep_ancestral_cfg_pp", "er_sde", "seeds_2", "seeds_3", "sa_solver"),
    "sa_solver_pece",
]
"""The host's samplers that draw noise, as of 0.30.0."""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("adapters"), batch=BATCH)


@pytest.fixture(scope="module")
def model(manager: str, case: Case) -> Model:
    return load_flux(case.flux)


def sampled(model: Model, case: Case, sampler: str, seen: list[Tensor]) -> Tensor:
    """Sample with the stand-in; `seen` gets each x that it is asked about."""

    def half(_apply: Any, given: dict[str, Any]) -> Tensor:
        seen.append(given["input"].clone())
        return given["input"] / 2

    ours = patched(model, case)
    ours.set_model_unet_function_wrapper(half)
    return ksample(ours, case, STEPS, sampler=sampler, seed=3)


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_the_seam_keeps_its_deviation(model: Model, case: Case, sampler: str) -> None:
    seen: list[Tensor] = []
    out = sampled(model, case, sampler, seen)
    assert out.isfinite().all()
    for x in (*seen, torch.cat((out, out[..., :SEAM]), dim=-1)):
        columns = x[..., :WIDTH].std(dim=(0, 1, 2))
        assert abs(float(columns[:SEAM].mean() / columns[SEAM:].mean()) - 1) <= 0.03
        assert torch.allclose(x[..., WIDTH:], x[..., :SEAM], rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", sorted({*comfy.samplers.KSampler.SAMPLERS} & {*NOISY}))
def test_the_test_would_see_noise_of_two_kinds(
    model: Model, case: Case, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """Without the mend, every sampler that draws noise loses deviation at the seam."""
    monkeypatch.setattr(
        PeriodicNoise,
        "__torch_function__",
        lambda _self, func, _types, args=(), kwargs=None: func(*args, **(kwargs or {})),
    )
    seen: list[Tensor] = []
    sampled(model, case, sampler, seen)
    columns = seen[-1][..., :WIDTH].std(dim=(0, 1, 2))
    assert float(columns[:SEAM].mean() / columns[SEAM:].mean()) < 0.97


@pytest.mark.parametrize("sampler", sorted({*comfy.samplers.KSampler.SAMPLERS} - {*NOISY}))
def test_samplers_that_draw_no_noise_are_bit_identical(
    model: Model, case: Case, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    with_it = sampled(model, case, sampler, [])
    monkeypatch.setattr(
        PeriodicNoise,
        "__torch_function__",
        lambda _self, func, _types, args=(), kwargs=None: func(*args, **(kwargs or {})),
    )
    assert torch.equal(sampled(model, case, sampler, []), with_it)


def test_what_is_drawn_goes_on_past_the_seam() -> None:
    draws = (
        lambda: torch.randn(2, 16, 8, WIDTH + SEAM),
        lambda: torch.randn_like(torch.empty(8, WIDTH + SEAM)),
        lambda: torch.empty(16, 8, WIDTH + SEAM).normal_(),
        lambda: torch.rand(1, 16, 8, WIDTH + SEAM, generator=torch.Generator().manual_seed(1)),
    )
    for draw in draws:
        torch.manual_seed(0)
        with PeriodicNoise(8, WIDTH, SEAM):
            drawn = draw()
        torch.manual_seed(0)
        assert torch.equal(drawn[..., :WIDTH], draw()[..., :WIDTH])
        assert torch.equal(drawn[..., WIDTH:], drawn[..., :SEAM])


def test_other_tensors_are_as_they_are() -> None:
    def draw() -> list[Tensor]:
        torch.manual_seed(0)
        return [torch.randn(8, WIDTH), torch.randn(WIDTH + SEAM), torch.randn(4, WIDTH + SEAM), torch.rand(())]

    with PeriodicNoise(8, WIDTH, SEAM) as noise:
        inside = draw()
        with noise.suspended():
            suspended = torch.randn(8, WIDTH + SEAM)
        assert torch.equal(*(lambda x: (x[:, WIDTH:], x[:, :SEAM]))(torch.randn(8, WIDTH + SEAM)))
    assert all(torch.equal(a, b) for a, b in zip(inside, draw(), strict=True))
    assert not torch.equal(suspended[:, WIDTH:], suspended[:, :SEAM])
