"""A tiny model learns four rooms by heart: the loss falls, and the sampled map approaches that of the given room."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.training.engine import train
from comfyui_omnix.training.host import LoadedBase
from comfyui_omnix.training.record import read
from comfyui_omnix.training.samples import Latents
from einops import rearrange
from folders import room
from made_up import TASK, config
from rig import load_flux
from torch import Tensor

STEPS = 300
HIGHEST_LOSS, LOWEST_PSNR, LOST_BY_ANOTHER_ROOM = 0.7, 18.5, 0.4
GEOMETRY = tiny.Geometry(hidden=128, double=2, single=1)


def encoded(images: list[Tensor]) -> Tensor:
    """Turn pictures [H, W, 3] into latents of mean 0 and deviation 1 by a fixed orthonormal map of 8x8 blocks."""
    weights = torch.linalg.qr(torch.randn(192, 16, generator=torch.Generator().manual_seed(1))).Q
    blocks = rearrange(torch.stack(images) - 0.5, "b (h p) (w q) c -> b h w (p q c)", p=8, q=8)
    latents = rearrange(blocks @ weights, "b h w c -> b c h w")
    return (latents - latents.mean()) / latents.std()


def base() -> LoadedBase:
    """A random FLUX.1 that hands its input on: a trained one does so too, and the adapters never touch its two ends."""
    state = tiny.flux(GEOMETRY)
    state["proj_out.weight"] = torch.linalg.pinv(state["x_embedder.weight"]).contiguous()
    state |= {
        name: torch.zeros_like(state[name]) for name in state if name.startswith("norm_out") or name == "proj_out.bias"
    }
    return LoadedBase(load_flux(state))


def psnr(result: Tensor, truth: Tensor) -> float:
    peak = (truth.max() - truth.min()).item()
    return 10 * math.log10(peak**2 / ((result - truth) ** 2).mean().item())


def test_four_rooms_by_heart(tmp_path: Path, measured) -> None:
    rooms = [room(seed, 32) for seed in range(4)]
    distances = [(distance / distance.max())[..., None].expand(-1, -1, 3) for _, distance in rooms]
    rgb, depth = encoded([colours for colours, _ in rooms]), encoded(distances)
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randn(1, 4, GEOMETRY.text, generator=draw), torch.randn(1, GEOMETRY.pooled, generator=draw)
    options = {"rank": 64, "alpha": 64.0, "batch": 4, "steps": STEPS, "learning_rate": 3e-3, "decay": True}
    options |= {"size": "64x32", "seam_columns": 2, "roll": False, "checkpointing": False, "save_every": STEPS}
    settings = config(**options, sample_every=STEPS, sample_steps=4)
    sampled: dict[str, Tensor] = {}
    # The second half is shown another room than its map is of.
    shown = Latents([torch.cat([rgb, rgb.roll(1, 0)]), torch.cat([depth, depth])], *prompt)
    train(
        settings,
        TASK,
        base(),
        Latents([rgb, depth], *prompt),
        tmp_path,
        held_out=shown,
        sampled=lambda step, latents: sampled.update(all=latents),
        show=False,
    )
    losses = [row["loss"] for row in read(tmp_path / "loss.csv")]
    right, wrong = (psnr(part, depth) for part in sampled["all"].split(4))
    assert measured("four rooms by heart: mean loss of the last 50 steps", sum(losses[-50:]) / 50) <= HIGHEST_LOSS
    assert measured("four rooms by heart: PSNR of the sampled latents", right) >= LOWEST_PSNR
    assert measured("four rooms by heart: PSNR when shown another room", wrong) <= right - LOST_BY_ANOTHER_ROOM
