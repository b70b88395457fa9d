"""The tiny models have the real names and shapes, and every weight has an effect."""

import json
from pathlib import Path

import pytest
import recorded
import stock
import torch
from comfyui_omnix.lab.host import tiny, tiny_models
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_flux_has_the_shapes_of_diffusers() -> None:
    assert shapes(tiny.flux()) == shapes(recorded.flux())


def test_full_flux_is_flux_dev() -> None:
    """Names and shapes are those of Diffusers' own FLUX.1-dev, 11.9 billion parameters."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(guidance_embeds=True)
    expected = shapes(model.state_dict())
    ours: dict[str, tuple[int, ...]] = {f"{name}.weight": (tiny.HEAD,) for name in tiny.norms(tiny.FULL)}
    for name, (columns, rows) in tiny.linears(tiny.FULL).items():
        ours |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    assert ours == expected


def test_adapter_has_the_names_of_a_published_one(golden: Path) -> None:
    published = load_file(golden / "adapters" / "rgb_to_depth" / "rgb" / "pytorch_lora_weights.safetensors")
    assert shapes(tiny.adapter()) == shapes(published)


def test_full_adapter_counts() -> None:
    sizes = tiny.linears(tiny.FULL)
    modules = tiny.omnix_modules(tiny.FULL)
    assert 2 * len(modules) == 456
    assert sum(64 * sum(sizes[module]) * 2 for module in modules) == 224_133_120


@pytest.mark.parametrize("maker", [tiny.flux, tiny.adapter, tiny_models.vae, tiny_models.clip_l, tiny_models.t5])
def test_the_seed_decides(maker) -> None:
    first, again, other = maker(seed=1), maker(seed=1), maker(seed=2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_spellings_hold_the_same_numbers() -> None:
    plain = list(tiny.adapter(spelling="diffusers").values())
    for spelling in tiny.SPELLINGS:
        assert all(map(torch.equal, tiny.adapter(spelling=spelling).values(), plain))


def test_ranks_and_alphas_are_by_module() -> None:
    modules = tiny.omnix_modules()
    state = tiny.adapter(rank={name: 1 + i for i, name in enumerate(modules)}, alpha={modules[2]: 5.0})
    assert [state[f"transformer.{name}.lora_A.weight"].shape[0] for name in modules] == list(range(1, len(modules) + 1))
    assert [name for name in state if name.endswith(".alpha")] == [f"transformer.{modules[2]}.alpha"]


def test_vae_keeps_pictures_and_uses_every_channel() -> None:
    y, x = torch.meshgrid(torch.arange(64) / 64, torch.arange(128) / 128, indexing="ij")
    image = torch.stack([x, y, 1 - x], dim=-1)[None]
    latent = stock.encoded(image)
    assert latent.shape == (1, 16, 8, 16)
    decoded = stock.decoded(latent)
    assert (decoded - image)[:, 8:-8, 8:-8].abs().mean() < 0.1
    for channel in range(16):
        changed = latent.clone()
        changed[:, channel] += 0.5
        assert (stock.decoded(changed) - decoded).abs().max() > 2 / 255, channel


def test_vae_sees_its_neighbours() -> None:
    """A latent column reaches into the pixels of the next one, so an open seam would show."""
    latent = torch.zeros(1, 16, 4, 8)
    changed = latent.clone()
    changed[..., 3] += 1
    difference = (stock.decoded(changed) - stock.decoded(latent)).abs().amax((0, 1, 3))
    assert difference[:8].max() < difference[16:24].max() < difference[24:32].max()


def test_text_depends_on_every_word() -> None:
    (words, pooled), (others, other) = stock.text("a red room"), stock.text("a blue room")
    assert words.shape == (1, 512, 64)
    assert pooled.shape == (1, 32)
    assert (words - others).abs().max() > 0.1
    assert (pooled - other).abs().max() > 0.01


def test_text_double_leaves_no_trace() -> None:
    import comfy.text_encoders.flux

    before = comfy.text_encoders.flux.FluxClipModel.__init__
    stock.text("")
    assert comfy.text_encoders.flux.FluxClipModel.__init__ is before


def test_written_models_are_those(tmp_path: Path) -> None:
    names = tiny_models.write_models(tmp_path)
    sizes = json.loads((tiny_models.DOUBLES / "tiny_text_encoders" / "config.json").read_text())
    assert shapes(load_file(tmp_path / "diffusion_models" / names.flux)) == shapes(tiny.flux())
    assert load_file(tmp_path / "text_encoders" / names.t5)["shared.weight"].shape[1] == sizes["t5xxl"]["d_model"]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) < 60e6
