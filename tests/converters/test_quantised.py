"""Scaled float8 is plain arithmetic and is converted; other quantised LoRAs are refused under their names."""

from pathlib import Path

import pytest
import torch
from adapter_files import SMALL, metadata_of, small
from comfyui_omnix.converters import AdapterError, convert, convert_state_dict, split, verify
from comfyui_omnix.lab.host import tiny
from host_deltas import furthest, host_deltas, runtime_deltas
from safetensors.torch import load_file
from test_narrow import E4M3, made, wanted
from torch import Tensor

ENDS = {
    "scale_weight": (".lora_A.scale_weight", ".lora_B.scale_weight"),
    "weight_scale": (".lora_A.weight_scale", ".lora_B.weight_scale"),
    "below weight": (".lora_A.weight.scale_weight", ".lora_B.weight.scale_weight"),
}


def scaled(ends: tuple[str, str], alpha: float | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a LoRA of usual magnitudes in scaled float8, and what it means in float64."""
    state, truth = made(torch.float32, 0.02, alpha), {}
    for key, tensor in list(state.items()):
        truth[key] = tensor
        for letter, end in zip("AB", ends, strict=True):
            if key.endswith(f".lora_{letter}.weight"):
                scale = tensor.abs().max() / 448
                state[key] = (tensor / scale).to(E4M3)
                state[key.replace(f".lora_{letter}.weight", end)] = scale
                truth[key] = state[key].double() * float(scale)
    return state, truth


@pytest.mark.parametrize("alpha", [None, 3.0])
@pytest.mark.parametrize("name", ENDS)
def test_scaled_float8_means_what_it_says(name: str, alpha: float | None, tmp_path: Path) -> None:
    state, truth = scaled(ENDS[name], alpha)
    source = tiny.save({**state, "scaled_fp8": torch.zeros(0).to(E4M3)}, tmp_path / "a.safetensors")
    convert(source, tmp_path / "b.safetensors")
    assert furthest(host_deltas(tmp_path / "b.safetensors"), wanted(truth)) < 2**-8
    assert furthest(runtime_deltas(tmp_path / "b.safetensors"), wanted(truth)) < 2**-8
    assert furthest(host_deltas(tmp_path / "b.safetensors"), wanted(truth)) < 2**-8
    verify(source, tmp_path / "b.safetensors")
    assert furthest(runtime_deltas(source), wanted(truth)) < 1e-9
    fused = convert_state_dict(state).state
    assert set(fused) == set(load_file(tmp_path / "b.safetensors"))
    report = split(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    convert(tmp_path / "c.safetensors", tmp_path / "d.safetensors")
    assert furthest(host_deltas(tmp_path / "d.safetensors"), wanted(truth)) < 2**-8
    if report.exact:
        back = load_file(tmp_path / "c.safetensors")
        assert set(back) == set(state)


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_scaled_float8_written_wide(dtype: str, tmp_path: Path) -> None:
    state, truth = scaled(ENDS["scale_weight"])
    convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors", dtype=dtype)
    assert furthest(host_deltas(tmp_path / "b.safetensors"), wanted(truth)) < 2**-8
    verify(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


def test_one_scale_for_the_whole_layer_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """All parts have one scale: it stays separate from the factors, whose bytes are moved."""
    state = {key: (tensor.float() * 100).to(E4M3) for key, tensor in small(dtype=torch.float32).items()}
    state |= {key.replace(".weight", ".scale_weight"): torch.tensor(0.01) for key in list(state)}
    source = tiny.save(state, tmp_path / "a.safetensors")
    assert convert(source, tmp_path / "b.safetensors").exact
    split(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert (tmp_path / "c.safetensors").read_bytes() == source.read_bytes()
    assert "omnix_source" in metadata_of(tmp_path / "b.safetensors")


KEY = "transformer.transformer_blocks.0.attn.to_q"
QUANTISED = {
    "bitsandbytes, 8 bits": {f"{KEY}.lora_A.SCB": torch.ones(4)},
    "bitsandbytes, below weight": {f"{KEY}.lora_A.weight.SCB": torch.ones(4)},
    "bitsandbytes, 4 bits": {f"{KEY}.lora_B.weight.absmax": torch.ones(4)},
    "bitsandbytes' state": {f"{KEY}.lora_B.weight.quant_state.bitsandbytes__nf4": torch.ones(4).byte()},
    "GPTQ": {f"{KEY}.lora_A.qweight": torch.ones(4, 8, dtype=torch.int32), f"{KEY}.lora_A.qzeros": torch.ones(4)},
    "quanto": {f"{KEY}.lora_A.weight._data": torch.ones(4, 8).char(), f"{KEY}.lora_A.weight._scale": torch.ones(4)},
    "scaled by blocks": {f"{KEY}.lora_A.weight_scale_inv": torch.ones(1, 1)},
    "scaled by rows": {f"{KEY}.lora_A.scale_weight": torch.ones(4)},
    "8 bits": {f"{KEY}.lora_A.weight": torch.ones(4, 8, dtype=torch.int8)},
    "activations": {f"{KEY}.lora_A.scale_input": torch.ones(1)},
}


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_loras_are_called_that(name: str, allow: bool, tmp_path: Path) -> None:
    source = tiny.save({**small(), **QUANTISED[name]}, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match=r"quantised.*save it in bfloat16 or float16") as caught:
        convert(source, tmp_path / "b.safetensors", allow_unused=allow)
    assert "remove" not in str(caught.value)


def test_a_scale_beside_wide_factors_is_refused(tmp_path: Path) -> None:
    source = tiny.save({**small(), f"{KEY}.lora_A.scale_weight": torch.tensor(0.5)}, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match="expected this scale next to a float8 tensor, got BF16"):
        convert(source, tmp_path / "b.safetensors")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_scales_that_are_none_are_refused(value: float, tmp_path: Path) -> None:
    state = tiny.adapter(SMALL, rank=4, dtype=E4M3)
    state |= {key.replace(".weight", ".scale_weight"): torch.tensor(value) for key in list(state)}
    with pytest.raises(AdapterError, match=r"expected (a finite number|scales that float32 can hold)"):
        convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
