"""Draw scenes of published maps:  python lab/pages/real_scenes.py FOLDER...

Each folder has rgb.png and the maps that `readme_picture` reads, cut out of the result pictures in the repository of
OmniX's authors (HKU-MMLab/OmniX 237d91e, Apache-2.0). COMFYUI_PATH names the host.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "lab" / "bench" / "scenes.jpg"
HEIGHT, SIZE, FIELD = 512, (640, 427), 85.0
YAW, PITCH, ASIDE = -40.0, -12.0, (-0.4, 0.0, -0.3)
"""Directions of the first two views, in degrees, and position of the second, in metres: 0.5 m from the first."""


def views(folder: Path) -> list[tuple[str, np.ndarray]]:
    """Return views of the scene of a folder's maps: from the viewer, 0.5 m aside, and from above."""
    from ...omnix.scene import Options, build_scene
    from ...omnix.scene.material import resized
    from .inside import seen_from
    from .readme_picture import published, read

    depth, normal = published(folder, "depth", "normal")
    rgb, depth, normal = (resized(a, 2 * HEIGHT, HEIGHT) for a in (read(folder / "rgb.png"), depth, normal))
    scene = build_scene(depth[..., 0].astype(float), {"image": rgb, "normal": normal * 2 - 1}, Options())
    print(scene.report)
    above = 1.3 * float(np.ptp(scene.geometry.positions[:, [0, 2]], axis=0).max())
    return [
        (f"{folder.name}: from the viewer", seen_from(scene, (0.0, 0.0, 0.0), YAW, PITCH, FIELD, SIZE)),
        ("0.5 m aside", seen_from(scene, ASIDE, YAW, PITCH, FIELD, SIZE)),
        ("from above", seen_from(scene, (0.0, above, 0.0), 0.0, -89.9, 50.0, SIZE)),
    ]


def sheet(folders: list[Path]) -> Image.Image:
    """Return all views, a row for each folder."""
    import torch

    from ...omnix.pictures.sheet import contact_sheet

    tiles = [(name, torch.from_numpy(shown)[None].float()) for folder in folders for name, shown in views(folder)]
    made = contact_sheet(tiles, 3, SIZE[0])
    return Image.fromarray((made[0].numpy() * 255).round().astype(np.uint8))


def main() -> None:
    """Write the picture; the pack is loaded as ComfyUI does."""
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("real_scenes")
    from comfyui_omnix.lab.pages import real_scenes

    real_scenes.sheet([Path(folder) for folder in sys.argv[1:]]).save(TARGET, quality=85)


if __name__ == "__main__":
    main()
