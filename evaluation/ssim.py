"""Structural similarity of two panoramas: Wang et al., TIP 2004, with the settings that scikit-image defaults to.

Windows of 7x7 pixels, all alike, sample covariance, K1 = 0.01, K2 = 0.03, values in [0, 1]. A panorama has no left and
right edge, so windows wrap; up and down they must fit. The tests hold it to scikit-image, which knows no wrapping and
no weights, takes twice as long, and is no package that ComfyUI has.
"""

from __future__ import annotations

import numpy as np

from .pictures import Array
from .sphere import bands

WINDOW = 7


def similarity(first: Array, second: Array) -> Array:
    """Return SSIM at each pixel of two channels [H, W] in [0, 1]: float32 [H, W], NaN in the 3 rows at each pole."""
    radius = WINDOW // 2
    result = np.full(first.shape, np.nan, dtype=np.float32)
    if first.shape[1] < WINDOW:
        return result
    x, y = (np.pad(channel.astype(np.float32), ((0, 0), (radius, radius)), mode="wrap") for channel in (first, second))
    for rows in bands(first.shape[0] - 2 * radius):
        under = slice(rows.start, rows.stop + 2 * radius)
        result[rows.start + radius : rows.stop + radius] = _similarity(x[under], y[under])
    return result


def _similarity(x: Array, y: Array) -> Array:
    """Return SSIM of every whole window."""
    ux, uy = _mean(x), _mean(y)
    sample = np.float32(WINDOW**2 / (WINDOW**2 - 1))
    vx, vy = sample * (_mean(x * x) - ux * ux), sample * (_mean(y * y) - uy * uy)
    vxy = sample * (_mean(x * y) - ux * uy)
    c1, c2 = np.float32(0.01**2), np.float32(0.03**2)
    return (2 * ux * uy + c1) * (2 * vxy + c2) / ((ux * ux + uy * uy + c1) * (vx + vy + c2))


def _mean(values: Array) -> Array:
    """Return the mean of each whole window: [H, W] -> [H - 6, W - 6]."""
    rows, columns = values.shape[0] - WINDOW + 1, values.shape[1] - WINDOW + 1
    down = np.zeros((rows, values.shape[1]), dtype=values.dtype)
    whole = np.zeros((rows, columns), dtype=values.dtype)
    for shift in range(WINDOW):
        down += values[shift : shift + rows]
    for shift in range(WINDOW):
        whole += down[:, shift : shift + columns]
    return whole / np.float32(WINDOW**2)
