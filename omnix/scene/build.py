"""One panorama and its maps in, one scene out: checks, the steps in order, and what the report says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..glb import Geometry, write_glb
from ..panorama import check_panorama
from .corners import Corners, corners_of
from .cuts import connected
from .frame import Array, to_gltf
from .hierarchy import TooFew, chosen, errors, triangles_of
from .material import PROPERTIES, Textures, encoded, textures_of
from .mesh import Mesh, assemble
from .shading import shaded
from .surface import lattice_rows, resampled

LIGHT = 100.0
"""Candela of the point light: about what a room of a few metres needs."""


@dataclass(frozen=True)
class Options:
    """What to do.  camera_height in metres, 0 = no scale; tolerance and max_error are shares of the distance."""

    camera_height: float = 1.6
    triangles: int = 200_000
    cut: bool = True
    tolerance: float = 0.03
    max_error: float = 0.001
    unlit: bool = False
    textures: str = "PNG"
    texture_size: int = 4096
    light: bool = False


@dataclass(frozen=True)
class Shape:
    """A mesh and how it came about: its rows, the error it keeps, solid angles in [0, 1] of the sphere."""

    mesh: Mesh
    rows: int
    error: float
    beside_cuts: float
    flying: float
    missing: float
    coarser: bool


@dataclass(frozen=True)
class Scene:
    """A finished scene: arrays in glTF's frame, textures, the file, and the report for people."""

    geometry: Geometry
    textures: Textures
    glb: bytes
    report: str


def build_scene(distance: Array, maps: Mapping[str, Array], options: Options = Options()) -> Scene:
    """Return the scene of a panorama.

    distance [H, W] along the ray, relative or in metres, 0 where there is none; maps as in `material.textures_of`.
    Raises ValueError, one sentence, for what is no panorama or no depth.
    """
    check_depth(distance, maps)
    normals = to_gltf(maps["normal"]) if "normal" in maps else None
    shape = shape_of(distance, normals, options)
    mesh, scale = scaled(shape.mesh, options.camera_height)
    frame = shaded(mesh)
    textures = textures_of(mesh, frame, maps, shape.rows, options.unlit, options.texture_size)
    tangents = frame[1] if textures.normal is not None else None
    geometry = Geometry(mesh.positions, frame[0], mesh.uv, mesh.faces, tangents)
    glb = write_glb(geometry, encoded(textures, options.textures), LIGHT if options.light else 0.0)
    return Scene(geometry, textures, glb, report(shape, distance.shape, scale, maps, textures, len(glb), options))


def check_depth(distance: Array, maps: Mapping[str, Array]) -> None:
    """Raise ValueError unless this is the depth of a panorama, with maps of its size."""
    height, width = distance.shape
    check_panorama(height, width)
    if height < 2:
        raise ValueError(f"A scene needs a panorama of at least 4x2 pixels, got {width}x{height}; use a larger one.")
    for name, pixels in maps.items():
        if pixels.shape[:2] != (height, width):
            raise ValueError(
                f"The {name} is {pixels.shape[1]}x{pixels.shape[0]} but the depth is {width}x{height}; "
                "resize them to one size."
            )
        if not np.isfinite(pixels).all():
            raise ValueError(f"The {name} holds values that are no finite numbers; repair the map first.")
    if not np.isfinite(distance).all():
        raise ValueError("The depth holds values that are no finite numbers; repair the map first, or set them to 0.")
    held = distance[distance > 0]
    if not held.size:
        raise ValueError("The depth is 0 everywhere, so there is no surface; connect the mask output of OmniX Depth.")
    if held.max() <= held.min() * (1 + 1e-6):
        raise ValueError(
            f"The depth is {held.max():g} everywhere, which is a sphere and no scene; connect the mask output of "
            "OmniX Depth."
        )


