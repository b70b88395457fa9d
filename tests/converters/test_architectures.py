"""Other models that name their layers like FLUX.1 are recognised by size; FLUX.1's tensors are never left out."""

from pathlib import Path

import pytest
from adapters import Raw, Tensors, adapter, alpha, write
from comfyui_omnix.converters import AdapterError, convert, inspect, open_adapter, verify
from comfyui_omnix.converters.lora.architectures import ARCHITECTURES

TO_Q, BFL = "transformer.{}transformer_blocks.{}.attn.to_q", "diffusion_model.{}_blocks.{}.{}"


def pair(name: str, columns: int, rows: int) -> Tensors:
    return {
        f"{name}.lora_A.weight": Raw("BF16", (1, columns), bytes(2 * columns)),
        f"{name}.lora_B.weight": Raw("BF16", (rows, 1), bytes(2 * rows)),
    }


def blocks(hidden: int, double: int, single: int) -> Tensors:
    tensors: Tensors = {}
    for kind, count in (("", double), ("single_", single)):
        for i in range(count):
            tensors |= pair(TO_Q.format(kind, i), hidden, hidden)
    return tensors


@pytest.mark.parametrize("row", [row for row in ARCHITECTURES if not row.alike], ids=lambda row: row.name)
def test_every_other_model_is_named(row: object, tmp_path: Path) -> None:
    name, hidden, double, single = row[:4]
    source = write(tmp_path / "a.safetensors", blocks(hidden, double, single))
    with pytest.raises(
        AdapterError, match=rf"expected a FLUX.1 LoRA, got an? .*{name}.* LoRA; this converter is for FLUX"
    ):
        convert(source, tmp_path / "b.safetensors")
    assert name in inspect(source)["format"] and not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize(("hidden", "double", "single"), [(1536, 3, 0), (2432, 12, 0), (3584, 1, 1), (6144, 2, 7)])
def test_some_blocks_of_another_model_are_enough(hidden: int, double: int, single: int, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="this converter is for FLUX"):
        open_adapter(write(tmp_path / "a.safetensors", blocks(hidden, double, single)))


@pytest.mark.parametrize(("kind", "number"), [("", 19), ("single_", 38), ("", 400)])
def test_blocks_beyond_flux_are_another_models(kind: str, number: int, tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", pair(TO_Q.format(kind, number), 3072, 3072))
    with pytest.raises(AdapterError, match=r"expected a FLUX\.1 LoRA, got a"):
        open_adapter(source)


@pytest.mark.parametrize(
    ("layer", "columns", "rows"),
    [("single_blocks.0.linear1", 3072, 9 * 3072), ("double_blocks.0.img_mlp.0", 3072, 6 * 3072)],
)
def test_an_mlp_of_another_width_is_another_models(layer: str, columns: int, rows: int, tmp_path: Path) -> None:
    state = pair(f"diffusion_model.{layer}", columns, rows) | pair(
        "diffusion_model.double_blocks.0.img_attn.proj", 3072, 3072
    )
    with pytest.raises(AdapterError, match=r"FLUX\.2"):
        open_adapter(write(tmp_path / "a.safetensors", state))


@pytest.mark.parametrize(("hidden", "double", "single"), [(3072, 19, 38), (3072, 1, 0), (3072, 0, 38), (3072, 4, 9)])
def test_flux_is_flux(hidden: int, double: int, single: int, tmp_path: Path) -> None:
    assert open_adapter(write(tmp_path / "a.safetensors", blocks(hidden, double, single))).notes == ()


@pytest.mark.parametrize(("hidden", "double", "single"), [(64, 2, 2), (1280, 25, 3), (1536, 2, 2), (512, 19, 38)])
def test_sizes_of_no_known_model_are_converted_with_a_note(
    hidden: int, double: int, single: int, tmp_path: Path
) -> None:
    source = write(tmp_path / "a.safetensors", blocks(hidden, double, single))
    (note,) = convert(source, tmp_path / "b.safetensors").notes
    assert note.startswith("no known model") and str(hidden) in note


def test_a_pruned_flux_is_converted_with_a_note(tmp_path: Path) -> None:
    (note,) = open_adapter(write(tmp_path / "a.safetensors", blocks(3072, 8, 38))).notes
    assert "Flex.1 or FLUX.1 lite (8 double, 38 single)" in note


Q = "transformer.transformer_blocks.0.attn.to_q"
OF_FLUX = (
    *(f"{Q}.{end}" for end in ("magnitude", "lora_m", "weight_m", "bias", "weight", "lora_C.weight", "scale", "w1")),
    *(f"{Q}{end}" for end in ("_magnitude", "_lora.magnitude")),
    "transformer.transformer_blocks.0.attn.to_qkv.lora_C",
    "base_model.model.transformer_blocks.1.ff.net.0.proj.bias",
    "lora_unet_double_blocks_0_img_attn_qkv.magnitude",
    "lora_transformer_transformer_blocks_0_attn_to_k.something",
    "double_blocks.0.img_attn.norm.query_norm.bias",
    "transformer.proj_out.bias",
    "single_blocks.3.linear1.weight",
    "img_in.weight",
    "transformer_blocks.7.attn.to_k.alpha",
)


@pytest.mark.parametrize("key", OF_FLUX)
def test_what_acts_on_flux_is_never_left_out(key: str, tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter() | {key: alpha(1)})
    for allowed in (False, True):
        with pytest.raises(AdapterError) as caught:
            convert(source, tmp_path / "b.safetensors", allow_unused=allowed)
        assert f": {key}: " in str(caught.value) and "--allow-unused" not in str(caught.value)


DORA = ("lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight", "dora_scale")


@pytest.mark.parametrize("prefix", ["transformer.", "base_model.model.", "_orig_mod.", ""])
@pytest.mark.parametrize("end", DORA)
def test_dora_in_any_spelling(end: str, prefix: str, tmp_path: Path) -> None:
    key = f"{prefix}transformer_blocks.0.attn.to_q.{end}"
    with pytest.raises(AdapterError, match=f"{key}: expected plain LoRA, got DoRA"):
        convert(
            write(tmp_path / "a.safetensors", adapter() | {key: alpha(1)}),
            tmp_path / "b.safetensors",
            allow_unused=True,
        )


def test_fused_projections_are_never_left_out(tmp_path: Path) -> None:
    state = adapter() | pair("transformer.transformer_blocks.0.attn.to_qkv", 16, 48)
    with pytest.raises(
        AdapterError, match=r"attn\.to_qkv\.lora_A\.weight: expected double_blocks\.0\.img_attn\.qkv adapted once"
    ):
        convert(write(tmp_path / "a.safetensors", state), tmp_path / "b.safetensors", allow_unused=True)


def test_foreign_layers_can_be_left_out_and_are_named(tmp_path: Path) -> None:
    state = adapter() | pair("transformer.transformer_blocks.0.attn.to_q_ip", 16, 48) | {"other.weight": alpha(1)}
    source = write(tmp_path / "a.safetensors", state)
    report = convert(source, tmp_path / "b.safetensors", allow_unused=True)
    assert len(report.unused) == 3 and verify(source, tmp_path / "b.safetensors").unused == report.unused


def test_a_models_weights_are_no_lora(tmp_path: Path) -> None:
    state = {f"transformer_blocks.{i}.attn.to_q.weight": alpha(1) for i in range(3)}
    with pytest.raises(AdapterError, match="got the weights of a model, not a LoRA; give the LoRA"):
        open_adapter(write(tmp_path / "a.safetensors", state))
