"""A folder of box rooms in the layout of `mapfiles.layout`, and tiny FLUX.1 files, as a user would have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.lab.host.tiny_models import vae
from comfyui_omnix.mapfiles import layout
from comfyui_omnix.omnix.pictures.panorama import camera_rays
from comfyui_omnix.omnix.runtime.conditioning import save_conditioning
from comfyui_omnix.training.config import Config
from made_up import SMALL
from torch import Tensor


def room(seed: int, height: int) -> tuple[Tensor, Tensor]:
    """Look round in a box of chequered walls: colours [H, W, 3] in [0, 1], and distances [H, W] in metres."""
    draw = torch.Generator().manual_seed(seed)
    walls, colours = 2 + 4 * torch.rand(3, generator=draw), torch.rand(6, 3, generator=draw)
    rays = camera_rays(height, 2 * height)
    distance, axis = (walls / rays.abs().clamp(min=1e-6)).min(dim=-1)
    face = 2 * axis + (rays.gather(-1, axis[..., None])[..., 0] > 0)
    chequered = 0.6 + 0.4 * ((rays * distance[..., None]).floor().sum(-1, keepdim=True) % 2)
    return colours[face] * chequered, distance


def write_rooms(folder: Path, count: int = 4, height: int = 64) -> Path:
    """Write rgb, depth and, as a map that the layout does not know, shading; return the folder."""
    for number in range(count):
        colours, distance = room(number, height)
        stem = f"{number:04d}"
        layout.write(layout.place(folder, "rgb", stem), "rgb", colours.numpy())
        layout.write(layout.place(folder, "depth", stem), "depth", distance.numpy())
        shading = (1 / (1 + distance)).numpy()
        layout.write(folder / "shading" / f"{stem}.png", "roughness", shading)
    return folder


def small_run(root: Path, **more: Any) -> Config:
    """Write rooms and base below `root`; return what trains shading on them, a little."""
    given = {"data": str(write_rooms(root / "rooms")), "output": str(root / "runs"), **write_base(root / "models")}
    return Config(**{**given, "target": ("shading",), "size": "128x64", "rank": 4, "batch": 2, **more})


def write_base(folder: Path) -> dict[str, str]:
    """Write a tiny FLUX.1, its VAE and the saved prompt; return the flags that name them."""
    draw = torch.Generator().manual_seed(7)
    tiny.save(tiny.flux(SMALL), folder / "flux.safetensors")
    tiny.save(vae(), folder / "vae.safetensors")
    text, pooled = torch.randn(1, 12, SMALL.text, generator=draw), torch.randn(1, SMALL.pooled, generator=draw)
    save_conditioning([(text, {"pooled_output": pooled, "guidance": 3.5})], folder / "prompt.safetensors")
    names = {"model": "flux", "vae": "vae", "conditioning": "prompt"}
    return {field: str(folder / f"{name}.safetensors") for field, name in names.items()}
