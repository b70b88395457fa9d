"""A z-buffer on a panorama: which triangle each pixel's ray meets first, exactly, seam and poles as everywhere else.

Edges of triangles are no straight lines on a panorama, so nothing is interpolated there: each pixel in the bounds of a
triangle gets its ray, and the ray says whether it passes between the three planes through the viewer and an edge.
Bounds need small triangles, so those that are large to the viewer are halved until they are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .frame import Array, coordinates, pixel_directions
from .shading import unit

# The largest angle between a triangle's corners and its middle, in radians, and how often one is quartered for it.
LARGEST, ROUNDS = 0.1, 12
# Pixels and triangles that are tried at once, and how far outside of a triangle a ray still meets it.
AT_ONCE, SLACK = 1_000_000, 1e-9


class Hits(NamedTuple):
    """For each pixel [H, W] its triangle (-1: none), the weights of its corners [H, W, 3], and the inverse distance."""

    face: Array
    weights: Array
    inverse: Array


def first_hits(triangles: Array, height: int) -> Hits:
    """Return what the rays of a panorama of so many rows meet first of triangles [T, 3, 3] round the origin."""
    rays = pixel_directions(height, 2 * height).reshape(-1, 3)
    sides = np.stack([np.cross(triangles[:, k - 2], triangles[:, k - 1]) for k in range(3)], axis=1)
    volume = (triangles[:, 0] * sides[:, 0]).sum(axis=-1)
    inverse, face = np.zeros(len(rays)), np.full(len(rays), -1)
    for which, pixel in _candidates(triangles, height):
        shares = (sides[which] * rays[pixel, None]).sum(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            near = shares.sum(axis=-1) / volume[which]
            held = (shares / volume[which, None] >= -SLACK * np.abs(near[:, None])).all(axis=1) & (near > 0)
        which, pixel, near = which[held], pixel[held], near[held]
        np.maximum.at(inverse, pixel, near)
        best = near >= inverse[pixel]
        face[pixel[best]] = which[best]
    weights = np.zeros((len(rays), 3))
    met = face >= 0
    shares = (sides[face[met]] * rays[met, None]).sum(axis=-1)
    weights[met] = np.clip(shares / shares.sum(axis=-1, keepdims=True), 0, 1)
    shape = height, 2 * height
    return Hits(face.reshape(shape), weights.reshape(*shape, 3), inverse.reshape(shape))


def _candidates(triangles: Array, height: int) -> Iterator[tuple[Array, Array]]:
    """Yield triangles and pixels that may meet, [N] each, in parts of about AT_ONCE."""
    small, owner = _small(triangles)
    low, count = _bounds(small, height)
    total = count[:, 0] * count[:, 1]
    ends = np.cumsum(total)
    splits = np.searchsorted(ends, np.arange(AT_ONCE, ends[-1] if len(ends) else 0, AT_ONCE))
    for part in np.split(np.arange(len(small)), splits):
        pairs = np.repeat(part, total[part])
        place = np.arange(len(pairs)) - np.repeat(np.cumsum(total[part]) - total[part], total[part])
        down, across = np.divmod(place, np.maximum(count[pairs, 1], 1))
        yield owner[pairs], (low[pairs, 0] + down) * 2 * height + (low[pairs, 1] + across) % (2 * height)


def _small(triangles: Array) -> tuple[Array, Array]:
    """Return triangles quartered until they are small to the viewer, and the number of the one each comes from."""
    owner, done = np.arange(len(triangles)), []
    for _ in range(ROUNDS):
        middle = unit(unit(triangles).sum(axis=1))
        large = ((unit(triangles) * middle[:, None]).sum(axis=-1) < np.cos(LARGEST)).any(axis=1)
        done.append((triangles[~large], owner[~large]))
        triangles, owner = _quartered(triangles[large]), np.tile(owner[large], 4)
    done.append((triangles, owner))
    return np.concatenate([part for part, _ in done]), np.concatenate([part for _, part in done])


def _quartered(triangles: Array) -> Array:
    a, b, c = (triangles[:, k] for k in range(3))
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    parts = ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))
    return np.concatenate([np.stack(part, axis=1) for part in parts])


def _bounds(triangles: Array, height: int) -> tuple[Array, Array]:
    """Return the first row and column [T, 2] of the pixels that triangles may cover, and how many [T, 2] there are.

    Columns are those between the corners, or all of them where a pole may lie inside. Rows are those between the
    corners, and as many more as an edge bulges towards its pole.
    """
    v, u = coordinates(triangles)
    rays = unit(triangles)
    middle = unit(rays.sum(axis=1))
    radius = np.arccos(np.clip((rays * middle[:, None]).sum(axis=-1).min(axis=1), -1, 1))
    polar = np.abs(np.arcsin(np.clip(middle[:, 1], -1, 1))) + 2 * radius >= np.pi / 2
    # Columns are counted from the first corner, so that a triangle over the seam is as wide as any other.
    u = (u - u[:, :1] + 0.5) % 1.0 + u[:, :1] - 0.5
    left, right = np.where(polar, 0.0, u.min(axis=1)), np.where(polar, 1.0, u.max(axis=1))
    wider = 1 / np.cos(np.minimum(np.pi * (right - left), 1.5))
    more = np.where(polar, 2 * radius / np.pi, 0.0)
    top, bottom = 0.5 - _bulged(0.5 - v.min(axis=1), wider) - more, 0.5 + _bulged(v.max(axis=1) - 0.5, wider) + more
    first, last = (np.stack(ends, axis=1) * [height, 2 * height] - 0.5 for ends in ((top, left), (bottom, right)))
    low, high = np.ceil(first - 1e-6).astype(int), np.floor(last + 1e-6).astype(int) + 1
    low[:, 0], high[:, 0] = low[:, 0].clip(0, height), high[:, 0].clip(0, height)
    return low, np.clip(high - low, 0, [height, 2 * height])


def _bulged(latitude: Array, wider: Array) -> Array:
    """Return how far edges between corners of a latitude (1/2 = the pole) come to the pole, `wider` = 1 / cos(lon / 2).

    Below the equator they bulge the other way.
    """
    angle = np.clip(latitude * np.pi, -1.5707, 1.5707)
    return np.where(angle > 0, np.arctan(np.tan(angle) * wider), angle) / np.pi
