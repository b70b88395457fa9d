"""A second panorama of one place, without the things in front: the surface behind it, as a model draws it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .align import AGREE, fit
from .edges import surfaces
from .frame import Array, reciprocal
from .surface import Flags, at_size, resampled


@dataclass(frozen=True)
class Second:
    """Distances [H, W] in the first depth's scale, 0 = none; where they are used; the maps there; words on the fit.

    Nothing of it is ever mixed into the maps of what was seen.
    """

    distance: Array
    hidden: Flags
    maps: Mapping[str, Array]
    words: str


def second_of(first: Array, second: Array, hidden: Flags, maps: Mapping[str, Array], leave_out: bool) -> Second:
    """Return the second panorama of a first depth [H, W], aligned by what is not `hidden`.

    Raises ValueError if it does not fit; with leave_out it is not used instead, and its words say why.
    """
    try:
        found = fit(first, second, ~hidden)
    except ValueError as refused:
        if not leave_out:
            raise
        return Second(np.zeros_like(first), np.zeros_like(hidden), {}, f"Background layer: left out. {refused}")
    moved = found.scale * second + found.shift
    words = (
        f"Background layer: its depth times {found.scale:.4g} {round(found.shift, 4) + 0.0:+g} fits the first depth. "
        f"Where both see the same, {found.agree:.1%} agree within {AGREE:.0%} (median difference {found.off:.1%}). "
        f"The mask covers {hidden.mean():.1%} of the pixels."
    )
    return Second(np.where((second > 0) & (moved > 0), moved, 0.0), hidden, maps, words)


def on_lattice(second: Second, rows: int, tolerance: float) -> Array:
    """Return inverse distances [M, 2 M] where the second panorama is used, its soft edges made steps; 0 elsewhere."""
    reduced = resampled(reciprocal(second.distance), second.distance > 0, None, rows)
    surface, _ = surfaces(*reduced, tolerance)
    return np.where(surface.valid & at_size(second.hidden, surface.valid.shape), surface.inverse, 0.0)


def drawn_over(grown: Mapping[str, Array], second: Second | None, drawn: Flags) -> Mapping[str, Array]:
    """Return maps [H, W, C] of what is invented, with those of the second panorama where it is used (flags [M, N])."""
    if second is None:
        return grown
    used = at_size(drawn, second.hidden.shape)[..., None]
    return {
        name: np.where(used, second.maps[name], pixels).astype(pixels.dtype) if name in second.maps else pixels
        for name, pixels in grown.items()
    }
