"""Draw the picture at the top of the README:  python lab/pages/readme_picture.py FOLDER

FOLDER has rgb_1440x720.png, depth.png, normal.png, albedo.png and label.png: a panorama and maps cut out of the result
pictures in the repository of OmniX's authors (HKU-MMLab/OmniX 237d91e, assets/pano_perc.png and
assets/examples/panorama.png, Apache-2.0). A caption covers a corner of each map; label.png is white there. This pack
builds the scene from these maps, and it is drawn from a step aside. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "web" / "apartment.jpg"
HEIGHT, SIZE, FIELD = 512, (640, 400), 80.0
"""Height of the maps for the scene; width and height of a view, and its horizontal field in degrees."""
YAW, PITCH = -40.0, -12.0
ASIDE = (-0.2, 0.05, -0.1)
"""The position of the second camera in glTF's axes, in multiples of the distance to the floor."""
Array = NDArray[Any]


def read(path: Path) -> Array:
    """Read a picture [H, W, C] in [0, 1]; depth has 16 bits."""
    values = np.asarray(Image.open(path)).astype(np.float32) / (65535 if path.stem == "depth" else 255)
    return values if values.ndim == 3 else values[..., None]


def without_caption(values: Array, covered: Array) -> Array:
    """Fill the pixels under a map's caption from the pixel next to them, so that no letter becomes a surface."""
    rows, columns = np.nonzero(covered)
    filled = values.copy()
    filled[rows, columns] = values[rows, min(columns.max() + 2, values.shape[1] - 1)]
    return filled


def published(folder: Path, *names: str) -> list[Array]:
    """Read maps [H, W, C] of a folder, without their captions."""
    covered = read(folder / "label.png")[..., 0] > 0.5
    return [without_caption(read(folder / f"{name}.png"), covered) for name in names]


def sheet(folder: Path) -> Image.Image:
    """Return views of the panorama, of its depth, normals and albedo, and of the scene from two places."""
    import torch

    from ...omnix.pictures.colour import colour_view
    from ...omnix.pictures.panorama import perspective_view
    from ...omnix.pictures.sheet import contact_sheet
    from ...omnix.scene import build_scene
    from ...omnix.scene.material import resized
    from .inside import seen_from

    depth, normal, albedo = published(folder, "depth", "normal", "albedo")
    rgb, large_depth, large_normal = (
        resized(values, 2 * HEIGHT, HEIGHT) for values in (read(folder / "rgb_1440x720.png"), depth, normal)
    )
    scene = build_scene(large_depth[..., 0].astype(float), {"image": rgb, "normal": large_normal * 2 - 1})
    coloured = colour_view(torch.from_numpy(depth[..., 0])[None])[0].numpy()
    maps = {"panorama (a view of it)": rgb, "depth": coloured, "normal": normal, "albedo": albedo}
    tiles = {
        name: perspective_view(torch.from_numpy(values)[None].float(), *SIZE, FIELD, YAW, PITCH)
        for name, values in maps.items()
    }
    floor = float(-scene.geometry.positions[:, 1].min())
    for name, place in (("3D scene, from the same place", (0.0, 0.0, 0.0)), ("3D scene, from a step aside", ASIDE)):
        picture = seen_from(scene, (floor * place[0], floor * place[1], floor * place[2]), YAW, PITCH, FIELD, SIZE)
        tiles[name] = torch.from_numpy(picture)[None].float()
    made = contact_sheet(list(tiles.items()), 3, SIZE[0])
    return Image.fromarray((made[0].numpy() * 255).round().astype(np.uint8))


def main() -> None:
    """Write the picture; the pack is loaded as ComfyUI does."""
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("readme_picture")
    from comfyui_omnix.lab.pages import readme_picture

    readme_picture.sheet(Path(sys.argv[1])).save(TARGET, quality=88)


if __name__ == "__main__":
    main()
