"""Invent the hidden background: at each cut the farther surface continues under the nearer one, along its own plane.

The camera did not see this part. The plane next to a cut continues under the nearer surface, as far as a viewer who
steps aside would see. If several planes meet, the nearest one that is still behind the visible surface is used, as in a
room whose walls and floor meet. A plane ends where it reaches the visible surface: there the floor comes out from under
the table.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation

from .edges import parts_of
from .frame import Array, pixel_directions
from .noise import noise_of
from .planes import REACH, dotted, fitted
from .surface import Flags, Surface

# Planes are found and carried on so many rows at most.
ROWS = 256
# How far a viewer is expected to step aside, as a share of the distance straight down; the most that shows (radians).
ASIDE, MOST_SHOWN = 0.65, np.pi / 4
WIDER = (*REACH, 13)
# A carried plane lies behind what was seen if it is farther by this share, and is at most this many times farther than
# where it comes from.
SAME, FARTHER = 0.02, 1.5
# The rim reaches under what was seen, this share farther away.
UNDER = 0.01
# A plane beside a cut must also explain pixels so far from it, within this share; so far it must not be edge-on.
PROOF, EXPLAINS = (2, 5), 0.02
# Colours are taken so many pixels beside a cut, where no edge is blurred.
BORDER = (2, 3, 4)


class Behind(NamedTuple):
    """A surface without cuts, and which of its pixels [M, N] are invented; the rest is its rim.

    border: the pixels of the farther surfaces next to the cuts, whose colours continue behind. drawn: the invented
    pixels that a second panorama shows.
    """

    surface: Surface
    invented: Flags
    border: Flags
    drawn: Flags


def behind(surface: Surface, second: Array | None = None) -> Behind | None:
    """Return the surface behind the cuts of a surface, or None if there is nothing to invent.

    second: inverse distances [M, N] of a second panorama, which replace the continued planes where they lie behind;
    0 = none.
    """
    step = max(1, len(surface.inverse) // ROWS)
    carried = _carried(reduced(surface, step), surface.inverse.shape, step)
    w = surface.inverse
    found = np.maximum(dotted(carried, pixel_directions(*w.shape)), carried[..., 7] / FARTHER)
    drawn = np.zeros_like(surface.valid)
    if second is not None:
        drawn = surface.valid & (second > 0) & (second < w * (1 - SAME))
        found = np.where(drawn, second, found)
    invented = surface.valid & (found > 0) & (found < w * (1 - SAME))
    if not invented.any():
        return None
    valid = grown_by(invented, 2) & surface.valid
    inverse = np.where(invented, found, np.where(valid, w * (1 - UNDER), 0.0))
    right, down = valid != np.roll(valid, -1, axis=1), valid[1:] != valid[:-1]
    return Behind(Surface(inverse, valid, None, right, down), invented, _border(surface), drawn)


def _border(surface: Surface) -> Flags:
    """Return the pixels [M, N] of farther surfaces that are a few pixels away from a cut."""
    found = np.zeros_like(surface.valid)
    for cut, way in sides(surface.right, np.pad(surface.down, ((0, 1), (0, 0)))):
        seed = cut & surface.valid & (moved(surface.inverse, way) < surface.inverse)
        for steps in BORDER:
            back = -way[0] * steps, -way[1] * steps
            found |= moved(seed, back) & (surface.inverse < moved(surface.inverse, back))
    return found & surface.valid


def sides(right: Flags, down: Flags) -> list[tuple[Flags, tuple[int, int]]]:
    """Return the cuts [M, N] on each side of the pixels, and the way there in rows and columns."""
    above = np.pad(down[:-1], ((1, 0), (0, 0)))
    return [(right, (0, 1)), (np.roll(right, 1, axis=1), (0, -1)), (down, (1, 0)), (above, (-1, 0))]


def grown_by(flags: Flags, pixels: int) -> Flags:
    """Return flags [M, N] with their neighbours; the columns are a circle."""
    padded = np.pad(flags, ((0, 0), (pixels, pixels)), mode="wrap")
    return np.asarray(binary_dilation(padded, iterations=pixels), dtype=bool)[:, pixels:-pixels]


def reduced(surface: Surface, step: int) -> tuple[Array, Flags, Flags, Flags]:
    """Return inverse distance, validity and cuts of every `step`-th pixel; a cut between two counts for both."""
    right = np.logical_or.reduce([np.roll(surface.right, -k, axis=1) for k in range(step)])
    down = np.pad(surface.down, ((0, step), (0, 0)))
    down = np.logical_or.reduce([down[k : k + len(surface.inverse)] for k in range(step)])
    part = slice(step // 2, None, step)
    inverse, valid, right, down = (a[part, part] for a in (surface.inverse, surface.valid, right, down))
    return inverse, valid, right, down


def _carried(maps: tuple[Array, Flags, Flags, Flags], shape: tuple[int, ...], step: int) -> Array:
    """Return what was carried to each pixel, as `_seeds`, on the full lattice [M, N, 8]."""
    w, valid, right, down = maps
    rays = pixel_directions(*w.shape).astype(np.float32)
    planes = fitted(w, valid, 2 * noise_of(w, valid).slack(), WIDER)
    part = parts_of(valid, right, down[:-1])
    found = _seeds(planes, w, rays, valid, right, down)
    reach = max(1, len(w) // 8)
    for jump in (*(reach >> k for k in range(reach.bit_length())), 1):
        for way in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)):
            way = way[0] * jump, way[1] * jump
            other = np.where((part == moved(part, way))[..., None], moved(found, way), 0.0)
            found = _nearer(found, other, w, rays)
    rows, columns = (np.minimum(np.arange(n) // step, m - 1) for n, m in zip(shape, w.shape))
    return found[np.ix_(rows, columns)]


def _seeds(planes: Array, w: Array, rays: Array, valid: Flags, right: Flags, down: Flags) -> Array:
    """Return for each pixel on the nearer side of a cut what is carried from there, [M, N, 8]; 0 = nothing.

    It is the plane of the farther side, the ray where it starts, the cosine of how far it goes, and its inverse
    distance there. Two surfaces shift against each other by the step aside times the difference of their inverse
    distances. Where the plane explains nothing beyond the cut, it faces the viewer.
    """
    found = np.zeros((*w.shape, 8), dtype=np.float32)
    aside = ASIDE / float(np.median(w[-1][valid[-1]])) if valid[-1].any() else ASIDE / float(np.median(w[valid]))
    for cut, way in sides(right, down):
        plane, far, there = (moved(a, way) for a in (planes, w, valid))
        proven = np.ones_like(valid)
        for steps in PROOF:
            further = way[0] * steps, way[1] * steps
            off = dotted(plane, moved(rays, further)) / np.maximum(moved(w, further), 1e-9) - 1
            proven &= np.abs(off) < EXPLAINS
        plane = np.where(proven[..., None], plane, moved(rays, way) * far[..., None])
        seed = cut & valid & there & (far < w)
        shown = np.cos(np.clip(aside * (w - far), 2 * np.pi / len(w), MOST_SHOWN))
        carried = np.concatenate([plane, rays, shown[..., None], far[..., None]], axis=-1)
        found = _nearer(found, np.where(seed[..., None], carried, 0.0), w, rays)
    return found


def _nearer(found: Array, other: Array, w: Array, rays: Array) -> Array:
    """Return of two things that are carried the one that is met first behind what was seen, as far as it goes."""
    old, new = dotted(found, rays), dotted(other, rays)
    better = (new > old) & (new < w * (1 - SAME)) & (dotted(other[..., 3:6], rays) >= other[..., 6])
    return np.where(better[..., None], other, found)


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
