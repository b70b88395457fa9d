"""Verification finds every change of a converted file, and says how exact an honest one is."""

from pathlib import Path

import pytest
import torch
from adapters import Raw, Tensors, adapter, read, write
from comfyui_omnix.converters import AdapterError, convert, verify
from comfyui_omnix.demo import tiny

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
            with pytest.raises(AdapterError, match=rf"{layer}: expected (the source's .*bit for bit|zeros beside)"):
                verify(source, result)
            result.write_bytes(honest)


def test_a_bit_beside_the_blocks_is_named(pair: tuple[Path, Path]) -> None:
    source, result = pair
    rewritten(result, {UP: flipped(read(result)[1][UP], 4)})
    with pytest.raises(AdapterError) as caught:
        verify(source, result)
    assert str(caught.value) == (
        f"{result}: double_blocks.0.img_attn.qkv: expected zeros beside the blocks, got other values in rows 0 to 15; "
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
    with pytest.raises(AdapterError, match=r"expected the source's transformer_blocks.0.attn.to_q, bit for bit"):
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


def test_a_wrong_scale_does_not_pass_as_rounding(tmp_path: Path) -> None:
    source = tiny.save(tiny.adapter(alpha=3.0, dtype=torch.bfloat16), tmp_path / "a.safetensors")
    other = tiny.save(tiny.adapter(alpha=3.05, dtype=torch.bfloat16), tmp_path / "c.safetensors")
    convert(other, tmp_path / "b.safetensors")
    with pytest.raises(
        AdapterError, match=r"expected the source's .*, rounded to BF16, got a relative difference of 1"
    ):
        verify(source, tmp_path / "b.safetensors")
