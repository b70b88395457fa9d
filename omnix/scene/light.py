"""The light of a lit scene: the brightest places glow, and a point light is at the viewer.

Renderers that follow light from surface to surface (Blender's Cycles) light the scene by its glow; those that do not
(three.js) by the point light. Both are as strong as gives the scene the panorama's own mean brightness. Blender reads a
point light of the file as 1/683 of what three.js makes of it, so there it adds nothing that shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .frame import Array

# Linear brightness from which on a place glows, or the brightest share of the sphere if nothing is so bright.
BRIGHT, LEAST = 0.9, 0.005
# How much stronger than in the picture a glow may be. A lit surface reflects between these shares.
STRONGEST, REFLECTS = 50.0, (0.2, 0.8)
# The mean cosine under which the surfaces of a box face its middle.
FACES = 0.8


class Light(NamedTuple):
    """The glow [H, W, 3] (sRGB, black where nothing glows), how many times stronger, and a point light in candela."""

    glow: Array
    strength: float
    candela: float


def light_of(maps: Mapping[str, Array], distance: Array) -> Light:
    """Return the light of a scene with "image" and "albedo"; distance [H, W] in the scene's unit, 0 = none."""
    shown, albedo = brightness(maps["image"]), brightness(maps["albedo"])
    area = np.broadcast_to(np.cos((0.5 - (np.arange(len(shown)) + 0.5) / len(shown)) * np.pi)[:, None], shown.shape)
    mean = float(np.average(shown, weights=area))
    glows = shown >= min(BRIGHT, _quantile(shown, area, 1 - LEAST))
    share, own = float((area * glows).sum() / area.sum()), float(np.average(shown[glows], weights=area[glows]))
    reflects = float(np.clip(np.average(albedo, weights=area), *REFLECTS))
    # In a closed room of one albedo, light is reflected again and again: a geometric series.
    needed = mean * (1 - reflects * (1 - share)) / (reflects * share * max(own, 1e-6))
    held = distance > 0
    per_candela = np.where(held, albedo * FACES / (np.pi * np.where(held, distance, 1) ** 2), 0)
    candela = mean / max(float(np.average(per_candela, weights=area * held)), 1e-12)
    glow = np.where(glows[..., None], maps["image"], 0).astype(np.float32)
    return Light(glow, float(np.clip(needed, 1, STRONGEST)), candela)


def brightness(picture: Array) -> Array:
    """Return the linear luminance [H, W] of an sRGB picture."""
    p = np.clip(picture[..., :3], 0, 1)
    linear = np.where(p <= 0.04045, p / 12.92, ((p + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def _quantile(values: Array, weights: Array, share: float) -> float:
    order = np.argsort(values, axis=None)
    total = np.cumsum(weights.ravel()[order])
    return float(values.ravel()[order[min(np.searchsorted(total, share * total[-1]), len(order) - 1)]])
