"""The background of a panorama where no picture covers it."""

from __future__ import annotations

import re

from .panorama import UNSEEN_GREY

BACKGROUNDS = {"grey": (UNSEEN_GREY,) * 3, "green": (0.0, 1.0, 0.0), "black": (0.0,) * 3, "white": (1.0,) * 3}
"""OmniX was trained on this grey; green is what the outpainting LoRAs of FLUX.2 Klein and Krea 2 fill."""


def background_of(name: str, colour: str = "") -> tuple[float, ...]:
    """Return a background by its name, or by a colour such as #00FF00, if there is one, in [0, 1]."""
    if not colour.strip():
        return BACKGROUNDS[name]
    digits = re.fullmatch(r"#?([0-9a-fA-F]{6})", colour.strip())
    if digits is None:
        raise ValueError(
            f"The colour is {colour!r}, expected six digits such as #00FF00; correct it or empty the field."
        )
    return tuple(value / 255 for value in bytes.fromhex(digits[1]))
