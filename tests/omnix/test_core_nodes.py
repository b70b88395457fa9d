"""Core nodes that cut sampling in parts, mask it, guide it with other names or add tokens, beside OmniX."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale
from comfy_extras.nodes_custom_sampler import (
    BasicGuider,
    DisableNoise,
    DualCFGGuider,
    SamplerCustomAdvanced,
    SplitSigmas,
)
from comfy_extras.nodes_model_patch import UsoStyleProjectorPatch
from comfy_extras.nodes_perpneg import PerpNegGuider
from comfyui_omnix.graph.model import OmniXFlowShift
from comfyui_omnix.omnix.runtime import patch, stages
from comfyui_omnix.omnix.runtime.sampling import predict_between_steps
from comfyui_omnix.omnix.runtime.schedule import flow_shift
from measure import relative_error
from oracle import sample
from rig import Case, Model, conditioning, ksample, load_flux, make_case, patched
from torch import Tensor, nn

EXACT = 1e-5
DETERMINISTIC = ("euler", "heun", "dpm_2", "dpmpp_2m", "lms", "uni_pc", "ipndm", "deis", "res_multistep")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def model(case: Case) -> Model:
    return load_flux(case.flux)


# --- sampling in parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2"])
def test_ksampler_advanced_continues_exactly(model: Model, case: Case, sampler: str, cut: int) -> None:
    """With leftover noise, then without new noise: as in one run, for samplers that look at one step alone."""
    ours = patched(model, case)
    first = ksample_parts(ours, case, sampler, [(0, cut), (cut, 4)])
    whole = ksample_parts(ours, case, sampler, [(0, 4)])
    assert relative_error(first, whole) <= EXACT
    if sampler == "euler":
        assert relative_error(whole, sample(**case.oracle(), steps=4)) <= EXACT


def test_results_in_half_precision_continue_exactly(model: Model, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that passes latents in float16 (--fp16-intermediates) rounds them; the other data keeps its precision."""
    whole = ksample_parts(patched(model, case), case, "euler", [(0, 4)])
    monkeypatch.setattr(comfy.model_management, "intermediate_dtype", lambda: torch.float16, raising=False)
    ours, parts = patched(model, case), [(0, 2), (2, 4)]
    with_it = relative_error(ksample_parts(ours, case, "euler", parts).float(), whole)
    monkeypatch.setattr(stages, "going_on", lambda *_: None)
    without = relative_error(ksample_parts(ours, case, "euler", parts).float(), whole)
    assert with_it <= 5e-4 < without / 2


@torch.inference_mode()
def ksample_parts(model: Model, case: Case, sampler: str, parts: list[tuple[int, int]]) -> Tensor:
    """Do what KSampler Advanced does, once for each part."""
    latent = torch.zeros_like(case.noise)
    for start, end in parts:
        positive = conditioning(model, case)
        latent = comfy.sample.sample(
            *(model, case.noise if start == 0 else torch.zeros_like(case.noise), 4, 1.0, sampler, "simple"),
            *(positive, positive, latent),
            **{"disable_noise": start > 0, "start_step": start, "last_step": end, "disable_pbar": True, "seed": 0},
        )
        assert latent.shape == case.noise.shape
    return model.model.latent_format.process_in(latent)


class Noise:
    """The case's own noise, as Random Noise gives one."""

    seed = 0

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def generate_noise(self, _latent: Any) -> Tensor:
        return self.noise


