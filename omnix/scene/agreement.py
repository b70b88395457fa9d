"""Whether a normal map shows the same surfaces as the depth, and in which frame.

The planes of the depth have normals of their own. A map that a model predicts may be right but for a rotation, most
often about the vertical; the rotation under which most normals agree is found and undone. A map that agrees nowhere,
or with walls but not with floors, is in another convention, and worse than none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .frame import Array, pixel_directions
from .noise import noise_of
from .planes import fitted
from .shading import unit
from .surface import Flags

# Rows of the reduced map on which normals are compared, and how many pixels of it, evenly on the sphere.
ROWS, SAMPLES = 256, 3000
# Fewer pixels than this say nothing.
FEW = 100
# Angles in degrees: from the first on a pixel says nothing about the rotation; up to the second two normals agree.
IGNORED, AGREES = 60.0, 30.0
# A turn below this many degrees is none. A full rotation must lower the median by this share to be preferred.
LEAST_TURN, CLEARLY = 3.0, 0.75
# This share of the pixels must agree, and this one of those that face up or down, and of those that face sideways.
MOST_AGREE, EACH_AGREES = 0.5, 0.45
# Advice for normals in another tool's convention -> the signs that bring them to glTF's axes.
CONVENTIONS = {
    "DirectX (up is inverted): set convention to DirectX in OmniX Normal, without a depth": (1, -1, 1),
    "inverted: invert its colours": (-1, -1, -1),
    "mirrored: its left is the depth's right": (-1, 1, 1),
}


class Agreement(NamedTuple):
    """A rotation [3, 3] in glTF's axes that puts a map's normals into the depth's frame, and how well they fit then.

    turn: degrees about the vertical (to the left); tilt: of the rest of the rotation; off: the median angle between map
    and depth; agrees: whether the map may be used at all; fits: the convention in which it would fit better, or "".
    """

    rotation: Array
    turn: float
    tilt: float
    off: float
    agrees: bool
    fits: str


def agreement(inverse: Array, valid: Flags, normals: Array) -> Agreement:
    """Compare normals [H, W, 3] in glTF's axes with those of the depth."""
    own, theirs, smooth = _sampled(inverse, valid, normals)
    if len(own) < FEW:
        # A depth that has no planes says nothing against the map; a map without smooth places does.
        return Agreement(np.eye(3), 0.0, 0.0, 0.0, smooth * SAMPLES < 4 * FEW, "")
    turn = _best_turn(own, theirs)
    rotation = _about_vertical(turn)
    full = _refined(own, theirs, rotation)
    tilt = 0.0
    if _off(own, theirs @ full.T) < CLEARLY * _off(own, theirs @ rotation.T) and _angle(full @ rotation.T) > LEAST_TURN:
        tilt, rotation = _angle(full @ rotation.T), full
    turned = theirs @ rotation.T
    fits = _better_convention(own, theirs, _score(own, turned))
    return Agreement(rotation, turn, tilt, _off(own, turned), not fits and _agrees(own, turned), fits)


def _sampled(inverse: Array, valid: Flags, normals: Array) -> tuple[Array, Array, float]:
    """Return normals of depth and map [K, 3], evenly on the sphere, where both are smooth; and the share of the depth
    that is.
    """
    step = max(1, len(inverse) // ROWS)
    w, held, mapped = (a[step // 2 :: step, step // 2 :: step] for a in (inverse, valid, normals))
    planes = fitted(w, held, noise_of(w, held).slack())
    own = unit(-planes)
    # The depth of a plane that is seen edge-on hardly determines its normal.
    flat = held & (_bend(own) < 0.1) & (-(own * pixel_directions(*w.shape)).sum(axis=-1) > 0.2)
    smooth = flat & (_bend(mapped) < 0.1) & ((mapped**2).sum(axis=-1) > 0.25)
    chance = np.random.default_rng(0)
    rows = (np.arccos(1 - 2 * chance.random(SAMPLES)) / np.pi * len(w)).astype(int)
    columns = chance.integers(0, w.shape[1], SAMPLES)
    chosen = smooth[rows, columns]
    return own[rows, columns][chosen], unit(mapped[rows, columns][chosen]), float(flat[rows, columns].mean())


def _bend(vectors: Array) -> Array:
    """Return how much vectors [M, N, 3] change within two pixels to the right and two down."""
    across = np.abs(vectors - np.roll(vectors, -2, axis=1)).max(axis=-1)
    down = np.abs(vectors[2:] - vectors[:-2]).max(axis=-1)
    return np.maximum(across, np.pad(down, ((1, 1), (0, 0)), mode="edge"))


def _best_turn(own: Array, theirs: Array) -> float:
    """Return the turn about the vertical in degrees under which most normals agree; 0 if it is hardly any."""
    best = 0.0
    for turns in (np.arange(-180.0, 180.0, 4.0), np.arange(-4.0, 4.1, 0.5)):
        score = [_score(own, theirs @ _about_vertical(best + turn).T) for turn in turns]
        best += float(turns[int(np.argmax(score))])
    return best if abs(best) >= LEAST_TURN and max(score) > 1.02 * _score(own, theirs) else 0.0


def _score(own: Array, theirs: Array) -> float:
    return float(np.maximum(0.0, 1 - _degrees(own, theirs) / IGNORED).sum())


def _better_convention(own: Array, theirs: Array, score: float) -> str:
    """Return the convention in which the map fits better than as it is, or nothing."""
    found = []
    for name, signs in CONVENTIONS.items():
        changed = theirs * signs
        turn = _best_turn(own, changed)
        found.append((_score(own, changed @ _about_vertical(turn).T), abs(turn), name))
    best = max(found)[0]
    # Inverted and turned by 180 degrees is what DirectX is: of those that fit alike it is the one with the least turn.
    return min((turn, name) for fit, turn, name in found if fit > 0.98 * best)[1] if best > 1.05 * score else ""


def _refined(own: Array, theirs: Array, rotation: Array) -> Array:
    """Return the rotation that fits best those that agree, by Kabsch's method, a few times over."""
    for _ in range(8):
        near = np.maximum(0.0, 1 - _degrees(own, theirs @ rotation.T) / IGNORED)
        left, _, right = np.linalg.svd((own * near[:, None]).T @ theirs)
        rotation = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    return rotation


def _agrees(own: Array, theirs: Array) -> bool:
    near = _degrees(own, theirs) < AGREES
    level = np.abs(own[:, 1]) > 0.8
    groups = [group for group in (level, ~level) if group.mean() > 0.05]
    return near.mean() >= MOST_AGREE and all(near[group].mean() >= EACH_AGREES for group in groups)


def _off(own: Array, theirs: Array) -> float:
    return float(np.median(_degrees(own, theirs)))


def _degrees(a: Array, b: Array) -> Array:
    return np.degrees(np.arccos(np.clip((a * b).sum(axis=-1), -1, 1)))


def _angle(rotation: Array) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))


def _about_vertical(degrees: float) -> Array:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