def shape_of(distance: Array, normals: Array | None, options: Options) -> Shape:
    """Return the mesh of a depth map, its viewer at the origin, in the depth's own unit.

    Cuts are never given up for a lower number of triangles: if they need more, the lattice gets coarser.
    """
    valid = distance > 0
    inverse = np.where(valid, 1.0 / np.where(valid, distance, 1.0), 0.0)
    rows = lattice_rows(len(distance), options.triangles)
    coarser = False
    while True:
        surface, flying = connected(
            *resampled(inverse, valid, normals, rows), options.tolerance if options.cut else None
        )
        corners = corners_of(surface)
        try:
            active, error = chosen(errors(corners), options.triangles, options.max_error)
            break
        except TooFew as few:
            if rows <= 8:
                raise ValueError(
                    f"The scene needs at least {few.needed:,} triangles, got {options.triangles:,}; allow more, or set "
                    "cut off."
                ) from few
            rows, coarser = lattice_rows(rows // 2, options.triangles), True
    mesh = assemble(corners, triangles_of(active))
    if not len(mesh.faces):
        raise ValueError("Nothing is left of the depth after the cuts; raise tolerance, or set cut off.")
    cut = _beside_cuts(corners)
    beside, gone, missing = (_solid_angle(part) for part in (cut, flying, ~surface.valid & ~flying))
    return Shape(mesh, rows, error, beside, gone, missing, coarser)


def _beside_cuts(corners: Corners) -> NDArray[np.bool_]:
    """Tell which pixels [M, N] touch a cut between two surfaces."""
    surface = corners.surface
    right = surface.right & surface.valid & np.roll(surface.valid, -1, axis=1)
    beside = right | np.roll(right, 1, axis=1)
    down = surface.down & surface.valid[1:] & surface.valid[:-1]
    beside[:-1] |= down
    beside[1:] |= down
    return beside


def _solid_angle(pixels: NDArray[np.bool_]) -> float:
    """Return the solid angle of pixels [M, N] as a share of the sphere."""
    edges = np.sin(np.linspace(np.pi / 2, -np.pi / 2, len(pixels) + 1))
    return float((pixels.mean(axis=1) * (edges[:-1] - edges[1:])).sum() / 2)


def scaled(mesh: Mesh, camera_height: float) -> tuple[Mesh, float]:
    """Return the mesh in metres, the point straight below at camera_height, and the factor; 0 leaves it as it is."""
    if not camera_height:
        return mesh, 1.0
    below = mesh.positions[mesh.uv[:, 1] == 1.0]
    if not len(below):
        raise ValueError(
            "The depth has no value straight down, so camera_height cannot set the scale; set it to 0 to keep the "
            "depth's own unit."
        )
    factor = camera_height / float(np.median(-below[:, 1]))
    return replace(mesh, positions=mesh.positions * factor), factor


def report(
    shape: Shape,
    size: tuple[int, ...],
    scale: float,
    maps: Mapping[str, Array],
    textures: Textures,
    length: int,
    options: Options,
) -> str:
    """Say in plain lines what was made, what was lost and what stands in for what was not given."""
    lines = [
        *_on_triangles(shape, size, options),
        *_on_cuts(shape, options),
        f"Scale: straight down is {options.camera_height:g} m, as camera_height says (depth times {scale:.4g})."
        if options.camera_height
        else "Scale: none was set, so lengths are relative and no metres.",
        *_on_material(maps, textures),
        f"File: {length / 1e6:.2f} MB, textures {textures.base_colour.shape[1]}x{textures.base_colour.shape[0]} "
        f"{options.textures}.",
    ]
    return "\n".join(lines)


def _on_triangles(shape: Shape, size: tuple[int, ...], options: Options) -> list[str]:
    height, width = size
    full = 2 * width * (height - 1)
    mesh = shape.mesh
    lines = [
        f"Mesh: {len(mesh.faces):,} triangles and {len(mesh.positions):,} vertices, error up to {shape.error:.3%} of "
        f"the distance; the full grid of {width}x{height} has {full:,} triangles."
    ]
    if options.triangles > full:
        lines.append(f"{options.triangles:,} triangles were allowed, more than there are.")
    if shape.error > options.max_error:
        lines.append(f"{options.triangles:,} triangles do not reach {options.max_error:.3%}; allow more to get there.")
    if shape.coarser:
        lines.append(
            f"The cuts need more than {options.triangles:,} triangles at full detail, so the mesh was built on "
            f"{2 * shape.rows}x{shape.rows}."
        )
    elif shape.rows != height:
        lines.append(f"The mesh was built on {2 * shape.rows}x{shape.rows}, which divides into the hierarchy.")
    return lines


def _on_cuts(shape: Shape, options: Options) -> list[str]:
    gone = f"{shape.flying:.2%} of the solid angle was cut away as neither of two surfaces"
    told = f"Cuts: {shape.beside_cuts:.2%} of the solid angle lies beside a cut; {gone}."
    lines = [told if options.cut else "Cuts: off."]
    if shape.missing:
        lines.append(f"Depth: {shape.missing:.2%} of the solid angle has none and is left open.")
    return lines


def _on_material(maps: Mapping[str, Array], textures: Textures) -> list[str]:
    if textures.unlit:
        unused = [name for name in ("albedo", "normal", *PROPERTIES) if name in maps and name != "normal"]
        lines = ["Material: the panorama itself, unlit."]
        if unused:
            reason = "unlit was asked for" if "albedo" in maps else "there is no albedo to light"
            lines.append(f"Not in the material, since {reason}: {', '.join(unused)}.")
        return lines
    missing = [f"{name} {value:g}" for name, value in PROPERTIES.items() if name not in textures.given]
    normal = "normal texture" if textures.normal is not None else "no normal map: the mesh's own normals"
    lines = [f"Material: albedo, {', '.join(textures.given)}{', ' if textures.given else ''}{normal}."]
    if missing:
        lines.append(f"Not given, so the default stands: {', '.join(missing)}.")
    return lines
