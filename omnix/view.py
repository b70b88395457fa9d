"""The view that a person captured in the panorama viewer, as the viewer's widget stores it, cut out on the server.

The widget holds JSON, {"yaw", "pitch", "fov", "map", "batch", "aspect"}: the camera's angles in degrees, the name of
the map on show, the index in the batch and width / height of the frame. What is missing has its default.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from torch import Tensor

from .panorama import perspective_view

RANGES = {"yaw": (-180.0, 180.0), "pitch": (-90.0, 90.0), "fov": (1.0, 170.0), "aspect": (0.1, 10.0)}


@dataclass(frozen=True)
class View:
    """A camera inside a panorama: angles in degrees as in `perspective_view`, aspect = width / height of its frame."""

    yaw: float = 0.0
    pitch: float = 0.0
    fov: float = 90.0
    map: str = "image"
    batch: int = 0
    aspect: float = 1.5


def read_view(text: str) -> View:
    """Read the widget's JSON; raises ValueError in one sentence if it is no view."""
    try:
        values = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"The view is no JSON ({error}); press Capture in the viewer or empty the field.") from error
    known = {field.name for field in fields(View)}
    if not isinstance(values, dict) or not known.issuperset(values):
        raise ValueError(f"The view must be JSON with {', '.join(sorted(known))}, got {text!r}; press Capture again.")
    view = View(**values)
    _check(view)
    return view


def _check(view: View) -> None:
    for name, (low, high) in RANGES.items():
        value = getattr(view, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"The view's {name} must be a number from {low:g} to {high:g}, got {value!r}.")
    if not isinstance(view.map, str):
        raise ValueError(f"The view's map must be the name of a map, got {view.map!r}.")
    if isinstance(view.batch, bool) or not isinstance(view.batch, int) or view.batch < 0:
        raise ValueError(f"The view's batch must be a whole number from 0 on, got {view.batch!r}.")


def cut_view(maps: Mapping[str, Tensor], view: View, width: int) -> Tensor:
    """Return the view [1, height, width, C] of one map, height = width / aspect.  maps: name -> [B, H, W, C]."""
    if view.map not in maps:
        raise ValueError(f'The captured view shows "{view.map}", which is not connected; connect it or capture again.')
    panorama = maps[view.map]
    if view.batch >= len(panorama):
        raise ValueError(
            f"The captured view shows picture {view.batch + 1}, but there are {len(panorama)}; capture again."
        )
    height = max(1, math.floor(width / view.aspect + 0.5))
    return perspective_view(panorama[view.batch :][:1], width, height, view.fov, view.yaw, view.pitch)
