"""Seamless Panorama on every kind of model: the edges meet, and everything else is the host's own sampling."""

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import pytest
import torch
from bases import BASES, conditioning, load_base
from comfyui_omnix.omnix.runtime import patch, seamless
from measure import relative_error
from rig import hook_count
from torch import Tensor

Model = Any
HEIGHT, WIDTH, SEAM = 16, 32, 8


@pytest.fixture(params=BASES)
def kind(manager: str, request: pytest.FixtureRequest) -> str:
    return request.param


def close(model: Model, seam: int = SEAM) -> Model:
    """Seamless Panorama."""
    return seamless.close_seam(model, seam, patch.warn)


def ring(kind: str, batch: int = 1) -> Tensor:
    """Noise that is smooth all round the horizon: its edges meet."""
    draw = torch.Generator().manual_seed(0)
    lead = BASES[kind].shape(1, 1, batch)
    across, down = torch.arange(WIDTH) / WIDTH * 2 * math.pi, torch.arange(HEIGHT)[:, None] / HEIGHT
    waves = (
        torch.randn(lead, generator=draw) * torch.cos(turns * across + down + 7 * torch.rand(lead, generator=draw))
        for turns in (1, 2)
    )
    return sum(waves, torch.zeros(()))


@torch.inference_mode()
def sampled(model: Model, noise: Tensor, positive: list[list[Any]], sampler: str = "euler", **more: Any) -> Tensor:
    """KSampler, two steps at cfg 1."""
    more = {"latent_image": torch.zeros_like(noise), "steps": 2, "cfg": 1.0, "negative": positive, **more}
    more = {"sampler_name": sampler, "scheduler": "simple", "disable_pbar": True, "seed": 0, **more}
    return comfy.sample.sample(model, noise, positive=positive, **more)


# --- the edges meet ---------------------------------------------------------------------------------------------------


def step_across(x: Tensor, patch: int) -> float:
    """How far the first columns are from the last, by how far columns are from their neighbours; 1 is no seam."""
    neighbours = (x[..., patch:] - x[..., :-patch]).abs().mean()
    return float((x[..., :patch] - x[..., -patch:]).abs().mean() / neighbours)


