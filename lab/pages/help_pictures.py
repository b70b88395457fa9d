"""Draw the pictures of the pages of help:  python lab/pages/help_pictures.py [--screens] [--thumbnails]

The maps are the demo's room with its true maps, sent through the nodes' own functions; no model is run. With --screens
the nodes themselves are photographed too, in ComfyUI's own frontend: that needs the Chromium that OMNIX_CHROMIUM names.
COMFYUI_PATH names the host.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
WIDTH, HEIGHT = 800, 400
QUALITY = 80
# The window looks far out; what is beyond this share of all distances counts as far.
FAR = 0.97
# OmniX's distances seldom reach 1.
DARKER = 0.7
# The plan shows so many metres across, in so many pixels; what is above the camera's head is left out.
PLAN_METRES, PLAN_PIXELS = 6.5, 400
CEILING = 0.4


def sheets() -> Mapping[str, Tensor]:
    """Return the picture of each node that makes or shows pictures, [H, W, 3] in [0, 1]."""
    from ...omnix import maps, panorama
    from ...omnix.sheet import contact_sheet
    from ..rooms.room import render
    from .thumbnails import layers, scene_of

    room = render(WIDTH, HEIGHT)
    shown = {name: picture[None] for name, picture in layers(room).items()}
    distance = torch.from_numpy(room.distance)[None]
    photo = panorama.perspective_view(shown["rgb"], 480, 360, 80.0, 20.0, -5.0)
    placed, unseen = panorama.place_on_panorama(photo, WIDTH, HEIGHT, 80.0, 20.0, -5.0, 0.0)
    pictures = {
        "OmniXPlaceOnPanorama": {"image": photo, "panorama": placed, "unseen": rearrange(unseen, "b h w -> b h w 1")},
        "OmniXCameraRays": {"rays": shown["camray"]},
        "OmniXDepth": depths(shown["rgb"], (distance / distance.quantile(FAR) * DARKER).clamp(0, 1)),
        "OmniXNormal": {"OpenGL": maps.normal(shown["normal"]), "DirectX": maps.normal(shown["normal"], directx=True)},
        "OmniXMaterial": {name: shown[name] for name in ("roughness", "metallic")},
        "OmniXPackORM": {
            **{name: shown[name] for name in ("roughness", "metallic")},
            "orm": maps.orm(shown["roughness"], shown["metallic"]),
        },
        "OmniXMogeGeometry": {"panorama": shown["rgb"], "its points, from above": plan(distance, shown["rgb"])},
        "OmniXScene": {"panorama": shown["rgb"], "the scene, from outside": scene_of(room)[None]},
        "OmniXColourDepth": colourings((distance / distance.quantile(FAR)).clamp(0, 1)),
        "OmniXCompareMaps": compared(distance),
        "OmniXContactSheet": {
            "panorama": shown["rgb"],
            **{name: shown[name] for name in ("depth", "normal", "albedo", "roughness", "metallic", "semantic")},
        },
    }
    return {
        node: contact_sheet(list(parts.items()), columns=2 if len(parts) in (2, 4) else 3)[0]
        for node, parts in pictures.items()
    }


def compared(distance: Tensor) -> dict[str, Tensor]:
    """Return a depth as a coarse model would see it, the truth, and the error that Compare Maps draws of it."""
    from ...evaluation.images import compare_images
    from ...omnix import maps

    def picture(values: Tensor) -> Tensor:
        return maps.depth(rearrange((values / distance.quantile(FAR) * DARKER).clamp(0, 1), "b h w -> b h w 1")).image

    coarse = F.interpolate(F.avg_pool2d(distance[None], 40), size=distance.shape[1:], mode="bilinear")[0]
    guess, truth = picture((coarse + distance) / 2), picture(distance)
    error, _ = compare_images("depth", guess.numpy(), truth.numpy(), "scale_by_median")
    return {"prediction": guess, "truth": truth, "error": torch.from_numpy(error)}


def depths(rgb: Tensor, distance: Tensor) -> dict[str, Tensor]:
    """Return what OmniX Depth makes of distances [1, H, W] in [0, 1]."""
    from ...omnix import maps

    image = rearrange(distance, "b h w -> b h w 1")
    return {"panorama": rgb, "depth": maps.depth(image).image, "stretch 2 to 97": maps.stretch(distance, 2, 97).image}


def colourings(distance: Tensor) -> dict[str, Tensor]:
    """Return distances [1, H, W] in every colour map, and once inverted."""
    from ...omnix.colour import COLOURS, colour_view

    return {name: colour_view(distance, name) for name in COLOURS} | {
        "Spectral, inverted": colour_view(distance, "Spectral", invert=True)
    }


def plan(distance: Tensor, rgb: Tensor) -> Tensor:
    """Draw the points of a panorama from above, front up, the highest points last: [1, P, 2 P, 3]."""
    from ...omnix import maps

    geometry = maps.moge_geometry(distance, rgb)
    back, right, up = rearrange(geometry["points"], "1 h w xyz -> xyz (h w)")
    colours = rearrange(geometry["image"], "1 h w c -> (h w) c")
    scale = PLAN_PIXELS / PLAN_METRES
    row, column = ((back * scale + PLAN_PIXELS / 2).long(), (right * scale + PLAN_PIXELS).long())
    inside = (row >= 0) & (row < PLAN_PIXELS) & (column >= 0) & (column < 2 * PLAN_PIXELS) & (up < CEILING)
    order = torch.argsort(up[inside])
    canvas = np.ones((PLAN_PIXELS, 2 * PLAN_PIXELS, 3), np.float32)
    # Of several points in one pixel the last stays.
    canvas[row[inside][order].numpy(), column[inside][order].numpy()] = colours[inside][order].numpy()
    return torch.from_numpy(canvas)[None]


def save(picture: Tensor, path: Path) -> None:
    """Write a picture [H, W, 3] in [0, 1] as JPEG."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().numpy()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
    image.save(path, quality=QUALITY, optimize=True, progressive=True)


def main() -> None:
    """Draw them; the pack is loaded as ComfyUI does."""
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("help_pictures")
    from comfyui_omnix.lab.pages import help_pictures, help_screens, thumbnails
    from comfyui_omnix.lab.workflows.catalog import GRAPHS

    for node, picture in help_pictures.sheets().items():
        help_pictures.save(picture, DOCS / f"{node}.jpg")
    if "--screens" in sys.argv[1:]:
        help_screens.photograph(DOCS)
    if "--thumbnails" in sys.argv[1:]:
        thumbnails.draw_all(ROOT / "workflows", {graph.slug: graph.name for graph in GRAPHS})


if __name__ == "__main__":
    main()
