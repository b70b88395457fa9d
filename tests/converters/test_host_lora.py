"""Converted adapters with the host's own LoRA loaders: every layer is used, and the sums are right."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import pytest
import torch
from comfyui_omnix.converters import convert, convert_state_dict
from comfyui_omnix.lab.host import tiny
from dense_flux import forward as dense_forward
from dense_flux import merged
from host_flux import Inputs, active, forward, inputs, load, with_lora
from measure import relative_error
from torch import Tensor

LAYERS, PAIRS, WHOLE = 114, 228, 57
Measured = Callable[[str, float], float]


@pytest.fixture(scope="module")
def full_model() -> Any:
    """FLUX.1-dev in its real size, 11.9 billion parameters, on the meta device: shapes without numbers."""
    with torch.device("meta"):
        state = {}
        for name, (columns, rows) in tiny.linears(tiny.FULL).items():
            state |= {f"{name}.weight": torch.empty(rows, columns), f"{name}.bias": torch.empty(rows)}
        state |= {f"{name}.weight": torch.empty(tiny.HEAD) for name in tiny.norms(tiny.FULL)}
    state = {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}
    patcher = comfy.sd.load_diffusion_model_state_dict(state, {"offload_device": torch.device("meta")})
    assert patcher is not None
    return patcher


@pytest.fixture(scope="module")
def full_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An adapter of OmniX's real size, and what the converter makes of it."""
    folder = tmp_path_factory.mktemp("full")
    source = tiny.save(tiny.full_adapter(), folder / "pytorch_lora_weights.safetensors")
    convert(source, folder / "converted.safetensors")
    return source, folder / "converted.safetensors"


def injected(patcher: Any) -> list[str]:
    """Name the modules whose forward a bypassed LoRA replaces."""
    for injection in patcher.injections["bypass_lora"]:
        injection.inject(patcher)
    names = replaced(patcher)
    for injection in patcher.injections["bypass_lora"]:
        injection.eject(patcher)
    return names


def replaced(patcher: Any) -> list[str]:
    """Name the modules whose forward is not their own."""
    modules = patcher.model.diffusion_model.named_modules()
    return [name for name, module in modules if getattr(module.forward, "__self__", None) is not module]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.since("0.26.0")
def test_full_model_is_flux_dev(full_model: Any) -> None:
    assert sum(parameter.numel() for parameter in full_model.model.diffusion_model.parameters()) == 11_901_408_320
    assert full_model.model.diffusion_model.params.guidance_embed


def test_full_adapter_is_of_real_size(full_files: tuple[Path, Path]) -> None:
    assert full_files[0].stat().st_size == 224_194_520


