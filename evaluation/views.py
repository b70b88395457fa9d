"""Maps and their errors as pictures for the eye: arrays [H, W, 3] in [0, 1]."""

from __future__ import annotations

import numpy as np

from .compare import error_picture, fitted
from .metrics import KINDS
from .pictures import Array

WORST = {"depth": 0.5, "normal": 90.0, "albedo": 0.5, "roughness": 0.5, "metallic": 0.5, "semantic": 1.0}
"""The error that is drawn white: a share of the depth, degrees, a difference of values, a wrong pixel."""
UNITS = {"depth": "of the depth", "normal": "degrees", "semantic": "wrong"}
NONE = (0.25, 0.3, 0.45)
"""The colour of pixels that have no value."""
SHOWN_ALIGNMENT = "scale_by_median"


def error(kind: str, prediction: Array, truth: Array, alignment: str = SHOWN_ALIGNMENT) -> Array:
    """Draw the error of each pixel: black none, then red and yellow, white from WORST on; blue-grey where invalid."""
    values = error_picture(kind, prediction, truth, alignment) / WORST[kind]
    heat = np.stack([3 * values, 3 * values - 1, 3 * values - 2], axis=-1)
    return np.where(np.isnan(heat), NONE, np.clip(heat, 0, 1))


def legend(kind: str) -> str:
    """Say what black and white mean in `error`."""
    return f"error: black 0, white {WORST[kind]:g} {UNITS.get(kind, '')}".rstrip()


def views(kind: str, prediction: Array, truth: Array) -> tuple[Array, Array]:
    """Draw a prediction and its truth, depth in grey from the truth's 2nd to its 98th percentile after alignment."""
    if kind == "semantic":
        return _of_codes(prediction), _of_codes(truth)
    if kind == "depth":
        return _depths(prediction, truth)
    if kind == "normal":
        prediction, truth = prediction * 0.5 + 0.5, truth * 0.5 + 0.5
    return _coloured(prediction), _coloured(truth)


def _depths(prediction: Array, truth: Array) -> tuple[Array, Array]:
    valid = KINDS["depth"].valid(prediction, truth)
    if not valid.any():
        return _coloured(np.full_like(prediction, np.nan)), _coloured(np.full_like(truth, np.nan))
    near, far = np.percentile(truth[valid], (2, 98))
    span = far - near or 1.0
    ours = fitted(SHOWN_ALIGNMENT, prediction[valid], truth[valid])(prediction)
    return _coloured((ours - near) / span), _coloured((truth - near) / span)


def _coloured(values: Array) -> Array:
    three = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=-1)
    return np.where(np.isnan(three), NONE, np.clip(three, 0, 1))


def _of_codes(labels: Array) -> Array:
    return np.stack([labels >> 16, labels >> 8 & 255, labels & 255], axis=-1) / 255
