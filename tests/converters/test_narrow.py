"""Scales and dtypes with few exponents: the delta equals the source's, in the host and in the runtime."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from adapter_files import cli, expected_deltas
from comfyui_omnix.converters import AdapterError, convert, convert_state_dict, split, verify, verify_state_dict
from comfyui_omnix.lab.host import tiny
from host_deltas import furthest, host_deltas, runtime_deltas
from safetensors.torch import load_file
from torch import Tensor

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
RANK = 8
SMALL = tiny.Geometry(hidden=32, double=1, single=1, text=8, pooled=8)
H = SMALL.hidden


def wanted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply a source in float64, by the host's own map of layers."""
    pairs = {}
    for key, down in state.items():
        if key.endswith(".lora_A.weight"):
            module = key.removesuffix(".lora_A.weight")
            alpha = float(state.get(f"{module}.alpha", torch.tensor(float(len(down)))))
            scale = alpha / len(down) if len(down) else 1.0
            pairs[module.removeprefix("transformer.")] = (down, state[f"{module}.lora_B.weight"], scale)
    deltas = {}
    for layer, parts in expected_deltas(pairs, SMALL).items():
        height = {"linear1": 7 * H, "qkv": 3 * H}.get(layer.rpartition(".")[2], 0)
        whole = torch.zeros(height or len(parts[0][1]), parts[0][1].shape[1], dtype=torch.float64)
        for rows, delta in parts:
            whole[rows] = delta
        deltas[layer] = whole
    return deltas


def made(dtype: torch.dtype, size: float, alpha: float | Mapping[str, float] | None = None) -> dict[str, Tensor]:
    return tiny.adapter(SMALL, dtype=dtype, alpha=alpha, size=size, rank=RANK)


def checked(state: Mapping[str, Tensor], folder: Path, most: float, dtype: str | None = None) -> Path:
    """Convert a file; its deltas are within `most` of the truth, and --verify passes."""
    source = tiny.save(state, folder / "a.safetensors")
    convert(source, folder / "b.safetensors", dtype=dtype)
    truth = wanted(state)
    assert furthest(host_deltas(folder / "b.safetensors"), truth) <= most
    assert furthest(runtime_deltas(folder / "b.safetensors"), truth) <= most
    assert max(layer.difference for layer in verify(source, folder / "b.safetensors")) <= most
    return folder / "b.safetensors"


