"""OmniX together with everything else that users put on a model; nothing of it is left afterwards."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfyui_omnix.converters import convert
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime import patch
from comfyui_omnix.omnix.runtime.low_rank import read_layers
from comfyui_omnix.omnix.runtime.streams import Stream, adapted
from measure import relative_error
from oracle import sample
from rig import Case, Model, conditioning, forward, hook_count, ksample, load_flux, make_case, offloading, patched
from safetensors.torch import load_file

EXACT = 1e-5


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def expected(case: Case) -> torch.Tensor:
    """Two steps of the oracle."""
    return sample(**case.oracle(), steps=2)


@pytest.fixture
def model(case: Case) -> Model:
    return load_flux(case.flux)


def test_original_model_is_untouched(model: Model, case: Case) -> None:
    before, hooks = forward(model, case), hook_count(model)
    weights = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    for _ in range(20):
        ksample(patched(model, case), case, 1)
    assert torch.equal(forward(model, case), before)
    assert hook_count(model) == hooks
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.model.state_dict().items())


def test_memory_does_not_grow(model: Model, case: Case) -> None:
    loaded = case.loaded()
    counts = []
    # Other tests of this process may have left theirs.
    before = len(comfy.model_management.current_loaded_models)
    for _ in range(4):
        for _ in range(5):
            ksample(patch.attach(model, loaded, 1.0, 1.0, 6), case, 1)
        gc.collect()
        counts.append(sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()))
    assert counts[-1] <= counts[1]
    assert len(comfy.model_management.current_loaded_models) <= before + 4


def test_two_clones_in_one_graph(model: Model, case: Case, expected: torch.Tensor, tmp_path: Path) -> None:
    """Two tasks on one MODEL, run in turns."""
    other = make_case(tmp_path, "rgb_camray_to_normal", seed=3)
    other.flux = case.flux
    first, second = patched(model, case), patched(model, other)
    for _ in range(2):
        assert relative_error(ksample(first, case, 2), expected) <= EXACT
        assert relative_error(ksample(second, other, 2), sample(**other.oracle(), steps=2)) <= EXACT


def test_attaching_again_replaces(model: Model, case: Case, expected: torch.Tensor) -> None:
    twice = patched(patched(model, case, (0.3, 0.4)), case)
    assert relative_error(ksample(twice, case, 2), expected) <= EXACT


def add_lora(model: Model, state: dict[str, torch.Tensor], bypass: bool) -> Model:
    """Apply an ordinary LoRA with the host's own loaders."""
    load = comfy.sd.load_bypass_lora_for_models if bypass else comfy.sd.load_lora_for_models
    return load(model, None, state, 0.5, 0.0)[0]


@pytest.mark.parametrize("bypass", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_ordinary_lora_before_or_after(case: Case, tmp_path: Path, before: bool, bypass: bool) -> None:
    """An ordinary LoRA changes W for every stream, whichever node comes first."""
    source = tmp_path / "style.safetensors"
    style = tiny.adapter(seed=77)
    tiny.save(style, source)
    convert(source, tmp_path / "fused.safetensors")
    fused = load_file(tmp_path / "fused.safetensors")
    model = load_flux(case.flux)
    both = patched(add_lora(model, fused, bypass), case) if before else add_lora(patched(model, case), fused, bypass)
    merged = dict(case.flux)
    for name in tiny.omnix_modules():
        down, up = (style[f"transformer.{name}.lora_{side}.weight"] for side in "AB")
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + 0.5 * up @ down
    want = sample(**{**case.oracle(), "transformer_sd": merged}, steps=2)
    plain = forward(model, case)
    # The host's own bypass leaves each layer's forward bound to the instance; that much is not ours to count.
    forward(add_lora(model, fused, bypass), case)
    gc.collect()
    hooks = hook_count(model)
    assert relative_error(ksample(both, case, 2), want) <= EXACT
    del both
    gc.collect()
    assert torch.equal(forward(model, case), plain)
    assert hook_count(model) == hooks


def test_one_stream_equals_the_stock_lora_loader(model: Model, case: Case, tmp_path: Path) -> None:
    """One stream with one adapter is an ordinary LoRA."""
    convert(case.folder / "rgb_to_depth/depth/pytorch_lora_weights.safetensors", tmp_path / "depth.safetensors")
    stock = add_lora(
        model, {name: t * 2 ** (0.5) for name, t in load_file(tmp_path / "depth.safetensors").items()}, False
    )
    want = forward(stock, case)
    layers = read_layers(tmp_path / "depth.safetensors")
    with adapted(model.model.diffusion_model, [Stream(layers, 1.0)]):
        got = forward(model, case)
    assert relative_error(got, want) <= EXACT


@pytest.mark.parametrize("kept", ["override", "none"])
def test_composes_with_an_attention_override(model: Model, case: Case, expected: torch.Tensor, kept: str) -> None:
    calls = []

    def override(func: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(args[0].shape)
        return func(*args, **kwargs)

    ours = patched(model, case)
    if kept == "override":
        ours.model_options["transformer_options"]["optimized_attention_override"] = override
    assert relative_error(ksample(ours, case, 2), expected) <= EXACT
    assert len(calls) == (8 if kept == "override" else 0)
    assert optimized_attention is not override


def test_ksampler_advanced_in_two_halves(model: Model, case: Case) -> None:
    """Leftover noise of the first half continues in the second; without the seam's columns the split is exact."""
    ours = patched(model, case, seam=0)
    first = ksample(ours, case, 4, start_step=0, last_step=2, force_full_denoise=False)
    latent = ours.model.latent_format.process_out(first)
    noise = Case(**{**vars(case), "noise": torch.zeros_like(case.noise)})
    second = ksample(ours, noise, 4, start_step=2, last_step=4, disable_noise=True, latent=latent)
    assert relative_error(second, sample(**case.oracle(), steps=4, seam=0)) <= EXACT


@torch.inference_mode()
def test_sampler_custom_advanced(model: Model, case: Case, expected: torch.Tensor) -> None:
    """BasicGuider, BasicScheduler and SamplerCustomAdvanced, as the core nodes run them."""
    ours = patched(model, case)
    guider = comfy.samplers.CFGGuider(ours)
    guider.inner_set_conds({"positive": conditioning(ours, case)})
    sigmas = comfy.samplers.calculate_sigmas(ours.get_model_object("model_sampling"), "simple", 2)
    out = guider.sample(
        case.noise,
        torch.zeros_like(case.noise),
        comfy.samplers.sampler_object("euler"),
        sigmas,
        disable_pbar=True,
        seed=0,
    )
    assert relative_error(ours.model.latent_format.process_in(out), expected) <= EXACT


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "uni_pc", "euler_ancestral", "res_multistep"])
def test_other_samplers_meet_at_the_seam(model: Model, case: Case, sampler: str) -> None:
    out = ksample(patched(model, case), case, 3, sampler=sampler)
    assert out.shape == case.noise.shape
    assert out.isfinite().all()


