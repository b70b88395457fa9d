"""The layers of a scene as a graph knows them: a mask of the things in front, and a second panorama behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..pictures.distance import distances_alone
from ..pictures.panorama import UNSEEN_GREY
from ..pictures.semantics import Colour, Named
from .build import doubt_of, framed
from .checks import check_depth
from .edges import surfaces
from .frame import Array, reciprocal, to_gltf
from .front import in_front
from .inputs import check_sizes, maps_of
from .second import Second, second_of
from .surface import Flags, at_size, lattice_rows, resampled, within

# The lattice is as fine as that of a mesh of so many triangles.
TRIANGLES = 200_000


class Masked(NamedTuple):
    """The panorama [B, H, W, 3] with the things in front in grey, the mask [B, H, W] of it, and a line for each."""

    panorama: Tensor
    mask: Tensor
    reports: list[str]


def masked(
    images: Mapping[str, Tensor],
    depth: Tensor,
    colours: Mapping[str, Colour],
    grow: int,
    tolerance: float,
) -> Masked:
    """Return panoramas whose parts in front of the room are grey, as image_to_pano was trained.

    images: "image" and perhaps "normal" and "semantic", [B, H, W, >=3], colours the names in that; depth [B, H, W].
    """
    check_sizes(images, depth)
    flags = []
    for index, one in enumerate(depth):
        maps, shows = maps_of(images, index, colours)
        known = distances_alone(one)[0].cpu().double().numpy()
        flags.append(within(front_of(known, maps, shows, tolerance), grow))
    image = images["image"][..., :3]
    mask = torch.from_numpy(np.stack(flags)).to(image.device)
    panorama = torch.where(mask[..., None], UNSEEN_GREY, image.float()).to(image.dtype)
    return Masked(panorama, mask.float(), [_mask_report(each, grow) for each in flags])


def front_of(distance: Array, maps: Mapping[str, Array], named: Named | None, tolerance: float) -> Flags:
    """Return the pixels [H, W] of a panorama that show things in front of the room."""
    check_depth(distance, maps)
    found, maps = framed(distance, maps)
    normals = to_gltf(maps["normal"]) if "normal" in maps else None
    reduced = resampled(reciprocal(distance), distance > 0, normals, lattice_rows(len(distance), TRIANGLES))
    surface, _ = surfaces(*reduced, tolerance, doubt_of(found))
    known = None if named is None else at_size(named.room, surface.valid.shape)
    return at_size(in_front(surface, known) > 0, distance.shape)


def _mask_report(flags: Flags, grow: int) -> str:
    if not flags.any():
        return "Nothing is in front of the room, so the mask is empty."
    return f"{flags.mean():.1%} of the pixels are masked: the things in front of the room, grown by {grow} pixels."


def layers_behind(
    images: Mapping[str, Tensor], depth: Tensor, first: Tensor, mask: Tensor, leave_out: bool
) -> list[Second]:
    """Return the second panorama of each one of a batch, its depth aligned to the first.

    images: "image" and maps of the second, [B, H, W, >=3]; depth, first, mask [B, H, W], mask above 0.5 = hidden.
    """
    check_sizes({**images, "first depth": first, "mask": mask}, depth)
    found = []
    for index, one in enumerate(depth):
        maps, _ = maps_of(images, index, None)
        seen, drawn = (distances_alone(each)[0].cpu().double().numpy() for each in (first[index], one))
        check_depth(seen, {})
        check_depth(drawn, maps)
        found.append(second_of(seen, drawn, mask[index].cpu().numpy() > 0.5, maps, leave_out))
    return found


def distance_of(layers: Sequence[Second]) -> Tensor:
    """Return the aligned distances of second panoramas as one batch [B, H, W]."""
    return torch.from_numpy(np.stack([layer.distance for layer in layers])).float()
