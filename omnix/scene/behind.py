"""Invent the hidden background: at each cut the farther surface continues under the nearer one, along its own plane.

The camera did not see this part. The plane next to a cut continues under the nearer surface, as far as a viewer who
steps aside would see. If several planes meet, a large plane counts more than one of a few pixels, and then the nearest
one that is still behind the visible surface, as in a room whose walls and floor meet. A plane ends where it reaches the
visible surface: there the floor comes out from under the table. Nothing goes beyond floor, ceiling and walls, nor
beyond the convex hull of what was seen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .edges import parts_of
from .frame import Array, pixel_directions
from .noise import noise_of
from .planes import REACH, dotted, fitted
from .surface import Flags, Ints, Surface, within
from .walls import OFF, Large, hull, large, outermost

# Planes are found and carried on so many rows at most.
ROWS = 256
# How far a viewer is expected to step aside, as a share of the distance straight down; the most that shows (radians).
ASIDE, MOST_SHOWN = 0.65, np.pi / 4
WIDER = (*REACH, 13)
# A carried plane lies behind what was seen if it is farther by this share, and is at most this many times farther than
# where it comes from.
SAME, FARTHER = 0.02, 1.1
# The rim reaches under what was seen, this share farther away.
UNDER = 0.01
# A plane beside a cut must also explain pixels so far from it, within this share; so far it must not be edge-on.
PROOF, EXPLAINS = (2, 5), 0.02
# So many pixels beyond a cut are looked at for a large plane, of which all but the first may show something else.
LOOKED = (1, 3, 5, 8)
# How well a plane is known.
FACING, LOCAL, LARGE = 1.0, 2.0, 3.0
# Colours are taken so many pixels beside a cut, where no edge is blurred.
BORDER = (2, 3, 4)
# So far at most, as a share, they may differ from the pixel right beside the cut.
CONTINUES = 0.1


class Behind(NamedTuple):
    """A surface without cuts, and which of its pixels [M, N] are invented; the rest is its rim.

    border: the pixels of the farther surfaces next to the cuts, whose colours continue behind. drawn: the invented
    pixels that a second panorama shows.
    """

    surface: Surface
    invented: Flags
    border: Flags
    drawn: Flags


class _Carried(NamedTuple):
    """The planes that continue behind cuts, [K] each; number 0 is none.

    plane [K, 3]: of the farther side; start [K, 3]: the ray to the cut; shown: the cosine of how far it goes; far: its
    inverse distance at the cut; known: how well.
    """

    plane: Array
    start: Array
    shown: Array
    far: Array
    known: Array


_SIZES = ((3,), (3,), (), (), ())
_Places = tuple[Ints, ...]


def behind(surface: Surface, second: Array | None = None) -> Behind | None:
    """Return the surface behind the cuts of a surface, or None if there is nothing to invent.

    second: inverse distances [M, N] of a second panorama, which replace the continued planes where they lie behind;
    0 = none.
    """
    step = max(1, len(surface.inverse) // ROWS)
    maps = reduced(surface, step)
    planes = fitted(*maps[:2], 2 * noise_of(*maps[:2]).slack(), WIDER)
    wide = large(planes, *maps[:2])
    found = _found(maps, planes, wide, surface.inverse, step)
    valid, nearest = surface.valid, surface.inverse * (1 - SAME)
    drawn = np.zeros_like(valid)
    if second is not None:
        drawn = valid & (second > 0) & (second < nearest)
        found = np.where(drawn, second, found)
    invented = valid & (found > 0) & (found < nearest)
    if not invented.any():
        return None
    valid = within(invented, 2) & valid
    inverse = np.where(invented, found, np.where(valid, surface.inverse * (1 - UNDER), 0.0))
    right, down = valid != np.roll(valid, -1, axis=1), valid[1:] != valid[:-1]
    return Behind(Surface(inverse, valid, None, right, down), invented, _border(surface), drawn)


def _found(maps: tuple[Array, Flags, Flags, Flags], planes: Array, wide: Large, inverse: Array, step: int) -> Array:
    """Return the inverse distance of what is behind `inverse` [M, N], 0 where nothing is; maps are `reduced`."""
    carried, number = _carried(maps, planes, wide.planes)
    number = number[np.ix_(*(np.minimum(np.arange(n) // step, m - 1) for n, m in zip(inverse.shape, number.shape)))]
    at = np.nonzero(number)
    number, rays, seen = number[at], pixel_directions(*inverse.shape)[at], inverse[at]
    found = np.maximum(dotted(carried.plane[number], rays), carried.far[number] / FARTHER)
    end = np.zeros_like(found)
    for plane in wide.planes[wide.around]:
        there = dotted(plane, rays)
        end = np.maximum(end, np.where(there < seen * (1 - SAME), there, 0.0))
    # Floor, ceiling and walls end everything, and are a better guess than a plane of a few pixels.
    found = np.where((carried.known[number] == FACING) & (end > 0), end, np.maximum(found, end))
    behind = np.zeros_like(inverse)
    behind[at] = np.maximum(found, outermost(hull(*maps[:2]), rays))
    return behind


def _border(surface: Surface) -> Flags:
    """Return the pixels [M, N] of farther surfaces that are a few pixels away from a cut, and next to none."""
    w = surface.inverse
    beside, found = np.zeros_like(surface.valid), np.zeros_like(surface.valid)
    for cut, way in sides(surface.right, np.pad(surface.down, ((0, 1), (0, 0)))):
        beside |= cut
        far = np.where(cut & surface.valid & (moved(w, way) < w), moved(w, way), 0.0)
        for steps in BORDER:
            further = way[0] * (steps - 1), way[1] * (steps - 1)
            back = moved(far, (-way[0] - further[0], -way[1] - further[1]))
            found |= np.abs(w - back) < CONTINUES * back
    return found & surface.valid & ~beside


def sides(right: Flags, down: Flags) -> list[tuple[Flags, tuple[int, int]]]:
    """Return the cuts [M, N] on each side of the pixels, and the way there in rows and columns."""
    above = np.pad(down[:-1], ((1, 0), (0, 0)))
    return [(right, (0, 1)), (np.roll(right, 1, axis=1), (0, -1)), (down, (1, 0)), (above, (-1, 0))]


def reduced(surface: Surface, step: int) -> tuple[Array, Flags, Flags, Flags]:
    """Return inverse distance, validity and cuts of every `step`-th pixel; a cut between two counts for both."""
    right = np.logical_or.reduce([np.roll(surface.right, -k, axis=1) for k in range(step)])
    down = np.pad(surface.down, ((0, step), (0, 0)))
    down = np.logical_or.reduce([down[k : k + len(surface.inverse)] for k in range(step)])
    part = slice(step // 2, None, step)
    inverse, valid, right, down = (a[part, part] for a in (surface.inverse, surface.valid, right, down))
    return inverse, valid, right, down


def _carried(maps: tuple[Array, Flags, Flags, Flags], planes: Array, wide: Array) -> tuple[_Carried, Ints]:
    """Return what is carried under the nearer surfaces, and the number [M, N] of the one that each pixel gets."""
    w, valid, right, down = maps
    rays = pixel_directions(*w.shape).astype(np.float32)
    part = parts_of(valid, right, down[:-1])
    carried, starts = _seeds(planes, wide, w, rays, valid, right, down)
    number = np.zeros(w.shape, dtype=np.int32)
    for start in starts:
        number = _nearer(number, start, carried, w, rays)
    reach = max(1, len(w) // 8)
    for jump in (*(reach >> k for k in range(reach.bit_length())), 1):
        for way in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)):
            way = way[0] * jump, way[1] * jump
            other = np.where(part == moved(part, way), moved(number, way), 0)
            number = _nearer(number, other, carried, w, rays)
    return carried, number


def _seeds(
    planes: Array, wide: Array, w: Array, rays: Array, valid: Flags, right: Flags, down: Flags
) -> tuple[_Carried, list[Ints]]:
    """Return what is carried from each cut to its nearer side, and for each way the numbers [M, N] where it starts.

    Two surfaces shift against each other by the step aside times the difference of their inverse distances.
    """
    found, starts, count = [_Carried(*(np.zeros((1, *size)) for size in _SIZES))], [], 1
    aside = ASIDE / float(np.median(w[-1][valid[-1]])) if valid[-1].any() else ASIDE / float(np.median(w[valid]))
    for cut, way in sides(right, down):
        far, there = (moved(a, way) for a in (w, valid))
        seed = cut & valid & there & (far < w)
        at = np.nonzero(seed)
        plane, known = _beyond(planes, wide, w, rays, at, way)
        shown = np.cos(np.clip(aside * (w - far)[at], 2 * np.pi / len(w), MOST_SHOWN))
        found.append(_Carried(*(a.astype(float) for a in (plane, rays[at], shown, far[at], known))))
        start = np.zeros(w.shape, dtype=np.int32)
        start[at] = count + np.arange(len(plane))
        starts, count = [*starts, start], count + len(plane)
    return _Carried(*(np.concatenate(parts) for parts in zip(*found))), starts


def _beyond(
    planes: Array, wide: Array, w: Array, rays: Array, at: _Places, way: tuple[int, int]
) -> tuple[Array, Array]:
    """Return the planes [K, 3] on which the next pixels that way of some [K] lie, and how well they are known [K].

    It is a large one, moved to that pixel, if the pixels further on lie on it; else the pixel's own if that explains
    them; else one that faces the viewer.
    """
    plane, far, ray = (_further(a, at, way) for a in (planes, w, rays))
    local = np.ones(len(far), dtype=bool)
    for off in _misses(plane, w, rays, at, way, PROOF):
        local &= np.abs(off) < EXPLAINS
    plane, known = np.where(local[:, None], plane, ray * far[:, None]), np.where(local, LOCAL, FACING)
    least = np.full(len(far), OFF * len(LOOKED))
    for one in wide.astype(np.float32):
        off = np.stack(_misses(one, w, rays, at, way, LOOKED))
        fits, total = np.abs(off) < OFF, np.minimum(np.abs(off), OFF).sum(axis=0)
        better = fits[0] & (total < least)
        # A map drifts, so the plane is moved to lie where the pixels that fit it do.
        shifted = one / (1 + (off * fits).sum(axis=0) / np.maximum(fits.sum(axis=0), 1))[:, None]
        plane, known = np.where(better[:, None], shifted, plane), np.where(better, LARGE, known)
        least = np.where(better, total, least)
    return plane, known


def _misses(
    plane: Array, w: Array, rays: Array, at: _Places, way: tuple[int, int], steps: tuple[int, ...]
) -> list[Array]:
    """Return by which shares the planes [K, 3] of pixels miss the pixels so many steps further that way."""
    ways = [(way[0] * step, way[1] * step) for step in steps]
    return [dotted(plane, _further(rays, at, far)) / np.maximum(_further(w, at, far), 1e-9) - 1 for far in ways]


def _further(values: Array, at: _Places, way: tuple[int, int]) -> Array:
    """Return the values [K, ..] that lie so many rows down and columns to the right of pixels; 0 beyond the poles."""
    rows, columns = at[0] + way[0], (at[1] + way[1]) % values.shape[1]
    found = values[rows.clip(0, len(values) - 1), columns]
    found[(rows < 0) | (rows >= len(values))] = 0
    return found


def _nearer(number: Ints, other: Ints, carried: _Carried, w: Array, rays: Array) -> Ints:
    """Return of two that are carried to a pixel the one that is better known, or met first behind what was seen."""
    at = np.nonzero((other > 0) & (other != number))
    old, new = number[at], other[at]
    there, here = dotted(carried.plane[old], rays[at]), dotted(carried.plane[new], rays[at])
    known = carried.known[new] - carried.known[old]
    better = (known > 0) | ((known == 0) & (here > there))
    better &= (here > 0) & (here < w[at] * (1 - SAME)) & (dotted(carried.start[new], rays[at]) >= carried.shown[new])
    found = number.copy()
    found[at] = np.where(better, new, old)
    return found


def moved(values: Array, way: tuple[int, int]) -> Array:
    """Return the values [M, N, ..] that lie so many rows down and columns to the right; 0 beyond the poles."""
    rows, columns = way
    moved = np.roll(values, -columns, axis=1)
    if not rows:
        return moved
    fallen = np.zeros_like(moved)
    if abs(rows) < len(values):
        fallen[max(0, -rows) : len(values) - max(0, rows)] = moved[max(0, rows) : len(values) - max(0, -rows)]
    return fallen


def inpainted(picture: Array, gone: Flags) -> Array:
    """Return a picture [H, W, C] whose pixels `gone` [H, W] are grown inwards from the others: push and pull.

    Means of what is known are taken over ever larger squares, and filled in from the largest to the smallest.
    """
    weight = (~gone).astype(np.float32)[..., None]
    return _pulled(picture.astype(np.float32) * weight, weight)


def _pulled(total: Array, weight: Array) -> Array:
    known = weight > 0
    own = total / np.where(known, weight, 1)
    if known.all() or min(weight.shape[:2]) < 2:
        return np.where(known, own, own[known[..., 0]].mean(axis=0) if known.any() else 0)
    even = (*((0, n % 2) for n in weight.shape[:2]), (0, 0))
    halves = [np.pad(a, even) for a in (total, weight)]
    coarse = _pulled(*(a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2] for a in halves))
    return np.where(known, own, _doubled(coarse)[: weight.shape[0], : weight.shape[1]])


def _doubled(picture: Array) -> Array:
    """Return a picture at twice its size, linearly between the pixels; the columns are a circle."""
    for axis in (0, 1):
        places = np.arange(picture.shape[axis])
        ends = places.clip(1) - 1, (places + 1).clip(max=places[-1])
        sides = ends if axis == 0 else (places - 1, (places + 1) % len(places))
        before, after = (np.take(picture, side, axis=axis) for side in sides)
        pair = np.stack([0.75 * picture + 0.25 * before, 0.75 * picture + 0.25 * after], axis=axis + 1)
        picture = pair.reshape([n * 2 if axis == a else n for a, n in enumerate(picture.shape)])
    return picture
