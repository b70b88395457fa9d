"""Decode Panorama blends the seam before values are clipped, like the reference, for every VAE's way of decoding."""

import copy
from collections.abc import Callable
from typing import Any

import comfy.sd
import pytest
import torch
from comfyui_omnix import nodes
from comfyui_omnix.lab.host import tiny_models
from torch import Tensor

WRAP, SCALE = 2, 8


@pytest.fixture(scope="module")
def vae() -> comfy.sd.VAE:
    return comfy.sd.VAE(sd=tiny_models.vae())


def latent(batch: int = 1) -> Tensor:
    """Return a latent whose pictures go far beyond [0, 1], and differ where the columns repeat."""
    return 3 * torch.randn(batch, 16, 8, 16, generator=torch.Generator().manual_seed(4))


def blended_then_cut(image: Tensor, cut: Callable[[Tensor], Tensor]) -> Tensor:
    """Blend a picture [b, h, w, c] of the widened latent, column by column, then cut it."""
    image, extra = image.clone(), WRAP * SCALE
    width = image.shape[2] - extra
    for j in range(extra):
        image[:, :, j] = image[:, :, width + j] * (1 - j / extra) + image[:, :, j] * (j / extra)
    return cut(image[:, :, :width])


def as_colour(image: Tensor) -> Tensor:
    return ((image + 1) / 2).clamp(0, 1)


def raw(vae: Any, x: Tensor, tiled: bool = False) -> Tensor:
    """Decode the widened latent by the network alone, or in the host's tiles."""
    wide = torch.cat([x, x[..., :WRAP]], -1)
    if not tiled:
        return vae.first_stage_model.decode(wide).movedim(1, -1)
    plain = copy.copy(vae)
    plain.process_output = lambda image: image
    return plain.decode_tiled_(wide).movedim(1, -1)


def decode(vae: Any, x: Tensor) -> Tensor:
    return nodes.OmniXDecodePanorama.execute({"samples": x}, vae, WRAP).result[0]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_seam_is_blended_before_it_is_cut(vae: Any, batch: int) -> None:
    x = latent(batch)
    with torch.inference_mode():
        want, got = blended_then_cut(raw(vae, x), as_colour), decode(vae, x)
        late = blended_then_cut(as_colour(raw(vae, x)), lambda image: image)
    assert (got - want).abs().max() <= 1e-6
    assert (late - want).abs().max() > 0.01, "the order matters here"


def test_one_picture_of_a_batch_at_a_time(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With little memory the host decodes a batch in parts."""
    x = latent(3)
    monkeypatch.setattr(vae.patcher, "get_free_memory", lambda device: 1, raising=False)
    with torch.inference_mode():
        assert (decode(vae, x) - blended_then_cut(raw(vae, x), as_colour)).abs().max() <= 1e-6


def test_the_hosts_tiles(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If memory runs out the host decodes in tiles."""
    x = latent()
    with torch.inference_mode():
        want = blended_then_cut(raw(vae, x, tiled=True), as_colour)
        whole, calls = vae.first_stage_model.decode, []

        def once(*args: Any, **kwargs: Any) -> Tensor:
            calls.append(1)
            if len(calls) == 1:
                raise torch.OutOfMemoryError("made up")
            return whole(*args, **kwargs)

        monkeypatch.setattr(vae.first_stage_model, "decode", once)
        assert (decode(vae, x) - want).abs().max() <= 1e-6 and len(calls) > 1


def test_the_users_vae_stays_as_it_is(vae: Any) -> None:
    x, before = latent(), dict(vars(vae))
    with torch.inference_mode():
        plain = vae.decode(x)
        decode(vae, x)
        assert torch.equal(vae.decode(x), plain)
    assert vars(vae) == before


def test_a_vae_of_another_range(vae: Any) -> None:
    """A VAE's own `process_output` is called exactly once, and nothing else is done."""
    own = copy.copy(vae)
    own.process_output = lambda image: image.mul(3).clamp(-2, 2)
    x = latent()
    with torch.inference_mode():
        want = blended_then_cut(raw(vae, x), lambda image: (3 * image).clamp(-2, 2))
        assert (decode(own, x) - want).abs().max() <= 1e-5


def test_decoders_that_are_not_the_hosts(vae: Any) -> None:
    """A wrapper, and a VAE with a replaced decode, decode in their own way."""

    class Wrapper:
        def __init__(self) -> None:
            self.inner = vae

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    replaced = copy.copy(vae)
    replaced.decode = vae.decode
    x = latent()
    with torch.inference_mode():
        want = blended_then_cut(as_colour(raw(vae, x)), lambda image: image)
        for other in (Wrapper(), replaced):
            assert (decode(other, x) - want).abs().max() <= 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(vae: Any, dtype: torch.dtype) -> None:
    half = copy.copy(vae)
    half.vae_dtype = dtype
    half.first_stage_model = copy.deepcopy(vae.first_stage_model).to(dtype)
    x = latent()
    with torch.inference_mode():
        want = blended_then_cut(raw(half, x.to(dtype)).float(), as_colour)
        assert (decode(half, x).float() - want).abs().max() <= 1e-5
