"""Measure what the reference pipeline's way of encoding changes:  python lab/bench/reference_vae.py [--height 720]

Its encoder draws a sample where ours takes the mode, and above 1024 pixels of width it encodes tiles. The VAE has
FLUX's shape and made-up weights, the picture is the sample room; the real weights give other figures.
"""

from __future__ import annotations

import argparse
import runpy
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Print both differences, in units of the latent's own deviation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--height", type=int, default=720, help="of the panorama, in pixels (default %(default)s)")
    height = parser.parse_args().height
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["load_pack"]()

    import numpy as np
    import torch
    from PIL import Image

    vae = import_module("comfyui_omnix.lab.host.flux_vae").flux_vae()
    with Image.open(ROOT / "sample" / "omnix_sample_room.png") as room:
        pixels = np.asarray(room.convert("RGB").resize((2 * height, height)), dtype=np.float32)
    image = torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        whole = vae.encode(image).latent_dist
        vae.enable_tiling()
        tiled = vae.encode(image).latent_dist.mode()
    unit = whole.mean.std()
    apart = (tiled - whole.mean).square().mean((0, 1, 2)).sqrt() / unit
    print(f"a sample for the mode: {whole.std.square().mean().sqrt() / unit:.3g} of the latent's deviation")
    print(f"tiles for the whole, {2 * height}x{height}: {apart.square().mean().sqrt():.3g} of the latent's deviation,")
    print(
        f"at most {apart.max():.3g} in one column, more than 0.01 in {(apart > 0.01).float().mean():.0%} of the columns"
    )


if __name__ == "__main__":
    main()
