"""Plain LoRAs with other names, shapes and extra tensors are converted; other adapters are recognised by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.lora
import pytest
import torch
from adapter_files import expected_deltas, fused_deltas
from comfyui_omnix.converters import (
    AdapterError,
    convert,
    convert_state_dict,
    inspect,
    open_adapter,
    split,
    split_state_dict,
    verify,
)
from comfyui_omnix.lab.host import tiny
from host_deltas import furthest, host_deltas, runtime_deltas
from host_flux import active, load, with_lora
from safetensors.torch import load_file
from test_dialects import KOHYA, PEFT, diffusers_pairs, drawn
from torch import Tensor

TINY = tiny.TINY
H = TINY.hidden
RANK, ALPHA = 2, 3.0


def whole_way(state: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Convert, verify, split: the very same file comes back."""
    source = tiny.save(state, folder / "a.safetensors")
    report = convert(source, folder / "b.safetensors")
    verify(source, folder / "b.safetensors")
    back = split(folder / "b.safetensors", folder / "c.safetensors")
    if report.exact:
        assert back.identical and (folder / "c.safetensors").read_bytes() == source.read_bytes()
    return load_file(folder / "b.safetensors")


# --- names ------------------------------------------------------------------------------------------------------------

OMI = {
    "attn.to_q": "img_attn.qkv.0",
    "attn.to_k": "img_attn.qkv.1",
    "attn.to_v": "img_attn.qkv.2",
    "attn.add_q_proj": "txt_attn.qkv.0",
    "attn.add_k_proj": "txt_attn.qkv.1",
    "attn.add_v_proj": "txt_attn.qkv.2",
    "attn.to_out.0": "img_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
OMI_SINGLE = {"attn.to_q": "linear1.0", "attn.to_k": "linear1.1", "attn.to_v": "linear1.2", "proj_mlp": "linear1.3"}
OMI_SINGLE |= {"proj_out": "linear2", "norm.linear": "modulation.lin"}


def omi(name: str) -> str | None:
    """Return OneTrainer's own name of a Diffusers layer."""
    for block, theirs, table in (
        ("single_transformer_blocks.", "single_blocks.", OMI_SINGLE),
        ("transformer_blocks.", "double_blocks.", OMI),
    ):
        if name.startswith(block):
            number, _, rest = name.removeprefix(block).partition(".")
            return f"{theirs}{number}.{table[rest]}" if rest in table else None
    return None


def processor(name: str) -> str | None:
    if ".attn." not in name:
        return None
    return name.replace(".attn.", ".attn.processor.").removesuffix(".0")


SPELLED: dict[str, tuple[Callable[[str], str | None], str, tuple[str, str]]] = {
    "OMI": (omi, "transformer.", KOHYA),
    "OMI, bare": (omi, "diffusion_model.", PEFT),
    "OMI, underscored": (lambda name: (found := omi(name)) and found.replace(".", "_"), "lora_unet_", KOHYA),
    "processors": (processor, "transformer.", ("_lora.down.weight", "_lora.up.weight")),
    "processors of a unet": (processor, "unet.", ("_lora.down.weight", "_lora.up.weight")),
}


@pytest.mark.parametrize("alpha", [True, False])
@pytest.mark.parametrize("name", SPELLED)
def test_other_names_fuse_exactly(name: str, alpha: bool, tmp_path: Path) -> None:
    spell, prefix, ends = SPELLED[name]
    pairs = {module: pair for module, pair in diffusers_pairs().items() if spell(module)}
    assert len(pairs) > 10
    state = {f"{prefix}{spell(m)}{end}": part for m, pair in pairs.items() for end, part in zip(ends, pair)}
    state |= {f"{prefix}{spell(module)}.alpha": torch.tensor(ALPHA) for module in pairs} if alpha else {}
    found = fused_deltas(whole_way(state, tmp_path))
    want = expected_deltas({m: (*pair, ALPHA / RANK if alpha else 1.0) for m, pair in pairs.items()}, TINY)
    assert set(found) == set(want)
    for layer, parts in want.items():
        for rows, delta in parts:
            assert torch.allclose(found[layer][rows], delta, rtol=1e-6, atol=1e-6), layer


FUSED = {
    "transformer_blocks.0.attn.to_qkv": ("double_blocks.0.img_attn.qkv", 0, 3, 3),
    "transformer_blocks.1.attn.to_added_qkv": ("double_blocks.1.txt_attn.qkv", 0, 3, 3),
    "single_transformer_blocks.0.attn.to_qkv": ("single_blocks.0.linear1", 0, 3, 7),
    "transformer_blocks.1.attn.to_kv": ("double_blocks.1.img_attn.qkv", 1, 3, 3),
}


@pytest.mark.parametrize("spelling", ["dotted", "underscored"])
def test_layers_that_diffusers_fused_itself(spelling: str, tmp_path: Path) -> None:
    state, want = {}, {}
    for seed, (name, (layer, first, last, height)) in enumerate(FUSED.items()):
        down, up = drawn((RANK, H), seed), drawn(((last - first) * H, RANK), seed + 9)
        key = f"lycoris_{name.replace('.', '_')}" if spelling == "underscored" else f"transformer.{name}"
        ends = KOHYA if spelling == "underscored" else PEFT
        state |= {key + ends[0]: down, key + ends[1]: up}
        want[layer] = torch.zeros(height * H, H, dtype=torch.float64)
        want[layer][first * H : last * H] = up.double() @ down.double()
    whole_way(state, tmp_path)
    assert furthest(host_deltas(tmp_path / "b.safetensors"), want) < 1e-6
    assert furthest(runtime_deltas(tmp_path / "b.safetensors"), want) < 1e-6
    q = "transformer.transformer_blocks.0.attn.to_q"
    twice = {f"{q}.lora_A.weight": drawn((RANK, H), 1), f"{q}.lora_B.weight": drawn((H, RANK), 2), **state}
    with pytest.raises(AdapterError, match="adapted once"):
        convert(tiny.save(twice, tmp_path / "d.safetensors"), tmp_path / "e.safetensors")


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ones", [(1, 1), (1,), (1, 1, 1)])
@pytest.mark.parametrize("alpha", [None, 3.0])
def test_convolutions_of_one_by_one(ones: tuple[int, ...], alpha: float | None, tmp_path: Path) -> None:
    flat = tiny.adapter(rank=RANK, alpha=alpha)
    state = {key: tensor.reshape(*tensor.shape, *ones) if tensor.ndim else tensor for key, tensor in flat.items()}
    fused = whole_way(state, tmp_path)
    same = convert_state_dict(flat).state
    assert set(fused) == set(same) and all(torch.equal(fused[key], tensor) for key, tensor in same.items())
    assert furthest(host_deltas(tmp_path / "b.safetensors"), fused_deltas(same)) < 1e-6
    runtime_deltas(tmp_path / "a.safetensors")
    converted, metadata, _ = convert_state_dict(state)
    back = split_state_dict(converted, metadata).state
    assert all(back[key].shape == state[key].shape for key in back if "lora" in key)


def test_a_convolution_of_three_by_three_is_none_of_flux(tmp_path: Path) -> None:
    key = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
    state = {**tiny.adapter(rank=RANK), key: torch.ones(RANK, H, 3, 3)}
    with pytest.raises(AdapterError, match=r"expected a floating point matrix, got F32 \[2, 256, 3, 3\]"):
        convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")


@pytest.mark.parametrize("which", ["AB", "A", "B"])
def test_transposed_factors_are_named(which: str, tmp_path: Path) -> None:
    state = {
        key: tensor.t().contiguous() if f"lora_{which[0]}" in key or f"lora_{which[-1]}" in key else tensor
        for key, tensor in tiny.adapter(rank=RANK).items()
    }
    with pytest.raises(AdapterError, match="as if transposed"):
        convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")


# --- norms and whole layers -------------------------------------------------------------------------------------------

NORM = "double_blocks.0.img_attn.norm.query_norm"
SINGLE_NORM = "single_blocks.1.norm.key_norm"
LAYER = "double_blocks.1.img_mlp.2"


def merged(lora: dict[str, Tensor]) -> dict[str, Tensor]:
    with active(with_lora(load(tiny.flux(TINY, seed=2)), lora)) as model:
        return {name: tensor.clone() for name, tensor in model.diffusion_model.state_dict().items()}


EXTRA: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]] = {
    "Train LoRA and Extract LoRA": (
        {f"diffusion_model.{name}.diff": drawn((128,), 3) for name in (NORM, SINGLE_NORM)}
        | {f"diffusion_model.{LAYER}.diff_b": drawn((H,), 4)},
        {f"{name}.weight": drawn((128,), 3) for name in (NORM, SINGLE_NORM)} | {f"{LAYER}.bias": drawn((H,), 4)},
    ),
    "whole layers": (
        {f"diffusion_model.{LAYER}.diff": drawn((H, 4 * H), 5)},
        {f"{LAYER}.weight": drawn((H, 4 * H), 5)},
    ),
    "LyCORIS": (
        {"lycoris_transformer_blocks_0_attn_norm_q.w_norm": drawn((128,), 6)},
        {f"{NORM}.weight": drawn((128,), 6)},
    ),
    "w_norm": ({f"diffusion_model.{NORM}.w_norm": drawn((128,), 7)}, {f"{NORM}.weight": drawn((128,), 7)}),
    "kohya's names": (
        {f"lora_unet_{SINGLE_NORM.replace('.', '_')}.diff": drawn((128,), 8)},
        {f"{SINGLE_NORM}.weight": drawn((128,), 8)},
    ),
    "Diffusers' names": (
        {"transformer.single_transformer_blocks.1.attn.norm_k.diff": drawn((128,), 9)},
        {f"{SINGLE_NORM}.weight": drawn((128,), 9)},
    ),
}


