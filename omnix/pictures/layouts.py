"""Recognise 360-degree pictures that are not equirectangular panoramas, by their shape or their pixels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor


class Shape(NamedTuple):
    """A shape of pictures, width by height, and what to do with them."""

    ratios: tuple[float, ...]
    advice: str


PHOTO = "choose another picture, or make a panorama of this photo with Place Image on Panorama"
SHAPES = (
    Shape(
        (6 / 1, 1 / 6),
        "this is the shape of a cube map strip: convert it to equirectangular first, or choose another picture",
    ),
    Shape(
        (1 / 1,),
        "choose one half if it is a top-bottom stereo panorama (cut the picture into two of 2:1), or stitch it first "
        "if it is a fisheye or VR180 picture",
    ),
    Shape(
        (4 / 1,),
        "choose one half if it is a side-by-side stereo panorama (cut the picture into two of 2:1), or set fit to pad "
        "if it is a phone's panorama",
    ),
    Shape((4 / 3, 3 / 4), f"{PHOTO}; if it is a cube map cross, convert it to equirectangular first"),
    Shape((3 / 2, 2 / 3), f"{PHOTO}; if it is a cube map of 3x2 faces, convert it to equirectangular first"),
)
SAME_SHAPE, ALMOST = 0.005, 0.06
"""Tolerances of a picture's ratio: for a shape in the table, and for 2:1 to count as almost a panorama."""


def advice(height: int, width: int) -> str:
    """Return advice for a picture that is not twice as wide as high."""
    ratio = width / height
    for shape in SHAPES:
        if any(abs(ratio / known - 1) <= SAME_SHAPE for known in shape.ratios):
            return shape.advice
    if abs(ratio / 2 - 1) <= ALMOST:
        return (
            f"choose fit pad (grey at the poles) or crop, or resize the picture to {width}x{(width + 1) // 2} if its "
            "top and bottom are the poles"
        )
    if ratio > 2:
        return "if it is a phone's panorama, set fit to pad: the missing part becomes grey and is masked as unseen"
    return f"{PHOTO}; if it shows part of a panorama, set fit to pad"


BLACK, LIT = 0.04, 0.08
"""Mean values: a part of a picture is black below the first, and not black above the second."""
ALIKE = 0.6
"""Two circles show the same scene if their correlation is above this."""


def check_circles(name: str, values: Tensor) -> None:
    """Raise ValueError for two fisheye circles [H, 2 H, C] side by side: black corners, but bright tops of the circles.

    In a panorama the whole top row is one point, so the corners can't differ much from the middle of each half.
    """
    halves = rearrange(values[..., :3].mean(dim=-1), "h (two w) -> two h w", two=2)
    height = halves.shape[1]
    across = (torch.arange(height) + 0.5) / height - 0.5
    far = torch.hypot(across[:, None], across[None, :])
    rim = (across.abs()[None, :] < 0.1) & (across.abs()[:, None] > 0.33) & (across.abs()[:, None] < 0.42)
    if float(halves[:, far > 0.56].mean()) > BLACK or float(halves[:, rim].mean()) < LIT:
        return
    if float(torch.corrcoef(halves[:, far < 0.4])[0, 1]) > ALIKE:
        raise ValueError(
            f"{name}: expected a panorama, got two fisheye views of the same side (VR180), so half of the surroundings "
            "is missing; put one view on a panorama with Place Image on Panorama, or choose another picture."
        )
    raise ValueError(
        f"{name}: expected a panorama, got the two circles of a dual fisheye camera; stitch it to an equirectangular "
        "panorama with the camera's app first."
    )
