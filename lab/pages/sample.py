"""Write the sample that ships with the pack, a rendered room with its ground-truth maps:  python lab/pages/sample.py

Load Panorama lists it for users without a panorama, and its true maps can be compared with OmniX's maps.
COMFYUI_PATH names the host.
"""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
HEIGHT = 512
# Points farther than this, in metres, are all behind the window; they are written as 1.
FARTHEST = 10.0


def pictures() -> Mapping[str, Tensor]:
    """Return the room and its true maps by the last part of their file names, [H, W, 3] or [H, W, 1] in [0, 1]."""
    import torch

    from ..rooms.room import render
    from .thumbnails import layers

    room = render(2 * HEIGHT, HEIGHT)
    shown = layers(room)
    distance = torch.from_numpy(room.distance)[..., None] / FARTHEST
    maps = {f"_{name}": shown[name] for name in ("normal", "albedo", "roughness", "metallic", "semantic")}
    return {"": shown["rgb"], "_depth": distance.clamp(0, 1), **maps}


def write(folder: Path) -> None:
    """Write them as PNG, distance with 16 bits."""
    from ...omnix.runtime.save import PNG8, PNG16, encoded, gpano, with_texts

    texts = {"XML:com.adobe.xmp": gpano(2 * HEIGHT, HEIGHT)}
    for ending, picture in pictures().items():
        grey = ending in ("_roughness", "_metallic")
        data = encoded(picture[..., :1] if grey else picture, PNG16 if ending == "_depth" else PNG8)
        (folder / f"omnix_sample_room{ending}.png").write_bytes(with_texts(data, texts))


def main() -> None:
    """Write the files; the pack is loaded as ComfyUI does."""
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("sample")
    from comfyui_omnix.lab.pages import sample

    sample.write(ROOT / "sample")


if __name__ == "__main__":
    main()