@torch.inference_mode()
def test_split_sigmas_continue_exactly(model: Model, case: Case) -> None:
    """Three runs of SamplerCustomAdvanced; a latent that another node has changed is taken as it is."""
    ours = patched(model, case)
    guider = BasicGuider.execute(ours, conditioning(model, case)).result[0]
    sampler = comfy.samplers.sampler_object("euler")
    sigmas = comfy.samplers.calculate_sigmas(ours.get_model_object("model_sampling"), "simple", 4)

    def run(noise: Any, levels: Tensor, latent: dict[str, Any]) -> dict[str, Any]:
        return SamplerCustomAdvanced.execute(noise, guider, sampler, levels, latent).result[0]

    empty = {"samples": torch.zeros_like(case.noise)}
    quiet = DisableNoise.execute().result[0]
    first, rest = SplitSigmas.execute(sigmas, 1).result
    second, third = SplitSigmas.execute(rest, 2).result
    left = run(Noise(case.noise), first, empty)
    parts = run(quiet, third, run(quiet, second, left))["samples"]
    whole = run(Noise(case.noise), sigmas, empty)["samples"]
    assert relative_error(parts, whole) <= EXACT
    changed = {"samples": left["samples"].flip(-1)}
    left["samples"].mul_(0.5)  # in place: what goes along with the latent is no longer what it was
    halved = {"samples": left["samples"].clone()}
    for latent in (changed, halved, left):
        assert relative_error(run(quiet, rest, latent)["samples"], whole) > 1e-3
    assert torch.equal(run(quiet, rest, left)["samples"], run(quiet, rest, halved)["samples"])


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_a_noise_mask_of_ones_changes_nothing(model: Model, case: Case, sampler: str) -> None:
    ours = patched(model, case)
    masked = ksample(ours, case, 4, sampler=sampler, noise_mask=torch.ones(1, 1, 8, 16))
    assert relative_error(masked, ksample(ours, case, 4, sampler=sampler)) <= EXACT


@pytest.mark.parametrize("masked", [False, True])
def test_the_seam_is_blended_where_a_cache_answers(model: Model, case: Case, masked: bool) -> None:
    """LazyCache wraps the model: a step that the cache answers counts as a step, and so does the next one."""
    seen: list[Tensor] = []

    def lazy(executor: Any, x: Tensor, *given: Any) -> Tensor:
        seen.append(x.clone())
        return seen[0] * 0.5 if len(seen) % 2 else executor(x, *given)

    ours = patched(model, case)
    ours.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "cache", lazy)
    ours.wrappers[WrappersMP.PREDICT_NOISE] = dict(reversed(ours.wrappers[WrappersMP.PREDICT_NOISE].items()))
    mask = {"noise_mask": torch.ones(1, 1, 8, 16)} if masked else {}
    ksample(ours, case, 6, **mask)
    assert len(seen) == 6
    for x in seen[1:]:  # column 0 is what lay past the seam
        assert torch.allclose(x[..., 0], x[..., 16], rtol=0, atol=1e-6)


def test_what_a_noise_mask_keeps_is_kept(model: Model, case: Case) -> None:
    """Where the mask is 0 the latent stays; where it is 1, and meets the seam, the edges meet as without a mask."""
    ours, mask = patched(model, case), torch.zeros(1, 1, 8, 16)
    mask[..., :3] = 1
    kept = model.model.latent_format.process_out(case.conditions[0])
    out = ksample(ours, case, 3, noise_mask=mask, latent=kept)
    assert relative_error(out[..., 3:], case.conditions[0][..., 3:]) <= EXACT
    assert relative_error(out[..., :3], case.conditions[0][..., :3]) > 0.1


# --- samplers ---------------------------------------------------------------------------------------------------------


def by_function(function: Callable[..., Tensor]) -> comfy.samplers.KSAMPLER:
    """A sampler of a pack."""
    return comfy.samplers.KSAMPLER(function)


@torch.inference_mode()
def custom(model: Model, case: Case, sampler: Any, steps: int = 2, guider: Any = None) -> Tensor:
    """Run SamplerCustomAdvanced's guider."""
    guider = guider or BasicGuider.execute(model, conditioning(model, case)).result[0]
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    out = guider.sample(case.noise, torch.zeros_like(case.noise), sampler, sigmas, disable_pbar=True, seed=0)
    return model.model.latent_format.process_in(out)


def differentiating(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, **_: Any) -> Tensor:
    """Euler by torch.func.jvp, as the sampler ttm asks for the model's derivative; here it is left unused."""
    for now, then in itertools.pairwise(sigmas):
        level = now * x.new_ones(x.shape[0])
        tangents = torch.zeros_like(x), torch.ones_like(level)
        denoised, _ = torch.func.jvp(lambda x, level: model(x, level, **extra_args), (x, level), tangents)
        x = x + (x - denoised) / now * (then - now)
    return x


def shared(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, **_: Any) -> Tensor:
    """Euler that asks about one sequence seen twice, in memory that can't be written to."""
    for now, then in itertools.pairwise(sigmas):
        twice = x.expand(2, *x.shape[1:])
        denoised = model(twice, now * x.new_ones(2), **extra_args)[:1]
        x = x + (x - denoised) / now * (then - now)
    return x


