"""Every dialect becomes ComfyUI's fused layers with the right numbers: by the host's own loaders, and by Diffusers'."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.text_encoders.flux
import pytest
import torch
from adapter_files import expected_deltas, fused_deltas
from comfyui_omnix.converters import AdapterError, convert, inspect, split, verify
from comfyui_omnix.converters.lora.dialects import DIALECTS, host_takes, is_comfy, parse
from comfyui_omnix.converters.lora.layout import LAYOUT, Geometry, height, numbered, place
from comfyui_omnix.lab.host import tiny
from diffusers.loaders import lora_conversion_utils as theirs
from host_flux import load
from safetensors.torch import load_file
from torch import Tensor

TINY = tiny.TINY
RANK, ALPHA = 2, 3.0
H = Geometry(TINY.hidden, 4 * TINY.hidden)
Pairs = dict[str, tuple[Tensor, Tensor]]


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def comfy_pairs(hidden: Geometry = H, double: int = 2, single: int = 2) -> Pairs:
    """Draw a pair for every ComfyUI layer with a size in the table."""
    pairs: Pairs = {}
    for seed, fused in enumerate(LAYOUT):
        rows, columns = height(fused), fused.columns
        if rows is None or columns is None:
            continue
        count = {"transformer_blocks.{i}.": double, "single_transformer_blocks.{i}.": single}.get(fused.block)
        for i in range(count or 1):
            name = numbered(fused.name, i if count else None)
            size = (rows.of(hidden), columns.of(hidden))
            pairs[name] = (drawn((RANK, size[1]), 10 * seed + i), drawn((size[0], RANK), 10 * seed + i + 5))
    return pairs


def diffusers_pairs() -> Pairs:
    """Draw a pair for every Linear of a tiny Diffusers FLUX."""
    sizes = tiny.linears(TINY).items()
    return {
        name: (drawn((RANK, columns), 7 * i), drawn((rows, RANK), 7 * i + 1))
        for i, (name, (columns, rows)) in enumerate(sizes)
    }


def spelled(pairs: Pairs, spell: Callable[[str], str], down: str, up: str, alpha: bool = True) -> dict[str, Tensor]:
    state = {f"{spell(name)}{down}": pair[0] for name, pair in pairs.items()}
    state |= {f"{spell(name)}{up}": pair[1] for name, pair in pairs.items()}
    return state | ({f"{spell(name)}.alpha": torch.tensor(ALPHA) for name in pairs} if alpha else {})


def underscored(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name.replace(".", "_")


def dotted(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name


KOHYA = (".lora_down.weight", ".lora_up.weight")
PEFT = (".lora_A.weight", ".lora_B.weight")
COMFY: dict[str, tuple[Callable[[str], str], tuple[str, str]]] = {
    "kohya": (underscored("lora_unet_"), KOHYA),
    "kohya's suffixes on dotted names": (dotted("diffusion_model."), KOHYA),
    "BFL": (dotted("diffusion_model."), PEFT),
    "BFL, bare": (dotted(""), PEFT),
    "fal": (dotted("base_model.model."), PEFT),
    "nested": (
        dotted("base_model.model.diffusion_model._orig_mod."),
        (".lora_A.default.weight", ".lora_B.default.weight"),
    ),
}
DIFFUSERS: dict[str, tuple[Callable[[str], str], tuple[str, str]]] = {
    "OneTrainer": (underscored("lora_transformer_"), KOHYA),
    "SimpleTuner's LyCORIS names": (underscored("lycoris_"), KOHYA),
    "FLUX sliders": (underscored("lora_unet_"), KOHYA),
    "Diffusers under PEFT": (dotted("transformer.base_model.model."), PEFT),
    "PEFT under Diffusers": (dotted("base_model.model.transformer."), PEFT),
    "torch.compile and DDP": (dotted("module._orig_mod.transformer."), PEFT),
    "compiled by region": (lambda name: name.replace(".attn.", "._orig_mod.attn."), PEFT),
    "older Diffusers": (dotted("transformer."), ("_lora.down.weight", "_lora.up.weight")),
}


def whole_way(state: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Convert, verify and split a file: the very same file comes back where nothing was rounded."""
    source = tiny.save(state, folder / "a.safetensors")
    convert(source, folder / "b.safetensors")
    verify(source, folder / "b.safetensors")
    report = split(folder / "b.safetensors", folder / "c.safetensors")
    back = load_file(folder / "c.safetensors")
    if report.exact:
        assert set(back) == set(state) and all(torch.equal(back[key], tensor) for key, tensor in state.items())
    return load_file(folder / "b.safetensors")


