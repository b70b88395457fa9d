"""Read the classes of a semantic map from its colours: one mask per class, and "unclear" if no known colour is near.

OmniX's authors publish no table of colours. The colours here were read from two maps that the real weights made
(pictures in the authors' repository: an apartment and a living room). Floors, walls, ceilings, curtains, doors and
windows have the colours that ScanNet's tools use for NYUv2's classes. Sofas, chairs, tables, rugs and a refrigerator
have other colours than in that table. So only the six classes below are named, and all furniture is unclear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from .maps import check_image
from .sheet import contact_sheet

Colour = tuple[int, int, int]
"""Red, green and blue, 8 bits each."""


class Evidence(NamedTuple):
    """A class in the two maps: its share of the pixels, and their median distance from the colour of the class.

    Distances are Euclidean, in 8-bit levels, over the pixels within TOLERANCE; None if the map does not show the class.
    """

    apartment: tuple[float, float] | None
    living_room: tuple[float, float] | None


EVIDENCE = {
    "floor": Evidence((0.276, 4.2), (0.307, 7.9)),
    "wall": Evidence((0.181, 4.1), (0.114, 6.2)),
    "ceiling": Evidence((0.221, 4.4), (0.206, 3.0)),
    "curtain": Evidence((0.030, 4.1), None),
    "door": Evidence((0.022, 6.8), None),
    "window": Evidence(None, (0.105, 6.7)),
}
UNCLEAR = "unclear"
NAMES = (*EVIDENCE, UNCLEAR)
TOLERANCE = 24
"""In 8-bit levels. In the two maps 73 % of the pixels are within it, and 1 to 2 % are between 24 and 40."""
GREY = (0.35, 0.35, 0.35)


def classes(image: Tensor, colours: Mapping[str, Colour], tolerance: float = TOLERANCE) -> dict[str, Tensor]:
    """Return a mask [B, H, W] of 0 and 1 for each name; in every pixel of image [B, H, W, >=3] exactly one is 1.

    A pixel belongs to the class with the nearest colour, if that is within the tolerance (in 8-bit levels).
    """
    found = nearest(image, [colours[name] for name in EVIDENCE], tolerance)
    return {name: (found == number).float() for name, number in zip(NAMES, (*range(len(EVIDENCE)), -1))}


def nearest(image: Tensor, colours: Sequence[Colour], tolerance: float = TOLERANCE) -> Tensor:
    """Return the number [B, H, W] of the nearest colour of each pixel of image [B, H, W, >=3]; -1 beyond tolerance."""
    check_image(image, 3, "semantics")
    levels = image[..., :3].detach().float().cpu() * 255
    least, number = torch.stack([(levels - levels.new_tensor(colour)).norm(dim=-1) for colour in colours]).min(dim=0)
    return torch.where(least <= tolerance, number, -1)


class Named(NamedTuple):
    """The contents of one panorama: the number of each pixel's name [H, W], -1 = unknown, and whether it is the room.

    The room is the classes that are certain (`EVIDENCE`); the other names are as good as their colours.
    """

    numbers: NDArray[np.integer]
    names: tuple[str, ...]
    room: NDArray[np.bool_]


def named(image: Tensor, colours: Mapping[str, Colour]) -> list[Named]:
    """Return what each panorama of image [B, H, W, >=3] shows, by the nearest colour of a table."""
    numbers = nearest(image, [*colours.values()]).numpy()
    room = nearest(image, [colours[name] for name in EVIDENCE]).numpy() >= 0
    return [Named(*each) for each in zip(numbers, [tuple(colours)] * len(numbers), room)]


def legend(image: Tensor, masks: Mapping[str, Tensor], colours: Mapping[str, Colour]) -> Tensor:
    """Return a picture [B, H, W, 3]: the map, the classes in their own colours, and each name with its share."""
    drawn = {name: torch.tensor(colours[name]) / 255 if name in colours else torch.tensor(GREY) for name in masks}
    sheets = []
    for number, picture in enumerate(image.detach().float().cpu()):
        own = {name: mask[number] for name, mask in masks.items()}
        flat = torch.stack([rearrange(mask, "h w -> h w 1") * drawn[name] for name, mask in own.items()]).sum(dim=0)
        swatches = [(f"{name}: {mask.mean():.0%}", drawn[name].expand(1, 1, 12, 3)) for name, mask in own.items()]
        sheets.append(contact_sheet([("semantic", picture[None]), ("by nearest colour", flat[None]), *swatches]))
    return torch.cat(sheets)
