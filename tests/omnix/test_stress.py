"""Extreme numbers: narrow dtypes, strengths, odd adapters, flat pictures, all sizes. Results are finite, or refused."""

from pathlib import Path

import pytest
import torch
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.pictures import maps, panorama
from comfyui_omnix.omnix.runtime import patch
from measure import relative_error
from rig import Case, Model, conditioning, forward, ksample, load_flux, make_case, patched

EXACT = 1e-5
HALF = (torch.float16, torch.bfloat16)
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SIZES = [(64, 128), (256, 512), (720, 1440), (1024, 2048), (2048, 4096)]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Adapters of a real one's strength: the model is at its limits at 10 times that."""
    return make_case(tmp_path_factory.mktemp("adapters"), size=0.1)


@pytest.fixture(scope="module")
def models(manager: str, case: Case) -> dict[torch.dtype, Model]:
    """The same FLUX in every dtype that people load it in."""
    return {dtype: load_flux(case.flux, dtype) for dtype in (torch.float32, *HALF, *FP8)}


def of_ranks(folder: Path, *ranks: int) -> Case:
    """Make a case whose adapters are cut down to these ranks, 0 among them."""
    case = make_case(folder)
    for stream, state, rank in zip(case.task.streams, case.states, ranks, strict=True):
        cut = {name: t[:rank] if "lora_A" in name else t[:, :rank].contiguous() for name, t in state.items()}
        tiny.save(cut, folder / case.task.name / stream / "pytorch_lora_weights.safetensors")
    return case


@pytest.mark.parametrize("strength", [0.0, -10.0, 10.0, (0.0, 10.0), (-10.0, 1.0)])
@pytest.mark.parametrize("dtype", [*HALF, *FP8], ids=str)
def test_extreme_strengths(
    models: dict[torch.dtype, Model], case: Case, dtype: torch.dtype, strength: float | tuple[float, float]
) -> None:
    both = strength if isinstance(strength, tuple) else (strength, strength)
    out = ksample(patched(models[dtype], case, both), case, 2)
    assert out.shape == case.noise.shape
    assert out.isfinite().all()
    assert out.std() > 0.01


@pytest.mark.parametrize("dtype", [*HALF, *FP8], ids=str)
def test_narrow_weights_cost_no_more_than_the_base_pays(
    models: dict[torch.dtype, Model], case: Case, dtype: torch.dtype
) -> None:
    """The runtime's error in a dtype is of the size of the plain model's own in it."""
    full, narrow = models[torch.float32], models[dtype]
    own = relative_error(forward(narrow, case), forward(full, case))
    error = relative_error(ksample(patched(narrow, case), case, 1), ksample(patched(full, case), case, 1))
    assert 0 < error <= 2 * own


def test_strength_zero_is_no_adapter(models: dict[torch.dtype, Model], case: Case, tmp_path: Path) -> None:
    """Streams without adapters are what strength 0 leaves."""
    empty = of_ranks(tmp_path, 0, 0)
    model = models[torch.float32]
    assert (
        relative_error(ksample(patched(model, case, (0.0, 0.0)), case, 2), ksample(patched(model, empty), case, 2)) == 0
    )


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_strengths_that_are_no_numbers_do_not_reach_the_model(
    models: dict[torch.dtype, Model], case: Case, strength: float
) -> None:
    with pytest.raises(ValueError, match="set both to finite numbers"):
        patch.attach(models[torch.float32], case.loaded(), strength, 1.0, 6)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF, *FP8], ids=str)
def test_rank_zero(models: dict[torch.dtype, Model], tmp_path: Path, dtype: torch.dtype) -> None:
    """Adapters without a rank change nothing, and multiply nothing."""
    empty, some = of_ranks(tmp_path / "empty", 0, 0), of_ranks(tmp_path / "some", 0, 4)
    assert ksample(patched(models[dtype], empty), empty, 1).isfinite().all()
    assert not torch.equal(
        ksample(patched(models[dtype], some), some, 1), ksample(patched(models[dtype], empty), some, 1)
    )


@pytest.mark.parametrize("name", ["transformer_blocks.1.attn.to_k", "single_transformer_blocks.0.attn.to_v"])
def test_single_module(models: dict[torch.dtype, Model], case: Case, tmp_path: Path, name: str) -> None:
    """An adapter of one module alone acts in the middle rows of a fused layer, and nowhere else."""
    one = make_case(tmp_path, modules=[name])
    model = models[torch.float32]
    off = ksample(patched(model, one, (0.0, 0.0)), one, 1)
    on = ksample(patched(model, one), one, 1)
    assert on.isfinite().all()
    assert relative_error(on, off) > 1e-4


def test_single_tensor_is_refused(case: Case, tmp_path: Path) -> None:
    """A down factor without its up factor is half an adapter."""
    own = make_case(tmp_path)
    (name, tensor), *_ = own.states[0].items()
    tiny.save({name: tensor}, own.folder / "rgb_to_depth/rgb/pytorch_lora_weights.safetensors")
    with pytest.raises(ValueError, match="lora_B"):
        own.loaded()


@pytest.mark.parametrize("value", [0.0, 1.0, -30.0])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_condition_of_constant_colour(
    models: dict[torch.dtype, Model], case: Case, dtype: torch.dtype, value: float
) -> None:
    flat = [torch.full_like(condition, value) for condition in case.conditions]
    out = ksample(patched(models[dtype], case), case, 2, conditioning(models[dtype], case, flat))
    assert out.isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_maps(value: float) -> None:
    """Mid grey points nowhere, and of one distance there is no nearest and no farthest."""
    flat = torch.full((1, 64, 128, 3), value)
    depth = maps.depth(flat)
    for result in (*depth, maps.normal(flat), *maps.material(flat)):
        assert result.isfinite().all()
        assert 0 <= result.min() <= result.max() <= 1
    with pytest.raises(ValueError, match="no range to stretch"):
        maps.stretch(depth.mask, 0.0, 100.0)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_geometry_of_every_size(height: int, width: int) -> None:
    rays = panorama.camera_rays(height, width)
    assert rays.shape == (height, width, 3)
    assert (torch.linalg.vector_norm(rays, dim=-1) - 1).abs().max() <= 1e-5
    picture = torch.rand(1, 40, 60, 3, generator=torch.Generator().manual_seed(0))
    placed, unseen = panorama.place_on_panorama(picture, width, height, 90.0, 10.0, -20.0, 5.0)
    assert placed.shape == (1, height, width, 3) and unseen.shape == (1, height, width)
    assert placed.isfinite().all() and 0 <= placed.min() <= placed.max() <= 1
    assert 0.05 < 1 - unseen.mean() < 0.5


@pytest.mark.parametrize(("fov", "pitch"), [(1.0, 0.0), (179.0, 90.0), (179.0, -90.0), (90.0, 90.0)])
def test_extreme_views(fov: float, pitch: float) -> None:
    placed, unseen = panorama.place_on_panorama(torch.ones(1, 7, 3, 3), 128, 64, fov, 180.0, pitch, -180.0)
    assert placed.isfinite().all()
    assert set(unseen.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_seam_of_every_size(height: int, width: int, dtype: torch.dtype) -> None:
    latent = torch.full((1, 16, height // 8, width // 8), 1000.0).to(dtype)
    blended = panorama.blend_seam(panorama.widen(latent, 6), 6)
    assert blended.isfinite().all()
    assert relative_error(panorama.crop(blended, 6), latent) <= torch.finfo(dtype).eps
