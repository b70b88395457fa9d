"""Write textured meshes, a camera and lights as a glTF 2.0 binary file (Khronos, ISO/IEC 12113:2022).

Apart from what the format requires, the file contains only what the caller passes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.version import VERSION as RELEASE

MAGIC, VERSION, JSON_CHUNK, BINARY_CHUNK = b"glTF", 2, b"JSON", b"BIN\0"
FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125
VERTICES, INDICES = 34962, 34963
LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP_TO_EDGE = 9729, 9987, 33071
TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
# The length of the whole file is a field of 32 bits.
LARGEST = 2**32 - 1


@dataclass(frozen=True)
class Geometry:
    """A triangle mesh: positions, normals [V, 3], uv [V, 2], tangents [V, 4] or None, faces [F, 3]."""

    positions: NDArray[np.floating]
    normals: NDArray[np.floating]
    uv: NDArray[np.floating]
    faces: NDArray[np.integer]
    tangents: NDArray[np.floating] | None = None


@dataclass(frozen=True)
class Picture:
    """An encoded picture: its bytes, and "image/png" or "image/jpeg"."""

    data: bytes
    kind: str


@dataclass(frozen=True)
class Material:
    """Base colour (sRGB), tangent-space normals, and occlusion, roughness, metallic in red, green, blue (linear).

    Without `orm` the surface is rough (1) and not metallic (0). `occluded`: whether the red of `orm` is occlusion.
    `glow` (sRGB) is what the surface emits, `strength` times over. `two_sided`: the back is drawn too.
    """

    base_colour: Picture
    normal: Picture | None = None
    orm: Picture | None = None
    occluded: bool = False
    unlit: bool = False
    glow: Picture | None = None
    strength: float = 1.0
    two_sided: bool = False


@dataclass(frozen=True)
class Part:
    """A mesh with its own material; `name` names node and mesh, `surface` names the material.

    A part without a material is not drawn: a collider. `glows` [F]: the triangles that emit light; the others get a
    material without it, because renderers look for light in every triangle whose material may emit some. `thin` [F]:
    the triangles whose backs are drawn, too.
    """

    name: str
    geometry: Geometry
    material: Material | None
    surface: str
    glows: NDArray[np.bool_] | None = None
    thin: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Lamp:
    """A point light: its place, and its red, green and blue in candela."""

    place: tuple[float, float, float]
    candela: tuple[float, float, float]


@dataclass
class _File:
    """The document as it grows: JSON and the binary chunk."""

    document: dict[str, Any]
    binary: bytearray = field(default_factory=bytearray)
    materials: dict[tuple[str, Material | None], int] = field(default_factory=dict)
    textures: dict[Picture, int] = field(default_factory=dict)

    def add(self, kind: str, entry: Any) -> int:
        """Append an entry to one of the document's lists and return its index."""
        entries = self.document.setdefault(kind, [])
        entries.append(entry)
        return len(entries) - 1

    def using(self, extension: str) -> str:
        """Note that the document uses an extension, and return its name."""
        if extension not in self.document.get("extensionsUsed", ()):
            self.add("extensionsUsed", extension)
        return extension

    def view(self, data: bytes, **more: int) -> int:
        """Append bytes at a multiple of four and return their buffer view."""
        self.binary += bytes(-len(self.binary) % 4)
        place = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)}
        self.binary += data
        return self.add("bufferViews", place | more)

    def accessor(self, values: NDArray[Any], kind: int, target: int, bounds: bool = False) -> int:
        """Append an array [n] or [n, c] and return its accessor."""
        entry: dict[str, Any] = {
            "bufferView": self.view(values.tobytes(), target=target),
            "componentType": kind,
            "count": len(values),
            "type": TYPES[1 if values.ndim == 1 else values.shape[1]],
        }
        if bounds:
            entry |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        return self.add("accessors", entry)

    def material(self, name: str, material: Material | None) -> int:
        """Append a material, once for all parts that share it, and return its number."""
        key = name, material
        if key not in self.materials:
            self.materials[key] = self.add("materials", _material(self, name, material))
        return self.materials[key]

    def texture(self, picture: Picture, name: str) -> dict[str, int]:
        """Append a picture, once for all materials that share it, and return the reference to its texture."""
        if picture not in self.textures:
            image = {"name": name, "bufferView": self.view(picture.data), "mimeType": picture.kind}
            source = self.add("images", image)
            self.textures[picture] = self.add("textures", {"sampler": 0, "source": source})
        return {"index": self.textures[picture]}


def write_glb(
    parts: Sequence[Part], lamps: Sequence[Lamp] = (), height: float = 0.0, settings: Mapping[str, Any] | None = None
) -> bytes:
    """Return the file.  ValueError beyond 4 GiB.

    height: how far everything is raised; settings: what the file was made with.
    """
    extras = {"tool": "OmniX Panorama for ComfyUI", "version": RELEASE, "settings": dict(settings or {})}
    file = _File({"asset": {"version": "2.0", "generator": "OmniX Panorama", "extras": extras}, "scene": 0})
    file.add("samplers", _sampler())
    nodes = [_node(file, part) for part in parts]
    file.add("cameras", {"type": "perspective", "perspective": {"yfov": float(np.pi / 2), "znear": 0.01}})
    nodes.append({"name": "Viewer", "camera": 0})
    nodes += [_lamp(file, lamp, number) for number, lamp in enumerate(lamps, 1)]
    if height:
        nodes = [node | {"translation": _raised(node.get("translation", (0.0, 0.0, 0.0)), height)} for node in nodes]
    file.document |= {"nodes": nodes, "scenes": [{"nodes": list(range(len(nodes)))}]}
    return _packed(file)


