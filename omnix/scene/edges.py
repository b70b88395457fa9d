"""Pixels between two surfaces: found in soft edges, and given to one of the two.

A model's depth edge is a ramp of some pixels. None of them is a surface, so each takes the plane of the nearest pixel
that is one: the ramp becomes a step, and nothing is taken out. The same is done with pixels that are cut from all
round, and with islands of a few pixels.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, minimum_filter1d
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .cuts import DOUBT, cuts_of, with_borders
from .frame import Array, pixel_directions
from .noise import clipped, noise_of, softness
from .planes import dotted, fitted, gap_between, nearest
from .surface import Flags, Surface, over_poles

# An edge of fewer pixels from 10 to 90 % than this is a step. Pixels in the air are given away so many times.
SOFT, ROUNDS = 1.5, 2
# Islands of fewer pixels than this share of all, and of this many at least, do not survive: 10 of 1024 x 512.
ISLAND, LEAST_ISLAND = 2e-5, 4
# The distances in pixels at which surfaces are looked for beside a pixel.
RADII = (1, 2, 3, 4, 6, 8, 12, 16)
# A pixel this near to one of two surfaces, as a share of the gap between them, belongs to it as it is.
BELONGS = 0.1
# A carried plane may change the inverse distance by this factor at most: beyond, the slope is noise.
MOST = 1.5
# It may go this far beyond the nearest and the farthest distance that is seen near the pixel: more is a spike.
SPIKE = 1.05
# Colours so far apart count as much as the greatest distance at which pixels are compared.
UNLIKE = 0.1


_Maps = tuple[Array, Array | None]


def surfaces(
    inverse: Array,
    valid: Flags,
    normals: Array | None,
    tolerance: float | None,
    doubt: float = DOUBT,
    picture: Array | None = None,
) -> tuple[Surface, Flags]:
    """Return the surface with its cuts, and which pixels [M, N] were given to one of two surfaces.

    A jump counts from `tolerance` on, as a share of the farther distance, or from where the map's own noise explains
    it; None cuts nothing but what has no distance. doubt: how far the normals may be wrong, in radians. picture
    [M, N, C]: its edges are sharp where those of the depth are not.
    """
    if tolerance is None:
        surface = with_borders(inverse, valid, normals, np.zeros_like(valid), np.zeros_like(valid[1:]))
        return surface, np.zeros_like(valid)
    if normals is not None:
        normals = np.where(clipped(inverse, valid)[..., None], 0.0, normals)
    noise = noise_of(inverse, valid)
    slack, limit = noise.slack(), noise.tolerance(tolerance)
    planes = fitted(inverse, valid, slack)
    soft = softness(planes, inverse, valid, limit)
    maps, moved = (_smoothed(inverse, planes, valid, noise.blur()), normals), np.zeros_like(valid)
    if soft >= SOFT:
        moved |= between(planes, inverse, valid, limit, reach=round(1.5 * soft))
        planes = fitted(maps[0], valid & ~moved, slack)
        maps = given(*maps, valid & ~moved, moved, planes, picture, round(1.5 * soft))
    for _ in range(ROUNDS):
        loose = _loose(*maps, valid, limit, doubt)
        maps, moved = given(*maps, valid & ~moved & ~loose, loose, planes, picture), moved | loose
    cuts = cuts_of(maps[0], valid, maps[1], limit, doubt)
    return with_borders(maps[0], valid, maps[1], cuts.right, cuts.down), moved


def _smoothed(inverse: Array, planes: Array, valid: Flags, blur: Array) -> Array:
    """Return inverse distances moved onto their planes, as far as the noise explains."""
    flat = dotted(planes, pixel_directions(*inverse.shape))
    return np.where(valid, np.clip(flat, inverse * (1 - blur), inverse * (1 + blur)), inverse)


def _loose(inverse: Array, normals: Array | None, valid: Flags, limit: Array, doubt: float) -> Flags:
    """Return the pixels [M, N] that float in the air, alone or in small groups."""
    cuts = cuts_of(inverse, valid, normals, limit, doubt)
    least = max(LEAST_ISLAND, round(ISLAND * valid.size))
    return cuts.flying | islands(valid, cuts.right, cuts.down, least)


def between(planes: Array, inverse: Array, valid: Flags, tolerance: Array, reach: int) -> Flags:
    """Return the pixels [M, N] within an edge between surfaces that are up to `reach` pixels away on either side."""
    rays = pixel_directions(*inverse.shape).astype(np.float32)
    w = np.where(valid, inverse, np.nan).astype(np.float32)
    found = np.zeros(w.shape, dtype=bool)
    for r in (r for r in RADII if r <= reach):
        sides = [(np.roll(a, r, axis=1), np.roll(a, -r, axis=1)) for a in (planes, rays)]
        found |= _between(w, rays, sides[0], sides[1], tolerance)
        sides = [(over[: -2 * r], over[2 * r :]) for over in (over_poles(a, r) for a in (planes, rays))]
        found |= _between(w, rays, sides[0], sides[1], tolerance)
    return found & valid


def _between(w: Array, rays: Array, planes: tuple[Array, Array], there: tuple[Array, Array], tolerance: Array) -> Flags:
    """Return the pixels between the surfaces of two other pixels, one on either side, given their planes and rays."""
    own, gap = gap_between(planes, there)
    one, other = (dotted(plane, rays) - w for plane in planes)
    with np.errstate(invalid="ignore"):
        apart = (own > 0) & (gap > tolerance * own)
        return apart & (one * other < 0) & (np.minimum(np.abs(one), np.abs(other)) > BELONGS * gap)


def given(
    inverse: Array,
    normals: Array | None,
    kept: Flags,
    wanted: Flags,
    planes: Array,
    picture: Array | None = None,
    reach: int = 2,
) -> _Maps:
    """Return the maps, each wanted pixel on the plane of its nearest kept one, with that one's normal.

    With a picture it is the kept pixel within `reach` that looks most like it and is near.
    """
    if not wanted.any() or not kept.any():
        return inverse, normals
    rows, columns = (index[wanted] for index in nearest(kept))
    if picture is not None:
        rows, columns = _alike(picture, kept, wanted, (rows, columns), reach)
    carried = dotted(planes[rows, columns], pixel_directions(*inverse.shape)[wanted])
    low, high = _around(inverse, kept, reach)
    source, moved = inverse[rows, columns], inverse.copy()
    least, most = np.minimum(source, low[wanted]) / SPIKE, np.maximum(source, high[wanted]) * SPIKE
    moved[wanted] = np.clip(carried, np.maximum(least, source / MOST), np.minimum(most, source * MOST))
    if normals is None:
        return moved, None
    turned = normals.copy()
    turned[wanted] = normals[rows, columns]
    return moved, turned


def _around(inverse: Array, kept: Flags, reach: int) -> tuple[Array, Array]:
    """Return the least and the greatest inverse distance of the kept pixels within `reach`; inf and 0 if none."""
    size = 2 * reach + 1
    low = minimum_filter1d(np.where(kept, inverse, np.inf), size, axis=0, mode="nearest")
    high = maximum_filter1d(np.where(kept, inverse, 0.0), size, axis=0, mode="nearest")
    return minimum_filter1d(low, size, axis=1, mode="wrap"), maximum_filter1d(high, size, axis=1, mode="wrap")


def _alike(picture: Array, kept: Flags, wanted: Flags, found: tuple[Array, Array], reach: int) -> tuple[Array, Array]:
    """Return rows and columns of the kept pixel that is most like each wanted one; `found` where there is none."""
    own = np.nonzero(wanted)
    colour, least = picture[own], np.full(len(own[0]), np.inf)
    for down, right in product(range(-reach, reach + 1), repeat=2):
        rows, columns = own[0] + down, (own[1] + right) % kept.shape[1]
        there = rows.clip(0, len(kept) - 1), columns
        off = ((picture[there] - colour) ** 2).sum(axis=-1) / UNLIKE**2 + (down**2 + right**2) / reach**2
        better = kept[there] & (rows == there[0]) & (off < least)
        least = np.where(better, off, least)
        found = np.where(better, rows, found[0]), np.where(better, columns, found[1])
    return found


def islands(valid: Flags, right: Flags, down: Flags, least: int) -> Flags:
    """Return the pixels [M, N] in connected groups of fewer than `least` pixels."""
    part = parts_of(valid, right, down)
    return valid & (np.bincount(part.ravel())[part] < least)


def parts_of(valid: Flags, right: Flags, down: Flags) -> NDArray[np.int32]:
    """Return the number [M, N] of the part that each pixel hangs together with."""
    number = np.arange(valid.size).reshape(valid.shape)
    across = valid & np.roll(valid, -1, axis=1) & ~right
    below = valid[:-1] & valid[1:] & ~down
    ends = (
        np.concatenate([number[across], number[:-1][below]]),
        np.concatenate([np.roll(number, -1, axis=1)[across], number[1:][below]]),
    )
    links = coo_matrix((np.ones(len(ends[0]), dtype=bool), ends), shape=(valid.size, valid.size))
    return connected_components(links, directed=False)[1].reshape(valid.shape)
