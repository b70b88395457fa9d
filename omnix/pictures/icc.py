"""Convert 16-bit colours with an ICC profile, and light with any primaries, to sRGB: by curves and a matrix.

Pillow's colour management supports only 8 bits. Format: ICC.1:2022, sections 7.2, 10.6 (curv), 10.18 (para), 10.31
(XYZ).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import einsum
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
# Red, green and blue of sRGB, adapted to D50 as in every profile.
SRGB_TO_XYZ = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
REC_709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
LEVELS = 65536
PARAMETERS = (1, 3, 4, 5, 7)


class Curves(NamedTuple):
    """Linear light of each 16-bit level [3, 65536], and the matrix to linear sRGB [3, 3], float32."""

    light: Tensor
    matrix: Tensor


def curves_of(profile: bytes) -> Curves | None:
    """Return the curves and the matrix of an RGB profile; None if it uses colour tables instead, or is damaged."""
    try:
        if profile[16:20] != b"RGB " or profile[20:24] != b"XYZ ":
            return None
        tags = _tags(profile)
        if b"A2B0" in tags:
            return None
        columns = [struct.unpack_from(">3i", tags[name], 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        light = np.stack([_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")])
    except (struct.error, KeyError, IndexError, ValueError):
        return None
    matrix = np.linalg.inv(SRGB_TO_XYZ) @ (np.array(columns).T / 65536)
    return Curves(torch.from_numpy(light).float(), torch.from_numpy(matrix).float())


def linear_srgb(colours: Tensor, curves: Curves) -> Tensor:
    """Turn colours [.., 3] in [0, 1] of a profile into linear sRGB."""
    levels = (colours * (LEVELS - 1)).round().long()
    light = torch.stack([table[levels[..., channel]] for channel, table in enumerate(curves.light)], dim=-1)
    return mixed(light, curves.matrix)


def mixed(light: Tensor, matrix: Tensor) -> Tensor:
    """Convert linear light [.., 3] to other primaries."""
    return einsum(matrix, light, "other own, ... own -> ... other")


def primaries_to_srgb(primaries: Sequence[float]) -> Tensor:
    """Return the matrix [3, 3] to linear sRGB from x and y of red, green, blue and white (Bradford's adaptation)."""
    own, srgb = _to_xyz(primaries), _to_xyz(REC_709)
    white, d65 = (BRADFORD @ matrix.sum(axis=1) for matrix in (own, srgb))
    adapted = np.linalg.inv(BRADFORD) @ np.diag(d65 / white) @ BRADFORD @ own
    return torch.from_numpy(np.linalg.inv(srgb) @ adapted).float()


def _to_xyz(primaries: Sequence[float]) -> Array:
    """Return the matrix from linear RGB to XYZ, Y of white 1."""
    *columns, white = (np.array([x / y, 1.0, (1.0 - x - y) / y]) for x, y in zip(primaries[::2], primaries[1::2]))
    return np.stack(columns, axis=1) * np.linalg.solve(np.stack(columns, axis=1), white)


def _tags(profile: bytes) -> Mapping[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = [struct.unpack_from(">4sII", profile, 132 + 12 * number) for number in range(min(count, 256))]
    return {name: profile[offset : offset + size] for name, offset, size in entries}


def _curve(tag: bytes) -> Array:
    """Return the linear light of each level.  Raises ValueError for a curve of an unknown kind."""
    at = np.linspace(0.0, 1.0, LEVELS)
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        values = np.array(struct.unpack_from(f">{count}H", tag, 12), dtype=float)
        if count > 1:
            return np.interp(at, np.linspace(0.0, 1.0, count), values / 65535)
        return at ** (values[0] / 256) if count else at
    if tag[:4] != b"para":
        raise ValueError("a curve of an unknown kind.")
    (kind,) = struct.unpack_from(">H", tag, 8)
    return _parametric(at, kind, *(value / 65536 for value in struct.unpack_from(f">{PARAMETERS[kind]}i", tag, 12)))


def _parametric(
    at: Array, kind: int, g: float, a: float = 1.0, b: float = 0.0, c: float = 0.0, d: float = 0.0, *ends: float
) -> Array:
    """Return (a x + b) ** g + e from d on, c x + f below d; kinds 0 to 2 store fewer numbers."""
    e, f = ends or (0.0, 0.0)
    if kind in (1, 2):
        c, d, e, f = 0.0, -b / a, c, c  # kind 2 adds its c to both parts; kind 1 has no c
    return np.where(at >= d, np.maximum(a * at + b, 0.0) ** g + e, c * at + f)