@pytest.mark.since("0.26.0")
@pytest.mark.parametrize("name", EXTRA)
def test_norms_and_whole_layers_act_as_in_the_host(name: str, tmp_path: Path) -> None:
    extra, changes = EXTRA[name]
    pair = tiny.adapter(rank=RANK, modules=["transformer_blocks.0.ff.net.2"])
    lora = whole_way({**pair, **extra}, tmp_path)
    alone = merged(whole_way(pair, tmp_path / "alone"))
    for weight, tensor in merged(lora).items():
        want = alone[weight] + changes[weight] if weight in changes else alone[weight]
        assert torch.allclose(tensor, want, atol=1e-6), weight


def test_whole_layers_alone(tmp_path: Path) -> None:
    """As Extract LoRA writes with full_diff: no pair at all."""
    extra = {**EXTRA["whole layers"][0], **EXTRA["Train LoRA and Extract LoRA"][0]}
    lora = whole_way(extra, tmp_path)
    assert set(lora) == set(extra) and all(torch.equal(lora[key], tensor) for key, tensor in extra.items())
    assert open_adapter(tmp_path / "b.safetensors").converted


# --- text encoders ----------------------------------------------------------------------------------------------------

T5 = "encoder.block.2.layer.0.SelfAttention.q"
CLIP = "text_model.encoder.layers.3.mlp.fc1"


