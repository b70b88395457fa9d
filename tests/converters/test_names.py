"""Spellings of tensors, pairs, formats that are not converted, and the tasks that follow from a file's place."""

from pathlib import Path

import pytest
from comfyui_omnix.converters import AdapterError, find_adapters, slot_of_name
from comfyui_omnix.converters.lora.dialects import parse
from comfyui_omnix.converters.lora.formats import foreign_format
from comfyui_omnix.converters.lora.names import fused_keys, original_keys, pair_up
from comfyui_omnix.converters.tasks import is_plain, slot_of
from comfyui_omnix.omnix.runtime.tasks import STREAMS

LAYER = "transformer_blocks.0.attn.to_q"
PREFIXES = ("", "transformer.", "base_model.model.", "base_model.model.transformer.", "diffusion_model.")
DOWNS = (
    ".lora_A.weight",
    ".lora_A.default.weight",
    ".lora_A.my-adapter_1.weight",
    ".lora_A",
    ".lora_down.weight",
    ".lora.down.weight",
    ".lora_linear_layer.down.weight",
)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", DOWNS)
def test_spellings_of_factors(prefix: str, suffix: str) -> None:
    up = suffix.replace("lora_A", "lora_B").replace("down", "up")
    assert parse(f"{prefix}{LAYER}{suffix}") == (LAYER, "down")
    assert parse(f"{prefix}{LAYER}{up}") == (LAYER, "up")
    assert parse(f"{prefix}{LAYER}.alpha") == (LAYER, "alpha")


@pytest.mark.parametrize("suffix", [".lora_magnitude_vector", ".lora_magnitude_vector.default.weight", ".dora_scale"])
def test_dora_is_seen(suffix: str) -> None:
    assert parse(LAYER + suffix) == (LAYER, "dora")


@pytest.mark.parametrize(
    "key", ["", "alpha", ".alpha", "lora_A.weight", f"{LAYER}.weight", f"{LAYER}.lora_B.bias", f"{LAYER}.lora_C.weight"]
)
def test_other_tensors_are_no_factors(key: str) -> None:
    assert parse(key) is None


def test_our_own_names_are_read_back() -> None:
    assert [parse(key) for key in original_keys(LAYER)] == [(LAYER, "down"), (LAYER, "up")]
    fused = "double_blocks.0.img_attn.qkv"
    assert [parse(key) for key in fused_keys(fused)] == [(fused, "down"), (fused, "up")]


