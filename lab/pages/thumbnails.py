"""Draw the thumbnails for the template browser from the demo's room and its ground-truth maps.

They show the input and a perfect result; no model is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from einops import repeat
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...omnix.pictures.colour import colour_view
from ...omnix.pictures.panorama import camera_rays, perspective_view, place_on_panorama
from ...omnix.scene import Options, build_scene
from ...omnix.scene.layers import masked
from ..rooms.meshes import FROM_OUTSIDE, draw
from ..rooms.room import Room, render
from ..workflows.shelf import PICTURE_PROMPT

WIDTH, HEIGHT, FINER = 400, 200, 2
BORDER, MARGIN, GROWN = 2, 12, 6
QUALITY = 82
PALETTE_SEED = 5
# The world outside the window is far away; distances above this percentile get the last colour.
FAR = 0.97


def layers(room: Room) -> dict[str, Tensor]:
    """Return the room and its maps as pictures [H, W, 3] in [0, 1]."""
    distance = torch.from_numpy(room.distance)
    colours = np.random.default_rng(PALETTE_SEED).uniform(0.1, 0.95, (len(room.labels), 3)).astype(np.float32)
    return {
        "rgb": torch.from_numpy(room.rgb),
        "depth": colour_view((distance / distance.quantile(FAR))[None])[0],
        "normal": torch.from_numpy(room.normal) * 0.5 + 0.5,
        "albedo": torch.from_numpy(room.albedo),
        "roughness": repeat(torch.from_numpy(room.roughness), "h w -> h w c", c=3),
        "metallic": repeat(torch.from_numpy(room.metallic), "h w -> h w c", c=3),
        "semantic": torch.from_numpy(colours[room.semantic]),
        "camray": camera_rays(*room.distance.shape) * 0.5 + 0.5,
    }


def sides(*pictures: Tensor) -> Tensor:
    """Show pictures of one size as slanted strips next to each other, from left to right."""
    height, width = pictures[0].shape[:2]
    slant = torch.linspace(0.12, -0.12, height)[:, None]
    across = (torch.linspace(0, 1, width)[None] + slant / len(pictures)) * len(pictures)
    strip = across.floor().clamp(0, len(pictures) - 1)
    edge = ((across - strip) * width / len(pictures) < BORDER * FINER) & (strip > 0)
    shown = sum(picture * (strip == i)[..., None] for i, picture in enumerate(pictures))
    return torch.where(edge[..., None], torch.ones(3), torch.as_tensor(shown))


def tiles(pictures: list[Tensor]) -> Tensor:
    """Show six pictures in three columns and two rows, each cut to its middle."""
    height, width = pictures[0].shape[:2]
    parts = [picture[:, width // 8 : width - width // 8] for picture in pictures]
    rows = [torch.cat([sharp(part, width // 3 + 1, height // 2) for part in parts[i : i + 3]], 1) for i in (0, 3)]
    return torch.cat(rows)[:, :width]


def sharp(picture: Tensor, width: int, height: int) -> Tensor:
    """Return the picture in another size, with a thin white edge."""
    pixels = torch.from_numpy(np.asarray(image_of(picture).resize((width, height), Image.Resampling.LANCZOS)).copy())
    framed = torch.ones(height, width, 3)
    framed[FINER:-FINER, FINER:-FINER] = pixels[FINER:-FINER, FINER:-FINER] / 255
    return framed


def image_of(picture: Tensor) -> Image.Image:
    """Return a picture [H, W, 3] in [0, 1] as 8-bit image."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().byte().numpy())


def placed(room: Tensor) -> Tensor:
    """Return the input of image_to_pano: the front view on grey."""
    side = room.shape[0]
    view = perspective_view(room[None], side, side)
    return place_on_panorama(view, room.shape[1], room.shape[0])[0][0]


def captioned(picture: Tensor, words: str) -> Tensor:
    """Write words on a dark strip at the bottom."""
    image = image_of(picture)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(22)
    top = image.height - 56
    draw.rectangle((0, top, image.width, image.height), fill=(24, 24, 28))
    draw.text((image.width / 2, top + 28), words, font=font, fill=(240, 240, 240), anchor="mm")
    return torch.from_numpy(np.asarray(image).copy()) / 255


def scene_of(room: Room) -> Tensor:
    """Show the room as a scene from outside; surfaces that face inwards are transparent from there."""
    made = build_scene(room.distance, {"image": room.rgb}, Options(triangles=40_000)).geometry
    size = room.rgb.shape[1], room.rgb.shape[0]
    drawn = draw(made.positions, made.uv, made.faces, room.rgb, FROM_OUTSIDE, size, finer=1)
    return torch.from_numpy(drawn).float()


def front_of(room: Room) -> Tensor:
    """Show the room with its furniture in grey."""
    given = {"image": torch.from_numpy(room.rgb)[None]}
    return masked(given, torch.from_numpy(room.distance)[None], {}, GROWN, Options().tolerance).panorama[0]


def beside(picture: Tensor, small: Tensor) -> Tensor:
    """Show another picture small in the lower left corner."""
    height, width = (side // 5 * 2 for side in picture.shape[:2])
    shown = picture.clone()
    shown[-height - MARGIN : -MARGIN, MARGIN : width + MARGIN] = sharp(small, width, height)
    return shown


def thumbnails(room: Room) -> Mapping[str, Tensor]:
    """Return the picture of every graph, by its slug."""
    shown = layers(room)
    grey, scene = placed(shown["rgb"]), scene_of(room)
    maps = ("depth", "normal", "albedo", "roughness", "metallic", "semantic")
    return {
        "image_to_pano": sides(grey, shown["rgb"]),
        "text_to_pano": captioned(shown["rgb"], f"“{PICTURE_PROMPT}”"),
        "rgb_to_depth": sides(shown["rgb"], shown["depth"]),
        "rgb_to_normal": sides(shown["rgb"], shown["normal"]),
        "rgb_camray_to_normal": sides(shown["rgb"], shown["camray"], shown["normal"]),
        "rgb_to_albedo": sides(shown["rgb"], shown["albedo"]),
        "rgb_to_pbr": sides(shown["rgb"], shown["roughness"], shown["metallic"]),
        "rgb_to_semantic": sides(shown["rgb"], shown["semantic"]),
        "all_maps": tiles([shown[name] for name in maps]),
        "panorama_to_scene": beside(scene, shown["rgb"]),
        "photo_to_scene": beside(scene, grey),
        "whole_scene": beside(scene, front_of(room)),
        "any_model": sides(*(shown[name] for name in ("rgb", "depth", "normal", "albedo"))),
        "save_prompt": captioned(shown["rgb"] * 0.25 + 0.1, "[EQUIRECTANGULAR], encoded once"),
    }


def draw_all(folder: Path, names: Mapping[str, str]) -> None:
    """Write {name}.jpg for every graph; `names` maps slugs to names."""
    room = render(WIDTH * FINER, HEIGHT * FINER)
    for slug, picture in thumbnails(room).items():
        image = image_of(picture).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        image.save(folder / f"{names[slug]}.jpg", quality=QUALITY, optimize=True, progressive=True)
