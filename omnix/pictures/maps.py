"""Turn decoded pictures into maps (depth, normals, roughness, metallic) and into formats for other tools.

Nothing is stretched, smoothed or invented unless the caller asks for it.
Images are [B, H, W, C] in [0, 1]; results are float32. Depth is the relative distance along the ray, not z.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from .distance import is_nothing
from .panorama import camera_rays, check_panorama

MAPS = ("depth", "normal", "albedo", "roughness", "metallic", "semantic")
"""The maps of a panorama, as the inputs of nodes are called."""

# A decoded normal shorter than this has no direction (two steps of 8 bits are 0.016).
SHORTEST_NORMAL = 1e-6


class Depth(NamedTuple):
    """One depth, twice: image [B, H, W, 3] with equal channels, and mask [B, H, W]."""

    image: Tensor
    mask: Tensor


class Material(NamedTuple):
    """Roughness and metallic, each [B, H, W, 3] with equal channels in [0, 1]."""

    roughness: Tensor
    metallic: Tensor


def depth(image: Tensor) -> Depth:
    """Return the mean of the colour channels of a decoded depth picture [B, H, W, C]: relative distance, unscaled."""
    check_image(image, 1, "depth")
    return _as_depth(reduce(image[..., :3].float(), "b h w c -> b h w", "mean"))


def stretch(values: Tensor, near: float, far: float) -> Depth:
    """Map the near percentile of each map in values [B, H, W] to 0 and the far percentile to 1, and clip.

    Percentiles are in [0, 100], interpolated linearly. This changes the data: use it for a view, or if a tool needs the
    full range. Raises ValueError if both percentiles have the same value, because there is nothing to stretch, and for
    NaN and infinite values, which have no place between the percentiles.
    """
    if not 0.0 <= near < far <= 100.0:
        raise ValueError(
            f"The near percentile must be below the far percentile, both from 0 to 100, got {near} and {far}; change "
            "them."
        )
    _check_map(values)
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            "The depth contains NaN or infinite values, so it has no range to stretch; correct the map first, or turn "
            "stretch off."
        )
    flat = rearrange(values.float(), "b h w -> b (h w)").sort(dim=1).values
    low, high = (rearrange(_percentile(flat, p), "b -> b 1 1") for p in (near, far))
    if bool((high <= low).any()):
        raise ValueError(
            f"The percentiles {near:g} and {far:g} of a depth map have the same value, so there is no range to "
            "stretch; set them further apart, or turn stretch off."
        )
    return _as_depth(((values.float() - low) / (high - low)).clamp(0.0, 1.0))


def _percentile(ascending: Tensor, percent: float) -> Tensor:
    # torch.quantile refuses more than 2**24 values; one 8192x4096 panorama has more.
    position = percent / 100.0 * (ascending.shape[1] - 1)
    below = int(position)
    above = min(below + 1, ascending.shape[1] - 1)
    return torch.lerp(ascending[:, below], ascending[:, above], position - below)


def normal(image: Tensor, directx: bool = False) -> Tensor:
    """Return the unit normals of a decoded picture [B, H, W, >=3] as an image: n = 2 x - 1, then (n / |n| + 1) / 2.

    World axes: red is front (+X), green is up (+Y), blue is left (+Z). directx inverts green, for tools in which Y
    points down (DirectX, Unreal); in OpenGL, Blender, Unity and glTF it points up. Mid-grey pixels have no direction:
    their normal stays zero (0.5 in each channel).
    """
    check_image(image, 3, "normal")
    vectors = unit_normals(image)
    if directx:
        vectors = vectors * vectors.new_tensor([1.0, -1.0, 1.0])
    return vectors * 0.5 + 0.5


def unit_normals(image: Tensor) -> Tensor:
    """Return the vectors n / |n| of n = 2 x - 1, [B, H, W, 3] in [-1, 1], and zero where |n| < 1e-6."""
    vectors = image[..., :3].float() * 2.0 - 1.0
    length = vectors.norm(dim=-1, keepdim=True)
    return torch.where(length < SHORTEST_NORMAL, torch.zeros_like(vectors), vectors / length)


def material(image: Tensor) -> Material:
    """Return roughness (channel 0) and metallic (channel 1) of a decoded PBR picture [B, H, W, >=2], unchanged."""
    check_image(image, 2, "roughness and metallic")
    roughness, metallic = (repeat(image[..., channel].float(), "b h w -> b h w c", c=3) for channel in (0, 1))
    return Material(roughness, metallic)


def orm(roughness: Tensor, metallic: Tensor, occlusion: Tensor | None = None) -> Tensor:
    """Pack glTF's occlusion-roughness-metallic texture: red, green, blue of [B, H, W, 3], from channel 0 of each image.

    OmniX predicts no occlusion: if it is missing, it is 1 (unoccluded). Store the result as linear data, not as sRGB.
    """
    shade = torch.ones_like(roughness) if occlusion is None else occlusion
    for name, image in (("metallic", metallic), ("occlusion", shade)):
        if image.shape[:3] != roughness.shape[:3]:
            raise ValueError(
                f"The {name} map is {_size(image)} but roughness is {_size(roughness)}; make size and batch equal."
            )
    return torch.stack([image[..., 0].float() for image in (shade, roughness, metallic)], dim=-1)


def moge_geometry(values: Tensor, image: Tensor) -> dict[str, Tensor]:
    """Return ComfyUI's MOGE_GEOMETRY of depth values [B, H, W] and their panorama image [B, H, W, >=3].

    Keys: points [B, H, W, 3] in MoGe's spherical axes (centre of the panorama -X, left -Y, up +Z), depth [B, H, W]
    (radial distance), mask (bool, True where depth is a distance), image. Pixels outside the mask are infinite in depth
    and points, as in the host's own inference, so that meshing leaves them out. There are no intrinsics: for the host
    that means a panorama. There is no normal: the host reads that key as camera-space normals of a perspective view.
    """
    _check_map(values)
    check_panorama(values.shape[1], values.shape[2])
    if image.shape[:3] != values.shape:
        raise ValueError(
            f"The panorama is {_size(image)} but its depth is {_size(values)}; use the panorama that the depth was "
            "made from, resized to the depth's size."
        )
    check_image(image, 3, "the colours of a mesh")
    distance = values.float().cpu()
    mask = torch.isfinite(distance) & ~torch.stack([is_nothing(one) for one in distance])
    distance = torch.where(mask, distance, torch.inf)
    front, up, left = camera_rays(values.shape[1], values.shape[2]).unbind(dim=-1)
    directions = torch.stack([-front, -left, up], dim=-1)
    points = torch.where(
        rearrange(mask, "b h w -> b h w 1"), rearrange(distance, "b h w -> b h w 1") * directions, torch.inf
    )
    return {"points": points, "depth": distance, "mask": mask, "image": image[..., :3].float().cpu()}


def _as_depth(values: Tensor) -> Depth:
    return Depth(repeat(values, "b h w -> b h w c", c=3), values)


def _size(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]} (batch {image.shape[0]})"


def _check_map(values: Tensor) -> None:
    if values.ndim != 3 or min(values.shape) < 1:
        raise ValueError(f"OmniX needs depth values [batch, height, width], got {list(values.shape)}.")


def check_image(image: Tensor, channels: int, name: str) -> None:
    if image.ndim != 4 or image.shape[-1] < channels or min(image.shape) < 1:
        raise ValueError(
            f"OmniX reads {name} from an image [batch, height, width, {channels} or more channels], "
            f"got {list(image.shape)}; connect the decoded picture."
        )
