"""Fusing tensors in memory: the block-diagonal identity, the state dict API and its inverse."""

import pytest
import torch
from adapter_files import SMALL, expected_deltas, fused_deltas, small
from comfyui_omnix.converters import AdapterError, convert_state_dict, fuse, split_state_dict
from comfyui_omnix.demo import tiny
from torch import Tensor


def pair(rows: int, rank: int, columns: int = 6, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor, float]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator), scale


def test_fuse_is_the_concatenation_of_the_deltas() -> None:
    pairs = {"q": pair(5, 2, seed=1), "v": pair(5, 3, scale=0.5, seed=2), "mlp": pair(7, 1, scale=-2.0, seed=3)}
    rows = {"q": 5, "k": 4, "v": 5, "mlp": 7}
    down, up = fuse(pairs, rows)
    assert (down.shape, up.shape) == ((6, 6), (21, 6))
    deltas = [
        pairs[part][2] * pairs[part][1].double() @ pairs[part][0].double() if part in pairs else torch.zeros(height, 6)
        for part, height in rows.items()
    ]
    assert torch.equal(up.double() @ down.double(), torch.cat([delta.double() for delta in deltas]))
    assert int((up != 0).sum()) == 5 * 2 + 5 * 3 + 7


def test_fuse_keeps_the_narrowest_common_dtype() -> None:
    half, whole = pair(4, 1), pair(4, 1, seed=1)
    _, up = fuse({"q": (half[0].half(), half[1].half(), 1.0), "k": whole}, {"q": 4, "k": 4})
    assert up.dtype == torch.float32
    assert torch.equal(up[:4, 0], half[1].half().float()[:, 0])


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ({}, "got none"),
        ({"x": pair(4, 1)}, "got x"),
        ({"q": (torch.zeros(2, 3), torch.zeros(4, 3), 1.0)}, r"q: expected up \[4, 2\], got \[4, 3\]"),
    ],
)
def test_fuse_refuses_what_does_not_fit(pairs: dict[str, tuple[Tensor, Tensor, float]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fuse(pairs, {"q": 4, "k": 4})


def test_state_dicts_convert_and_split_without_touching_the_input() -> None:
    state = small()
    before = {name: tensor.clone() for name, tensor in state.items()}
    fused, metadata = convert_state_dict(state, {"trainer": "me"})
    assert metadata["trainer"] == "me"
    assert list(state) == list(before) and all(torch.equal(state[name], before[name]) for name in state)
    back = split_state_dict(fused, metadata)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) and back[name].dtype == state[name].dtype for name in state)


def test_state_dicts_mean_the_same_fused() -> None:
    state = small(rank={name: 1 + i % 4 for i, name in enumerate(tiny.omnix_modules(SMALL))}, dtype=torch.float32)
    fused = fused_deltas(convert_state_dict(state)[0])
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
    fused, own = convert_state_dict(state, metadata)
    plain, _ = convert_state_dict(small())
    assert all(torch.equal(fused[name], plain[name] * (2 if "lora_B" in name else 1)) for name in fused)
    back = split_state_dict(fused, own)
    assert set(back) == set(state) and all(torch.equal(back[name], state[name]) for name in state)


def test_state_dicts_that_are_refused() -> None:
    fused, metadata = convert_state_dict(small())
    with pytest.raises(AdapterError, match="needs no conversion"):
        convert_state_dict(fused)
    with pytest.raises(AdapterError, match="omnix_blocks: expected it in the metadata"):
        split_state_dict(fused, {})
    with pytest.raises(AdapterError, match=r"other\.weight: .* got 1 that do not"):
        convert_state_dict({**small(), "other.weight": torch.zeros(2)})
    with pytest.raises(AdapterError, match="expected a floating point matrix"):
        convert_state_dict({name: tensor.to(torch.int32) for name, tensor in small().items()})
    assert set(split_state_dict(fused, metadata)) == set(small())


def test_only_the_given_dtype_is_written() -> None:
    fused, metadata = convert_state_dict(small(), dtype="F32")
    assert {tensor.dtype for tensor in fused.values()} == {torch.float32}
    back = split_state_dict(fused, metadata)
    assert {tensor.dtype for tensor in back.values()} == {torch.bfloat16}
    assert all(torch.equal(back[name], tensor) for name, tensor in small().items())
