"""Draw the pictures of the help pages:  python lab/pages/help_pictures.py [--screens] [--thumbnails]

The pictures show the sample's room and its true maps, processed by the nodes' own functions. Some also show the micro
model's prediction for another room, next to the truth. --screens also takes screenshots of the nodes in ComfyUI's
frontend; this needs the Chromium that OMNIX_CHROMIUM names. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import runpy
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

    from ..rooms.room import Room

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
WIDTH, HEIGHT = 800, 400
QUALITY = 80
# The world outside the window is far away; distances above this percentile count as far.
FAR = 0.97
# OmniX's distances rarely reach 1.
DARKER = 0.7
# Width of the plan in metres and in pixels, and the height in metres above which points are left out.
PLAN_METRES, PLAN_PIXELS = 6.5, 400
CEILING = 0.4
# Pixels by which the mask of the foreground grows, a step aside (glTF's axes), and the view from there: yaw, pitch and
# field in degrees.
GROWN, ASIDE, LOOKS = 6, (0.6, 0.0, 0.0), (-110.0, -15.0, 80.0)
MATERIAL = {"panorama": "rgb", "true roughness": "roughness", "true metallic": "metallic"}
PERCEIVED = {"OmniXDepth": "depth", "OmniXNormal": "normal", "OmniXMaterial": "roughness", "OmniXCompareMaps": "depth"}
"""Node -> the kind of map that the micro model predicts for it."""


def sheets() -> Mapping[str, Tensor]:
    """Return the picture of each node that makes or shows pictures, [H, W, 3] in [0, 1]."""
    true, seen = of_the_sample(), perceived()
    return {node: contact_sheet_of({**true.get(node, {}), **seen.get(node, {})}) for node in {**true, **seen}}


def contact_sheet_of(parts: Mapping[str, Tensor]) -> Tensor:
    """Put labelled pictures [1, h, w, c] on one sheet, three in a row, or two if that leaves no gap."""
    from ...omnix.pictures.sheet import contact_sheet

    return contact_sheet(list(parts.items()), columns=2 if len(parts) in (2, 4) else 3)[0]


def perceived() -> Mapping[str, Mapping[str, Tensor]]:
    """Return, by node, the micro model's prediction for a room it was not trained on, the truth, and the error."""
    from ..demo import micro, scene
    from ..micro import evaluating, graphs

    with tempfile.TemporaryDirectory(prefix="omnix-help-") as folder:
        truth, ours = Path(folder) / "truth", Path(folder) / "ours"
        micro.prepare(truth)
        evaluating.perceive(truth, ours, [micro.STEM], graphs.WEIGHTS, graphs.STEPS)
        rgb = micro.panorama(truth)
        scenes = [micro.batch(scene.drawn(scene.scene_of(maps, rgb), rgb)) for maps in (ours, truth)]
        rows = {node: dict(micro.perceived_beside_true(kind, truth, ours)) for node, kind in PERCEIVED.items()}
    rows |= {"OmniXScene": dict(zip(("from perceived maps (micro model)", "from true maps (renderer)"), scenes))}
    return {**rows, "OmniXSeamlessPanorama": edges()}


