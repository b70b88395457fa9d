"""Splitting is the exact inverse of conversion."""

import json
from pathlib import Path

import pytest
import torch
from adapters import adapter, read, write
from comfyui_omnix.converters import AdapterError, convert, convert_state_dict, split, split_state_dict
from comfyui_omnix.lab.host import tiny
from safetensors.torch import load_file

EVERY = list(tiny.linears())


def there_and_back(source: Path, **options: object) -> Path:
    folder = source.parent
    convert(source, folder / "converted.safetensors", **options)  # type: ignore[arg-type]
    split(folder / "converted.safetensors", folder / "back.safetensors")
    return folder / "back.safetensors"


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_any_bytes_come_back(dtype: str, tmp_path: Path) -> None:
    tensors = adapter(dtype=dtype)
    back = there_and_back(write(tmp_path / "a.safetensors", tensors, {"format": "pt", "mine": "ü"}))
    assert read(back) == ({"format": "pt", "mine": "ü"}, tensors)


@pytest.mark.parametrize("spelling", tiny.SPELLINGS)
def test_a_file_of_safetensors_comes_back_byte_for_byte(spelling: str, tmp_path: Path) -> None:
    source = tiny.save(tiny.adapter(spelling=spelling, modules=EVERY), tmp_path / "a.safetensors")
    assert there_and_back(source).read_bytes() == source.read_bytes()
    report = split(tmp_path / "converted.safetensors", tmp_path / "c.safetensors")
    assert (report.exact, report.identical) == (True, True)


@pytest.mark.parametrize("alpha", [8.0, 4.0, 16.0, 0.25])
def test_alphas_that_lose_nothing_come_back(alpha: float, tmp_path: Path) -> None:
    source = tiny.save(tiny.adapter(alpha=alpha, dtype=torch.bfloat16), tmp_path / "a.safetensors")
    assert there_and_back(source).read_bytes() == source.read_bytes()


def test_rounding_is_said_and_not_hidden(tmp_path: Path) -> None:
    state = tiny.adapter(alpha=3.0, dtype=torch.bfloat16)
    source = tiny.save(state, tmp_path / "a.safetensors")
    back = there_and_back(source)
    assert convert(source, tmp_path / "again.safetensors").exact is False
    report = split(tmp_path / "converted.safetensors", tmp_path / "c.safetensors")
    assert report.exact is False and not report.identical
    result = load_file(back)
    for name, tensor in state.items():
        if name.endswith("lora_A.weight"):
            assert torch.equal(result[name], tensor)
        elif name.endswith("lora_B.weight"):
            assert torch.equal(result[name], (tensor.float() * (3.0 / 8)).bfloat16())
        else:
            assert name not in result  # the alpha is in lora_B for good


def test_converting_the_split_file_gives_the_same_numbers(tmp_path: Path) -> None:
    source = tiny.save(tiny.adapter(alpha=3.0, dtype=torch.bfloat16), tmp_path / "a.safetensors")
    convert(there_and_back(source), tmp_path / "again.safetensors")
    assert read(tmp_path / "again.safetensors")[1] == read(tmp_path / "converted.safetensors")[1]


def test_state_dicts_come_back() -> None:
    state = tiny.adapter(alpha=4.0, modules=EVERY)
    fused, metadata, _ = convert_state_dict(state)
    back = split_state_dict(fused, metadata).state
    assert set(back) == set(state) and all(torch.equal(back[name], state[name]) for name in state)


def test_an_original_can_not_be_split(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter())
    with pytest.raises(AdapterError) as caught:
        split(source, tmp_path / "b.safetensors")
    assert str(caught.value) == (
        f"{source}: omnix_blocks: expected a converted file, got none in its metadata; give an original to convert."
    )


def tampered(tmp_path: Path, key: str, text: str) -> Path:
    convert(write(tmp_path / "a.safetensors", adapter()), tmp_path / "b.safetensors")
    metadata, tensors = read(tmp_path / "b.safetensors")
    return write(tmp_path / "c.safetensors", tensors, metadata | {key: text})


