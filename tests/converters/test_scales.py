"""Where the scale of a pair comes from: alpha tensors, PEFT's configuration beside the file or in its header."""

import json
import math
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from adapters import RANK, Raw, adapter, alpha, write
from comfyui_omnix.converters import AdapterError, open_adapter

QKV = "double_blocks.0.img_attn.qkv"
TO_Q = "transformer_blocks.0.attn.to_q"


def scales(path: Path) -> dict[str, float]:
    return {block.part: block.scale for fused in open_adapter(path).layers.values() for block in fused.blocks}


def with_config(tmp_path: Path, config: Any, name: str = "pytorch_lora_weights.safetensors") -> Path:
    path = write(tmp_path / name, adapter())
    (tmp_path / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def with_header(tmp_path: Path, config: Any) -> Path:
    text = config if isinstance(config, str) else json.dumps({f"transformer.{key}": config[key] for key in config})
    return write(tmp_path / "a.safetensors", adapter(), {"lora_adapter_metadata": text})


def test_nothing_said_is_scale_one(tmp_path: Path) -> None:
    assert set(scales(write(tmp_path / "a.safetensors", adapter())).values()) == {1.0}


NUMBERS = {
    "F64": struct.pack("<d", 3.0),
    "F32": struct.pack("<f", 3.0),
    "F16": struct.pack("<e", 3.0),
    "BF16": struct.pack("<f", 3.0)[2:],
    "I64": struct.pack("<q", 3),
}


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_alpha_tensors(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensors = adapter() | {f"transformer.{TO_Q}.alpha": Raw(dtype, shape, NUMBERS[dtype])}
    found = scales(write(tmp_path / "a.safetensors", tensors))
    assert found.pop(TO_Q) == 3.0 / RANK and set(found.values()) == {1.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_alpha_must_be_finite(value: float, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", adapter() | {f"{TO_Q}.alpha": alpha(value)})
    with pytest.raises(
        AdapterError, match=rf"{TO_Q}.alpha: expected a finite number as alpha, got -?(nan|inf); repair"
    ):
        open_adapter(path)


@pytest.mark.parametrize("raw", [Raw("F32", (2,), bytes(8)), Raw("F32", (0,), b""), Raw("BOOL", (), b"\1")])
def test_alpha_must_be_one_number(raw: Raw, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", adapter() | {f"{TO_Q}.alpha": raw})
    with pytest.raises(AdapterError, match=rf"{TO_Q}.alpha: expected one number as alpha, got {raw.dtype}"):
        open_adapter(path)


def place_config(place: str, tmp_path: Path, config: Any) -> Path:
    return with_config(tmp_path, config) if place == "beside" else with_header(tmp_path, config)


@pytest.mark.parametrize("place", ["beside", "header"])
class TestConfig:
    def test_alpha(self, place: str, tmp_path: Path) -> None:
        assert set(scales(place_config(place, tmp_path, {"lora_alpha": 5, "r": 99})).values()) == {5 / RANK}

    def test_rank_stabilised(self, place: str, tmp_path: Path) -> None:
        path = place_config(place, tmp_path, {"lora_alpha": 5, "use_rslora": True})
        assert set(scales(path).values()) == {5 / math.sqrt(RANK)}

    def test_patterns(self, place: str, tmp_path: Path) -> None:
        patterns = {TO_Q: 7, "ff.net.2": 8, r".*single_transformer_blocks\.\d+\.attn.to_v": 9, "to_(k|v)": 10}
        found = scales(place_config(place, tmp_path, {"lora_alpha": 2, "alpha_pattern": patterns}))
        assert found == {
            TO_Q: 7 / 2,
            "transformer_blocks.0.attn.to_k": 10 / 2,
            "transformer_blocks.0.attn.to_v": 10 / 2,
            "transformer_blocks.0.attn.to_out.0": 1.0,
            "transformer_blocks.0.ff.net.0.proj": 1.0,
            "transformer_blocks.0.ff.net.2": 8 / 2,
            "single_transformer_blocks.0.attn.to_q": 1.0,
            "single_transformer_blocks.0.attn.to_k": 10 / 2,
            "single_transformer_blocks.0.attn.to_v": 9 / 2,
        }

    @pytest.mark.parametrize(
        ("config", "sentence"),
        [
            ("{", "expected JSON, got "),
            ("[" * 90_000, "expected JSON, got brackets in brackets without end"),
            ("[1]", "expected a JSON object, got list"),
            ({"lora_alpha": "4"}, "expected a finite number as alpha, got '4'"),
            ({"lora_alpha": True}, "expected a finite number as alpha, got True"),
            ({"lora_alpha": math.inf}, "expected a finite number as alpha, got inf"),
            ({"lora_alpha": 10**400}, "expected JSON, got a number of 401 digits"),
            ({"alpha_pattern": 5}, "expected layer names or short expressions in alpha_pattern, got 5"),
            ({"alpha_pattern": ["a"]}, "expected layer names or short expressions in alpha_pattern, got ['a']"),
            ({"alpha_pattern": {"to_q": None}}, "expected a finite number as alpha, got None"),
            ({"alpha_pattern": {"to_q": []}}, "expected a finite number as alpha, got []"),
            (
                {"alpha_pattern": {"(a+)+": 1}},
                "expected layer names or short expressions in alpha_pattern, got ['(a+)+']",
            ),
            ({"use_dora": True}, "expected plain LoRA, got DoRA, which can't be fused into a LoRA; merge it"),
        ],
    )
    def test_wrong_configs_are_refused(self, place: str, tmp_path: Path, config: Any, sentence: str) -> None:
        path = place_config(place, tmp_path, config)
        name = "adapter_config.json" if place == "beside" else "lora_adapter_metadata"
        with pytest.raises(AdapterError) as caught:
            open_adapter(path)
        assert str(caught.value).startswith(f"{path}: {name}: {sentence}")

    @pytest.mark.parametrize(
        "patterns",
        [["(a|a)" * 20], ["(.?" * 20 + ")" * 20], [".*.*.*.*.*x"], [f".*.*a{i}" for i in range(500)], ["x" * 500]],
    )
    def test_patterns_that_take_ages_are_refused_at_once(self, place: str, tmp_path: Path, patterns: list[str]) -> None:
        path = place_config(place, tmp_path, {"alpha_pattern": dict.fromkeys(patterns, 1)})
        started = time.perf_counter()
        with pytest.raises(AdapterError, match="expected layer names or short expressions in alpha_pattern"):
            open_adapter(path)
        assert time.perf_counter() - started < 5

    def test_expressions_that_people_write_are_understood(self, place: str, tmp_path: Path) -> None:
        pattern = r".*single_transformer_blocks\.\d+\.attn\.(to_q|to_k)"
        found = scales(place_config(place, tmp_path, {"alpha_pattern": {pattern: 5}}))
        assert {module for module, scale in found.items() if scale == 5 / RANK} == {
            f"single_transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k")
        }

    @pytest.mark.parametrize("pattern", ["to_q[", "(", "to_q\\", "a{99999999999999999999}", "(" * 299])
    def test_patterns_that_are_no_expressions_match_nothing(self, place: str, tmp_path: Path, pattern: str) -> None:
        path = place_config(place, tmp_path, {"alpha_pattern": {pattern: 5}})
        assert set(scales(path).values()) == {1.0}


def test_the_alpha_tensor_comes_first(tmp_path: Path) -> None:
    path = write(tmp_path / "adapter_model.safetensors", adapter() | {f"{TO_Q}.alpha": alpha(3)})
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    found = scales(path)
    assert found.pop(TO_Q) == 3 / RANK and set(found.values()) == {8 / RANK}


def test_the_text_encoders_alpha_is_not_the_transformers(tmp_path: Path) -> None:
    text = json.dumps({"text_encoder.lora_alpha": 8, "transformer.lora_alpha": 3})
    path = write(tmp_path / "a.safetensors", adapter(), {"lora_adapter_metadata": text})
    assert set(scales(path).values()) == {3 / RANK}


def test_rank_zero_has_scale_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", adapter(rank=0) | {f"{TO_Q}.alpha": alpha(3)})
    assert set(scales(path).values()) == {1.0}