def test_every_key_is_accounted_for_once() -> None:
    keys = dict.fromkeys([f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight", f"{LAYER}.alpha", "bias", "x.alpha"])
    pairs = pair_up("f", {key: parse(key) for key in keys})
    assert pairs.factors == {LAYER: (f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight")}
    assert pairs.alphas == {LAYER: f"{LAYER}.alpha"} and set(pairs.others) == {"bias", "x.alpha"}


def test_two_spellings_of_one_alpha_are_refused() -> None:
    keys = [*original_keys(LAYER), f"transformer.{LAYER}.alpha", f"{LAYER}.alpha"]
    with pytest.raises(AdapterError, match="expected one alpha per layer"):
        pair_up("f", {key: parse(key) for key in keys})


FOREIGN = {
    "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj.lora_A.weight": "a FLUX.2 LoRA",
    "transformer_blocks.3.img_mlp.net.0.proj.lora_A.weight": "a Qwen-Image LoRA",
    "diffusion_model.blocks.0.self_attn.q.lora_A.weight": "a Wan LoRA",
    "transformer.blocks.0.attn1.to_q.lora_A.weight": "a Wan LoRA",
    "lora_unet_blocks_0_cross_attn_k.lora_down.weight": "a Wan LoRA",
    "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": "an SDXL LoRA",
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": "a Stable Diffusion LoRA",
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": "a Stable Diffusion LoRA",
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight": "a Stable Diffusion LoRA",
    "transformer.transformer_blocks.0.attn2.to_q.lora_A.weight": "a Stable Diffusion 3 LoRA",
    "transformer.single_transformer_blocks.0.attn.to_out.lora_A.weight": "a FLUX.2 LoRA",
    "base_model.model.down_blocks.0.attentions.0.proj_in.lora_A.weight": "a Stable Diffusion LoRA",
    "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_A.weight": "a Stable Diffusion LoRA",
    "diffusion_model.input_blocks.4.1.transformer_blocks.5.attn1.to_q.lora_A.weight": "an SDXL LoRA",
    "lycoris_transformer_blocks_0_attn_to_q.lokr_w1": "a LyCORIS LoKr adapter, which is not a LoRA",
    "lora_unet_double_blocks_0_img_attn_qkv.lokr_w2_a": "a LyCORIS LoKr adapter, which is not a LoRA",
    "transformer.transformer_blocks.0.attn.to_q.hada_w1_a": "a LyCORIS LoHa adapter, which is not a LoRA",
    "lycoris_transformer_blocks_0_attn_to_q.oft_blocks": "an OFT adapter, which is not a LoRA",
    "base_model.model.transformer_blocks.0.attn.to_q.oft_R.weight": "an OFT adapter, which is not a LoRA",
    "transformer.joint_transformer_blocks.0.attn.to_q.lora_A.weight": "an AuraFlow LoRA",
    "lora_unet_distilled_guidance_layer_in_proj.lora_down.weight": "a Chroma LoRA",
    "transformer.double_blocks.0.img_attn_qkv.lora_A.weight": "a HunyuanVideo LoRA",
    "lora_unet_double_blocks_0_img_mlp_fc1.lora_down.weight": "a HunyuanVideo LoRA",
    "lora_unet_transformer_blocks_0_img_mod_1.lora_down.weight": "a Qwen-Image LoRA",
    "transformer.context_embedder.token_refiner.refiner_blocks.0.attn.to_q.lora_A.weight": "a HunyuanVideo LoRA",
}


@pytest.mark.parametrize("key", FOREIGN)
def test_foreign_formats_are_named(key: str) -> None:
    found = foreign_format([key], has_flux_layers=False)
    assert found is not None and found.name == FOREIGN[key]


@pytest.mark.parametrize(
    ("file", "slot"),
    [
        ("rgb_to_depth/depth/pytorch_lora_weights.safetensors", ("rgb_to_depth", "depth")),
        ("rgb_to_depth/depth/adapter_model.safetensors", ("rgb_to_depth", "depth")),
        ("rgb_to_depth/depth.safetensors", ("rgb_to_depth", "depth")),
        ("rgb_to_depth_depth.safetensors", ("rgb_to_depth", "depth")),
        ("deep/er/rgb_camray_to_normal_camray.safetensors", ("rgb_camray_to_normal", "camray")),
        ("image_to_pano_masked_rgb.safetensors", ("image_to_pano", "masked_rgb")),
        ("mine/stream.safetensors", ("mine", "stream")),
        ("alone.safetensors", None),
        ("alone/pytorch_lora_weights.safetensors", None),
        ("rgb_to_depth_sound.safetensors", None),
        ("rgb_to_shading_shading.safetensors", ("rgb_to_shading", "shading")),
        ("flux_photo_to_anime_v2.safetensors", None),
        ("a:_to_b_b.safetensors", None),
        ("mine/con.safetensors", None),
        ("mine/.hidden.safetensors", None),
    ],
)
def test_place_reports_task_and_stream(file: str, slot: tuple[str, str] | None, tmp_path: Path) -> None:
    assert slot_of(tmp_path / file, tmp_path) == slot


def test_the_root_may_be_the_folder_of_the_task() -> None:
    root = Path("/a/rgb_to_depth")
    assert slot_of(root / "rgb" / "pytorch_lora_weights.safetensors", root) == ("rgb_to_depth", "rgb")
    assert slot_of(root / "rgb.safetensors", root) == ("rgb_to_depth", "rgb")
    assert slot_of(root / "sound.safetensors", root) is None


def test_names_below_the_loras_folder() -> None:
    assert slot_of_name("OmniX/rgb_to_depth/rgb.safetensors") == ("rgb_to_depth", "rgb")
    assert slot_of_name("some/style.safetensors") is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "a/b", "a\\b", "a\0", "a\n", "CON", "nul.txt", "a.", "\udc80", "?"]
)
def test_names_that_no_folder_may_have(name: str) -> None:
    assert not is_plain(name)


@pytest.mark.parametrize("name", ["rgb", "Tiefe größe", "深度", "console", "a b", "a.b"])
def test_names_that_a_folder_may_have(name: str) -> None:
    assert is_plain(name)


def test_all_layouts_are_found(tmp_path: Path) -> None:
    forms = ("{0}/{1}/pytorch_lora_weights.safetensors", "{0}_{1}.safetensors", "{0}/{1}.safetensors")
    want = {}
    slots = [(task, stream) for task, streams in STREAMS.items() for stream in streams]
    for number, (task, stream) in enumerate(slots):
        path = tmp_path / forms[number % 3].format(task, stream)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        want[task, stream] = path
    assert find_adapters(tmp_path) == want and len(want) == 15


def test_two_files_for_one_stream_are_refused(tmp_path: Path) -> None:
    for name in ("rgb_to_depth_rgb.safetensors", "rgb_to_depth/rgb.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(AdapterError, match=r"rgb_to_depth/rgb: expected one file, got .* too; move one"):
        find_adapters(tmp_path)