def tilted(apply: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
    """A model that sees where it is: what it paints gets brighter from the left edge to the right."""
    out = apply(given["input"], given["timestep"], **given["c"])
    return out + 4 * out.std() * torch.arange(out.shape[-1]) / WIDTH


def test_edges_meet(kind: str) -> None:
    """Without the node the edges are far apart, with it they are neighbours; 0 columns and the MODEL are the host's."""
    model, noise, text = load_base(kind), ring(kind, batch=4), conditioning(kind)
    model.set_model_unet_function_wrapper(tilted)
    plain = sampled(model, noise, text)
    assert step_across(plain, BASES[kind].patch) > 3
    assert step_across(sampled(close(model), noise, text), BASES[kind].patch) < 1.1
    assert torch.equal(sampled(close(model, 0), noise, text), plain)
    assert torch.equal(sampled(close(close(model), 0), noise, text), plain)
    assert torch.equal(sampled(model, noise, text), plain)
    assert not hook_count(model)


def wide(x: Tensor) -> Tensor:
    return torch.cat((x, x[..., :SEAM]), dim=-1)


def mix(x: Tensor) -> None:
    """Mix the columns past the seam into the first, by the formula."""
    for j in range(SEAM):
        x[..., j] = x[..., WIDTH + j] * (1 - j / SEAM) + x[..., j] * (j / SEAM)


class Mixing:
    """The host's model for a sampler, which mixes the seam of x before each answer."""

    def __init__(self, model: Any) -> None:
        self.inner_model, self.model = model.inner_model, model

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        mix(x)
        return self.model(x, *args, **kwargs)


@torch.inference_mode()
def by_hand(
    model: Model, noise: Tensor, positive: list[list[Any]], steps: int = 2, scheduler: str = "simple"
) -> Tensor:
    """Sample a wider picture with the host alone, mix in its euler, mix twice at the end, and crop."""
    euler = comfy.samplers.ksampler("euler")
    function = euler.sampler_function
    euler.sampler_function = lambda model, *args, **kwargs: function(Mixing(model), *args, **kwargs)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
    empty = torch.zeros_like(wide(noise))
    sized = [[text, {"width": WIDTH * 8, "height": HEIGHT * 8, **options}] for text, options in positive]
    out = comfy.sample.sample_custom(
        model, wide(noise), 1.0, euler, sigmas, sized, sized, empty, disable_pbar=True, seed=0
    )
    out = model.model.process_latent_in(out)
    mix(out)
    mix(out)
    return model.model.process_latent_out(out[..., :WIDTH])


def test_it_is_the_hosts_sampling_of_a_wider_picture(kind: str) -> None:
    model, noise = load_base(kind), torch.randn(BASES[kind].shape(HEIGHT, WIDTH, 2))
    want = by_hand(model, noise, conditioning(kind))
    assert relative_error(sampled(close(model), noise, conditioning(kind)), want) <= 1e-5


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
@pytest.mark.parametrize("scheduled", ["SDXL", "Z-Image", "Wan 2.1"])
def test_every_scheduler(scheduled: str, scheduler: str) -> None:
    model, text = load_base(scheduled), conditioning(scheduled)
    noise = torch.randn(BASES[scheduled].shape(HEIGHT, WIDTH))
    want = by_hand(model, noise, text, 4, scheduler)
    assert relative_error(sampled(close(model), noise, text, steps=4, scheduler=scheduler), want) <= 1e-5


# --- what goes with the picture ---------------------------------------------------------------------------------------


def seen(model: Model, name: str, into: list[Any]) -> Model:
    """Note what a model is given."""

    def look(apply: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
        into.append(given["c"][name])
        return apply(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(look)
    return model


@pytest.mark.parametrize("reference", sorted({"FLUX.1", "FLUX.2", "Qwen-Image", "Krea 2", "Z-Image"} & {*BASES}))
def test_references_of_the_pictures_size_continue(reference: str) -> None:
    """Others (a photo to look at) stay unchanged."""
    model, shape = load_base(reference), BASES[reference].shape
    latents = [torch.randn(shape(HEIGHT, WIDTH)), torch.randn(shape(6, 12))]
    text = conditioning(reference, reference_latents=latents)
    given: list[Any] = []
    noise = torch.randn(shape(HEIGHT, WIDTH))
    got = sampled(seen(close(model), "ref_latents", given), noise, text)
    assert torch.equal(given[0][0][..., WIDTH:], given[0][0][..., :SEAM])
    assert given[0][1].shape[-1] == 12
    want = by_hand(model, noise, conditioning(reference, reference_latents=[wide(latents[0]), latents[1]]))
    assert relative_error(got, want) <= 1e-5
    plain = by_hand(model, noise, conditioning(reference))
    if reference != "Krea 2":  # which looks at references only where the model was made for them
        assert relative_error(got, plain) > 1e-2


@pytest.mark.parametrize(
    "inpainting,channels", [("SDXL", {"in_channels": 9}), ("FLUX.1", {"in_channels": 96}), ("Wan 2.1", {"in_dim": 36})]
)
def test_an_inpainting_models_channels_continue(inpainting: str, channels: dict[str, int]) -> None:
    model, base = load_base(inpainting, **channels), BASES[inpainting]
    if inpainting == "SDXL":
        model.model.set_inpaint()
    model.model.image_to_video = True
    noise = torch.randn(base.shape(HEIGHT, WIDTH))
    frames = (base.frames,) * bool(base.frames)
    mask = torch.rand(1, 1, *frames, HEIGHT, WIDTH).round()
    text = conditioning(inpainting, concat_latent_image=torch.randn_like(noise), concat_mask=mask)
    given: list[Any] = []
    assert sampled(seen(close(model), "c_concat", given), noise, text).isfinite().all()
    assert given[0].shape[-1] == WIDTH + SEAM
    assert torch.equal(given[0][..., WIDTH:], given[0][..., :SEAM])


def test_a_noise_mask_keeps_what_it_covers(kind: str) -> None:
    """Under a mask the latent stays, also next to the seam."""
    model, shape = load_base(kind), BASES[kind].shape(HEIGHT, WIDTH)
    latent, mask = ring(kind), torch.ones(1, 1, HEIGHT, WIDTH)
    mask[..., :12] = mask[..., -4:] = 0
    out = sampled(close(model), torch.randn(shape), conditioning(kind), latent_image=latent, noise_mask=mask)
    assert torch.allclose(out[..., :12], latent[..., :12], atol=1e-4)
    assert torch.allclose(out[..., -4:], latent[..., -4:], atol=1e-4)
    assert not torch.allclose(out[..., 12:-4], latent[..., 12:-4], atol=1e-1)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde", "res_multistep_ancestral", "sa_solver"])
@pytest.mark.parametrize("drawn", ["SDXL", "FLUX.2", "Wan 2.1"])
def test_noise_that_a_sampler_draws_continues(drawn: str, sampler: str) -> None:
    model, asked = load_base(drawn), []

    def half(_apply: Any, given: dict[str, Any]) -> Tensor:
        asked.append(given["input"].clone())
        return given["input"] / 2

    ours = close(model)
    ours.set_model_unet_function_wrapper(half)
    noise = torch.randn(BASES[drawn].shape(HEIGHT, WIDTH))
    sampled(ours, noise, conditioning(drawn), sampler, steps=4)
    assert len(asked) >= 4
    for x in asked:
        assert torch.allclose(x[..., WIDTH:], x[..., :SEAM], rtol=0, atol=1e-5 * float(x.abs().max()))


@pytest.mark.parametrize("staged", ["FLUX.2", "Qwen-Image", "Wan 2.1"])
def test_a_second_sampler_continues_leftover_noise(staged: str) -> None:
    """KSampler Advanced: two steps, then two more, are four."""
    model, noise, text = close(load_base(staged)), torch.randn(BASES[staged].shape(HEIGHT, WIDTH)), conditioning(staged)
    whole = sampled(model, noise, text, steps=4)
    half = sampled(model, noise, text, steps=4, last_step=2)
    rest = sampled(model, torch.zeros_like(noise), text, steps=4, start_step=2, latent_image=half, disable_noise=True)
    assert relative_error(rest, whole) <= 1e-5


# --- one seam, and a MODEL that stays ---------------------------------------------------------------------------------


@pytest.fixture
def estimated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The host's estimate for each run."""
    found: list[Any] = []
    estimate = comfy.sampler_helpers.estimate_memory

    def note(*args: Any) -> Any:
        found.append(estimate(*args))
        return found[-1]

    monkeypatch.setattr(comfy.sampler_helpers, "estimate_memory", note)
    yield found


def test_the_memory_estimate_counts_the_columns(kind: str, estimated: list[Any]) -> None:
    """It is the host's own for a picture, and references, of the wider size."""
    model, shape = load_base(kind), BASES[kind].shape
    wider, noise = torch.randn(shape(HEIGHT, WIDTH + SEAM)), torch.randn(shape(HEIGHT, WIDTH))
    sampled(model, wider, conditioning(kind, reference_latents=[wider]))
    sampled(close(model), noise, conditioning(kind, reference_latents=[noise]))
    sampled(model, noise, conditioning(kind, reference_latents=[noise]))
    assert estimated[0] == estimated[1] != estimated[2]


@pytest.mark.parametrize("fault", [comfy.model_management.InterruptProcessingException, ZeroDivisionError])
def test_a_run_that_ends_early_leaves_the_model(kind: str, fault: type[BaseException]) -> None:
    model, noise, text = load_base(kind), torch.randn(BASES[kind].shape(HEIGHT, WIDTH)), conditioning(kind)
    before = sampled(model, noise, text)
    ours = close(model)
    want = sampled(ours, noise, text)

    def stop(*_: Any) -> None:
        raise fault

    with pytest.raises(fault):
        sampled(ours, noise, text, callback=stop)
    assert torch.equal(sampled(model, noise, text), before)
    assert torch.equal(sampled(ours, noise, text), want)
    assert not hook_count(model)


def test_an_untested_kind_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    model = load_base("Qwen-Image")
    type(model.model).__name__, named = "Unheard", type(model.model).__name__
    try:
        close(model)
    finally:
        type(model.model).__name__ = named
    (told,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert told == "OmniX: Seamless Panorama was never tried with Unheard: look at the seam of the result."