def _raised(place: Sequence[float], height: float) -> list[float]:
    return [place[0], place[1] + height, place[2]]


def _node(file: _File, part: Part) -> dict[str, Any]:
    attributes, count = _attributes(file, part.geometry), len(part.geometry.positions)
    primitives = [
        {"attributes": attributes, "indices": _indices(file, faces, count), "material": file.material(name, material)}
        for faces, name, material in _surfaces(part)
    ]
    return {"name": part.name, "mesh": file.add("meshes", {"name": part.name, "primitives": primitives})}


def _surfaces(part: Part) -> Iterator[tuple[NDArray[np.integer], str, Material | None]]:
    """Yield the triangles of each material of a part, and its name."""
    faces, material = part.geometry.faces, part.material
    if material is None:
        yield faces, part.surface, None
        return
    none = np.zeros(len(faces), dtype=bool)
    divided = material.glow is not None and part.glows is not None
    glows, thin = part.glows if divided else none, none if part.thin is None else part.thin
    for glow, back in product((False, True), repeat=2):
        chosen = (glows == glow) & (thin == back)
        if chosen.any():
            own = replace(material, glow=None) if divided and not glow else material
            name = part.surface + ".glow" * glow + ".thin" * back
            yield faces[chosen], name, replace(own, two_sided=own.two_sided or back)


def _sampler() -> dict[str, int]:
    # u and v never leave [0, 1]. Repeating in only one direction would make importers build helper nodes.
    return {
        "magFilter": LINEAR,
        "minFilter": LINEAR_MIPMAP_LINEAR,
        "wrapS": CLAMP_TO_EDGE,
        "wrapT": CLAMP_TO_EDGE,
    }


def _attributes(file: _File, geometry: Geometry) -> dict[str, int]:
    arrays = {"POSITION": geometry.positions, "NORMAL": geometry.normals, "TEXCOORD_0": geometry.uv}
    if geometry.tangents is not None:
        arrays["TANGENT"] = geometry.tangents
    return {
        name: file.accessor(values.astype("<f4"), FLOAT, VERTICES, bounds=name == "POSITION")
        for name, values in arrays.items()
    }


def _indices(file: _File, faces: NDArray[np.integer], vertices: int) -> int:
    # 65535 itself is the restart value of many engines, so it names no vertex.
    small = vertices < 65535
    flat = faces.reshape(-1).astype("<u2" if small else "<u4")
    return file.accessor(flat, UNSIGNED_SHORT if small else UNSIGNED_INT, INDICES)


def _material(file: _File, name: str, material: Material | None) -> dict[str, Any]:
    if material is None:
        return {"name": name, "alphaMode": "MASK", "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 0]}}
    shade: dict[str, Any] = {
        "baseColorTexture": file.texture(material.base_colour, f"{name} base colour"),
        "metallicFactor": 0.0,
    }
    entry: dict[str, Any] = {"name": name, "pbrMetallicRoughness": shade}
    if material.two_sided:
        entry["doubleSided"] = True
    if material.orm is not None:
        shade["metallicRoughnessTexture"] = file.texture(material.orm, f"{name} occlusion roughness metallic")
        shade["metallicFactor"] = 1.0
        if material.occluded:
            entry["occlusionTexture"] = shade["metallicRoughnessTexture"]
    if material.normal is not None:
        entry["normalTexture"] = file.texture(material.normal, f"{name} normal")
    if material.unlit:
        entry["extensions"] = {file.using("KHR_materials_unlit"): {}}
    if material.glow is not None:
        entry |= {"emissiveTexture": file.texture(material.glow, f"{name} glow"), "emissiveFactor": [1.0] * 3}
        entry["extensions"] = {file.using("KHR_materials_emissive_strength"): {"emissiveStrength": material.strength}}
    return entry


def _lamp(file: _File, lamp: Lamp, number: int) -> dict[str, Any]:
    """Append a point light and return its node; glTF keeps the colour of a light at 1 or below."""
    most = max(lamp.candela)
    light = {"type": "point", "intensity": most, "color": [part / most for part in lamp.candela]}
    lights = file.document.setdefault("extensions", {}).setdefault("KHR_lights_punctual", {"lights": []})["lights"]
    lights.append(light)
    own = {file.using("KHR_lights_punctual"): {"light": len(lights) - 1}}
    return {"name": f"Light.{number}", "translation": list(lamp.place), "extensions": own}


def _packed(file: _File) -> bytes:
    file.binary += bytes(-len(file.binary) % 4)
    file.document["buffers"] = [{"byteLength": len(file.binary)}]
    text = json.dumps(file.document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    length = 12 + 8 + len(text) + 8 + len(file.binary)
    if length > LARGEST:
        raise ValueError(f"The file would have {length:,} bytes, too many for a GLB; set a smaller texture_size.")
    return b"".join(
        (
            struct.pack("<4sII", MAGIC, VERSION, length),
            struct.pack("<I4s", len(text), JSON_CHUNK) + text,
            struct.pack("<I4s", len(file.binary), BINARY_CHUNK) + bytes(file.binary),
        )
    )
