"""The sources of a pair's scale: alpha tensors, PEFT's configuration next to the file or in its header."""

import itertools
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


def with_config(tmp_path: Path, config: Any, name: str = "adapter_model.safetensors") -> Path:
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
    "F8_E4M3": b"\x44",
    "F8_E5M2": b"\x42",
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
            ("[" * 90_000, "expected JSON, got too many nested brackets"),
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


def test_sources_that_agree_or_speak_of_other_layers_are_read_together(tmp_path: Path) -> None:
    path = write(tmp_path / "adapter_model.safetensors", adapter() | {f"{TO_Q}.alpha": alpha(8)})
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    assert set(scales(path).values()) == {8 / RANK}
    (tmp_path / "adapter_config.json").write_text('{"alpha_pattern": {"to_k": 6}}')
    found = scales(path)
    assert (found.pop(TO_Q), found.pop("transformer_blocks.0.attn.to_k")) == (8 / RANK, 6 / RANK)


CLAIMS = {
    "its alpha tensor": {"tensors": {f"{TO_Q}.alpha": alpha(3)}},
    "lora_adapter_metadata": {"header": {"transformer.lora_alpha": 4}},
    "adapter_config.json": {"beside": {"lora_alpha": 6, "use_rslora": True}},
}


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(CLAIMS, 2)))
def test_two_that_disagree_are_both_named(one: str, other: str, tmp_path: Path) -> None:
    given = CLAIMS[one] | CLAIMS[other]
    header = {"lora_adapter_metadata": json.dumps(given["header"])} if "header" in given else None
    path = write(tmp_path / "adapter_model.safetensors", adapter() | given.get("tensors", {}), header)
    if "beside" in given:
        (tmp_path / "adapter_config.json").write_text(json.dumps(given["beside"]))
    with pytest.raises(
        AdapterError, match=rf"{TO_Q}: expected one scale, got .* from {one} and .* from {other}; remove"
    ):
        open_adapter(path)


OWN = {"r": RANK, "lora_alpha": 16, "target_modules": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]}
NEIGHBOURS: dict[str, tuple[str, str, dict[str, Any], float]] = {
    "PEFT's own name": ("adapter_model.safetensors", "transformer.", {"lora_alpha": 16}, 8.0),
    "another file's": ("style.safetensors", "transformer.", OWN, 1.0),
    "PEFT's names, layers and ranks": ("style.safetensors", "base_model.model.", OWN, 8.0),
    "other ranks": ("style.safetensors", "base_model.model.", OWN | {"r": 4}, 1.0),
    "other layers": ("style.safetensors", "base_model.model.", OWN | {"target_modules": ["to_q"]}, 1.0),
    "layers that it lacks": (
        "style.safetensors",
        "base_model.model.",
        OWN | {"target_modules": [*OWN["target_modules"], "proj_mlp"]},
        1.0,
    ),
    "nothing to tell by": ("style.safetensors", "base_model.model.", {"lora_alpha": 16}, 1.0),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_neighbour_counts_only_where_it_belongs(name: str, tmp_path: Path) -> None:
    file, prefix, config, scale = NEIGHBOURS[name]
    tensors = {key.replace("transformer.", prefix, 1): raw for key, raw in adapter().items()}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert set(scales(write(tmp_path / file, tensors)).values()) == {scale}


def test_a_neighbour_of_another_file_may_be_anything(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{ nonsense")
    assert set(scales(write(tmp_path / "style.safetensors", adapter())).values()) == {1.0}


PLAIN = [
    *({"init_lora_weights": value} for value in (True, False, "gaussian", "eva", "orthogonal")),
    *({"peft_type": "LORA"}, {"fan_in_fan_out": False}, {"lora_bias": False}, {"bias": "none"}, {"future": None}),
    {"task_type": None, "lora_dropout": 0.1, "base_model_name_or_path": "x", "megatron_core": "megatron.core"},
]
OTHER = [
    *(
        {"init_lora_weights": value}
        for value in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "new")
    ),
    *({"peft_type": value} for value in ("LOHA", "LOKR", "OFT", "VERA", "ADALORA", "IA3")),
    *({"fan_in_fan_out": True}, {"lora_bias": True}, {"bias": "all"}, {"bias": "lora_only"}, {"use_qalora": True}),
    *({"layer_replication": [[0, 4]]}, {"modules_to_save": ["proj_out"]}, {"trainable_token_indices": [1]}),
    *({"alora_invocation_tokens": [1]}, {"target_parameters": ["w"]}, {"something_new": "on"}),
]


@pytest.mark.parametrize("place", ["beside", "header"])
@pytest.mark.parametrize("config", PLAIN, ids=str)
def test_settings_of_plain_lora(config: dict[str, Any], place: str, tmp_path: Path) -> None:
    assert set(scales(place_config(place, tmp_path, {"lora_alpha": 4, **config})).values()) == {4 / RANK}


@pytest.mark.parametrize("place", ["beside", "header"])
@pytest.mark.parametrize("config", OTHER, ids=str)
def test_settings_with_which_the_factors_mean_something_else(
    config: dict[str, Any], place: str, tmp_path: Path
) -> None:
    (setting,) = config
    with pytest.raises(AdapterError, match=rf": {setting}: expected .*, got .*; \w+"):
        open_adapter(place_config(place, tmp_path, {"lora_alpha": 4, **config}))


@pytest.mark.parametrize("count", [19, 60, 500])
def test_many_choices_beside_each_other_are_quick(count: int, tmp_path: Path) -> None:
    pattern = "|".join(f"transformer_blocks.{i}.attn.to_q" for i in range(count))
    found = scales(place_config("beside", tmp_path, {"alpha_pattern": {pattern: 5}}))
    assert {module for module, scale in found.items() if scale == 5 / RANK} == {TO_Q}


def test_the_text_encoders_alpha_is_not_the_transformers(tmp_path: Path) -> None:
    text = json.dumps({"text_encoder.lora_alpha": 8, "transformer.lora_alpha": 3})
    path = write(tmp_path / "a.safetensors", adapter(), {"lora_adapter_metadata": text})
    assert set(scales(path).values()) == {3 / RANK}


def test_rank_zero_has_scale_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", adapter(rank=0) | {f"{TO_Q}.alpha": alpha(3)})
    assert set(scales(path).values()) == {1.0}
