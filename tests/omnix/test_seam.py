"""The seam on the right edge: widening, blending, cropping and the decode that closes it."""

import pytest
import torch
from comfyui_omnix.omnix.pictures import panorama
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 20), st.data())
def test_widen_appends_the_first_columns_and_crop_drops_them(width: int, data: st.DataObject) -> None:
    columns = data.draw(st.integers(0, width))
    x = torch.rand(2, 3, 4, width)
    wide = panorama.widen(x, columns)
    assert wide.shape == (2, 3, 4, width + columns)
    assert torch.equal(wide[..., width:], x[..., :columns])
    assert torch.equal(panorama.crop(wide, columns), x)


@pytest.mark.parametrize("lead", [(3,), (1, 4), (2, 3, 5), (2, 3, 1, 5)])
@pytest.mark.parametrize("columns", [0, 1, 6])
def test_the_blend_is_that_of_a_plain_loop(lead: tuple[int, ...], columns: int) -> None:
    x = torch.rand(*lead, 10 + columns)
    before = x.clone()
    blended = panorama.blend_seam(x, columns)
    expected = before.clone()
    for j in range(columns):
        expected[..., j] = before[..., 10 + j] * (1 - j / columns) + before[..., j] * (j / columns)
    assert torch.allclose(blended, expected, rtol=0, atol=1e-6)
    assert torch.equal(x, before)
    assert panorama.blend_seam_(x, columns) is x
    assert torch.equal(x, blended)


def test_the_blend_works_along_any_axis() -> None:
    x = torch.rand(2, 5, 14, 3)
    along_last = panorama.blend_seam(x.movedim(2, -1).contiguous(), 4).movedim(-1, 2)
    assert torch.equal(panorama.blend_seam(x, 4, dim=2), along_last)
    assert torch.equal(panorama.blend_seam(x, 4, dim=-2), along_last)
    assert torch.equal(panorama.crop(panorama.widen(x, 4, dim=-2), 4, dim=-2), x)


def test_a_seamless_panorama_is_left_as_it_is() -> None:
    x = torch.rand(1, 16, 8, 32)
    assert torch.allclose(panorama.crop(panorama.blend_seam(panorama.widen(x, 6), 6), 6), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_blend_rounds_only_its_result(dtype: torch.dtype) -> None:
    x = torch.rand(1, 4, 8, 22).to(dtype)
    exact = panorama.blend_seam(x.double(), 6)
    blended = panorama.blend_seam(x, 6)
    assert blended.dtype == dtype
    # Values stay below 1, so rounding the result once costs at most half of eps; 1e-7 is for the float32 in between.
    assert (blended.double() - exact).abs().max() <= torch.finfo(dtype).eps / 2 + 1e-7


@pytest.mark.parametrize("columns", [-1, 11])
def test_a_seam_wider_than_the_panorama_is_refused(columns: int) -> None:
    with pytest.raises(ValueError, match="0 to 10 columns"):
        panorama.widen(torch.zeros(1, 10), columns)
    with pytest.raises(ValueError, match="change the number of columns"):
        panorama.blend_seam(torch.zeros(1, 10), columns if columns < 0 else 6)


# --- decoding --------------------------------------------------------------------------------------------------------


def blurring_decoder(latent: torch.Tensor) -> torch.Tensor:
    """A stand-in for a VAE: 8 pixels per latent column, every pixel sees its neighbours, zeros beyond the edges."""
    pixels = latent[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2)
    return torch.nn.functional.avg_pool2d(pixels, 5, stride=1, padding=2).movedim(1, -1)


def test_decoding_blends_the_last_columns_onto_the_first() -> None:
    latent = torch.rand(2, 16, 4, 8, generator=torch.Generator().manual_seed(1))
    image = panorama.decode_panorama(blurring_decoder, latent)
    wide = blurring_decoder(torch.cat([latent, latent[..., :2]], dim=-1))
    expected = wide[:, :, :64].clone()
    for j in range(16):
        expected[:, :, j] = wide[:, :, 64 + j] * (1 - j / 16) + wide[:, :, j] * (j / 16)
    assert image.shape == (2, 32, 64, 3)
    assert torch.allclose(image, expected, rtol=0, atol=1e-6)


def test_decoding_closes_the_seam_that_a_plain_decode_leaves() -> None:
    latent = torch.ones(1, 16, 4, 8)
    plain = blurring_decoder(latent)[:, 8:24]
    closed = panorama.decode_panorama(blurring_decoder, latent)[:, 8:24]
    assert (plain[:, :, 0] - plain[:, :, 8]).abs().max() > 0.3
    assert (closed[:, :, 0] - closed[:, :, 8]).abs().max() < 1e-6


def test_decoding_with_other_wraps() -> None:
    latent = torch.rand(1, 16, 4, 8)
    assert torch.equal(panorama.decode_panorama(blurring_decoder, latent, 0), blurring_decoder(latent))
    assert panorama.decode_panorama(blurring_decoder, latent, 8).shape == (1, 32, 64, 3)
    with pytest.raises(ValueError, match="0 to 8 columns"):
        panorama.decode_panorama(blurring_decoder, latent, 9)


def test_decoding_takes_latents_with_a_frame_axis() -> None:
    latent = torch.rand(1, 16, 1, 4, 8)
    image = panorama.decode_panorama(lambda x: blurring_decoder(x[:, :, 0]), latent)
    assert torch.equal(image, panorama.decode_panorama(blurring_decoder, latent[:, :, 0]))


def test_a_vae_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="use the VAE of the model that made the latent"):
        panorama.decode_panorama(lambda x: blurring_decoder(x)[:, :, :-3], torch.rand(1, 16, 4, 8))
