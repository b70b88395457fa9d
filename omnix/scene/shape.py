"""From a depth map to a mesh with cuts and no more triangles than are allowed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .behind import UNDER, behind
from .corners import Corners, corners_of
from .cuts import DOUBT
from .edges import surfaces
from .frame import Array, reciprocal
from .hierarchy import TooFew, chosen, errors, triangles_of
from .mesh import Mesh, assemble
from .second import Second, on_lattice
from .sky import outside, without
from .surface import Flags, Surface, at_size, halved, lattice_rows, nearest_pixels, resampled

# The invented part need not be exact: its error as a share of the distance.
ROUGH = 0.005
# With this many rows or more, the invented part is meshed on half of them.
FINE = 1024


@dataclass(frozen=True)
class Options:
    """The options.  camera_height in metres, 0 = no scale; tolerance and max_error are shares of the distance."""

    camera_height: float = 1.6
    triangles: int = 200_000
    cut: bool = True
    background: bool = True
    tolerance: float = 0.03
    max_error: float = 0.001
    unlit: bool = False
    textures: str = "PNG"
    texture_size: int = 4096
    light: bool = True
    sky: bool = True
    origin: str = "viewer"
    collider: bool = False
    objects: bool = False


@dataclass(frozen=True)
class Shape:
    """A mesh and how it came about: its rows, the error it keeps, solid angles in [0, 1] of the sphere."""

    mesh: Mesh
    rows: int
    error: float
    beside_cuts: float
    given: float
    missing: float
    endless: float
    coarser: bool
    surface: Surface


def shape_of(
    distance: Array, normals: Array | None, options: Options, doubt: float = DOUBT, picture: Array | None = None
) -> Shape:
    """Return the mesh of a depth map, its viewer at the origin, in the depth's own unit; see `edges.surfaces`.

    Cuts are never given up for a lower number of triangles: if they need more, the lattice gets coarser.
    """
    valid = distance > 0
    inverse = reciprocal(distance)
    rows = lattice_rows(len(distance), options.triangles)
    coarser, gone = False, np.zeros_like(valid)
    if options.sky and options.cut and picture is not None:
        gone = outside(distance, picture)
    while True:
        reduced = resampled(inverse, valid, normals, rows)
        shown = None if picture is None else picture[np.ix_(*nearest_pixels(len(distance), rows))]
        surface, given = surfaces(*reduced, options.tolerance if options.cut else None, doubt, shown)
        surface = without(surface, gone)
        corners = corners_of(surface)
        try:
            active, error = chosen(errors(corners), options.triangles, options.max_error)
            break
        except TooFew as few:
            if rows <= 8:
                raise ValueError(
                    f"The scene needs at least {few.needed:,} triangles, got {options.triangles:,}; allow more, or "
                    "turn cut off."
                ) from few
            rows, coarser = lattice_rows(rows // 2, options.triangles), True
    mesh = assemble(corners, triangles_of(active))
    if not len(mesh.faces):
        raise ValueError("Nothing is left of the depth after the cuts; raise tolerance, or turn cut off.")
    cut = _beside_cuts(corners)
    parts = cut, given, ~at_size(valid, surface.valid.shape), gone
    beside, moved, missing, endless = (solid_angle(part) for part in parts)
    return Shape(mesh, rows, error, beside, moved, missing, endless, coarser, surface)


@dataclass(frozen=True)
class Layer:
    """The mesh of the background; pixels [M, N] of the lattice as in `behind.Behind`, and shares of the sphere."""

    mesh: Mesh
    invented: Flags
    border: Flags
    drawn: Flags
    share: float
    drawn_share: float


def layer_behind(shape: Shape, options: Options, second: Second | None = None) -> Layer | None:
    """Return the background behind the cuts of a shape, in the depth's own unit; None if there is none."""
    if not options.background or not options.cut:
        return None
    found = behind(shape.surface, on_lattice(second, shape.rows, options.tolerance) if second else None)
    if found is None:
        return None
    mesh = _mesh_behind(found.surface, shape.surface, options)
    shares = solid_angle(found.invented), solid_angle(found.drawn)
    return Layer(mesh, found.invented, found.border, found.drawn, *shares) if len(mesh.faces) else None


def _mesh_behind(surface: Surface, seen: Surface, options: Options) -> Mesh:
    """Return the mesh of the background, with at most half the triangles; if its rim needs more, on fewer rows."""
    if len(surface.inverse) >= FINE and len(surface.inverse) % 4 == 0:
        return _mesh_behind(halved(surface), halved(seen), options)
    corners = corners_of(surface)
    under = (1 - UNDER) * _least_around(seen)
    corners = replace(corners, inverse=np.minimum(corners.inverse, under))
    try:
        active, _ = chosen(errors(corners), options.triangles // 2, max(options.max_error, ROUGH))
    except TooFew:
        if len(surface.inverse) < 16 or len(surface.inverse) % 4:
            return assemble(corners, np.zeros((0, 3, 2), dtype=int))
        return _mesh_behind(halved(surface), halved(seen), options)
    return _no_farther(assemble(corners, triangles_of(active)), np.minimum(under, _least_around(surface)))


def _no_farther(mesh: Mesh, least: Array) -> Mesh:
    """Return a mesh whose vertices have at least these inverse distances [M + 1, N]: at a rim, slopes lead too far."""
    rows, columns = mesh.lattice.T // 2
    length = np.sqrt((mesh.positions**2).sum(axis=1))
    allowed = np.minimum(length, 1 / least[rows, columns % least.shape[1]])
    return replace(mesh, positions=mesh.positions * (allowed / length)[:, None])


def _least_around(seen: Surface) -> Array:
    """Return the least inverse distance of the four pixels round each corner, [M + 1, N]."""
    w = np.where(seen.valid, seen.inverse, np.inf)
    pairs = np.minimum(w, np.roll(w, 1, axis=1))
    around = np.pad(pairs, ((1, 1), (0, 0)), mode="edge")
    return np.minimum(around[:-1], around[1:])


def _beside_cuts(corners: Corners) -> NDArray[np.bool_]:
    """Return the pixels [M, N] that touch a cut between two surfaces."""
    surface = corners.surface
    right = surface.right & surface.valid & np.roll(surface.valid, -1, axis=1)
    beside = right | np.roll(right, 1, axis=1)
    down = surface.down & surface.valid[1:] & surface.valid[:-1]
    beside[:-1] |= down
    beside[1:] |= down
    return beside


def solid_angle(pixels: NDArray[np.bool_]) -> float:
    """Return the solid angle of pixels [M, N] as a share of the sphere."""
    edges = np.sin(np.linspace(np.pi / 2, -np.pi / 2, len(pixels) + 1))
    return float((pixels.mean(axis=1) * (edges[:-1] - edges[1:])).sum() / 2)
