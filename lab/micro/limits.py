"""What the VAE alone does to the true maps, as the trainer sees them: encoded and decoded again.

Adapters learn these latents, so they can hardly be better. It is no strict bound: another latent may decode closer to
the truth than the true map's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ...mapfiles import layout
from ...mapfiles.pictures import Array
from ...omnix.pictures import maps
from ...omnix.pictures.panorama import decode_panorama
from ...omnix.runtime.tasks import WRAP_COLUMNS
from .classes import nearest
from .graphs import VAE
from .pictures import as_trained
from .recipe import PICTURES

READ: Mapping[str, Callable[[Tensor], Tensor]] = {
    "depth": lambda picture: maps.depth(picture).mask,
    "normal": lambda picture: maps.normal(picture) * 2 - 1,
    "albedo": lambda picture: picture,
    "roughness": lambda picture: maps.material(picture).roughness[..., 0],
    "metallic": lambda picture: maps.material(picture).metallic[..., 0],
    "semantic": lambda picture: torch.from_numpy(nearest((picture * 255).round().byte().numpy())),
}
"""Kind of map -> how decoded pictures [n, H, W, 3] become maps of this kind."""


@torch.inference_mode()
def through_vae(weights: Path, truth: Path, stems: Sequence[str]) -> dict[str, list[Array]]:
    """Return kind -> the true maps in a folder of the layout of `mapfiles`, after the VAE of these weights."""
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(weights / VAE)))
    found: dict[str, list[Array]] = {}
    for stream, folders in PICTURES.items():
        if stream != "rgb" and {*folders} <= {*layout.kinds(truth)}:
            latent = vae.encode(torch.from_numpy(as_trained(truth, stream, stems)).float() / 255)
            decoded = decode_panorama(vae.decode, latent, WRAP_COLUMNS).cpu()
            found |= {kind: [*READ[kind](decoded).numpy()] for kind in folders}
    return found
