"""FLUX.1 control LoRAs convert whole: wider layers, biases and norms, by the host's own loader and by Diffusers'."""

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_omnix.converters import AdapterError, convert, convert_state_dict, split, verify
from comfyui_omnix.lab.host import tiny
from host_flux import active, load, with_lora
from safetensors.torch import load_file
from test_dialects import PEFT, comfy_pairs, dotted, drawn, spelled
from torch import Tensor

H = tiny.TINY.hidden
STATE = tiny.flux(tiny.TINY, seed=2)
WIDE = 128


def bfl_control() -> dict[str, Tensor]:
    """Draw a control LoRA as BFL publishes it: bare names, a bias to every up factor, a scale to every norm."""
    pairs = comfy_pairs() | {"img_in": (drawn((2, WIDE), 90), drawn((H, 2), 91))}
    pairs["final_layer.linear"] = (drawn((2, H), 92), drawn((64, 2), 93))
    state = spelled(pairs, dotted(""), *PEFT, alpha=False)
    state |= {f"{name}.lora_B.bias": drawn((up.shape[0],), 94 + i) for i, (name, (_, up)) in enumerate(pairs.items())}
    for i in range(2):
        for norm in ("img_attn.norm", "txt_attn.norm"):
            state |= {
                f"double_blocks.{i}.{norm}.{end}.scale": drawn((128,), 5 + i) for end in ("query_norm", "key_norm")
            }
        state |= {f"single_blocks.{i}.norm.{end}.scale": drawn((128,), 7 + i) for end in ("query_norm", "key_norm")}
    return state


def merged(lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that the host's merging loader makes."""
    with active(with_lora(load(STATE), lora)) as model:
        return {name: tensor.clone() for name, tensor in model.diffusion_model.state_dict().items()}


@pytest.mark.since("0.26.0")
def test_bfls_control_lora_merges_as_the_host_merges_it_unconverted(tmp_path: Path) -> None:
    state = bfl_control()
    source = tiny.save(state, tmp_path / "a.safetensors")
    report = convert(source, tmp_path / "b.safetensors")
    assert any("128 columns" in note for note in report.notes) and report.unused == ()
    found = verify(source, tmp_path / "b.safetensors")
    assert all(layer.exact for layer in found) and len(found) == len(report.layers) + len(report.kept)
    lora = load_file(tmp_path / "b.safetensors")
    assert lora["diffusion_model.img_in.reshape_weight"].tolist() == [H, WIDE]
    ours, host = merged(lora), merged(dict(state))
    assert set(ours) == set(host) and ours["img_in.weight"].shape == (H, WIDE)
    assert all(torch.equal(ours[name], tensor) for name, tensor in host.items())
    split(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert (tmp_path / "c.safetensors").read_bytes() == source.read_bytes()


def diffusers_control(scale: float) -> dict[str, Tensor]:
    names = ["attn.to_q", "attn.to_v", "norm1.linear", "ff.net.2"]
    state = tiny.adapter(tiny.TINY, 4, rank=2, modules=[f"transformer_blocks.0.{name}" for name in names])
    state |= tiny.adapter(tiny.TINY, 5, rank=2, modules=["norm_out.linear"])
    ups = [key for key in state if key.endswith(".lora_B.weight")]
    state |= {key.replace(".weight", ".bias"): drawn((state[key].shape[0],), 30 + i) for i, key in enumerate(ups)}
    state |= {key.replace(".lora_B.weight", ".alpha"): torch.tensor(2 * scale) for key in ups if scale != 1.0}
    state |= {"transformer.x_embedder.lora_A.weight": drawn((2, WIDE), 1)}
    state |= {"transformer.x_embedder.lora_B.weight": drawn((H, 2), 2)}
    state |= {"transformer.transformer_blocks.0.attn.norm_q.weight": drawn((128,), 3)}
    return state | {"transformer.single_transformer_blocks.1.attn.norm_k.weight": drawn((128,), 4)}


@pytest.mark.parametrize("scale", [1.0, 0.75])
def test_diffusers_control_lora(scale: float, tmp_path: Path) -> None:
    state = diffusers_control(scale)
    source = tiny.save(state, tmp_path / "a.safetensors")
    convert(source, tmp_path / "b.safetensors")
    verify(source, tmp_path / "b.safetensors")
    lora = load_file(tmp_path / "b.safetensors")
    bias = lora["diffusion_model.double_blocks.0.img_attn.qkv.diff_b"]
    q, v = (scale * state[f"transformer.transformer_blocks.0.attn.to_{name}.lora_B.bias"] for name in "qv")
    assert torch.allclose(bias, torch.cat([q, torch.zeros(H), v]))
    shift = scale * state["transformer.norm_out.linear.lora_B.bias"]
    got = lora["diffusion_model.final_layer.adaLN_modulation.1.diff_b"]
    assert torch.allclose(got, torch.cat([shift[H:], shift[:H]]))
    norm = state["transformer.transformer_blocks.0.attn.norm_q.weight"]
    assert torch.equal(lora["diffusion_model.double_blocks.0.img_attn.norm.query_norm.set_weight"], norm)
    after, before = merged(lora), load(STATE).model.diffusion_model.state_dict()
    assert torch.allclose(
        after["double_blocks.0.img_attn.qkv.bias"] - before["double_blocks.0.img_attn.qkv.bias"], bias, atol=1e-6
    )
    assert torch.equal(after["double_blocks.0.img_attn.norm.query_norm.weight"], norm)
    assert after["img_in.weight"].shape == (H, WIDE)
    report = split(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    back = load_file(tmp_path / "c.safetensors")
    if report.exact:
        assert set(back) == set(state) and all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_state_dicts_keep_the_same(tmp_path: Path) -> None:
    state = diffusers_control(1.0)
    convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    lora, found = load_file(tmp_path / "b.safetensors"), convert_state_dict(state).state
    assert set(found) == set(lora) and all(torch.equal(found[key], tensor) for key, tensor in lora.items())


@pytest.mark.parametrize("change", ["bias", "norm", "shape", "stray"])
def test_any_change_of_what_is_kept_is_found(change: str, tmp_path: Path) -> None:
    source = tiny.save(diffusers_control(1.0), tmp_path / "a.safetensors")
    convert(source, tmp_path / "b.safetensors")
    lora = load_file(tmp_path / "b.safetensors")
    key = {
        "bias": "diffusion_model.double_blocks.0.img_attn.qkv.diff_b",
        "norm": "diffusion_model.double_blocks.0.img_attn.norm.query_norm.set_weight",
        "shape": "diffusion_model.img_in.reshape_weight",
        "stray": "diffusion_model.double_blocks.0.img_attn.qkv.diff_b",
    }[change]
    lora[key][H + 3 if change == "stray" else 0] += 1
    (length,) = struct.unpack("<Q", (tmp_path / "b.safetensors").read_bytes()[:8])
    metadata = _metadata((tmp_path / "b.safetensors").read_bytes()[8 : 8 + length])
    tiny.save(lora, tmp_path / "d.safetensors", metadata)
    with pytest.raises(AdapterError, match=f"{key.removeprefix('diffusion_model.')}"):
        verify(source, tmp_path / "d.safetensors")


def _metadata(header: bytes) -> Any:
    import json

    return json.loads(header)["__metadata__"]


def test_a_bias_that_fits_no_layer_is_refused(tmp_path: Path) -> None:
    state = diffusers_control(1.0) | {"transformer.transformer_blocks.0.attn.to_k.lora_B.bias": torch.ones(H)}
    with pytest.raises(AdapterError, match=r"to_k\.lora_B\.bias: expected the factors of this layer too"):
        convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