@pytest.mark.parametrize("alpha", [True, False])
@pytest.mark.parametrize("name", COMFY)
def test_dialects_with_comfyuis_layers(name: str, alpha: bool, tmp_path: Path) -> None:
    spell, ends = COMFY[name]
    pairs = comfy_pairs()
    found = fused_deltas(whole_way(spelled(pairs, spell, *ends, alpha), tmp_path))
    assert set(found) == set(pairs)
    for layer, (down, up) in pairs.items():
        want = (ALPHA / RANK if alpha else 1.0) * (up.double() @ down.double())
        assert torch.allclose(found[layer], want, rtol=1e-6, atol=1e-6), layer


@pytest.mark.parametrize("name", DIFFUSERS)
def test_dialects_with_diffusers_layers(name: str, tmp_path: Path) -> None:
    spell, ends = DIFFUSERS[name]
    pairs = diffusers_pairs()
    found = fused_deltas(whole_way(spelled(pairs, spell, *ends), tmp_path))
    want = expected_deltas({key: (*pair, ALPHA / RANK) for key, pair in pairs.items()}, TINY)
    assert set(found) == set(want)
    for layer, parts in want.items():
        for rows, delta in parts:
            assert torch.allclose(found[layer][rows], delta, rtol=1e-6, atol=1e-6), layer


XLABS = {
    "double_blocks.{i}.processor.qkv_lora1": "double_blocks.{i}.img_attn.qkv",
    "double_blocks.{i}.processor.qkv_lora2": "double_blocks.{i}.txt_attn.qkv",
    "double_blocks.{i}.processor.proj_lora1": "double_blocks.{i}.img_attn.proj",
    "double_blocks.{i}.processor.proj_lora2": "double_blocks.{i}.txt_attn.proj",
    "single_blocks.{i}.processor.qkv_lora": "single_blocks.{i}.linear1",
    "single_blocks.{i}.processor.proj_lora": "single_blocks.{i}.linear2",
}


# --- Diffusers' own readers, in FLUX.1's size ---------------------------------------------------------------------

FULL = Geometry(3072, 12288)
COLUMNS = 32
KOHYA_STATE = spelled(comfy_pairs(FULL, 1, 1), underscored("lora_unet_"), *KOHYA)
del KOHYA_STATE["lora_unet_final_layer_adaLN_modulation_1.alpha"]  # Diffusers passes over the final layer's alphas


