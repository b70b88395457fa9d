"""The view in the panorama viewer, as the viewer stores it in the workflow."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from torch import Tensor

from .panorama import perspective_view


@dataclass(frozen=True)
class View:
    """Yaw to the right, pitch up and horizontal field of view in degrees; map, place in the batch, width / height."""

    yaw: float = 0.0
    pitch: float = 0.0
    fov: float = 90.0
    map: str = "image"
    batch: int = 0
    aspect: float = 1.5


def read_view(text: str) -> View:
    """Read a view from the viewer's JSON; an empty text means the front.  Raises ValueError for anything else."""
    if not text.strip():
        return View()
    try:
        fields = dict(json.loads(text).items())
        view = View(**{name: type(default)(fields[name]) for name, default in vars(View()).items() if name in fields})
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"The view field does not hold valid viewer data ({error}). Clear the field.") from error
    numbers = (view.yaw, view.pitch, view.fov, view.aspect)
    if not all(map(math.isfinite, numbers)) or not (1 <= view.fov <= 179 and 0.1 <= view.aspect <= 10):
        raise ValueError(
            "The view needs a field of view of 1 to 179 degrees and an aspect of 0.1 to 10. Clear the field."
        )
    return view


def cut_out(maps: dict[str, Tensor], view: View, width: int) -> Tensor:
    """Return the view as an image [1, width / aspect, width, C]; if its map or entry is missing, it is the first."""
    chosen = maps.get(view.map, next(iter(maps.values())))
    index = view.batch if 0 <= view.batch < chosen.shape[0] else 0
    height = max(1, round(width / view.aspect))
    return perspective_view(chosen[index : index + 1], width, height, view.fov, view.yaw, view.pitch)