def edges() -> dict[str, Tensor]:
    """Return panoramas of the micro model's base without adapters, turned so that the edges meet in the middle."""
    import comfy.sample
    import comfy.sd
    import comfy.utils

    from ...omnix.pictures import panorama
    from ...omnix.runtime import patch, seamless
    from ...omnix.runtime.conditioning import load_conditioning
    from ..micro import graphs
    from ..micro.recipe import HEIGHT as ROWS

    flux, coder = (comfy.utils.load_torch_file(str(graphs.WEIGHTS / name)) for name in (graphs.BASE, graphs.VAE))
    model, vae = comfy.sd.load_diffusion_model_state_dict(flux, {"dtype": torch.float32}), comfy.sd.VAE(sd=coder)
    words = load_conditioning(graphs.WEIGHTS / graphs.PROMPT)
    noise = torch.randn(8, 16, ROWS // 8, ROWS // 4, generator=torch.Generator().manual_seed(5))[-2:]

    def made(base: Any, wrap: int) -> Tensor:
        steps = (20, 1.0, "euler", "simple", words, words, torch.zeros_like(noise))
        with torch.inference_mode():
            latent = comfy.sample.sample(base, noise, *steps, disable_pbar=True, seed=0)
            return panorama.seam_to_middle(panorama.decode_panorama(vae.decode, latent, wrap), 0.0).colours

    pairs = zip(made(model, 0), made(seamless.close_seam(model, 8, patch.warn), 2))
    labels = ("without Seamless Panorama", "with it")
    return {
        f"{label}{' ' * number}": picture[None]
        for number, pair in enumerate(pairs)
        for label, picture in zip(labels, pair)
    }


def of_the_sample() -> dict[str, dict[str, Tensor]]:
    """Return the pictures, [1, H, W, C] by label, that each node makes from the sample's room and its true maps."""
    from ...omnix.pictures import maps, panorama
    from ..rooms.room import render
    from ..rooms.stage import emptied, showroom
    from .thumbnails import layers, scene_of

    room, empty = render(WIDTH, HEIGHT), render(WIDTH, HEIGHT, stage=emptied(showroom()))
    shown = {name: picture[None] for name, picture in layers(room).items()}
    distance = torch.from_numpy(room.distance)[None]
    photo = panorama.perspective_view(shown["rgb"], 480, 360, 80.0, 20.0, -5.0)
    placed, unseen = panorama.place_on_panorama(photo, WIDTH, HEIGHT, 80.0, 20.0, -5.0, 0.0)
    return {
        "OmniXPlaceOnPanorama": {"image": photo, "panorama": placed, "unseen": rearrange(unseen, "b h w -> b h w 1")},
        "OmniXRollPanorama": turned(shown["rgb"]),
        "OmniXCameraRays": {"rays": shown["camray"]},
        "OmniXDepth": depths(shown["rgb"], (distance / distance.quantile(FAR) * DARKER).clamp(0, 1)),
        "OmniXNormal": {
            "panorama": shown["rgb"],
            "OpenGL": maps.normal(shown["normal"]),
            "DirectX": maps.normal(shown["normal"], directx=True),
        },
        "OmniXMaterial": {name: shown[of] for name, of in MATERIAL.items()},
        "OmniXSemantic": {"legend": legend(room)},
        "OmniXPackORM": {
            **{name: shown[name] for name in ("roughness", "metallic")},
            "orm": maps.orm(shown["roughness"], shown["metallic"]),
        },
        "OmniXMogeGeometry": {"panorama": shown["rgb"], "its points, from above": plan(distance, shown["rgb"])},
        "OmniXScene": {"panorama": shown["rgb"], "the scene, from outside": scene_of(room)[None]},
        **layered(room, empty),
        "OmniXColourDepth": colourings((distance / distance.quantile(FAR)).clamp(0, 1)),
        "OmniXContactSheet": {
            "panorama": shown["rgb"],
            **{name: shown[name] for name in ("depth", "normal", "albedo", "roughness", "metallic", "semantic")},
        },
    }


def turned(rgb: Tensor) -> dict[str, Tensor]:
    """Return a panorama [1, H, W, 3], turned by half its width, and the mask of its seam."""
    from ...omnix.pictures.panorama import seam_to_middle

    rolled, seam = seam_to_middle(rgb, 20.0)
    return {"image": rgb, "panorama": rolled, "seam": rearrange(seam, "b h w -> b h w 1")}


def layered(room: Room, empty: Room) -> dict[str, dict[str, Tensor]]:
    """Return the results of the nodes for layers, from the maps of a room with and without its furniture."""
    from ...omnix.scene import Options
    from ...omnix.scene.layers import layers_behind, masked
    from ...omnix.scene.moved import view_from
    from ...omnix.scene.reading import read_glb
    from .inside import seen_from

    image, rgb = torch.from_numpy(room.rgb)[None], torch.from_numpy(empty.rgb)[None]
    first, second = (torch.from_numpy(each.distance)[None] for each in (room, empty))
    grey = masked({"image": image, "normal": normals_of(room)}, first, {}, GROWN, Options().tolerance)
    layers = layers_behind({"image": rgb}, second, first, grey.mask, leave_out=False)
    scenes = [*(build_of(room, given) for given in (None, layers[0]))]
    views = [torch.from_numpy(seen_from(each, ASIDE, *LOOKS, (WIDTH, HEIGHT)))[None].float() for each in scenes]
    moved = view_from(read_glb(scenes[0].glb), ASIDE, HEIGHT, None, invented=False)
    return {
        "OmniXForeground": {"image": image, "panorama": grey.panorama},
        "OmniXBackgroundLayer": {
            **{"first panorama": image, "filled panorama (here: rendered)": rgb},
            **{"by geometry alone": views[0], "with the background layer": views[1]},
        },
        "OmniXMoveViewpoint": {"image": image, "0.6 m to the right": moved.panorama[None]},
    }


def build_of(room: Room, second: Any) -> Any:
    """Return the unlit scene of a rendered room, in metres, with a second layer behind it if one is given."""
    from ...omnix.scene import Options, build_scene

    return build_scene(room.distance, {"image": room.rgb, "normal": room.normal}, Options(camera_height=0), second)


def normals_of(room: Room) -> Tensor:
    """Return the normals of a rendered room as an image [1, H, W, 3]."""
    return torch.from_numpy(room.normal)[None] * 0.5 + 0.5


def legend(room: Any) -> Tensor:
    """Return the legend of a room drawn in the colours that OmniX Semantic knows, [1, H, W, 3]."""
    from ...mapfiles.nyu40 import CLASSES
    from ...omnix.pictures import semantics
    from ..rooms.labels import COLOURS

    known = {name: colour for name, colour in CLASSES if name in semantics.EVIDENCE}
    drawn = torch.tensor([{**COLOURS, **known}[label] for label in room.labels]) / 255
    image = drawn[torch.from_numpy(room.semantic).long()][None]
    return semantics.legend(image, semantics.classes(image, known), known)


def depths(rgb: Tensor, distance: Tensor) -> dict[str, Tensor]:
    """Return the results of OmniX Depth for distances [1, H, W] in [0, 1]."""
    from ...omnix.pictures import maps

    image = rearrange(distance, "b h w -> b h w 1")
    return {
        "panorama": rgb,
        "true depth": maps.depth(image).image,
        "stretch 2 to 97": maps.stretch(distance, 2, 97).image,
    }


def colourings(distance: Tensor) -> dict[str, Tensor]:
    """Return distances [1, H, W] in every colour map, and once inverted."""
    from ...omnix.pictures.colour import COLOURS, colour_view

    return {name: colour_view(distance, name) for name in COLOURS} | {
        "Spectral, inverted": colour_view(distance, "Spectral", invert=True)
    }


def plan(distance: Tensor, rgb: Tensor) -> Tensor:
    """Draw the points of a panorama from above, front up, the highest points last: [1, P, 2 P, 3]."""
    from ...omnix.pictures import maps

    geometry = maps.moge_geometry(distance, rgb)
    back, right, up = rearrange(geometry["points"], "1 h w xyz -> xyz (h w)")
    colours = rearrange(geometry["image"], "1 h w c -> (h w) c")
    scale = PLAN_PIXELS / PLAN_METRES
    row, column = ((back * scale + PLAN_PIXELS / 2).long(), (right * scale + PLAN_PIXELS).long())
    inside = (row >= 0) & (row < PLAN_PIXELS) & (column >= 0) & (column < 2 * PLAN_PIXELS) & (up < CEILING)
    order = torch.argsort(up[inside])
    canvas = np.ones((PLAN_PIXELS, 2 * PLAN_PIXELS, 3), np.float32)
    # If one pixel has several points, the last one remains.
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
