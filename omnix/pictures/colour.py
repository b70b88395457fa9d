"""Colour a map for viewing: Spectral as in the paper, turbo, grey.

Colours can't be turned back into values, so they belong at the end of a graph.
0 is the first colour of each table; for depth that is the nearest point: dark red in Spectral, dark blue in turbo.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import repeat
from torch import Tensor

# ColorBrewer's diverging scheme "Spectral", 11 classes (Cynthia Brewer, Mark Harrower, Pennsylvania State University).
SPECTRAL = (
    (0x9E, 0x01, 0x42),
    (0xD5, 0x3E, 0x4F),
    (0xF4, 0x6D, 0x43),
    (0xFD, 0xAE, 0x61),
    (0xFE, 0xE0, 0x8B),
    (0xFF, 0xFF, 0xBF),
    (0xE6, 0xF5, 0x98),
    (0xAB, 0xDD, 0xA4),
    (0x66, 0xC2, 0xA5),
    (0x32, 0x88, 0xBD),
    (0x5E, 0x4F, 0xA2),
)

# Polynomials of degree 5 in the value for red, green and blue: the fit to turbo published by Anton Mikhailov
# (Google, 2019), constant term first.
TURBO = (
    (0.13572138, 4.61539260, -42.66032258, 132.13108234, -152.94239396, 59.28637943),
    (0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604),
    (0.10667330, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973),
)


def spectral(values: Tensor) -> Tensor:
    """Colour values [..] -> [.., 3]: linear between the eleven anchors; values are clipped to [0, 1]."""
    anchors = values.new_tensor(SPECTRAL) / 255.0
    position = values.clamp(0.0, 1.0) * (len(SPECTRAL) - 1)
    below = position.floor().long().clamp(max=len(SPECTRAL) - 2)
    return torch.lerp(anchors[below], anchors[below + 1], (position - below).unsqueeze(-1))


def turbo(values: Tensor) -> Tensor:
    """Colour values [..] -> [.., 3] with the published polynomial; values are clipped to [0, 1]."""
    powers = torch.stack([values.clamp(0.0, 1.0) ** k for k in range(len(TURBO[0]))], dim=-1)
    return (powers @ values.new_tensor(TURBO).T).clamp(0.0, 1.0)


def grey(values: Tensor) -> Tensor:
    """Colour values [..] in [0, 1] -> [.., 3] with three equal channels."""
    return repeat(values.clamp(0.0, 1.0), "... -> ... c", c=3)


COLOURS: dict[str, Callable[[Tensor], Tensor]] = {"Spectral": spectral, "turbo": turbo, "grey": grey}


def colour_view(values: Tensor, colours: str = "Spectral", invert: bool = False) -> Tensor:
    """Return the picture [B, H, W, 3] of values [B, H, W] in [0, 1]; invert starts from the table's other end."""
    if colours not in COLOURS:
        raise ValueError(f"There is no colour map {colours!r}; choose one of {', '.join(COLOURS)}.")
    if values.ndim != 3 or min(values.shape) < 1:
        raise ValueError(f"OmniX colours values [batch, height, width], got {list(values.shape)}; connect a mask.")
    if not bool(torch.isfinite(values).all()):
        raise ValueError("The depth contains NaN or infinite values, which have no colour; correct the map first.")
    return COLOURS[colours](1.0 - values.float() if invert else values.float())