def text(stem: str, seed: int = 0) -> dict[str, Tensor]:
    return {f"{stem}.lora_down.weight": drawn((2, 8), seed), f"{stem}.lora_up.weight": drawn((8, 2), seed + 1)}


@pytest.mark.parametrize(("clip", "t5"), [("clip_l.", "t5."), ("clip_l.transformer.", "t5xxl."), ("clip_l.", "t5xxl.")])
def test_text_encoders_of_other_names(clip: str, t5: str, tmp_path: Path) -> None:
    state = {**tiny.adapter(rank=RANK), **text(clip + CLIP), **text(t5 + T5, 4)}
    lora = whole_way(state, tmp_path)
    assert torch.equal(lora[f"text_encoders.clip_l.transformer.{CLIP}.lora_A.weight"], drawn((2, 8), 0))
    assert torch.equal(lora[f"text_encoders.t5xxl.transformer.{T5}.lora_B.weight"], drawn((8, 2), 5))


@pytest.mark.parametrize("stem", [f"t5.{T5}", f"text_encoder_2.{T5}", f"lora_te3_{T5.replace('.', '_')}"])
@pytest.mark.parametrize("with_clip", [True, False])
def test_text_encoders_alone(stem: str, with_clip: bool, tmp_path: Path) -> None:
    state = {**text(stem), **(text(f"text_encoder.{CLIP}", 2) if with_clip else {})}
    lora = whole_way(state, tmp_path)
    assert len(lora) == len(state) and all(key.startswith("text_encoders.") for key in lora)
    assert any("only text encoders" in note for note in inspect(tmp_path / "a.safetensors")["notes"])
    assert open_adapter(tmp_path / "b.safetensors").converted
    keys = {f"text_encoders.t5xxl.transformer.{T5}": "t5", f"text_encoders.clip_l.transformer.{CLIP}": "clip"}
    assert len(comfy.lora.load_lora(lora, keys, log_missing=False)) == len(state) // 2


