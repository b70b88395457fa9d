"""State dicts in memory: converted, split, inspected and verified like files."""

import pytest
import torch
from adapter_files import SMALL, expected_deltas, fused_deltas, small
from comfyui_omnix.converters import (
    AdapterError,
    convert_state_dict,
    inspect_state_dict,
    split_state_dict,
    verify_state_dict,
)
from comfyui_omnix.lab.host import tiny


def test_state_dicts_convert_and_split_without_touching_the_input() -> None:
    state = small()
    before = {name: tensor.clone() for name, tensor in state.items()}
    fused, metadata, report = convert_state_dict(state, {"trainer": "me"}, slot=("rgb_to_depth", "rgb"))
    assert (metadata["trainer"], metadata["omnix_task"]) == ("me", "rgb_to_depth")
    assert (report.task, report.stream) == ("rgb_to_depth", "rgb")
    assert (report.exact, report.moved, report.computed, report.unused) == (True, len(state) // 2, 0, ())
    assert list(state) == list(before) and all(torch.equal(state[name], before[name]) for name in state)
    back, own, _ = split_state_dict(fused, metadata)
    assert set(back) == set(state) and own == {"trainer": "me"}
    assert all(torch.equal(back[name], state[name]) and back[name].dtype == state[name].dtype for name in state)


def test_state_dicts_mean_the_same_fused() -> None:
    state = small(rank={name: 1 + i % 4 for i, name in enumerate(tiny.omnix_modules(SMALL))}, dtype=torch.float32)
    fused = fused_deltas(convert_state_dict(state).state)
    modules = {key.removeprefix("transformer.").removesuffix(".lora_A.weight") for key in state if "lora_A" in key}
    pairs = {
        module: (state[f"transformer.{module}.lora_A.weight"], state[f"transformer.{module}.lora_B.weight"], 1.0)
        for module in modules
    }
    wanted = expected_deltas(pairs, SMALL)
    assert set(fused) == set(wanted)
    for layer, parts in wanted.items():
        for rows, delta in parts:
            assert torch.allclose(fused[layer][rows], delta, rtol=1e-12, atol=1e-14)
    # The rows of layers that carry no adapter, proj_mlp's here, stay exactly zero.
    assert not fused["single_blocks.0.linear1"][24:].any()


@pytest.mark.parametrize("where", ["alpha", "header"])
def test_state_dicts_with_a_scale(where: str) -> None:
    state = small(alpha=8.0) if where == "alpha" else small()
    metadata = {} if where == "alpha" else {"lora_adapter_metadata": '{"transformer.lora_alpha": 8}'}
    fused, own, report = convert_state_dict(state, metadata)
    plain = convert_state_dict(small()).state
    assert (report.computed, report.moved, report.exact) == (len(small()) // 2, 0, True)
    assert all(torch.equal(fused[name], plain[name] * (2 if "lora_B" in name else 1)) for name in fused)
    back = split_state_dict(fused, own).state
    assert set(back) == set(state) and all(torch.equal(back[name], state[name]) for name in state)


def test_state_dicts_that_are_refused() -> None:
    fused, metadata, _ = convert_state_dict(small())
    with pytest.raises(AdapterError, match="already converted"):
        convert_state_dict(fused, metadata)
    with pytest.raises(AdapterError, match="omnix_blocks: expected this entry in the metadata"):
        split_state_dict(fused, {})
    with pytest.raises(AdapterError, match=r"other\.weight: .* got 1 that do not"):
        convert_state_dict({**small(), "other.weight": torch.zeros(2)})
    with pytest.raises(AdapterError, match="expected a floating point matrix"):
        convert_state_dict({name: tensor.to(torch.int32) for name, tensor in small().items()})
    assert set(split_state_dict(fused, metadata).state) == set(small())


def test_only_the_given_dtype_is_written() -> None:
    fused, metadata, _ = convert_state_dict(small(), dtype="F32")
    assert {tensor.dtype for tensor in fused.values()} == {torch.float32}
    back = split_state_dict(fused, metadata).state
    assert {tensor.dtype for tensor in back.values()} == {torch.bfloat16}
    assert all(torch.equal(back[name], tensor) for name, tensor in small().items())


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_alphas_may_be_whole_numbers(dtype: torch.dtype) -> None:
    whole = {name: tensor.to(dtype) if name.endswith("alpha") else tensor for name, tensor in small(alpha=8.0).items()}
    fused, metadata, _ = convert_state_dict(whole)
    assert all(torch.equal(fused[name], tensor) for name, tensor in convert_state_dict(small(alpha=8.0)).state.items())
    back = split_state_dict(fused, metadata).state
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in whole.items())


def test_unused_tensors_are_left_out_where_that_is_allowed() -> None:
    _, _, report = convert_state_dict({**small(), "other.weight": torch.zeros(2)}, allow_unused=True)
    assert report.unused == ("other.weight",)


def test_wrong_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected a dtype of F64"):
        convert_state_dict(small(), dtype="int8")


def test_state_dicts_are_inspected() -> None:
    state = small(alpha=8.0)
    fused, metadata, _ = convert_state_dict(state)
    found = inspect_state_dict(state)
    assert (found["format"], found["scales"]) == ("a FLUX.1 LoRA in Diffusers layout", [2.0])
    assert inspect_state_dict(fused, metadata)["format"] == "converted by omnix-convert"
    wan = inspect_state_dict({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(1, 1)})
    assert wan["format"] == "a Wan LoRA"


def test_state_dicts_are_verified() -> None:
    state = small(alpha=3.0)
    fused, metadata, _ = convert_state_dict(state)
    found = verify_state_dict(state, fused, result_metadata=metadata)
    assert {layer.layer for layer in found} == set(inspect_state_dict(state)["layers"])
    assert not any(layer.exact for layer in found)
    name = "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight"
    with pytest.raises(AdapterError, match=r"double_blocks.0.img_attn.qkv: expected the source's .*, bit for bit, got"):
        verify_state_dict(state, {**fused, name: fused[name] * 1.01})
