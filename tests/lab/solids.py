"""The shapes of rooms described a second time, as solids: the distance of points from them."""

import math

import numpy as np
from comfyui_omnix.lab.rooms import shapes


def in_frame(shape: shapes.Shape, p: np.ndarray) -> np.ndarray:
    """World points [3, N] in the shape's frame: yaw turns to the left about up, then lean about the local Z."""
    x, y, z = p - np.array(shape.centre)[:, None]
    a, b = math.radians(shape.yaw), math.radians(shape.lean)
    x, z = math.cos(a) * x + math.sin(a) * z, -math.sin(a) * x + math.cos(a) * z
    return np.stack([math.cos(b) * x + math.sin(b) * y, -math.sin(b) * x + math.cos(b) * y, z])


def out_of_frame(shape: shapes.Shape, p: np.ndarray) -> np.ndarray:
    """The inverse of in_frame."""
    a, b = math.radians(shape.yaw), math.radians(shape.lean)
    x, y, z = math.cos(b) * p[0] - math.sin(b) * p[1], math.sin(b) * p[0] + math.cos(b) * p[1], p[2]
    x, z = math.cos(a) * x - math.sin(a) * z, math.sin(a) * x + math.cos(a) * z
    return np.stack([x, y, z]) + np.array(shape.centre)[:, None]


def depth_inside(shape: shapes.Shape, points: np.ndarray) -> np.ndarray:
    """Negative inside, positive outside, near zero on the surface (in the order of metres)."""
    x, y, z = p = in_frame(shape, points.astype(np.float64))
    if isinstance(shape, shapes.Box):
        return np.max(np.abs(p) - np.array(shape.half)[:, None], axis=0)
    if isinstance(shape, shapes.Cushion):
        q = np.abs(p) - (np.array(shape.half)[:, None] - shape.rounding)
        return np.linalg.norm(np.maximum(q, 0), axis=0) + np.minimum(q.max(axis=0), 0) - shape.rounding
    if isinstance(shape, shapes.Ball):
        return np.linalg.norm(p / np.array(shape.half)[:, None], axis=0) - 1
    assert isinstance(shape, shapes.Cone)
    wide = shape.bottom + (shape.top - shape.bottom) * (y + shape.tall) / (2 * shape.tall)
    return np.maximum(np.hypot(x, z) - wide, np.abs(y) - shape.tall)
