"""Scales: alpha tensors, PEFT configurations next to the file and in its header, and errors in them."""

import json
from pathlib import Path

import pytest
import torch
from adapter_files import small
from comfyui_omnix.converters import AdapterError, convert, open_adapter, split, verify
from comfyui_omnix.lab.host import tiny
from safetensors.torch import load_file
from torch import Tensor


def save(state: dict[str, Tensor], path: Path, **metadata: str) -> Path:
    return tiny.save(state, path, metadata)


CONFIGS = {
    "lora_alpha": ({"r": 4, "lora_alpha": 8}, 2.0, 2.0),
    "rank-stabilised": ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0, 4.0),
    "alpha_pattern": ({"lora_alpha": 4, "alpha_pattern": {"attn.to_q": 16}}, 4.0, 1.0),
    "alpha_pattern by full name": (
        {"lora_alpha": 2, "alpha_pattern": {"single_transformer_blocks.0.attn.to_q": 16}},
        4.0,
        0.5,
    ),
    "alpha_pattern by expression": ({"lora_alpha": 4, "alpha_pattern": {r".*\.to_[qx]": 2}}, 0.5, 1.0),
    "no alpha": ({"r": 4, "lora_alpha": None}, 1.0, 1.0),
}


@pytest.mark.parametrize("where", ["adapter_config.json", "lora_adapter_metadata", "prefixed"])
@pytest.mark.parametrize("name", CONFIGS)
def test_alphas_from_configurations(name: str, where: str, tmp_path: Path) -> None:
    config, scale_q, scale_k = CONFIGS[name]
    prefix = "transformer." if where == "prefixed" else ""
    text = json.dumps({f"{prefix}{key}": value for key, value in config.items()})
    beside = where == "adapter_config.json"
    source = save(
        small(), tmp_path / "adapter_model.safetensors", **({} if beside else {"lora_adapter_metadata": text})
    )
    if beside:
        (tmp_path / where).write_text(text)
    scales = {block.part: block.scale for fused in open_adapter(source).layers.values() for block in fused.blocks}
    assert scales["single_transformer_blocks.0.attn.to_q"] == scale_q
    assert scales["single_transformer_blocks.0.attn.to_k"] == scale_k
    convert(source, tmp_path / "out" / "b.safetensors")
    verify(source, tmp_path / "out" / "b.safetensors")
    report = split(tmp_path / "out" / "b.safetensors", tmp_path / "out" / "c.safetensors")
    again = open_adapter(tmp_path / "out" / "c.safetensors")
    assert {block.part: block.scale for fused in again.layers.values() for block in fused.blocks} == scales
    assert report.exact
    assert report.identical or (beside and set(scales.values()) != {1.0})
    tensors = load_file(tmp_path / "out" / "c.safetensors")
    assert all(torch.equal(tensors[key], tensor) for key, tensor in small().items())


def test_alpha_tensors_come_before_configurations(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 400}')
    source = save(small(alpha=2.0), tmp_path / "pytorch_lora_weights.safetensors", lora_adapter_metadata="{}")
    (tmp_path / "adapter_model.safetensors").touch()
    blocks = [block for fused in open_adapter(source).layers.values() for block in fused.blocks]
    assert {block.scale for block in blocks} == {0.5}


def test_a_configuration_is_not_for_every_file_beside_it(tmp_path: Path) -> None:
    """The meaning of a file must not depend on other files in its folder, not even on its own result."""
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 400, "r": 4, "target_modules": ["to_q"]}')
    first = save(small(), tmp_path / "one.safetensors")
    convert(first, tmp_path / "two.safetensors")
    assert {b.scale for f in open_adapter(first).layers.values() for b in f.blocks} == {1.0}
    verify(first, tmp_path / "two.safetensors")


