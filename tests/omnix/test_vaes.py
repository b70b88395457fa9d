"""Decode Panorama with tiny random VAEs of other models: the edges meet, tiled or not, also in videos."""

from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import comfy.sd
import pytest
import torch
from bases import draw_weights
from comfy.ldm.wan import vae2_2
from comfyui_omnix import nodes
from torch import Tensor

HEIGHT, WIDTH = 4, 16


def loaded(**sizes: tuple[int, ...]) -> Any:
    """Let the host build the network that it takes a few tensors' names and sizes for, and fill it."""
    vae = comfy.sd.VAE(sd={name: torch.zeros(size) for name, size in sizes.items()})
    draw_weights(vae.first_stage_model)
    return vae


def taesd() -> Any:
    return loaded(**{"taesd_decoder.1.weight": (64, 16, 3, 3)})


def autoencoder(channels: int, **more: tuple[int, ...]) -> Any:
    sizes = {"decoder.conv_in.weight": (128, channels, 3, 3), "decoder.up.3.upsample.conv.weight": (128, 128, 3, 3)}
    return loaded(**sizes, **more)


def wan(**more: tuple[int, ...]) -> Any:
    sizes = {"decoder.middle.0.residual.0.gamma": (64, 1, 1, 1), "decoder.head.0.gamma": (16, 1, 1, 1)}
    sizes |= {"decoder.head.2.weight": (3, 16, 3, 3, 3), "encoder.conv1.weight": (16, 3, 3, 3, 3)}
    return loaded(**sizes, **more)


def wan22() -> Any:
    """The host has it in one size alone, too large for a test: its network in a small one, as the host would set it."""
    vae = wan()
    small = {"dim": 16, "dec_dim": 16, "z_dim": 48, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1}
    small |= {"attn_scales": [], "temperal_downsample": [False, True, True], "dropout": 0.0}
    vae.first_stage_model = vae2_2.WanVAE(**small).eval()
    draw_weights(vae.first_stage_model)
    vae.patcher = comfy.model_patcher.ModelPatcher(vae.first_stage_model, vae.device, torch.device("cpu"))
    vae.upscale_ratio = (vae.upscale_ratio[0], 16, 16)
    vae.upscale_index_formula = (4, 16, 16)
    return vae


VAES: dict[str, tuple[Callable[[], Any], tuple[int, ...], int]] = {
    "FLUX.1, SD3.5, Z-Image, Chroma, HiDream": (lambda: autoencoder(16), (1, 16), 8),
    "SDXL": (lambda: autoencoder(4, **{"post_quant_conv.weight": (4, 4, 1, 1)}), (1, 4), 8),
    "FLUX.2": (
        lambda: autoencoder(32, **{"post_quant_conv.weight": (32, 32, 1, 1), "bn.running_mean": (128,)}),
        *((1, 128), 16),
    ),
    "Qwen-Image, Krea 2": (wan, (1, 16, 1), 8),
    "Wan 2.1": (wan, (1, 16, 2), 8),
    "Wan 2.2 5B": (wan22, (1, 48, 2), 16),
    "TAESD": (taesd, (1, 16), 8),
}
"""Name -> the VAE, the latent without its rows and columns, and pixels a latent column."""


@pytest.mark.since("0.30.0")  # older hosts build some of these networks in full size alone
@pytest.mark.parametrize("tiled", [False, True], ids=["whole", "tiled"])
@pytest.mark.parametrize("name", VAES)
def test_edges_meet(name: str, tiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the picture in the middle of three side by side, whose edges see their neighbours."""
    make, lead, scale = VAES[name]
    torch.manual_seed(0)
    vae, latent = make(), torch.randn(*lead, HEIGHT, WIDTH)
    if tiled:
        monkeypatch.setattr(vae.first_stage_model, "decode", out_of_memory_once(vae.first_stage_model.decode))
    ours = decoded(vae, latent)
    monkeypatch.undo()
    frames = 4 * (lead[2] - 1) + 1 if len(lead) > 2 else 1
    assert ours.shape == (frames, HEIGHT * scale, WIDTH * scale, 3)
    pixels = WIDTH * scale
    three = plain(vae, torch.cat([latent] * 3, dim=-1))[..., pixels : 2 * pixels, :]
    alone = plain(vae, latent)
    wrong, right = (at_the_edges(each - three, scale) for each in (alone, ours))
    assert right < wrong / 2


def at_the_edges(error: Tensor, scale: int) -> float:
    """The mean error of the first and last columns."""
    return float(torch.cat((error[..., : scale // 2, :], error[..., -scale // 2 :, :]), dim=-2).abs().mean())


def out_of_memory_once(decode: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let the host turn to its tiled decoder."""
    calls = iter([True])

    def limited(*args: Any, **kwargs: Any) -> Tensor:
        if next(calls, False):
            raise torch.OutOfMemoryError
        return decode(*args, **kwargs)

    return limited


@torch.inference_mode()
def decoded(vae: Any, latent: Tensor) -> Tensor:
    """Decode Panorama."""
    return nodes.OmniXDecodePanorama.execute({"samples": latent}, vae, 2).args[0]


@torch.inference_mode()
def plain(vae: Any, latent: Tensor) -> Tensor:
    """VAE Decode."""
    return vae.decode(latent).flatten(0, -4)