@pytest.mark.parametrize("sampler", [differentiating, shared])
def test_a_sampler_whose_x_cannot_be_written_to(model: Model, case: Case, sampler: Callable[..., Tensor]) -> None:
    """The model sees the blended copy; in one step there is no x of the sampler's own to be blended."""
    assert relative_error(custom(patched(model, case), case, by_function(sampler), 1), euler(model, case, 1)) <= EXACT
    assert custom(patched(model, case), case, by_function(sampler), 3).isfinite().all()
    flat = custom(patched(model, case, seam=0), case, by_function(sampler), 3)
    assert relative_error(flat, euler(model, case, 3, seam=0)) <= EXACT


def euler(model: Model, case: Case, steps: int, **changes: Any) -> Tensor:
    return custom(patched(model, case, **changes), case, comfy.samplers.sampler_object("euler"), steps)


@pytest.mark.parametrize("seam", [0, 6])
@pytest.mark.parametrize("ratio", [0.5, 1.5, 2.0])
def test_a_sampler_that_resizes_is_reported(model: Model, case: Case, seam: int, ratio: float) -> None:
    sampler = SamplerLCMUpscale.execute(ratio, 1, "bilinear").result[0]
    with pytest.raises(
        ValueError,
        match=r"resizes the panorama of 128x64 .* Apply OmniX Adapters samples at one size\. Choose another sampler",
    ) as caught:
        custom(patched(model, case, seam=seam), case, sampler, 3)
    assert "tiles" not in str(caught.value)


@pytest.mark.parametrize("seam", [1, 5, 63, -2])
def test_odd_seam_columns(model: Model, case: Case, seam: int) -> None:
    with pytest.raises(
        ValueError, match=f"seam_columns is {seam}, expected an even number of latent columns such as 6"
    ):
        patch.attach(model, case.loaded(), 1.0, 1.0, seam)
    with pytest.raises(ValueError, match=f"seam_columns is {seam}, expected an even number of latent columns"):
        OmniXFlowShift.execute(model, {"samples": case.noise}, seam)


def test_where_nobody_samples_x_is_left_alone() -> None:
    """A node that asks a guider for one prediction has widened nothing."""
    x = torch.rand(1, 16, 8, 22)
    before = x.clone()
    assert predict_between_steps(lambda given, *_: given, x, torch.ones(1), {"transformer_options": {}}, 0) is x
    assert torch.equal(x, before)


# --- guiders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("without", "reported"),
    [
        ({"negative"}, "The negative lacks the conditions of rgb_to_depth .* on it too"),
        ({"middle"}, "The cond2 lacks the conditions of rgb_to_depth .* on it too"),
        ({"middle", "negative"}, "The cond2 and the negative lack the conditions .* on it too"),
        ({"positive"}, "needs 1 reference latent .* got 0"),
    ],
)
@pytest.mark.parametrize("style", ["regular", "nested"])
def test_dual_cfg_guider(model: Model, case: Case, without: set[str], reported: str, style: str) -> None:
    ours, names = patched(model, case), ("positive", "middle", "negative")
    conds = [conditioning(model, case, () if name in without else None) for name in names]
    guider = DualCFGGuider.execute(ours, *conds, 2.0, 3.0, style).result[0]
    with pytest.raises(ValueError, match=reported) as caught:
        custom(ours, case, comfy.samplers.sampler_object("euler"), guider=guider)
    assert "cfg" not in str(caught.value)
    whole = DualCFGGuider.execute(ours, *[conditioning(model, case)] * 3, 2.0, 3.0, style).result[0]
    assert (
        relative_error(custom(ours, case, comfy.samplers.sampler_object("euler"), guider=whole), euler(model, case, 2))
        <= EXACT
    )


@pytest.mark.parametrize(
    ("without", "reported"),
    [
        ({"negative"}, "The negative lacks the conditions"),
        ({"empty"}, "The empty_conditioning lacks the conditions"),
        ({"positive"}, "needs 1 reference latent .* got 0"),
    ],
)
def test_perp_neg_guider(model: Model, case: Case, without: set[str], reported: str) -> None:
    ours, names = patched(model, case), ("positive", "negative", "empty")
    conds = [conditioning(model, case, () if name in without else None) for name in names]
    guider = PerpNegGuider.execute(ours, *conds, 2.0, 1.0).result[0]
    with pytest.raises(ValueError, match=reported) as caught:
        custom(ours, case, comfy.samplers.sampler_object("euler"), guider=guider)
    assert "cfg" not in str(caught.value)
    other = Case(**{**vars(case), "text": case.text.flip(1)})
    whole = PerpNegGuider.execute(ours, *[conditioning(model, each) for each in (case, other, case)], 2.0, 1.0).result[
        0
    ]
    assert custom(ours, case, comfy.samplers.sampler_object("euler"), guider=whole).shape == case.noise.shape


