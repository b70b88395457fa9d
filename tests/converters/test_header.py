"""The reader of headers: wrong headers are refused with one sentence, right ones are read as safetensors reads them."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import adapter, fields_of, read, write, write_raw
from comfyui_omnix.converters import AdapterError, open_adapter
from comfyui_omnix.converters.files.header import Entry, header_bytes, in_canonical_order, read_header
from comfyui_omnix.converters.files.strict_json import parsed
from safetensors.torch import save_file

KEY = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
DATA = b"".join(tensor.data for tensor in adapter().values())
DAMAGED = "; the file is damaged, so download it again."


def changed(**fields: Any) -> bytes:
    """Return a good header whose first tensor has other fields; None takes one away."""
    good = fields_of(adapter())
    good[KEY] = {name: value for name, value in {**good[KEY], **fields}.items() if value is not None}
    return json.dumps(good).encode()


SIZE = len(DATA)
SHAPE = "expected whole numbers as shape and offsets, got "
WRONG: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{" * 9, "header: expected JSON, got something else"),
    "no UTF-8": (b'{"\xff": 1}', "header: expected JSON, got something else"),
    "half of it": (changed()[:100], "header: expected JSON, got something else"),
    "a list": (b"[]", "header: expected a JSON object, got list"),
    "a number": (b"1", "header: expected a JSON object, got int"),
    "deep": (b"[" * 100_000, "header: expected JSON, got something else (too many nested brackets)"),
    "deep objects": (b'{"a":' * 50_000, "header: expected JSON, got something else (too many nested brackets)"),
    "many": (b"[" + b"[]," * 400_000 + b"1]", "header: expected JSON, got something else (800001 values, more than"),
    "endless number": (b'{"a":' + b"9" * 100_000 + b"}", "something else (a number of 100000 digits)"),
    "a name twice": (b'{"a":1,"a":2}', "header: expected JSON, got something else (a name that occurs twice)"),
    "metadata": (b'{"__metadata__": {"a": 1}}', "__metadata__: expected strings by name, got something else"),
    "metadata list": (b'{"__metadata__": [1]}', "__metadata__: expected strings by name, got something else"),
    "no field": (b'{"a": 5}', "a: expected dtype, shape and data_offsets, got something else"),
    "a string": (b'{"a": "dtype"}', "a: expected dtype, shape and data_offsets, got something else"),
    "no dtype": (changed(dtype=None), f"{KEY}: expected dtype, shape and data_offsets, got something else"),
    "no shape": (changed(shape=None), f"{KEY}: expected dtype, shape and data_offsets, got something else"),
    "no offsets": (changed(data_offsets=None), f"{KEY}: expected dtype, shape and data_offsets, got"),
    "three offsets": (changed(data_offsets=[0, 1, 2]), f"{KEY}: expected dtype, shape and data_offsets, got"),
    "shape of text": (changed(shape="22"), f"{KEY}: {SHAPE}('2', '2')"),
    "shape of half": (changed(shape=[2.0, 16]), f"{KEY}: {SHAPE}(2.0, 16)"),
    "shape of truth": (changed(shape=[True, 16]), f"{KEY}: {SHAPE}(True, 16)"),
    "negative": (changed(shape=[-2, -16]), f"{KEY}: {SHAPE}(-2, -16)"),
    "huge": (changed(shape=[1 << 63, 0], data_offsets=[0, 0]), f"{KEY}: {SHAPE}(9223372036854775808, 0)"),
    "not a number": (changed(data_offsets=[0, float("nan")]), f"{KEY}: {SHAPE}(2, 16) at 0, nan"),
    "many axes": (changed(shape=[1] * 100), f"{KEY}: {SHAPE}"),
    "too few bytes": (changed(shape=[2, 17]), f"{KEY}: expected 68 bytes for (2, 17), got 64"),
    "backwards": (changed(data_offsets=[64, 0]), f"{KEY}: expected 64 bytes for (2, 16), got -64"),
    "overlap": (changed(data_offsets=[32, 96]), "expected data from byte 96 on, got byte 64, inside another tensor"),
}


@pytest.mark.parametrize("name", WRONG)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    header, sentence = WRONG[name]
    path = write_raw(tmp_path / "a.safetensors", header, DATA)
    with pytest.raises(AdapterError) as caught:
        open_adapter(path)
    assert str(caught.value).startswith(f"{path}: ") and sentence in str(caught.value)
    assert str(caught.value).endswith(DAMAGED) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["F4", "BF17", "", [], None, {"a": 1}, 3])
def test_unknown_dtypes_are_named(dtype: Any, tmp_path: Path) -> None:
    header = changed(dtype=dtype) if dtype is not None else changed(dtype="null")
    path = write_raw(tmp_path / "a.safetensors", header, DATA)
    with pytest.raises(AdapterError) as caught:
        open_adapter(path)
    want = f"{path}: {KEY}: expected a dtype of F64, F32, F16, BF16, F8_E4M3, F8_E5M2, got "
    assert str(caught.value).startswith(want) and str(caught.value).endswith("in bfloat16, float16 or float32.")


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 500])
def test_short_files_are_refused(cut: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", adapter())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(AdapterError, match=r"header: expected .* got .*; the file is damaged, so download it again\."):
        open_adapter(path)


def test_cut_data_is_named_by_its_tensor(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", adapter())
    path.write_bytes(path.read_bytes()[:-1])
    last = list(adapter())[-1]
    with pytest.raises(AdapterError) as caught:
        open_adapter(path)
    assert str(caught.value) == (
        f"{path}: {last}: expected data up to byte {SIZE}, got a file with {SIZE - 1}; "
        "the file is cut off, so download it again."
    )


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 100_000_001, 20_000])
def test_a_header_longer_than_the_file_or_the_limit(length: int, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.safetensors", b"{}", length=length)
    if length == 100_000_001:
        os.truncate(path, 5_000_000)
    with pytest.raises(AdapterError, match=f"header: expected at most .* got a length of {length};"):
        open_adapter(path)


def test_pipes_and_folders_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    results: list[BaseException] = []

    def run() -> None:
        try:
            open_adapter(tmp_path / "pipe.safetensors")
        except AdapterError as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert len(results) == 1 and "expected an ordinary file, got a pipe or device" in str(results[0])
    with pytest.raises(IsADirectoryError):
        open_adapter(tmp_path)


def test_sentences_stay_short_and_obey_no_terminal(tmp_path: Path) -> None:
    name = "\x1b[2J\u202e" + "x" * 100_000
    path = write_raw(tmp_path / "a.safetensors", json.dumps({name: 5}).encode())
    with pytest.raises(AdapterError) as caught:
        open_adapter(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 2000 and "\\x1b" in str(caught.value)


def test_nesting_short_of_the_limit_is_parsed() -> None:
    assert parsed('{"a": [1, [2.5, "x"]]}') == {"a": [1, [2.5, "x"]]}
    assert parsed(b"-3") == -3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_reads_what_safetensors_writes(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {
        "b.weight": torch.randn(3, 5).to(dtype),
        "a": torch.zeros(0, 4, dtype=dtype),
        "ü": torch.ones(()).to(dtype),
    }
    save_file(state, tmp_path / "a.safetensors", {"format": "pt", "größe": "1"})
    header = read_header(tmp_path / "a.safetensors")
    assert header.metadata == {"format": "pt", "größe": "1"}
    assert {name: entry.shape for name, entry in header.entries.items()} == {
        name: tuple(tensor.shape) for name, tensor in state.items()
    }
    content = (tmp_path / "a.safetensors").read_bytes()
    for name, entry in header.entries.items():
        want = state[name].flatten().view(torch.uint8).numpy().tobytes() if state[name].numel() else b""
        assert content[entry.offset : entry.offset + len(want)] == want


def test_writes_the_bytes_that_safetensors_writes(tmp_path: Path) -> None:
    state = {
        "b": torch.ones(3, 5).half(),
        "a": torch.ones(2, 2),
        "ü": torch.ones(7).bfloat16(),
        "c": torch.ones(1).half(),
    }
    save_file(state, tmp_path / "a.safetensors", {"format": "pt"})
    kinds = {torch.float16: "F16", torch.float32: "F32", torch.bfloat16: "BF16"}
    entries = {name: Entry(kinds[tensor.dtype], tuple(tensor.shape)) for name, tensor in state.items()}
    head, _, size = header_bytes({"format": "pt"}, {name: entries[name] for name in in_canonical_order(entries)})
    content = (tmp_path / "a.safetensors").read_bytes()
    assert content.startswith(head) and size == len(content)


def test_our_own_maker_of_files_is_right(tmp_path: Path) -> None:
    tensors = adapter()
    assert read(write(tmp_path / "a.safetensors", tensors, {"a": "b"})) == ({"a": "b"}, tensors)
    save_file({"x": torch.arange(6.0)}, tmp_path / "b.safetensors")
    assert read(tmp_path / "b.safetensors")[1]["x"].data == torch.arange(6.0).numpy().tobytes()