@pytest.mark.since("0.26.0")
def test_converted_merges_whole(
    full_model: Any, full_files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    lora = comfy.utils.load_torch_file(str(full_files[1]))
    patched = with_lora(full_model, lora)
    assert len(patched.patches) == LAYERS
    assert warnings(caplog) == []


@pytest.mark.since("0.26.0")
def test_converted_bypasses_whole(
    full_model: Any, full_files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    lora = comfy.utils.load_torch_file(str(full_files[1]))
    names = injected(with_lora(full_model, lora, bypass=True))
    assert len(names) == LAYERS
    assert sum(name.endswith(".linear1") for name in names) == tiny.FULL.single
    assert sum(name.endswith("img_attn.qkv") for name in names) == tiny.FULL.double
    assert warnings(caplog) == []


@pytest.mark.since("0.26.0")
def test_unconverted_loses_most_in_bypass(
    full_model: Any, full_files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """The reason for the converter: 171 of 228 pairs, every q, k and v, are dropped with a warning."""
    lora = comfy.utils.load_torch_file(str(full_files[0]))
    assert len(lora) == 2 * PAIRS
    names = injected(with_lora(full_model, lora, bypass=True))
    assert len(names) == WHOLE
    assert not any(name.endswith((".linear1", ".qkv")) for name in names)
    dropped = [message for message in warnings(caplog) if "not in model state_dict" in message]
    assert len(dropped) == PAIRS - WHOLE == 171


@pytest.mark.since("0.26.0")
def test_the_model_is_as_before(full_model: Any) -> None:
    assert not full_model.patches
    assert not full_model.injections
    assert replaced(full_model) == []


# --- numbers, on a tiny FLUX ------------------------------------------------------------------------------------------

DTYPES = {"float32": torch.float32, "float8": torch.float8_e4m3fn}
STATE = tiny.flux(seed=3)
ADAPTER = tiny.adapter(seed=4, rank=8, size=0.3)
GIVEN = inputs(5, batch=2)


def reference(state: Mapping[str, Tensor], given: Inputs = GIVEN) -> Tensor:
    return dense_forward(state, given.latent, given.t, given.text, given.pooled, given.guidance)


@pytest.fixture(scope="module", params=DTYPES)
def base(request: pytest.FixtureRequest) -> tuple[str, Any, dict[str, Tensor]]:
    """A tiny model with weights of one dtype, and these same weights in float64."""
    dtype = DTYPES[request.param]
    return request.param, load(STATE, dtype), {name: tensor.to(dtype).double() for name, tensor in STATE.items()}


def converted(tmp_path: Path, adapter: Mapping[str, Tensor] = ADAPTER) -> dict[str, Tensor]:
    """Take the way of a user: file, converter, file, the host's reader."""
    source = tiny.save(adapter, tmp_path / "adapter.safetensors")
    convert(source, tmp_path / "converted.safetensors")
    return comfy.utils.load_torch_file(str(tmp_path / "converted.safetensors"))


def test_base_alone(base: tuple[str, Any, dict[str, Tensor]], measured: Measured) -> None:
    name, patcher, weights = base
    error = relative_error(forward(patcher, GIVEN), reference(weights))
    assert measured(f"{name} base without LoRA", error) <= 1e-6


@pytest.mark.parametrize("strength", [1.0, 0.25, -0.5])
def test_bypassed(
    base: tuple[str, Any, dict[str, Tensor]], strength: float, tmp_path: Path, measured: Measured
) -> None:
    name, patcher, weights = base
    result = forward(with_lora(patcher, converted(tmp_path), True, strength), GIVEN)
    error = relative_error(result, reference(merged(weights, ADAPTER, strength=strength)))
    assert measured(f"{name} base, converted, bypassed, strength {strength}", error) <= 1e-6


@pytest.mark.parametrize("strength", [1.0, 0.25, 0.05])
def test_merged(base: tuple[str, Any, dict[str, Tensor]], strength: float, tmp_path: Path, measured: Measured) -> None:
    """Exact on float32. Merged into float8 the host rounds every weight again: reported, and far from exact."""
    name, patcher, weights = base
    result = forward(with_lora(patcher, converted(tmp_path), False, strength), GIVEN)
    expected = reference(merged(weights, ADAPTER, strength=strength))
    error = measured(f"{name} base, converted, merged, strength {strength}", relative_error(result, expected))
    if name == "float32":
        assert error <= 1e-6
    else:
        effect = measured(
            f"{name} base, effect of the LoRA, strength {strength}", relative_error(reference(weights), expected)
        )
        assert 1e-3 < error < max(0.1, effect)


def test_the_effect_is_large(base: tuple[str, Any, dict[str, Tensor]], measured: Measured) -> None:
    """An adapter that were not loaded at all would be seen: the LoRA moves the result by tens of percent."""
    name, _, weights = base
    effect = relative_error(reference(weights), reference(merged(weights, ADAPTER)))
    assert measured(f"{name} base, effect of the LoRA", effect) > 0.1


def test_unconverted_is_wrong_in_bypass(base: tuple[str, Any, dict[str, Tensor]], measured: Measured) -> None:
    """Without conversion exactly q, k and v are lost: the result is that of the other modules alone."""
    name, patcher, weights = base
    result = forward(with_lora(patcher, ADAPTER, bypass=True), GIVEN)
    kept = {key: tensor for key, tensor in ADAPTER.items() if not any(f".to_{part}." in key for part in "qkv")}
    assert relative_error(result, reference(merged(weights, kept))) <= 1e-6
    error = relative_error(result, reference(merged(weights, ADAPTER)))
    assert measured(f"{name} base, unconverted, bypassed", error) > 0.05


def test_merged_float32_weights_equal_those_of_the_unconverted_file(tmp_path: Path) -> None:
    """To merge weights, the host slices Diffusers keys itself; the converted file gives the same weights."""
    sliced, fused = (merged_weights(lora) for lora in (ADAPTER, converted(tmp_path)))
    base = load(STATE).model.diffusion_model.state_dict()
    for name, tensor in sliced.items():
        assert torch.allclose(tensor, fused[name], rtol=0, atol=1e-6), name
    assert sum(not torch.equal(tensor, base[name]) for name, tensor in fused.items()) == 10


def merged_weights(lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the weights that the host's merging loader makes."""
    with active(with_lora(load(STATE), lora)) as model:
        return {name: tensor.clone() for name, tensor in model.diffusion_model.state_dict().items()}


def test_alphas_and_ranks_are_folded(tmp_path: Path) -> None:
    modules = tiny.omnix_modules()
    ranks = {name: 2 + i % 5 for i, name in enumerate(modules)}
    alphas = {name: 0.5 + i for i, name in enumerate(modules) if i % 3}
    adapter = tiny.adapter(seed=6, rank=ranks, alpha=alphas, size=0.1)
    expected = reference(merged(STATE, adapter))
    for bypass in (False, True):
        result = forward(with_lora(load(STATE), converted(tmp_path / str(bypass), adapter), bypass), GIVEN)
        assert relative_error(result, expected) <= 1e-6


def test_repeated_loading_changes_nothing() -> None:
    """Merging and bypassing leave the base unchanged, bit for bit."""
    patcher, lora = load(STATE), convert_state_dict(ADAPTER).state
    before = forward(patcher, GIVEN)
    for bypass in (False, True, False):
        assert relative_error(forward(with_lora(patcher, lora, bypass), GIVEN), before) > 0.1
        assert torch.equal(forward(patcher, GIVEN), before)
