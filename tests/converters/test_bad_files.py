"""Bad input: one clear sentence with the file, the key, the expected value, the value found and what to do."""

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_files import SMALL, read_raw, small, write_raw
from comfyui_omnix.converters import AdapterError, convert, inspect, open_adapter
from comfyui_omnix.lab.host import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KEY = "transformer.transformer_blocks.1.attn.to_k.lora_A.weight"


UP = KEY.replace("lora_A", "lora_B")


def field(dtype: str = "F32", shape: Any = (1,), first: Any = 0, last: Any = 4) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


HEADERS: dict[str, tuple[Any, bytes, int | None, str]] = {
    "longer than the file": (
        {},
        b"",
        5000,
        r"header: expected at most 2 bytes in a file of 10, got a length of 5000",
    ),
    "longer than any": ({}, b"", 1 << 60, "header: expected at most 2 bytes"),
    "not JSON": (b"{nonsense", b"", None, "header: expected JSON, got something else"),
    "not UTF-8": (b'{"\xff": 1}', b"", None, "header: expected JSON"),
    "a list": ([], b"", None, "header: expected a JSON object, got list"),
    "nested too deep": (b"[" * 200_000, b"", None, "header: expected JSON"),
    "a name twice": (b'{"a": {}, "a": {}}', b"", None, "a name that occurs twice"),
    "metadata that is a list": ({"__metadata__": [1]}, b"", None, "__metadata__: expected strings by name"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", None, "__metadata__: expected strings by name"),
    "a tensor without fields": ({"a": 3}, b"", None, "a: expected dtype, shape and data_offsets"),
    "a tensor without offsets": ({"a": {"dtype": "F32", "shape": [1]}}, b"", None, "a: expected dtype, shape"),
    "three offsets": ({"a": {**field(), "data_offsets": [0, 4, 8]}}, b"1234", None, "a: expected dtype, shape"),
    "an unknown dtype": ({"a": field("Q4_K")}, b"1234", None, r"a: expected a dtype of F64, .*, got 'Q4_K'; save the"),
    "a dtype that is a list": ({"a": {**field(), "dtype": ["F32"]}}, b"1234", None, r"a: expected a dtype of"),
    "a negative length": ({"a": field(shape=[-1])}, b"1234", None, "a: expected whole numbers as shape and offsets"),
    "a fractional length": ({"a": field(shape=[1.0])}, b"1234", None, "a: expected whole numbers"),
    "a shape of text": ({"a": {**field(), "shape": "1"}}, b"1234", None, "a: expected whole numbers"),
    "a thousand axes": ({"a": field(shape=[1] * 1000)}, b"1234", None, "a: expected whole numbers"),
    "offsets that run backwards": (
        {"a": field(first=4, last=0)},
        b"1234",
        None,
        r"a: expected 4 bytes for \(1,\), got -4",
    ),
    "offsets that do not fit the shape": (
        {"a": field(shape=[2])},
        b"1234",
        None,
        r"a: expected 8 bytes for \(2,\), got 4",
    ),
    "offsets outside": (
        {"a": field(first=4, last=8)},
        b"1234",
        None,
        r"a: expected data up to byte 8, got a file with 4; the file is cut off",
    ),
    "overlapping tensors": (
        {"a": field(shape=[2], last=8), "b": field(first=4, last=8)},
        b"12345678",
        None,
        "b: expected data from byte 8 on, got byte 4, inside another tensor",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_damaged_headers(name: str, tmp_path: Path) -> None:
    header, data, length, words = HEADERS[name]
    path = write_raw(tmp_path / "a.safetensors", header, data, length)
    for function in (open_adapter, inspect):
        with pytest.raises(AdapterError, match=words) as caught:
            function(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).count("\n") == 0


def test_a_header_longer_than_a_lora_has(tmp_path: Path) -> None:
    with open(tmp_path / "a.safetensors", "wb") as file:
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(200_000_000)
    with pytest.raises(AdapterError, match=r"expected at most 100000000 bytes \(the limit of the format\)"):
        open_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize("size", range(0, 8))
def test_files_too_short_for_a_header(size: int, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\1" * size)
    with pytest.raises(AdapterError, match=f"header: expected at least 8 bytes, got {size}"):
        open_adapter(tmp_path / "a.safetensors")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A whole adapter file."""
    return tiny.save(small(), tmp_path / "good.safetensors")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_a_truncated_file_is_never_taken_for_a_whole_one(share: float, good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        AdapterError, match=r"cut\.safetensors: .*; the file is (cut off|damaged), so download it again"
    ):
        convert(tmp_path / "cut.safetensors", tmp_path / "result.safetensors")
    assert not (tmp_path / "result.safetensors").exists()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_header_with_changed_bytes_is_refused_or_understood(data: st.DataObject, good: Path, tmp_path: Path) -> None:
    """Any header gives a result or an AdapterError, and no other exception."""
    content = bytearray(good.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 7 + length))] = data.draw(st.integers(0, 255))
    (tmp_path / "odd.safetensors").write_bytes(content)
    try:
        convert(tmp_path / "odd.safetensors", tmp_path / "result.safetensors", force=True, allow_unused=True)
    except AdapterError as error:
        assert str(error).startswith(str(tmp_path / "odd.safetensors"))


def change(good: Path, **changes: Any) -> Path:
    """Rewrite a file with some header fields replaced (None: removed)."""
    header, data = read_raw(good)
    for name, value in changes.items():
        key = {"down": KEY, "up": UP}.get(name, name)
        header.pop(key)
        if value is not None:
            header[key] = value
    return write_raw(good.parent / "bad.safetensors", header, data)


def test_half_a_pair(good: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=rf"{KEY}: expected lora_B \(up\) for .*, got none; download the file again"):
        convert(change(good, up=None), tmp_path / "b.safetensors")
    with pytest.raises(AdapterError, match=rf"{UP}: expected lora_A \(down\) for .*, got none"):
        convert(change(good, down=None), tmp_path / "b.safetensors")


def test_dora(good: Path, tmp_path: Path) -> None:
    state = {**small(), KEY.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(8)}
    with pytest.raises(
        AdapterError, match=r"lora_magnitude_vector: expected plain LoRA, got DoRA.*; merge it into the model"
    ):
        convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    source = tiny.save(small(), tmp_path / "c.safetensors", {"lora_adapter_metadata": '{"transformer.use_dora": true}'})
    with pytest.raises(AdapterError, match="lora_adapter_metadata: expected plain LoRA, got DoRA"):
        convert(source, tmp_path / "b.safetensors")


SHAPES = {
    "down of another width": (
        {KEY: (4, 7)},
        rf"{KEY}: expected down \[r, 8\], got \[4, 7\]; is this a FLUX\.1 adapter\?",
    ),
    "up of another height": ({UP: (24, 4)}, rf"{UP}: expected up \[8, 4\], got \[24, 4\]"),
    "up of another rank": ({UP: (8, 5)}, rf"{UP}: expected up \[8, 4\], got \[8, 5\]"),
    "a vector": ({UP: (8,)}, rf"{UP}: expected a floating point matrix, got BF16 \[8\]"),
    "a convolution": ({KEY: (4, 8, 3, 1)}, rf"{KEY}: expected a floating point matrix, got BF16 \[4, 8, 3, 1\]"),
    "a number": ({KEY: ()}, rf"{KEY}: expected a floating point matrix, got BF16 \[\]"),
    "nothing": ({KEY: (0, 0), UP: (0, 0)}, rf"{KEY}: expected down \[r, 8\], got \[0, 0\]"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_wrong_shapes_are_named(name: str, tmp_path: Path) -> None:
    """The one wrong tensor is named, whichever it is, not those that are right."""
    shapes, words = SHAPES[name]
    state = {**small(), **{key: torch.ones(shape, dtype=torch.bfloat16) for key, shape in shapes.items()}}
    with pytest.raises(AdapterError, match=words):
        convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_whole_numbers_are_no_factors(tmp_path: Path) -> None:
    state = {**small(), KEY: torch.ones(4, 8, dtype=torch.int32)}
    with pytest.raises(AdapterError, match=rf"{KEY}: expected a floating point matrix, got I32 \[4, 8\]"):
        convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")


def test_a_layer_under_two_names(tmp_path: Path) -> None:
    state = tiny.adapter(SMALL, rank=2, modules=["transformer_blocks.0.ff.net.2"])
    both = state | {key.replace("ff.net.2", "ff.linear_out"): tensor.clone() for key, tensor in state.items()}
    with pytest.raises(AdapterError, match=r"expected double_blocks\.0\.img_mlp\.2 adapted once, got .* too"):
        convert(tiny.save(both, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")


FOREIGN = {
    "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj": "a FLUX.2 LoRA; this converter is for FLUX.1",
    "diffusion_model.blocks.0.self_attn.q": "a Wan LoRA; this converter is for FLUX.1",
    "transformer.transformer_blocks.0.txt_mlp.net.2": "a Qwen-Image LoRA; this converter is for FLUX.1",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "a Stable Diffusion LoRA",
    "lora_te2_text_model_encoder_layers_0_mlp_fc1": "an SDXL LoRA",
    "transformer.nothing.known": "transformer.nothing.known.lora_down.weight",
}


@pytest.mark.parametrize("layer", FOREIGN)
def test_other_formats_are_answered(layer: str, tmp_path: Path) -> None:
    state = {f"{layer}.lora_down.weight": torch.ones(2, 8), f"{layer}.lora_up.weight": torch.ones(24, 2)}
    source = tiny.save(state, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError) as caught:
        convert(source, tmp_path / "b.safetensors")
    assert FOREIGN[layer] in str(caught.value)
    assert not (tmp_path / "b.safetensors").exists()


def test_a_file_without_tensors(tmp_path: Path) -> None:
    source = write_raw(tmp_path / "a.safetensors", {})
    with pytest.raises(AdapterError, match=r"got no tensor at all; is this a FLUX\.1 adapter"):
        convert(source, tmp_path / "b.safetensors")


def test_converted_files_are_not_converted_again(good: Path, tmp_path: Path) -> None:
    convert(good, tmp_path / "b.safetensors")
    with pytest.raises(
        AdapterError, match="already converted; put it under ComfyUI's loras folder, or give it to --split"
    ):
        convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors")


def test_the_source_is_never_the_destination(good: Path, tmp_path: Path) -> None:
    before = good.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(good)
    for name in ("good.safetensors", "link.safetensors"):
        with pytest.raises(AdapterError, match="expected another name than the source"):
            convert(good, tmp_path / name, force=True)
    (tmp_path / "folder").mkdir()
    with pytest.raises(AdapterError, match="expected a file name, got a folder"):
        convert(good, tmp_path / "folder", force=True)
    assert good.read_bytes() == before


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"x" * 100)
    return buffer.getvalue()


def torch_saved(new: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(small(), buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


OTHER_KINDS: dict[str, tuple[bytes, str]] = {
    "a pickle": (pickle.dumps({"a": [1.0] * 50}), "a pickle of PyTorch"),
    "an old pickle": (pickle.dumps({"a": [1.0] * 50}, protocol=2), "a pickle of PyTorch"),
    "PyTorch's archive": (torch_saved(True), "a pickle of PyTorch"),
    "PyTorch's older file": (torch_saved(False), "a pickle of PyTorch"),
    "an archive": (zipped("readme.txt"), "a zip archive; unpack it"),
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 224194520\n",
        "a Git LFS pointer, which is only a link to the file; run git lfs pull",
    ),
    "a page": (b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>", "a web page"),
    "a page without a type": (b"\n  <HTML lang=en><body>Too many requests</body></HTML>", "a web page"),
    "an answer in XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML text"),
    "an answer in JSON": (b'{"error": "Repository not found, or you are not signed in"}', "a JSON text"),
    "an answer": (b"Invalid username or password.", "a text"),
    "another answer": (b"Entry not found", "a text"),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(100), "a GGUF file"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "a file of another kind"),
    "compressed": (b"\x1f\x8b\x08\x08\x12\x34\x56\x78" + bytes(100), "a compressed archive"),
}


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_files_of_other_kinds_are_called_what_they_are(name: str, tmp_path: Path) -> None:
    content, words = OTHER_KINDS[name]
    (tmp_path / "a.safetensors").write_bytes(content)
    for function in (open_adapter, inspect):
        with pytest.raises(
            AdapterError, match=f"a.safetensors: file: expected a safetensors file, got {words}"
        ) as caught:
            function(tmp_path / "a.safetensors")
        assert "damaged" not in str(caught.value)


def test_a_shard_is_called_one(tmp_path: Path) -> None:
    path = tiny.save(small(), tmp_path / "pytorch_lora_weights-00002-of-00003.safetensors")
    with pytest.raises(AdapterError, match="expected a whole adapter, got part 2 of 3; merge the parts into one file"):
        open_adapter(path)
    open_adapter(tiny.save(small(), tmp_path / "whole-00001-of-00001.safetensors"))


def test_long_headers_of_few_values_are_read(tmp_path: Path) -> None:
    """Trainers keep their captions in it: five million letters, half a million commas."""
    metadata = {"ss_tag_frequency": ", ".join(f'"tag {i}": {i}' for i in range(300_000)), "more": "x" * 2_000_000}
    source = tiny.save(small(), tmp_path / "a.safetensors", metadata)
    assert convert(source, tmp_path / "b.safetensors").moved > 0
    assert inspect(tmp_path / "b.safetensors")["format"] == "converted by omnix-convert"