@pytest.mark.parametrize("alpha", [4.0, 2.0, 1.0, 1 / 8, 3.0, 0.3, 1000.0, -0.5, 0.0])
@pytest.mark.parametrize("size", [0.7, 0.02, 1e-4])
@pytest.mark.parametrize("dtype", [E4M3, E5M2, torch.float16])
def test_a_scale_costs_narrow_factors_nothing(dtype: torch.dtype, size: float, alpha: float, tmp_path: Path) -> None:
    state = made(dtype, size, alpha)
    result = checked(state, tmp_path, 2**-11)
    assert {load_file(result)[key].dtype for key in load_file(result) if "lora" in key} == {dtype}
    if dtype != torch.float16:
        split(result, tmp_path / "c.safetensors")
        back = load_file(tmp_path / "c.safetensors")
        assert set(back) == set(state)
        assert all(torch.equal(back[key].double(), tensor.double()) for key, tensor in state.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wide_factors_keep_the_scale_in_them(dtype: torch.dtype, tmp_path: Path) -> None:
    result = checked(made(dtype, 0.02, 1 / 16), tmp_path, 1e-2)
    assert not any(key.endswith(".alpha") for key in load_file(result))


@pytest.mark.parametrize("alpha", [1e-37, 1e37])
def test_a_scale_at_the_end_of_float32_stays_beside_the_factors(alpha: float, tmp_path: Path) -> None:
    checked(made(torch.bfloat16, 1e-4, alpha), tmp_path, 1e-6)


@pytest.mark.parametrize(("dtype", "wide"), [(E4M3, "BF16"), (E5M2, "BF16"), (torch.float16, "F32")])
def test_parts_with_scales_of_their_own_are_written_wider(dtype: torch.dtype, wide: str, tmp_path: Path) -> None:
    modules = tiny.omnix_modules(SMALL)
    state = made(dtype, 1e-3, {name: 0.01 * (number % 3 + 1) for number, name in enumerate(modules)})
    result = checked(state, tmp_path, 2**-8)
    assert (
        load_file(result)["diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight"].dtype
        == {
            "BF16": torch.bfloat16,
            "F32": torch.float32,
        }[wide]
    )
    notes = convert(tmp_path / "a.safetensors", tmp_path / "again.safetensors").notes
    assert any(f"are written in {wide}" in note for note in notes)
    assert any("keep their scale as .alpha" in note for note in notes)


@pytest.mark.parametrize(("dtype", "most"), [("F8_E4M3", 2**-4), ("F8_E5M2", 2**-3), ("F16", 2**-10)])
@pytest.mark.parametrize("size", [0.7, 1e-2, 1e-4, 1e-7])
@pytest.mark.parametrize("alpha", [None, 3.0, 0.05])
def test_a_narrower_dtype_costs_its_own_rounding_alone(
    dtype: str, most: float, size: float, alpha: float | None, tmp_path: Path
) -> None:
    checked(made(torch.float32, size, alpha), tmp_path, most, dtype)


def test_a_narrow_result_that_was_lifted_splits_into_pairs_that_mean_the_same(tmp_path: Path) -> None:
    result = checked(made(torch.float32, 1e-4, 0.05), tmp_path, 2**-4, "F8_E4M3")
    split(result, tmp_path / "c.safetensors")
    found = wanted({key: tensor.double() for key, tensor in load_file(tmp_path / "c.safetensors").items()})
    assert furthest(host_deltas(result), found) <= 1e-7


def test_parts_too_far_apart_for_one_alpha_are_written_wider(tmp_path: Path) -> None:
    state = made(torch.float32, 0.1)
    for key in state:
        state[key] *= 1e2 if "to_q.lora_B" in key else 1e-5 if "to_k" in key else 1.0
    result = load_file(checked(state, tmp_path, 2**-4, "F8_E4M3"))
    assert result["diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight"].dtype == torch.bfloat16
    assert result["diffusion_model.double_blocks.0.img_mlp.0.lora_B.weight"].dtype == E4M3


def test_state_dicts_are_folded_alike(tmp_path: Path) -> None:
    state = made(E4M3, 0.02, 4.0)
    result = load_file(checked(state, tmp_path, 1e-6))
    fused, metadata, _ = convert_state_dict(state)
    assert set(fused) == set(result)
    assert all(torch.equal(fused[key].double(), tensor.double()) for key, tensor in result.items())
    assert all(layer.exact for layer in verify_state_dict(state, fused, None, metadata))


def test_verify_refuses_a_scale_folded_into_few_bits(tmp_path: Path) -> None:
    """A file of the earlier converter: every number is correctly rounded, but the delta is far from the source's."""
    state = made(E4M3, 0.02, 4.0)
    source = tiny.save(state, tmp_path / "a.safetensors")
    wide = {key: tensor.float() if "lora" in key else tensor for key, tensor in state.items()}
    convert(tiny.save(wide, tmp_path / "wide.safetensors"), tmp_path / "b.safetensors")
    naive = {key: tensor.to(E4M3) for key, tensor in load_file(tmp_path / "b.safetensors").items()}
    tiny.save(naive, tmp_path / "b.safetensors")
    assert furthest(host_deltas(tmp_path / "b.safetensors"), wanted(state)) > 0.1
    with pytest.raises(AdapterError, match=r"expected a delta within .* of the source's, got one that is .* off"):
        verify(source, tmp_path / "b.safetensors")


def test_the_command_reports_where_the_scale_is(root: Path, tmp_path: Path) -> None:
    tiny.save(made(E4M3, 0.02, 4.0), tmp_path / "a.safetensors")
    done = cli(root, tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert done.returncode == 0 and "rounded" not in done.stdout
    assert "layers keep their scale as .alpha" in done.stdout
    assert cli(root, "--verify", tmp_path / "a.safetensors", tmp_path / "b.safetensors").returncode == 0
