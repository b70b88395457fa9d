"""The seam with every sampler of the host: noise drawn between steps is the same on both sides of the seam.

FLUX is left out here. A stand-in returns half of its input as the denoised picture, so that the rest of
the noise can be measured.
"""

from collections.abc import Callable
from typing import Any

import comfy.samplers
import numpy as np
import pytest
import torch
from comfyui_omnix.omnix.runtime.noise import PeriodicNoise
from rig import Case, Model, conditioning, ksample, load_flux, make_case, patched
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
    """Without the correction, every sampler that draws noise loses deviation at the seam."""
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


def pyramid(shape: torch.Size) -> Tensor:
    """Octaves of smaller and larger draws, added up in a buffer, at deviation 1."""
    noise = torch.zeros(shape)
    for scale in (0.5, 1, 2, 4):
        drawn = torch.normal(0.0, 0.5, (*shape[:2], int(shape[2] * scale), int(shape[3] * scale)))
        noise += torch.nn.functional.interpolate(drawn, size=tuple(shape[2:]), mode="bilinear") * 0.8**scale
    return noise / noise.std()


def perlin(shape: torch.Size) -> Tensor:
    """Gradients on a grid, faded into each other, each channel written to its place."""
    noise, (rows, columns) = torch.empty(shape), (torch.linspace(0, 3.99, size) for size in shape[2:])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    i, j, u, v = y.long(), x.long(), y.frac(), x.frac()
    fade_u, fade_v = (t**3 * (t * (t * 6 - 15) + 10) for t in (u, v))
    for b in range(shape[0]):
        for c in range(shape[1]):
            angle = torch.rand(5, 5) * 6.2832
            at = {
                (p, q): angle[i + p, j + q].cos() * (u - p) + angle[i + p, j + q].sin() * (v - q)
                for p in (0, 1)
                for q in (0, 1)
            }
            left, right = (torch.lerp(at[0, q], at[1, q], fade_u) for q in (0, 1))
            noise[b, c] = torch.lerp(left, right, fade_v)
    return noise


def fractal(shape: torch.Size) -> Tensor:
    """White noise whose spectrum falls."""
    frequency = torch.fft.fftfreq(shape[2])[:, None] ** 2 + torch.fft.fftfreq(shape[3]) ** 2
    return torch.fft.ifft2(torch.fft.fft2(torch.randn(shape)) / (frequency + 0.01).sqrt()).real


ANY_NOISE: dict[str, Callable[[torch.Size], Tensor]] = {
    "pyramid": pyramid,
    "perlin": perlin,
    "fractal": fractal,
    "interpolated": lambda shape: torch.nn.Upsample(size=tuple(shape[2:]))(torch.randn(*shape[:2], 3, 5)),
    "filtered": lambda shape: torch.nn.functional.avg_pool2d(torch.randn(shape), 3, stride=1, padding=1),
    "walk": lambda shape: torch.randn(shape).cumsum(-1),
    "flat": lambda shape: torch.randn(shape.numel()).view(shape),
    "of one sequence": lambda shape: torch.randn(1, *shape[1:]).roll(1, -1).expand(shape),
    "of one column": lambda shape: torch.randn(*shape[:3], 1).expand(shape),
    "distribution": lambda shape: torch.distributions.Laplace(torch.zeros(shape), 1.0).sample().clamp(-3, 3),
    "numpy": lambda shape: torch.from_numpy(np.random.default_rng(0).standard_normal(shape, dtype=np.float32)),
    "mixed": lambda shape: torch.stack([torch.randn(shape), pyramid(shape)]).sum(0).mul(0.7),
}


@pytest.mark.parametrize("name", ANY_NOISE)
@pytest.mark.parametrize("add", ["sum", "in place", "into the noise", "lerp", "cat"])
def test_any_noise_continues_past_the_seam(model: Model, case: Case, name: str, add: str) -> None:
    """For any kind of noise, both sides of the seam get the same noise, and the other columns get it unchanged."""
    drawn: list[Tensor] = []

    def add_noise(x: Tensor, noise: Tensor) -> Tensor:
        drawn.append(noise.clone())
        return {
            "sum": lambda: x + 0.5 * noise,
            "in place": lambda: x.clone().add_(noise, alpha=0.5),
            "into the noise": lambda: (noise.clone() * 0.5).add_(x),
            "lerp": lambda: torch.lerp(x * 2, noise, 0.5),
            "cat": lambda: torch.cat((x, noise * 0.5)).view(2, *x.shape).sum(0),
        }[add]()

    def sampler(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, **_: Any) -> Tensor:
        for sigma in sigmas[:-1]:
            x = model(x, sigma * x.new_ones(x.shape[0]), **extra_args)
            x = add_noise(x, ANY_NOISE[name](x.shape))
        return model(x, sigmas[-2] * x.new_ones(x.shape[0]), **extra_args)

    torch.manual_seed(0)
    seen: list[Tensor] = []
    ours = patched(model, case)
    ours.set_model_unet_function_wrapper(
        lambda _apply, given: seen.append(given["input"].clone()) or given["input"] / 2
    )
    guider = comfy.samplers.CFGGuider(ours)
    guider.inner_set_conds({"positive": conditioning(model, case)})
    sigmas = comfy.samplers.calculate_sigmas(ours.get_model_object("model_sampling"), "simple", 2)
    with torch.inference_mode():
        guider.sample(
            *(case.noise, torch.zeros_like(case.noise), comfy.samplers.KSAMPLER(sampler), sigmas),
            disable_pbar=True,
            seed=0,
        )
    assert len(seen) == 3
    for before, after, noise in zip(seen[:-1], seen[1:], drawn, strict=True):
        assert torch.allclose(after[..., WIDTH:], after[..., :SEAM], rtol=0, atol=1e-5)
        inner = [one[..., SEAM:WIDTH] / 2 for one in (before, noise)]
        assert torch.allclose(after[..., SEAM:WIDTH], sum(inner), rtol=0, atol=1e-5)


def test_a_picture_that_comes_back_from_numpy_is_no_noise() -> None:
    """Tensors that depend on the picture are never changed, also if they leave torch and come back."""
    picture = torch.rand(1, 16, 8, WIDTH + SEAM)
    with PeriodicNoise(8, WIDTH, SEAM):
        back = torch.from_numpy(picture.clone().numpy() * 2)
        total = picture + back
    assert torch.equal(total, picture * 3)


def test_drawn_noise_continues_past_the_seam() -> None:
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