def test_the_scale_is_folded_in_float32_and_rounded_once(tmp_path: Path) -> None:
    state = small(alpha=2.7)
    convert(save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    found = load_file(tmp_path / "b.safetensors")
    key = "transformer_blocks.1.attn.to_out.0"
    scale = float(state[f"transformer.{key}.alpha"]) / 4
    up = (state[f"transformer.{key}.lora_B.weight"].float() * scale).to(torch.bfloat16)
    assert torch.equal(found["diffusion_model.double_blocks.1.img_attn.proj.lora_B.weight"], up)
    down = state[f"transformer.{key}.lora_A.weight"]
    assert torch.equal(found["diffusion_model.double_blocks.1.img_attn.proj.lora_A.weight"], down)


KEY = "transformer.transformer_blocks.1.attn.to_k.lora_A.weight"
ALPHAS = {
    "two numbers": (torch.ones(2), r"expected one number as alpha, got F32 \[2\]"),
    "no number": (torch.ones(0), r"expected one number as alpha, got F32 \[0\]"),
    "a truth": (torch.tensor(True), r"expected one number as alpha, got BOOL \[\]"),
    "infinite": (torch.tensor(torch.inf), "expected a finite number as alpha, got inf"),
    "no number at all": (torch.tensor(torch.nan, dtype=torch.bfloat16), "expected a finite number as alpha, got nan"),
}


@pytest.mark.parametrize("name", ALPHAS)
def test_wrong_alphas(name: str, tmp_path: Path) -> None:
    alpha, words = ALPHAS[name]
    key = KEY.replace(".lora_A.weight", ".alpha")
    source = tiny.save({**small(), key: alpha}, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match=rf"a\.safetensors: {key}: {words}"):
        convert(source, tmp_path / "b.safetensors")


@pytest.mark.parametrize("alpha", [torch.tensor(8), torch.tensor(8, dtype=torch.int32), torch.full((1,), 8.0).half()])
def test_alphas_of_other_types_are_read(alpha: torch.Tensor, tmp_path: Path) -> None:
    key = KEY.replace(".lora_A.weight", ".alpha")
    plan = open_adapter(tiny.save({**small(), key: alpha}, tmp_path / "a.safetensors"))
    scales = {block.part: block.scale for fused in plan.layers.values() for block in fused.blocks}
    assert scales["transformer_blocks.1.attn.to_k"] == 2.0
    assert sum(scales.values()) == len(scales) + 1


WRONG_CONFIGS = {
    "[": "expected JSON",
    "[1]": "expected a JSON object, got list",
    '{"lora_alpha": "16"}': "expected a finite number as alpha, got '16'",
    '{"lora_alpha": true}': "expected a finite number as alpha, got True",
    '{"lora_alpha": NaN}': "expected a finite number as alpha, got nan",
    '{"alpha_pattern": [1]}': "expected layer names or short expressions in alpha_pattern",
    '{"alpha_pattern": {"x": "y"}}': "expected a finite number as alpha, got 'y'",
    '{"alpha_pattern": {"(a+)+$": 1}}': "expected layer names or short expressions in alpha_pattern",
    '{"alpha_pattern": {".*.*.*.*.*x": 1}}': "expected layer names or short expressions in alpha_pattern",
}


@pytest.mark.parametrize("text", WRONG_CONFIGS)
@pytest.mark.parametrize("where", ["adapter_config.json", "lora_adapter_metadata"])
def test_wrong_configurations(text: str, where: str, tmp_path: Path) -> None:
    inside = {} if where == "adapter_config.json" else {where: text}
    source = tiny.save(small(), tmp_path / "adapter_model.safetensors", inside)
    if not inside:
        (tmp_path / where).write_text(text)
    with pytest.raises(AdapterError, match=rf"model\.safetensors: {where}: {WRONG_CONFIGS[text]}"):
        convert(source, tmp_path / "b.safetensors")


def test_a_pattern_that_is_no_expression_is_a_plain_name(tmp_path: Path) -> None:
    config = json.dumps({"alpha_pattern": {"attn.to_q[": 8}, "lora_alpha": 4})
    source = tiny.save(small(), tmp_path / "a.safetensors", {"lora_adapter_metadata": config})
    assert {block.scale for fused in open_adapter(source).layers.values() for block in fused.blocks} == {1.0}
