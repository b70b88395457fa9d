"""One panorama and its maps in, one scene out: the steps in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from ..pictures.glb import Geometry, Material, Part, write_glb
from ..pictures.semantics import Named
from .agreement import Agreement, agreement
from .behind import inpainted
from .checks import check_depth
from .cuts import DOUBT
from .floor import floor_below
from .frame import Array, from_gltf, pixel_directions, reciprocal, to_gltf
from .light import glowing, light_of
from .material import Textures, encode, encoded, sized, textures_of
from .mesh import Mesh
from .objects import at_middles, objects_of, thin
from .report import report, report_on_layers
from .second import Second, drawn_over
from .shading import shaded
from .shape import Layer, Options, Shape, layer_behind, shape_of
from .sky import dome_of
from .surface import Flags, at_size

SEEN, BACKGROUND, INVENTED = "Panorama", "background", "invented"
"""The name of the visible part (node and material), the node of the invented part, and its material."""
SKY, COLLIDER, OBJECT = "sky", "collider.floor", "object"
FLOOR = "floor"

USUAL = Options()

COVERED = 0.03
"""If the point straight down is off the floor by more than this share, a tripod or a table covers the floor."""


@dataclass(frozen=True)
class Scene:
    """A finished scene: arrays in glTF's frame, textures, the file, and the report for people.

    background: what is invented behind the cuts.
    """

    geometry: Geometry
    textures: Textures
    glb: bytes
    report: str
    background: tuple[Geometry, Textures] | None = None


def build_scene(
    distance: Array,
    maps: Mapping[str, Array],
    options: Options = USUAL,
    second: Second | None = None,
    named: Named | None = None,
) -> Scene:
    """Return the scene of a panorama.

    distance [H, W] along the ray, relative or in metres, 0 where there is none; maps as in `material.textures_of`.
    second: the surface behind, as another panorama shows it. named: the contents, for the objects' names.
    Raises ValueError, one sentence, if it is not a panorama or has no depth.
    """
    check_depth(distance, maps)
    found, maps = framed(distance, maps)
    normals = to_gltf(maps["normal"]) if "normal" in maps else None
    shape = shape_of(distance, normals, options, doubt_of(found), maps["image"])
    mesh, scale = scaled(shape, options.camera_height)
    geometry, textures = dressed(mesh, maps, shape.rows, options)
    light = None if textures.unlit else light_of(maps, geometry, named)
    if light is not None:
        textures = replace(textures, glow=sized(light.glow, options.texture_size), strength=light.strength)
    layer, background = layer_behind(shape, options, second), None
    if layer is not None:
        moved = replace(layer.mesh, positions=layer.mesh.positions * scale)
        background = dressed(moved, drawn_over(grown(maps, layer), second, layer.drawn), shape.rows, options)
    held = at_size(shape.surface.valid, distance.shape)
    sky = dome_of(held, maps["image"], float(distance.max()) * scale) if options.sky else None
    split = options.objects and options.cut
    pieces = [*objects_of(geometry, shape.surface, named)] if split else [("", geometry)]
    parts = parts_of_file(pieces, thin(shape.surface), textures, background, sky, options)
    below = height_of(shape) * scale if options.collider or options.origin == FLOOR else 0.0
    if options.collider:
        parts.append(Part(COLLIDER, floor_quad(geometry, below), None, COLLIDER))
    lamps = light.lamps if light is not None and options.light else ()
    raised = below if options.origin == FLOOR else 0.0
    glb = write_glb(parts, lamps, raised, asdict(options))
    lines = report(shape, layer, distance, scale, maps, textures, len(glb), options, found)
    text = "\n".join([lines, *report_on_layers(layer, second, [name for name, _ in pieces if name], options)])
    return Scene(geometry, textures, glb, text, background)


def parts_of_file(
    pieces: Sequence[tuple[str, Geometry]],
    strips: Flags,
    textures: Textures,
    background: tuple[Geometry, Textures] | None,
    sky: tuple[Geometry, Array] | None,
    options: Options,
) -> list[Part]:
    """Return the meshes of the file: the visible pieces by name, and the background and the sky if there are any.

    The front of an object is all there is of it: with one side, a thing seen from behind would vanish, and so would the
    thin parts of the room, `strips` [M, N]. Its walls have one side, so that people can look in from outside.
    """
    material = encoded(textures, options.textures)
    parts = []
    for name, piece in pieces:
        glows = None if textures.glow is None else glowing(piece, textures.glow)
        if name:
            parts.append(Part(name, piece, replace(material, two_sided=True), OBJECT, glows))
        else:
            parts.append(Part(SEEN, piece, material, SEEN, glows, at_middles(piece, strips)))
    if background is not None:
        parts.append(Part(BACKGROUND, background[0], encoded(background[1], options.textures), INVENTED))
    if sky is not None:
        picture = encode(sized(sky[1], options.texture_size), options.textures)
        parts.append(Part(SKY, sky[0], Material(picture, unlit=True), SKY))
    return parts


def floor_quad(geometry: Geometry, below: float) -> Geometry:
    """Return a level rectangle so far below the viewer, as large as the scene, that faces up."""
    (x0, _, z0), (x1, _, z1) = geometry.positions.min(axis=0), geometry.positions.max(axis=0)
    corners = np.array([[x0, -below, z0], [x0, -below, z1], [x1, -below, z1], [x1, -below, z0]])
    uv = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
    return Geometry(corners, np.tile([0.0, 1.0, 0.0], (4, 1)), uv, np.array([[0, 1, 2], [0, 2, 3]]))


def dressed(mesh: Mesh, maps: Mapping[str, Array], rows: int, options: Options) -> tuple[Geometry, Textures]:
    """Return what a file holds of a mesh: its geometry and its textures."""
    frame = shaded(mesh)
    textures = textures_of(mesh, frame, maps, rows, options.unlit, options.texture_size)
    tangents = frame[1] if textures.normal is not None else None
    return Geometry(mesh.positions, frame[0], mesh.uv, mesh.faces, tangents), textures


def grown(maps: Mapping[str, Array], layer: Layer) -> Mapping[str, Array]:
    """Return maps whose invented pixels are grown inwards from the border of what is seen behind."""
    invented, border = (at_size(flags, maps["image"].shape[:2]) for flags in (layer.invented, layer.border))
    return {
        name: np.where(invented[..., None], inpainted(pixels, ~border), pixels).astype(pixels.dtype)
        for name, pixels in maps.items()
        if name != "normal"
    }


def framed(distance: Array, maps: Mapping[str, Array]) -> tuple[Agreement | None, Mapping[str, Array]]:
    """Return how the normal map agrees with the depth, and the maps with it in the depth's frame, or without it."""
    if "normal" not in maps:
        return None, maps
    normals = to_gltf(maps["normal"])
    found = agreement(reciprocal(distance), distance > 0, normals)
    if not found.agrees:
        return found, {name: pixels for name, pixels in maps.items() if name != "normal"}
    turned = normals @ found.rotation.T
    # Every visible surface faces the viewer. A normal that does not is wrong, and black under a light at the viewer.
    faces = (turned * pixel_directions(*distance.shape)).sum(axis=-1, keepdims=True) < 0
    return found, {**maps, "normal": from_gltf(np.where(faces, turned, 0)).astype(maps["normal"].dtype)}


def doubt_of(found: Agreement | None) -> float:
    """Return how far normals may be wrong, in radians: more than the map and the depth usually disagree."""
    return max(DOUBT, np.radians(min(45.0, 2 * found.off))) if found is not None else DOUBT


def scaled(shape: Shape, camera_height: float) -> tuple[Mesh, float]:
    """Return the mesh in metres, the floor at camera_height below the viewer, and the factor; 0 leaves it as it is."""
    if not camera_height:
        return shape.mesh, 1.0
    factor = camera_height / height_of(shape)
    return replace(shape.mesh, positions=shape.mesh.positions * factor), factor


def height_of(shape: Shape) -> float:
    """Return how far the floor is straight down: the depth's own value there, unless something covers the floor."""
    below = shape.mesh.positions[shape.mesh.uv[:, 1] == 1.0]
    straight, floor = float(np.median(-below[:, 1])) if len(below) else 0.0, floor_below(shape.surface)
    if not straight and not floor:
        raise ValueError(
            "The depth has no value straight down and shows no floor, so camera_height cannot set the scale; set it to "
            "0 to keep the depth's own unit."
        )
    covered = floor and abs(straight / floor - 1) > COVERED
    return floor if covered else straight
