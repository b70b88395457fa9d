"""The micro model's semantic maps: the rooms' labels as classes of NYUv2, in the colours that OmniX's own maps have."""

from __future__ import annotations

import numpy as np

from ...evaluation import semantic
from ...mapfiles import nyu40
from ...mapfiles.pictures import Array
from ..rooms.labels import CLASS_OF, COLOURS

_CLASS_COLOURS = dict(nyu40.CLASSES)
_SHOWN = {int(semantic.codes(np.array(COLOURS[label]))): _CLASS_COLOURS[name] for label, name in CLASS_OF.items()}
"""Code of a label's colour -> the colour of its class."""
LEGEND: Array = np.unique(semantic.codes(np.array([*_SHOWN.values()])))
"""The codes of the classes' colours."""

_ROOM = ("none", "wall", "floor", "ceiling", "window", "door", "curtain", "mirror", "picture")
THINGS = LEGEND[~np.isin(LEGEND, semantic.codes(np.array([_CLASS_COLOURS[name] for name in _ROOM])))]
"""The codes of what stands in a room."""


def in_class_colours(labels: Array) -> Array:
    """Return semantic maps of rooms, uint8 [.., 3], in the colours of the classes. KeyError for other colours."""
    codes, where = np.unique(semantic.codes(labels), return_inverse=True)
    return np.array([_SHOWN[int(code)] for code in codes], np.uint8)[where].reshape(labels.shape)


def nearest(painted: Array) -> Array:
    """Return the code [H, W] of the nearest class of each pixel, uint8 [H, W, 3]."""
    return semantic.nearest(semantic.codes(painted), LEGEND)