def test_what_the_hosts_extract_lora_writes_of_a_text_encoder(tmp_path: Path) -> None:
    stem = "text_encoders.clip_l.transformer.text_model."
    extra = {f"{stem}encoder.layers.0.layer_norm1.diff": torch.ones(8), f"{stem}final_layer_norm.diff_b": torch.ones(8)}
    extra |= text(f"{stem}embeddings.token_embedding")
    lora = whole_way({**tiny.adapter(rank=RANK), **extra}, tmp_path)
    kept = {key for key in lora if key.startswith("text_encoders.")}
    assert kept == {key.replace("lora_down", "lora_A").replace("lora_up", "lora_B") for key in extra}


# --- called by their names --------------------------------------------------------------------------------------------

Q = "transformer_blocks.0.attn.to_q"
NAMED: dict[str, tuple[dict[str, Any], str]] = {
    "EasyControl": (
        {
            f"transformer_blocks.0.attn.processor.{part}_loras.0.{way}.weight": torch.ones(8, 8)
            for part in ("q", "k", "v", "proj")
            for way in ("down", "up")
        },
        "an EasyControl adapter",
    ),
    "XLabs' IP-adapter": (
        {
            "double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": torch.ones(8, 8),
            "double_blocks.0.processor.ip_adapter_double_stream_k_proj.bias": torch.ones(8),
            "ip_adapter_proj_model.proj.weight": torch.ones(8, 8),
        },
        "an IP-Adapter",
    ),
    "T-LoRA": (
        {
            f"lycoris_{Q.replace('.', '_')}.q_layer.weight": torch.ones(4, 8),
            f"lycoris_{Q.replace('.', '_')}.p_layer.weight": torch.ones(8, 4),
            f"lycoris_{Q.replace('.', '_')}.lambda_layer": torch.ones(1, 4),
            f"lycoris_{Q.replace('.', '_')}.alpha": torch.tensor(4.0),
        },
        "a T-LoRA adapter",
    ),
    "an unknown kind with alphas": (
        {f"transformer.{Q}.mystery_w1": torch.ones(8, 8), f"transformer.{Q}.alpha": torch.tensor(4.0)},
        "an adapter of another kind",
    ),
    "LoKr": (
        {f"lycoris_{Q.replace('.', '_')}.lokr_w1": torch.ones(4, 4)},
        "a LyCORIS LoKr adapter, which is not a LoRA",
    ),
    "LoKr beside pairs": (
        {**tiny.adapter(rank=RANK), "transformer.transformer_blocks.0.ff.net.2.lokr_w1": torch.ones(4, 4)},
        "a LyCORIS LoKr adapter next to LoRA pairs; some of its layers have LoRA pairs",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_adapters_of_other_kinds_are_called_by_their_names(name: str, tmp_path: Path) -> None:
    state, words = NAMED[name]
    with pytest.raises(AdapterError) as caught:
        convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors", allow_unused=True)
    assert words in str(caught.value) and "download the file again" not in str(caught.value)


def test_a_wider_img_in_works_bypassed_on_a_model_as_wide(tmp_path: Path) -> None:
    """FLUX.1 Fill has 384 columns itself: there the host bypasses the LoRA as it is."""
    state = {"transformer.x_embedder.lora_A.weight": drawn((2, 384), 1)}
    state |= {"transformer.x_embedder.lora_B.weight": drawn((H, 2), 2)}
    state |= tiny.adapter(rank=RANK, modules=["transformer_blocks.0.ff.net.2"])
    report = convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    (note,) = (note for note in report.notes if "img_in" in note)
    assert "384 columns" in note and "Fill" in note and "merged and bypassed" in note