def read_by_diffusers(state: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Return {layer: (down, up, 1)} from Diffusers' names."""
    ends = (".lora_A.weight", ".lora_B.weight")
    layers = [key.removesuffix(ends[0]) for key in state if key.endswith(ends[0])]
    return {
        layer.removeprefix("transformer."): (state[layer + ends[0]], state[layer + ends[1]], 1.0) for layer in layers
    }


def check_against_diffusers(state: dict[str, Tensor], converted: Mapping[str, Tensor], reader: Any) -> None:
    """Compare every number of every delta, some columns at a time: whole layers would take gigabytes in float64."""
    pairs = read_by_diffusers(reader({key: tensor.clone() for key, tensor in state.items()}))
    for start in range(0, max(down.shape[1] for down, _, _ in pairs.values()), COLUMNS):
        columns = slice(start, start + COLUMNS)
        want = expected_deltas({name: (down[:, columns], up, k) for name, (down, up, k) in pairs.items()}, tiny.FULL)
        found = fused_deltas({k: t[:, columns] if k.endswith(PEFT[0]) else t for k, t in converted.items()})
        assert set(found) == set(want)
        for layer, parts in want.items():
            for rows, delta in parts:
                assert torch.allclose(found[layer][rows], delta, rtol=1e-5, atol=1e-5), layer


def test_kohya_as_diffusers_reads_it(tmp_path: Path) -> None:
    found = whole_way(KOHYA_STATE, tmp_path)
    check_against_diffusers(KOHYA_STATE, found, theirs._convert_kohya_flux_lora_to_diffusers)


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_xlabs_as_diffusers_reads_it(prefix: str, tmp_path: Path) -> None:
    state = {}
    for seed, (name, layer) in enumerate(XLABS.items()):
        found = place(numbered(layer, 0))
        assert found is not None and found.fused.columns is not None and found.part.rows is not None
        rows = 9216 if name.endswith("qkv_lora") else found.part.rows.of(FULL)
        state[f"{prefix}{numbered(name, 0)}.down.weight"] = drawn((RANK, found.fused.columns.of(FULL)), seed)
        state[f"{prefix}{numbered(name, 0)}.up.weight"] = drawn((rows, RANK), seed + 50)
    converted = whole_way(state, tmp_path)
    assert inspect(tmp_path / "a.safetensors")["format"] == "an XLabs FLUX LoRA"
    check_against_diffusers(state, converted, theirs._convert_xlabs_flux_lora_to_diffusers)


# --- the host ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flux_keys() -> dict[str, Any]:
    """The host's own key map of a tiny FLUX."""
    return comfy.lora.model_lora_keys_unet(load(tiny.flux(TINY)).model, {})


HOST_SUFFIXES = (
    *(
        KOHYA,
        PEFT,
        (".lora_A.default.weight", ".lora_B.default.weight"),
        (".lora_A.mine.weight", ".lora_B.mine.weight"),
    ),
    *((".lora.down.weight", ".lora.up.weight"), ("_lora.down.weight", "_lora.up.weight"), (".lora_A", ".lora_B")),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
)


@pytest.mark.since("0.26.0")
@pytest.mark.parametrize("ends", HOST_SUFFIXES, ids=str)
def test_what_is_said_to_load_as_it_is_does(ends: tuple[str, str], flux_keys: dict[str, Any]) -> None:
    """Every layer in every dialect: the host loads it into one whole weight, or it is not said to."""
    prefixes = [*dict.fromkeys(row.prefix for row in DIALECTS), "base_model.model."]
    layers = [*comfy_pairs(double=1, single=1), *diffusers_pairs(), "single_blocks.0.linear1_qkv"]
    for spell in [underscored(prefix) for prefix in prefixes] + [dotted(prefix) for prefix in prefixes]:
        keys = [spell(name) + end for name in layers for end in ends]
        loaded = comfy.lora.load_lora({key: torch.ones(1, 1) for key in keys}, flux_keys, log_missing=False)
        targets = {name: flux_keys.get(spell(name)) for name in layers}
        found = [name for name, target in targets.items() if isinstance(target, str) and target in loaded]
        whole = {spell(name) + end for name in found for end in ends}
        for key in keys:
            assert not host_takes([key]) or key in whole, key
            name = parse(key)
            if key in whole and name is not None and is_comfy(name.module):
                assert host_takes([key]), key


@pytest.mark.since("0.26.0")
def test_all_that_is_converted_loads_whole(flux_keys: dict[str, Any], tmp_path: Path) -> None:
    for number, (spell, ends) in enumerate([*COMFY.values(), *DIFFUSERS.values()]):
        pairs = comfy_pairs() if number < len(COMFY) else diffusers_pairs()
        source = tiny.save(spelled(pairs, spell, *ends), tmp_path / f"{number}.safetensors")
        report = convert(source, tmp_path / "out" / f"{number}.safetensors")
        lora = load_file(tmp_path / "out" / f"{number}.safetensors")
        loaded = comfy.lora.load_lora(lora, flux_keys, log_missing=False)
        assert all(isinstance(target, str) for target in loaded) and len(loaded) == len(report.layers)


# --- text encoders ----------------------------------------------------------------------------------------------------

CLIP_LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
TEXT = {
    "kohya": ("lora_te1_text_model_encoder_layers_3_{}", True, KOHYA),
    "OneTrainer": ("lora_te_text_model_encoder_layers_3_{}", True, KOHYA),
    "Diffusers": ("text_encoder.text_model.encoder.layers.3.{}", False, PEFT),
    "Diffusers' linear layers": (
        "text_encoder.text_model.encoder.layers.3.{}",
        False,
        (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    ),
    "PEFT": ("text_encoder.base_model.model.text_model.encoder.layers.3.{}", False, PEFT),
    "ComfyUI": ("text_encoders.clip_l.transformer.text_model.encoder.layers.3.{}", False, PEFT),
}
T5_LAYERS = ("0.SelfAttention.q", "0.SelfAttention.o", "1.DenseReluDense.wi_0", "1.DenseReluDense.wo")
T5 = {
    "kohya": ("lora_te3_encoder_block_2_layer_{}", True, KOHYA),
    "OneTrainer": ("lora_te2_encoder_block_2_layer_{}", True, KOHYA),
    "Diffusers": ("text_encoder_2.encoder.block.2.layer.{}", False, PEFT),
    "ComfyUI": ("text_encoders.t5xxl.transformer.encoder.block.2.layer.{}", False, PEFT),
}


@pytest.fixture(scope="module")
def text_encoders() -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """The host's own key map of FLUX.1's text encoders, and the shapes of their weights."""
    model = comfy.text_encoders.flux.FluxClipModel(dtype_t5=torch.bfloat16, device="meta", dtype=torch.float32)
    return comfy.lora.model_lora_keys_clip(model, {}), {k: tuple(v.shape) for k, v in model.state_dict().items()}


@pytest.mark.parametrize("encoder", ["clip", "t5"])
@pytest.mark.parametrize("name", TEXT)
def test_text_encoders_are_kept_as_the_host_takes_them(
    name: str, encoder: str, text_encoders: tuple[dict[str, str], dict[str, tuple[int, ...]]], tmp_path: Path
) -> None:
    keys, shapes = text_encoders
    table = TEXT if encoder == "clip" else T5
    form, dashed, ends = table.get(name, table["ComfyUI"])
    parts = CLIP_LAYERS if encoder == "clip" else T5_LAYERS
    host = ("clip_l.transformer.text_model.encoder.layers.3.", "t5xxl.transformer.encoder.block.2.layer.")[
        encoder == "t5"
    ]
    pairs, spell = {}, {}
    for seed, part in enumerate(parts):
        rows, columns = shapes[f"{host}{part}.weight"]
        pairs[part] = (drawn((RANK, columns), seed), drawn((rows, RANK), seed + 20))
        spell[part] = form.format(part.replace(".", "_") if dashed else part)
    state = spelled(diffusers_pairs(), dotted("transformer."), *PEFT, alpha=False) | spelled(
        pairs, spell.__getitem__, *ends, alpha=dashed
    )
    lora = whole_way(state, tmp_path)
    loaded = comfy.lora.load_lora(lora, keys, log_missing=False)
    assert set(loaded) == {f"{host}{part}.weight" for part in parts}
    for part, (down, up) in pairs.items():
        got = loaded[f"{host}{part}.weight"].weights
        assert torch.equal(got[0], up) and torch.equal(got[1], down) and got[2] == (ALPHA if dashed else None)


def test_a_text_encoders_alpha_in_the_header_is_written_for_the_host(tmp_path: Path) -> None:
    key = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
    state = spelled(diffusers_pairs(), dotted("transformer."), *PEFT, alpha=False)
    state |= {f"{key}.lora_A.weight": torch.ones(RANK, 768), f"{key}.lora_B.weight": torch.ones(3072, RANK)}
    header = {"lora_adapter_metadata": '{"text_encoder.lora_alpha": 5, "text_encoder.r": 2}'}
    convert(tiny.save(state, tmp_path / "a.safetensors", header), tmp_path / "b.safetensors")
    lora = load_file(tmp_path / "b.safetensors")
    assert float(lora["text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.alpha"]) == 5
    split(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert set(load_file(tmp_path / "c.safetensors")) == set(state)


def test_one_layer_under_two_dialects_is_refused(tmp_path: Path) -> None:
    state = spelled(diffusers_pairs(), dotted("transformer."), *PEFT, alpha=False)
    (name, pair) = next(item for item in comfy_pairs().items() if item[0].endswith("img_attn.qkv"))
    state |= spelled({name: pair}, underscored("lora_unet_"), *KOHYA)
    with pytest.raises(AdapterError, match=r"expected double_blocks\.0\.img_attn\.qkv adapted once, got .* too"):
        convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
