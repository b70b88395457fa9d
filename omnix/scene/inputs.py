"""Check the inputs from a graph and split them into single panoramas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..pictures.distance import distances_alone
from ..pictures.maps import unit_normals
from ..pictures.semantics import Colour, Named, named
from .build import Scene, build_scene, framed
from .frame import Array
from .second import Second
from .shape import Options


def each_scene(
    images: Mapping[str, Tensor],
    depth: Tensor | None,
    geometry: Mapping[str, Any] | None,
    options: Options,
    seconds: Sequence[Second] | None = None,
    colours: Mapping[str, Colour] | None = None,
) -> Iterator[Scene]:
    """Yield a scene for each panorama of a batch.

    images: "image" and maps, [B, H, W, >=3] in [0, 1]; depth [B, H, W], or the host's MOGE_GEOMETRY, one of them.
    seconds: the second layer of each panorama. colours: the names in the image "semantic", which isn't a texture.
    ValueError for what does not go together.
    """
    distance = distances(depth, geometry)
    check_sizes(images, distance)
    for layer in seconds or ():
        if layer.hidden.shape != distance.shape[1:] or len(seconds or ()) != len(distance):
            height, width = layer.hidden.shape
            raise ValueError(
                f"The background layer is {width}x{height} (batch {len(seconds or ())}) but the depth is "
                f"{_size(distance)}; make size and batch equal."
            )
    for index, one in enumerate(distance):
        maps, shows = maps_of(images, index, colours)
        known, left_out = distances_alone(one)
        scene = build_scene(known.cpu().double().numpy(), maps, options, seconds[index] if seconds else None, shows)
        yield replace(scene, report=f"{scene.report}\n{left_out}") if left_out else scene


def check_sizes(images: Mapping[str, Tensor], depth: Tensor) -> None:
    """Raise ValueError unless images [B, H, W, C] and masks [B, H, W] have the size and batch of a depth [B, H, W]."""
    for name, pixels in images.items():
        if pixels.shape[:3] != depth.shape:
            raise ValueError(
                f"The {name} is {_size(pixels)} but the depth is {_size(depth)}; make size and batch equal."
            )


def maps_of(
    images: Mapping[str, Tensor], index: int, colours: Mapping[str, Colour] | None
) -> tuple[dict[str, Array], Named | None]:
    """Return the maps of one panorama of a batch, and what it shows by its image "semantic", if there is one."""
    one = {name: pixels[index : index + 1] for name, pixels in images.items()}
    shows = named(one["semantic"], colours)[0] if colours is not None and "semantic" in one else None
    return {name: pixels_of(name, pixels) for name, pixels in one.items() if name != "semantic"}, shows


def normals_in_frame(normals: Tensor, depth: Tensor) -> Tensor:
    """Return a normal map [B, H, W, 3], normal * 0.5 + 0.5, turned to fit depths [B, H, W] as a scene turns it.

    ValueError if sizes differ, or if the two contradict each other.
    """
    check_sizes({"image": normals}, depth)
    turned = [_in_frame(pixels_of("normal", one[None]), distances_alone(far)[0]) for one, far in zip(normals, depth)]
    return torch.from_numpy(np.stack(turned)).to(normals) * 0.5 + 0.5


def _in_frame(normals: Array, depth: Tensor) -> Array:
    found, maps = framed(depth.cpu().double().numpy(), {"normal": normals})
    if "normal" not in maps:
        why = f"they fit only as {found.fits}" if found and found.fits else "they disagree almost everywhere"
        raise ValueError(f"The normals contradict the depth; {why}. Connect the depth of the same panorama, or none.")
    return maps["normal"]


def distances(depth: Tensor | None, geometry: Mapping[str, Any] | None) -> Tensor:
    """Return the distance along the ray, [B, H, W], 0 where a MoGe geometry has none."""
    if (depth is None) == (geometry is None):
        raise ValueError("A scene needs depth or moge_geometry, one of them; connect the mask output of OmniX Depth.")
    if depth is not None:
        return depth
    assert geometry is not None
    if "intrinsics" in geometry or "points" not in geometry:
        raise ValueError(
            "The MoGe geometry is not a panorama's; make it with MoGe Panorama Inference or Depth to MoGe Geometry."
        )
    radial = geometry["points"].float().norm(dim=-1)
    held = torch.isfinite(radial) & geometry.get("mask", torch.ones_like(radial, dtype=torch.bool)).bool()
    return torch.where(held, radial, torch.zeros_like(radial))


def pixels_of(name: str, image: Tensor) -> Array:
    """Return the one picture of an image [1, H, W, >=3] as [H, W, 3]; normals as unit vectors."""
    if image.shape[-1] < 3:
        raise ValueError(f"The {name} has {image.shape[-1]} channels, expected 3; connect a colour picture.")
    pixels = unit_normals(image) if name == "normal" else image[..., :3]
    return np.ascontiguousarray(pixels[0].cpu().float().numpy())


def _size(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]} (batch {image.shape[0]})" if image.ndim > 2 else f"{list(image.shape)}"
