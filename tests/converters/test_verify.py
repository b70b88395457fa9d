"""Verification finds every change of a converted file, and reports how exact an unchanged one is."""

import json
from pathlib import Path

import pytest
import torch
from adapters import Raw, Tensors, adapter, read, write
from comfyui_omnix.converters import AdapterError, convert, verify
from comfyui_omnix.lab.host import tiny

UP = "diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight"
DOWN = "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    source, result = write(tmp_path / "a.safetensors", adapter()), tmp_path / "b.safetensors"
    convert(source, result)
    return source, result


def flipped(raw: Raw, byte: int) -> Raw:
    data = bytearray(raw.data)
    data[byte] ^= 1
    return raw._replace(data=bytes(data))


def rewritten(result: Path, changes: Tensors) -> None:
    metadata, tensors = read(result)
    write(result, tensors | changes, metadata)


def test_an_honest_file_is_exact(pair: tuple[Path, Path]) -> None:
    found = verify(*pair)
    assert len(found) == 5 and all(layer.exact and layer.difference == 0 for layer in found)
    assert found[0].parts == tuple(f"transformer_blocks.0.attn.to_{name}" for name in "qkv")


def test_any_flipped_bit_is_found(pair: tuple[Path, Path]) -> None:
    source, result = pair
    honest = result.read_bytes()
    _, tensors = read(result)
    for name in (UP, DOWN, "diffusion_model.single_blocks.0.linear1.lora_B.weight"):
        layer = name.removeprefix("diffusion_model.").partition(".lora")[0]
        for byte in range(0, len(tensors[name].data), 37):
            rewritten(result, {name: flipped(tensors[name], byte)})
            with pytest.raises(AdapterError, match=rf"{layer}: expected (the source's .*bit for bit|zeros outside)"):
                verify(source, result)
            result.write_bytes(honest)


def test_a_bit_beside_the_blocks_is_named(pair: tuple[Path, Path]) -> None:
    source, result = pair
    rewritten(result, {UP: flipped(read(result)[1][UP], 4)})
    with pytest.raises(AdapterError) as caught:
        verify(source, result)
    assert str(caught.value) == (
        f"{result}: double_blocks.0.img_attn.qkv: expected zeros outside the blocks, got other values in rows 0 to 15; "
        "convert it again."
    )


def test_a_missing_layer_is_named(pair: tuple[Path, Path]) -> None:
    source, result = pair
    metadata, tensors = read(result)
    write(result, {name: raw for name, raw in tensors.items() if name not in (UP, DOWN)}, metadata)
    with pytest.raises(AdapterError, match=f"{DOWN}: expected a tensor as in the source, got none; convert it again"):
        verify(source, result)


def test_another_sources_result_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = write(tmp_path / "c.safetensors", adapter(seed=1))
    with pytest.raises(AdapterError, match=r"expected the source's .*0.attn.to_q.lora_A.weight, bit for bit"):
        verify(other, pair[1])


def test_an_original_is_no_result(pair: tuple[Path, Path]) -> None:
    with pytest.raises(
        AdapterError, match=r"expected a file in ComfyUI's layout, got a FLUX.1 LoRA in Diffusers layout"
    ):
        verify(pair[0], pair[0])


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F8_E4M3"])
def test_rounded_files_pass_with_their_difference(dtype: str, tmp_path: Path) -> None:
    source = tiny.save(tiny.adapter(alpha=3.0, size=0.2), tmp_path / "a.safetensors")
    convert(source, tmp_path / "b.safetensors", dtype=dtype)
    found = verify(source, tmp_path / "b.safetensors")
    bound = {"BF16": 2**-7, "F16": 2**-10, "F8_E4M3": 2**-3}[dtype]
    assert all(not layer.exact and bound / 100 < layer.difference <= bound for layer in found)


def test_the_difference_of_large_ranks_is_estimated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tiny.save(tiny.adapter(rank=24, alpha=7.0, size=0.2), tmp_path / "a.safetensors")
    convert(source, tmp_path / "b.safetensors", dtype="BF16")
    exact = verify(source, tmp_path / "b.safetensors")
    monkeypatch.setattr("comfyui_omnix.converters.fusing.arithmetic.EXACT_RANK", 0)
    for one, other in zip(exact, verify(source, tmp_path / "b.safetensors"), strict=True):
        assert not other.exact and other.difference == pytest.approx(one.difference, rel=0.15)
        assert other.difference != pytest.approx(one.difference, rel=1e-6)


def test_a_wrong_scale_does_not_pass_as_rounding(tmp_path: Path) -> None:
    source = tiny.save(tiny.adapter(alpha=3.0, dtype=torch.bfloat16), tmp_path / "a.safetensors")
    other = tiny.save(tiny.adapter(alpha=3.05, dtype=torch.bfloat16), tmp_path / "c.safetensors")
    convert(other, tmp_path / "b.safetensors")
    with pytest.raises(
        AdapterError, match=r"expected the source's .*to_q.lora_B.weight, rounded once to BF16, got other bytes"
    ):
        verify(source, tmp_path / "b.safetensors")


def test_a_changed_factor_beside_a_scaled_one_is_found(tmp_path: Path) -> None:
    """The down factors are moved also where a scale is folded into the up factors: they stay bit for bit."""
    source = tiny.save(tiny.adapter(alpha=3.0, dtype=torch.bfloat16), tmp_path / "a.safetensors")
    convert(source, tmp_path / "b.safetensors")
    for name in (UP, DOWN):
        raw = read(tmp_path / "b.safetensors")[1][name]
        honest = (tmp_path / "b.safetensors").read_bytes()
        rewritten(tmp_path / "b.safetensors", {name: flipped(raw, 0)})
        with pytest.raises(AdapterError, match=r"double_blocks.0.img_attn.qkv: expected the source's .* other bytes"):
            verify(source, tmp_path / "b.safetensors")
        (tmp_path / "b.safetensors").write_bytes(honest)


def test_a_number_that_is_none_is_found(tmp_path: Path) -> None:
    source = tiny.save(tiny.adapter(alpha=3.0, dtype=torch.bfloat16), tmp_path / "a.safetensors")
    convert(source, tmp_path / "b.safetensors")
    raw = read(tmp_path / "b.safetensors")[1][DOWN]
    rewritten(tmp_path / "b.safetensors", {DOWN: raw._replace(data=b"\xc0\x7f" + raw.data[2:])})
    with pytest.raises(AdapterError, match="got other bytes"):
        verify(source, tmp_path / "b.safetensors")


def test_numbers_below_the_range_of_a_dtype_are_brought_into_it(tmp_path: Path) -> None:
    source = tiny.save(tiny.adapter(size=1e-3), tmp_path / "a.safetensors")
    convert(source, tmp_path / "b.safetensors", dtype="F8_E4M3")
    assert 1e-3 < max(layer.difference for layer in verify(source, tmp_path / "b.safetensors")) < 2**-4


def test_blocks_that_are_not_the_layers_are_named(pair: tuple[Path, Path]) -> None:
    source, result = pair
    metadata, tensors = read(result)
    blocks = json.loads(metadata["omnix_blocks"])
    first, second, _ = blocks["double_blocks.0.img_attn.qkv"]
    first[3], second[3] = first[3] - 1, second[3] + 1
    write(result, tensors, {**metadata, "omnix_blocks": json.dumps(blocks)})
    with pytest.raises(AdapterError, match=r"double_blocks.0.img_attn.qkv: expected .* in omnix_blocks, got "):
        verify(source, result)
