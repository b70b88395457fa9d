"""Refuse values that can't be the depth of a panorama, and doubt those that hardly can."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..pictures.panorama import check_panorama
from .frame import Array

NEARER = 0.15
"""A floor that is nearer by this share towards the horizon is inside out."""


def check_depth(distance: Array, maps: Mapping[str, Array]) -> None:
    """Raise ValueError unless this is the depth of a panorama, with maps of its size."""
    height, width = distance.shape
    check_panorama(height, width)
    if height < 2:
        raise ValueError(f"A scene needs a panorama of at least 4x2 pixels, got {width}x{height}; use a larger one.")
    for name, pixels in maps.items():
        if pixels.shape[:2] != (height, width):
            raise ValueError(
                f"The {name} is {pixels.shape[1]}x{pixels.shape[0]} but the depth is {width}x{height}; "
                "resize them to one size."
            )
        if not np.isfinite(pixels).all():
            raise ValueError(f"The {name} contains NaN or infinite values; correct the map first.")
    if not np.isfinite(distance).all():
        raise ValueError("The depth contains NaN or infinite values; correct the map first, or set them to 0.")
    held = distance[distance > 0]
    if not held.size:
        raise ValueError("The depth is 0 everywhere, so there is no surface; connect the mask output of OmniX Depth.")
    if held.max() <= held.min() * (1 + 1e-6):
        raise ValueError(
            f"The depth is {held.max():g} everywhere, which is a sphere, not a scene; connect the mask output of "
            "OmniX Depth."
        )


def inside_out(distance: Array) -> bool:
    """Return whether floor and ceiling both get nearer towards the horizon, as they do if near and far are swapped.

    A level floor at the height h is h / sin(latitude) away: 1.0 h at 80 degrees below the horizon, 1.7 h at 35.
    """
    steep, flat = round(10 / 180 * len(distance)), round(55 / 180 * len(distance))
    for rows in (distance, distance[::-1]):
        straight, aside = (rows[row][rows[row] > 0] for row in (steep, flat))
        if not straight.size or not aside.size or np.median(straight) < np.median(aside) * (1 + NEARER):
            return False
    return True
