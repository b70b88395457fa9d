"""Smooth light over neighbouring pixels of the same surface, and spread it from few pixels to all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .shapes import Array, Vector, column, dot
from .view import Grid, View


class Smoother:
    """Average light over neighbours on the same flat surface; each pass reaches twice as far as the one before.

    An edge-avoiding a-trous filter (Dammertz et al., 2010). The weight of a neighbour depends on its
    distance from the tangent plane and on the angle between the normals. Weights depend only on the view, so they are
    computed once.
    """

    def __init__(self, view: View, grid: Grid, passes: int) -> None:
        self.grid = grid
        normal, point = grid.planes(view.normal), grid.planes(view.hits.point)
        self.weights = [self._weights(normal, point, 1 << k) for k in range(passes)]

    def __call__(self, light: Array, passes: int) -> Array:
        """Return light [3, H * W] smoothed with the first passes."""
        planes = self.grid.planes(light)
        for k, weights in enumerate(self.weights[:passes]):
            total = planes * weights[0]
            for weight, step in zip(weights[1:], _neighbours(1 << k)):
                total += weight * _moved(planes, *step)
            planes = total
        return planes.reshape(light.shape)

    def spread(self, rows: NDArray[np.intp], values: Array, passes: int, elsewhere: Vector) -> Array:
        """Return light known at some pixels [3, n], smoothed over all, [3, H * W]; `elsewhere` is far from all."""
        light = np.zeros((4, self.grid.height * self.grid.width), dtype=np.float32)
        light[:3, rows], light[3, rows] = values, 1.0
        smoothed = self(light, passes)
        return np.where(smoothed[3] > 1e-3, smoothed[:3] / np.maximum(smoothed[3], 1e-3), column(elsewhere))

    def _weights(self, normal: Array, point: Array, step: int) -> list[Array]:
        """Return the shares of a pixel itself and of its eight neighbours at `step`, which add up to 1."""
        weights: list[Array] = [np.ones(normal.shape[1:], dtype=np.float32)]
        for down, right in _neighbours(step):
            share = (0.5 if down else 1.0) * (0.5 if right else 1.0)
            weights.append(share * _likeness(normal, point, _moved(normal, down, right), _moved(point, down, right)))
        total = np.sum(weights, axis=0)
        return [weight / total for weight in weights]


class Enlarger:
    """Bring light from every `step`-th pixel to all, each from the four around it that lie on its own surface."""

    def __init__(self, view: View, grid: Grid, step: int) -> None:
        self.small, rows = grid.every(step)
        i, j = np.arange(grid.height), np.arange(grid.width)
        self.sources, self.weights = [], []
        for down in (0, 1):
            for right in (0, 1):
                row = (i // step + down).clip(0, self.small.height - 1)[:, None]
                source = (row * self.small.width + (j // step + right) % self.small.width).reshape(-1)
                near = [
                    1 - values % step / step if k == 0 else values % step / step
                    for values, k in ((i, down), (j, right))
                ]
                share = (near[0][:, None] * near[1]).reshape(-1).astype(np.float32)
                there = rows[source]
                other = view.normal.take(there, axis=1), view.hits.point.take(there, axis=1)
                like = _likeness(view.normal, view.hits.point, *other)
                self.sources.append(source)
                # If no neighbour is on the same surface, the nearest ones are still better than nothing.
                self.weights.append(share * (like + 1e-4))
        self.total = np.sum(self.weights, axis=0)

    def __call__(self, light: Array) -> Array:
        """Return light [3, h * w] of the small grid at all pixels, [3, H * W]."""
        found = sum(light.take(source, axis=1) * weight for source, weight in zip(self.sources, self.weights))
        return np.asarray(found / self.total, dtype=np.float32)


def _likeness(normal: Array, point: Array, other_normal: Array, other_point: Array) -> Array:
    """Return the weights in [0, 1] of other points on the surfaces at these points, all [3, ...]."""
    off_plane = np.abs(dot(other_point - point, normal))
    return np.maximum(dot(other_normal, normal), 0) ** 16 * np.exp(off_plane / np.float32(-0.02))


def _moved(planes: Array, down: int, right: int) -> Array:
    """Return planes [C, H, W] with the values from further down and right; columns wrap around, rows do not."""
    rows = (np.arange(planes.shape[1]) + down).clip(0, planes.shape[1] - 1)
    return np.roll(planes.take(rows, axis=1), -right, axis=2)


def _neighbours(step: int) -> list[tuple[int, int]]:
    return [(i, j) for i in (-step, 0, step) for j in (-step, 0, step) if i or j]
