"""The written VAE in the host: its encoder is the transform, its decoder the narrow one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.sd
import numpy as np
import pytest
import torch
from comfyui_omnix.lab.micro import vae
from comfyui_omnix.lab.micro.blocks import fitted
from comfyui_omnix.lab.micro.recipe import Stage

FORMAT = comfy.latent_formats.Flux()
ROUNDING = 2e-3
"""float16 keeps 11 bits of the weights."""


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 32, 64, 3), dtype=np.uint8)


def images(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def made_up_decoder(latents: torch.Tensor) -> torch.nn.Sequential:
    """Every layer is random, and the picture is neither black nor white."""
    torch.manual_seed(0)
    decoder = vae.narrow_decoder()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    last = decoder.get_submodule(str(vae.LAST))
    last.weight.mul_(0.1 / decoder(latents).std())
    last.bias.zero_()
    last.bias.sub_(decoder(latents).mean((0, 2, 3)) - 0.5)
    return decoder


def test_the_host_encodes_and_decodes_as_was_trained(pictures: np.ndarray) -> None:
    blocks, seen = fitted([images(pictures)]), images(pictures)
    decoder = made_up_decoder(blocks.encode(seen))
    host = comfy.sd.VAE(sd=vae.taesd(blocks, decoder.state_dict()))
    with torch.inference_mode():
        wanted = blocks.encode(seen)
        latent = FORMAT.process_in(host.encode(seen.permute(0, 2, 3, 1)).float().cpu())
        picture = host.decode(FORMAT.process_out(wanted)).cpu().permute(0, 3, 1, 2)
        drawn = decoder(wanted).clamp(0, 1)
    assert (latent - wanted).abs().max() <= ROUNDING * wanted.abs().max()
    assert drawn.std() > 0.05, "an even picture would prove nothing"
    assert (picture - drawn).abs().max() <= ROUNDING


def test_what_was_written_is_read_back(pictures: np.ndarray) -> None:
    blocks, seen = fitted([images(pictures)]), images(pictures)
    decoder = made_up_decoder(blocks.encode(seen)).state_dict()
    written = vae.taesd(blocks, decoder)
    wanted = blocks.encode(seen)
    assert (vae.transform_of(written).encode(seen) - wanted).abs().max() <= ROUNDING * wanted.abs().max()
    narrow = vae.narrowed(written)
    assert narrow.keys() == decoder.keys()
    for name, tensor in decoder.items():
        assert (narrow[name] - tensor).abs().max() <= 1e-3 * tensor.abs().max(), name


def test_it_learns_and_goes_on_where_it_was(
    pictures: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = fitted([images(pictures)])
    latents, shown = {"rgb": blocks.encode(images(pictures))}, {"rgb": pictures}
    stage = Stage(40, 4, 2e-3)
    torch.manual_seed(0)
    whole = vae.train(latents, shown, stage, tmp_path / "whole")

    def stopped(*inputs: Any) -> float:
        if inputs[-1] == 7:
            raise KeyboardInterrupt
        return one_step(*inputs)

    one_step = vae.one_step
    torch.manual_seed(0)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(vae, "one_step", stopped)
        patched.setattr(vae, "SAVE_EVERY", 5)
        vae.train(latents, shown, stage, tmp_path / "parts")
    torch.manual_seed(1)
    parts = vae.train(latents, shown, stage, tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    rows = (tmp_path / "parts" / "vae.csv").read_text().splitlines()
    assert rows == (tmp_path / "whole" / "vae.csv").read_text().splitlines()
    losses = [float(row.split(",")[1]) for row in rows[1:]]
    assert losses[-1] < 0.8 * losses[0]
