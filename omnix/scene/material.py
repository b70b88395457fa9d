"""Textures of a scene from its maps: base colour as it is, the rest as linear data, in one size and format."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..pictures.glb import Material, Picture
from .frame import Array, to_gltf
from .mesh import Mesh
from .shading import baked_frame, tangent_space

PROPERTIES = {"occlusion": 1.0, "roughness": 1.0, "metallic": 0.0}
"""The channels of glTF's ORM texture, in order, and their default values."""
QUALITY = 95
FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg"}


@dataclass(frozen=True)
class Textures:
    """A scene's pictures before they are encoded, [h, w, 3] in [0, 1] each; `given` names the maps in `orm`.

    `glow` is what the surface emits, `strength` times over.
    """

    base_colour: Array
    normal: Array | None
    orm: Array | None
    given: tuple[str, ...]
    unlit: bool
    glow: Array | None = None
    strength: float = 1.0


def textures_of(
    mesh: Mesh, frame: tuple[Array, Array], maps: Mapping[str, Array], rows: int, unlit: bool, limit: int
) -> Textures:
    """Return the textures of a mesh with vertex normals and tangents `frame`, on a lattice of `rows`.

    maps: "image" and perhaps "albedo", "normal" (unit vectors in our axes), "roughness", "metallic", "occlusion"; each
    [H, W, 3]. Without albedo, or if asked for, the picture itself is shown unlit. limit: the greatest width, 0 = none.
    """
    if unlit or "albedo" not in maps:
        return Textures(sized(maps["image"], limit), None, None, (), True)
    given = tuple(name for name in PROPERTIES if name in maps)
    normal = _normal_texture(mesh, frame, maps["normal"], rows, limit) if "normal" in maps else None
    return Textures(sized(maps["albedo"], limit), normal, _orm(maps, given, limit), given, False)


def _orm(maps: Mapping[str, Array], given: tuple[str, ...], limit: int) -> Array | None:
    if not given:
        return None
    shape = maps["image"].shape[:2]
    channels = [maps[name][..., 0] if name in given else np.full(shape, value) for name, value in PROPERTIES.items()]
    return sized(np.stack(channels, axis=-1), limit)


def _normal_texture(mesh: Mesh, frame: tuple[Array, Array], normals: Array, rows: int, limit: int) -> Array:
    world = to_gltf(sized(normals, limit))
    baked = resized(baked_frame(mesh, *frame, rows, 2 * rows), world.shape[1], world.shape[0])
    return tangent_space(world, baked) * 0.5 + 0.5


def sized(picture: Array, limit: int) -> Array:
    """Return a picture [H, W, C] made smaller until it is `limit` wide at most; 0 leaves it as it is."""
    height, width = picture.shape[:2]
    if not limit or width <= limit:
        return picture
    return resized(picture, limit, max(1, round(height * limit / width)))


def resized(picture: Array, width: int, height: int) -> Array:
    """Return a picture [H, W, C] in another size, averaged where it shrinks, in 32-bit floats."""
    if picture.shape[:2] == (height, width):
        return picture
    planes = [Image.fromarray(np.ascontiguousarray(picture[..., c], dtype=np.float32)) for c in range(picture.shape[2])]
    return np.stack([np.asarray(p.resize((width, height), Image.Resampling.BILINEAR)) for p in planes], axis=-1)


def encoded(textures: Textures, form: str) -> Material:
    """Return the material, its pictures encoded as PNG or JPEG."""
    base, normal, orm, glow = (
        None if pixels is None else encode(pixels, form)
        for pixels in (textures.base_colour, textures.normal, textures.orm, textures.glow)
    )
    assert base is not None
    return Material(base, normal, orm, "occlusion" in textures.given, textures.unlit, glow, textures.strength)


def encode(pixels: Array, form: str) -> Picture:
    """Encode [h, w, 3] in [0, 1] with 8 bits a channel."""
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))
    out = io.BytesIO()
    # Colour at half the size, JPEG's habit, would smear normals and materials.
    options = {"quality": QUALITY, "subsampling": 0} if form == "JPEG" else {"compress_level": 4}
    image.save(out, form, **options)
    return Picture(out.getvalue(), FORMATS[form])