def blocks(*rows: object) -> str:
    return json.dumps({"double_blocks.0.img_attn.qkv": rows})


Q, K, V = (f"transformer_blocks.0.attn.to_{name}" for name in "qkv")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "5",
        '{"double_blocks.0.img_attn.qkv": 5}',
        blocks([Q, 0, 16]),
        blocks([Q, 0, 16, "2"]),
        blocks([Q, 0, 16, 2.0], [K, 16, 16, 2], [V, 32, 16, 2]),
        blocks([Q, 0, 16, -2], [K, 16, 16, 2], [V, 32, 16, 6]),
        blocks([Q, 0, 16, 2], [K, 16, 16, 2], [V, 32, 17, 2]),
        blocks([Q, 0, 16, 2], [K, 15, 16, 2], [V, 32, 16, 2]),
        blocks([Q, 0, 16, 2], [K, 16, 16, 2], [V, 32, 16, 3]),
        blocks(["../../etc", 0, 16, 2], [K, 16, 16, 2], [V, 32, 16, 2]),
        blocks(["proj_out", 0, 48, 6]),
        blocks([Q, 10**30, 16, 2]),
    ],
)
def test_blocks_in_metadata_are_not_trusted(text: str, tmp_path: Path) -> None:
    path = tampered(tmp_path, "omnix_blocks", text)
    with pytest.raises(AdapterError) as caught:
        split(path, tmp_path / "d.safetensors")
    assert str(caught.value).startswith(f"{path}: ") and "; convert the original again." in str(caught.value)
    assert not (tmp_path / "d.safetensors").exists()


def test_a_part_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    convert(write(tmp_path / "a.safetensors", adapter()), tmp_path / "b.safetensors")
    text = read(tmp_path / "b.safetensors")[0]["omnix_blocks"]
    path = tampered(tmp_path / "t", "omnix_blocks", text.replace(f"{K}", f"{Q}"))
    with pytest.raises(AdapterError, match="expected every original tensor once, got one twice"):
        split(path, tmp_path / "d.safetensors")


GOOD = {"names": {"*": ["{}.lora_A.weight", "{}.lora_B.weight"]}, "dtypes": {"*": ["BF16", "BF16"]}}
GOOD |= {"scales": {"*": 1.0}, "alphas": {"*": None}}


def test_the_record_of_these_tests_is_right(tmp_path: Path) -> None:
    path = tampered(tmp_path, "omnix_source", json.dumps(GOOD))
    split(path, tmp_path / "d.safetensors")
    assert f"{Q}.lora_A.weight" in read(tmp_path / "d.safetensors")[1]


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ("names", ["__metadata__", "{}.lora_B.weight"]),
        ("names", ["{}.lora_B.weight", "{}.lora_A.weight"]),
        ("names", ["x_embedder.lora_A.weight", "{}.lora_B.weight"]),
        ("names", ["{}.lora_A.weight"]),
        ("names", 5),
        ("names", [5, 6]),
        ("dtypes", ["BF16"]),
        ("dtypes", ["BF16", "I64"]),
        ("dtypes", [[], []]),
        ("scales", 0),
        ("scales", "x"),
        ("scales", None),
        ("scales", 1e999),
        ("alphas", 5),
        ("alphas", ["{}.alpha", "F32", [], "00"]),
        ("alphas", ["{}.alpha", "F32", [1.0], "00000000"]),
        ("alphas", ["{}.alpha", "F32", [2], "00000000"]),
        ("alphas", ["{}.alpha", "F99", [], "00000000"]),
        ("alphas", ["__metadata__", "F32", [], "00000000"]),
    ],
)
def test_the_record_in_metadata_is_not_trusted(table: str, value: object, tmp_path: Path) -> None:
    path = tampered(tmp_path, "omnix_source", json.dumps(GOOD | {table: {"*": value}}))
    with pytest.raises(AdapterError) as caught:
        split(path, tmp_path / "d.safetensors")
    assert str(caught.value).startswith(f"{path}: omnix_source: expected the source's names, dtypes and alphas, got ")
    assert not (tmp_path / "d.safetensors").exists()
