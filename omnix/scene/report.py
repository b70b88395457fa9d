"""The report of a scene, in plain lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .agreement import Agreement
from .checks import inside_out
from .frame import Array
from .material import PROPERTIES, Textures
from .second import Second
from .shape import Layer, Options, Shape


def report(
    shape: Shape,
    layer: Layer | None,
    distance: Array,
    scale: float,
    maps: Mapping[str, Array],
    textures: Textures,
    length: int,
    options: Options,
    found: Agreement | None,
) -> str:
    """Return plain lines: what was made, what was lost, and which defaults replace maps that are not connected."""
    lines = [
        *_on_triangles(shape, distance.shape, options),
        *_on_cuts(shape, options),
        f"Scale: the floor is {options.camera_height:g} m below, as camera_height says (depth times {scale:.4g})."
        if options.camera_height
        else "Scale: not set, so lengths are in relative units, not metres.",
        *_on_background(layer, options),
        *_on_depth(distance),
        *_on_normals(found),
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
        lines.append(f"{options.triangles:,} triangles are not enough for {options.max_error:.3%}; allow more.")
    if shape.coarser:
        lines.append(
            f"The cuts need more than {options.triangles:,} triangles at full detail, so the mesh was built on "
            f"{2 * shape.rows}x{shape.rows}."
        )
    elif shape.rows != height:
        lines.append(f"The mesh was built on {2 * shape.rows}x{shape.rows}, which divides into the hierarchy.")
    return lines


def _on_cuts(shape: Shape, options: Options) -> list[str]:
    moved = f"{shape.given:.2%} lay between two surfaces and was assigned to one of them"
    cuts = f"Cuts: {shape.beside_cuts:.2%} of the solid angle lies beside a cut; {moved}."
    lines = [cuts if options.cut else "Cuts: off."]
    if shape.missing:
        fate = 'shown by the dome "sky"' if options.sky else "left open"
        lines.append(f"Depth: {shape.missing:.2%} of the solid angle has none and is {fate}.")
    if shape.endless:
        lines.append(
            f'Depth: {shape.endless:.2%} of the solid angle is cut off at the far end and is shown by the dome "sky".'
        )
    return lines


def _on_background(layer: Layer | None, options: Options) -> list[str]:
    if not options.background or not options.cut:
        return []
    if layer is None:
        return ["Background: nothing is invented; no surface continues behind another."]
    return [
        f"Background: invented behind {layer.share:.2%} of the solid angle ({len(layer.mesh.faces):,} triangles more, "
        'node "background", material "invented"); the camera did not see this part.'
    ]


def _on_depth(distance: Array) -> list[str]:
    if not inside_out(distance):
        return []
    return [
        "Depth: it is farthest straight up and straight down, where a room is nearest. The depth is probably inverted "
        "or a disparity; connect the mask output of OmniX Depth, or invert it first."
    ]


def _on_normals(found: Agreement | None) -> list[str]:
    if found is None:
        return []
    if not found.agrees:
        why = f"it fits only as {found.fits}" if found.fits else "the two disagree almost everywhere"
        return [f"Normals: the normal map was left out, since it contradicts the depth; {why}."]
    turned = f"turned by {found.turn:.1f} degrees about the vertical" if found.turn else "not turned"
    tilted = f" and tilted by {found.tilt:.1f}" if found.tilt else ""
    return [
        f"Normals: {turned}{tilted} to fit the depth; they then differ from it by {found.off:.1f} degrees (median)."
    ]


def _on_material(maps: Mapping[str, Array], textures: Textures) -> list[str]:
    if textures.unlit:
        unused = [name for name in ("albedo", "normal", *PROPERTIES) if name in maps and name != "normal"]
        lines = ["Material: the panorama itself, unlit."]
        if unused:
            reason = "unlit is on" if "albedo" in maps else "there is no albedo to light"
            lines.append(f"Not in the material, since {reason}: {', '.join(unused)}.")
        return lines
    missing = [f"{name} {value:g}" for name, value in PROPERTIES.items() if name not in textures.given]
    normal = "normal texture" if textures.normal is not None else "no normal map: the mesh's own normals"
    lines = [f"Material: albedo, {', '.join(textures.given)}{', ' if textures.given else ''}{normal}."]
    if missing:
        lines.append(f"Not connected, so the default is used: {', '.join(missing)}.")
    return lines


def report_on_layers(layer: Layer | None, second: Second | None, objects: Sequence[str], options: Options) -> list[str]:
    """Return lines that say which objects are nodes of their own, and what a second panorama gave."""
    lines = []
    if options.objects and options.cut:
        some = f"{len(objects)} in front of the room, each a separate node: {', '.join(objects)}."
        lines.append(f"Objects: {some if objects else 'nothing is in front of the room.'}")
    if second is not None:
        lines.append(second.words)
        if not options.background or not options.cut:
            lines.append("Background layer: not used, since background or cut is off.")
        elif second.hidden.any():
            lines.append(f"Background layer: {layer.drawn_share if layer else 0:.2%} of the solid angle shows it.")
    return lines