def test_inpainting_mask_keeps_what_it_covers(model: Model, case: Case) -> None:
    latent = torch.randn_like(case.noise)
    mask = torch.zeros(1, 1, *case.noise.shape[-2:])
    mask[..., :4] = 1
    out = ksample(patched(model, case), case, 2, latent=latent, noise_mask=mask)
    kept = model.model.latent_format.process_in(latent)
    assert relative_error(out[..., 6:], kept[..., 6:]) <= 1e-5
    assert relative_error(out[..., :4], kept[..., :4]) > 0.1


def test_previews_are_as_wide_as_the_picture(model: Model, case: Case) -> None:
    shapes = []
    ksample(
        patched(model, case),
        case,
        3,
        callback=lambda step, x0, x, total: shapes.append((step, x0.shape, x.shape, total)),
    )
    assert [step for step, *_ in shapes] == [0, 1, 2]
    assert all(x0 == x == case.noise.shape and total == 3 for _, x0, x, total in shapes)


class Recorded(torch.nn.Linear):
    """A Linear with its own forward and a private format of weights, as in GGUF loaders."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        stored = self.packed.to(input)  # type: ignore[attr-defined]
        return torch.nn.functional.linear(input, stored * 2, self.bias)


def test_linears_with_a_forward_of_their_own(model: Model, case: Case, expected: torch.Tensor) -> None:
    for name, module in list(model.model.diffusion_model.named_modules()):
        if isinstance(module, torch.nn.Linear) and "blocks" in name:
            double = Recorded.__new__(Recorded)
            double.__dict__.update(module.__dict__)
            double.packed = module.weight.data / 2
            double._parameters = {"bias": module.bias}
            double.weight = torch.empty(0, dtype=torch.uint8)
            parent, _, child = name.rpartition(".")
            setattr(model.model.diffusion_model.get_submodule(parent), child, double)
    assert relative_error(ksample(patched(model, case), case, 2), expected) <= EXACT


def test_low_vram_offload(manager: str, case: Case, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host casts offloaded weights when they are needed; DynamicVRAM always does."""
    model = load_flux(case.flux)
    ours = patched(model, case)
    offloading(monkeypatch)
    assert relative_error(ksample(ours, case, 2), expected) <= EXACT
    assert model.model.model_lowvram or manager == "dynamic"


def test_adapters_count_in_the_memory_estimate(model: Model, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host loads them like a model, and no more bytes than their files hold."""
    seen: list[Any] = []
    load = comfy.model_management.load_models_gpu

    def record(models: list[Any], *args: Any, **kwargs: Any) -> None:
        seen.extend(models)
        load(models, *args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", record)
    loaded = case.loaded()
    ksample(patch.attach(model, loaded, 1.0, 1.0, 6), case, 1)
    sizes = [m.model_size() for m in seen if m.model is loaded.adapters.weights]
    assert sizes == [sum(t.numel() * t.element_size() for state in case.states for t in state.values())]
    assert sizes[0] <= sum(file.stat().st_size for file in loaded.adapters.files)


def test_memory_estimate_sees_the_seam(model: Model, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    estimate = comfy.sampler_helpers.estimate_memory
    monkeypatch.setattr(
        comfy.sampler_helpers,
        "estimate_memory",
        lambda m, shape, conds: shapes.append(tuple(shape)) or estimate(m, shape, conds),
    )
    ksample(patched(model, case), case, 1)
    assert shapes == [(1, 16, 8, 22)]


def test_interrupt_and_error_leave_nothing(model: Model, case: Case, expected: torch.Tensor) -> None:
    plain, hooks, ours = forward(model, case), hook_count(model), patched(model, case)

    def stop(step: int, *_: Any) -> None:
        if step == 1:
            raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ksample(ours, case, 3, callback=stop)
    assert hook_count(model) == hooks
    assert torch.equal(forward(model, case), plain)
    assert relative_error(ksample(ours, case, 2), expected) <= EXACT


def test_saved_state_has_no_trace(model: Model, case: Case) -> None:
    names = set(model.model.state_dict())
    ksample(patched(model, case), case, 1)
    assert set(model.model.state_dict()) == names
    assert comfy.utils.calculate_parameters(model.model.state_dict()) > 0


def test_host_moves_every_adapter_weight(case: Case) -> None:
    """The host's list of what it loads, in part or in full, holds every byte of the adapters."""
    patcher = case.loaded().patcher
    listed = sum(tensor.nbytes for *_, params in patcher._load_list() for tensor in params.values())
    assert listed == patcher.model_size() > 0