def test_dual_model_guider(model: Model, case: Case) -> None:
    nodes = pytest.importorskip("comfy_extras.nodes_custom_sampler")
    if not hasattr(nodes, "DualModelGuider"):
        pytest.skip("this ComfyUI has no DualModelGuider")
    ours, bare = patched(model, case), conditioning(model, case, ())
    guider = nodes.DualModelGuider.execute(ours, conditioning(model, case), 2.0, ours, bare).result[0]
    with pytest.raises(ValueError, match=r"The negative lacks the conditions .* or set cfg to 1"):
        custom(ours, case, comfy.samplers.sampler_object("euler"), guider=guider)
    at_one = nodes.DualModelGuider.execute(ours, conditioning(model, case), 1.0, ours, bare).result[0]
    got = custom(ours, case, comfy.samplers.sampler_object("euler"), guider=at_one)
    assert relative_error(got, euler(model, case, 2)) <= EXACT


# --- tiles ------------------------------------------------------------------------------------------------------------


def tile(case: Case, height: int, width: int) -> Case:
    """Ultimate SD Upscale's use of a panorama: latent and references are cut, and each part is sampled alone."""
    cut = [one[..., :height, :width] for one in (case.noise, *case.conditions)]
    return Case(**{**vars(case), "noise": cut[0], "conditions": cut[1:]})


@pytest.mark.parametrize("seam", [0, 6])
def test_a_tile_that_is_twice_as_wide_as_high(model: Model, case: Case, seam: int) -> None:
    """The flow shift was set for the whole."""
    ours = patched(model, case, seam=seam)
    with pytest.raises(
        ValueError, match=r"larger panorama than the 64x32 .* into tiles \(Ultimate SD Upscale"
    ) as caught:
        ksample(ours, tile(case, 4, 8), 1)
    assert "resize" not in str(caught.value)


@pytest.mark.parametrize("size", [(4, 6), (8, 8), (2, 16)])
def test_a_tile_of_another_shape(model: Model, case: Case, size: tuple[int, int]) -> None:
    shifted = patch.with_flow_shift(model, flow_shift(2, 2, 0))
    with pytest.raises(ValueError, match=r"whole panoramas, .* cuts the panorama into tiles") as caught:
        ksample(patch.attach(shifted, case.loaded(), 1.0, 1.0, 6), tile(case, *size), 1)
    assert "resize" not in str(caught.value)


def test_a_tile_with_whole_references(model: Model, case: Case) -> None:
    shifted = patch.with_flow_shift(model, flow_shift(4, 8, 6))
    small = Case(**{**vars(tile(case, 4, 8)), "conditions": case.conditions})
    with pytest.raises(ValueError, match=r"latent rgb is 128x64, but the sampled latent is 64x32; .* into tiles"):
        ksample(patch.attach(shifted, case.loaded(), 1.0, 1.0, 6), small, 1)


# --- style tokens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["rgb_to_depth", "rgb_camray_to_normal"])
def test_uso_style_reference(tmp_path: Path, task: str) -> None:
    """Core's patch with a projector whose tokens are those of a longer text: every stream sees them."""
    case = make_case(tmp_path, task)
    model, style = (
        load_flux(case.flux),
        torch.randn(1, 5, case.text.shape[2], generator=torch.Generator().manual_seed(5)),
    )

    class Projector(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            return model.model.diffusion_model.txt_in(given)

    cpu, styled = torch.device("cpu"), model.clone()
    projector = comfy.model_patcher.CoreModelPatcher(Projector(), cpu, cpu)
    styled.set_model_post_input_patch(UsoStyleProjectorPatch(projector, style))
    want = sample(**{**case.oracle(), "prompt_embeds": torch.cat((style, case.text), dim=1)}, steps=2)
    assert relative_error(ksample(patched(styled, case), case, 2), want) <= EXACT
    assert relative_error(sample(**case.oracle(), steps=2), want) > 1e-3
