"""Read the textured triangles of a GLB that `omnix.pictures.glb` wrote, or another tool saved again."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from ..pictures.glb import FLOAT, JSON_CHUNK, MAGIC, TYPES, UNSIGNED_INT, UNSIGNED_SHORT
from .frame import Array

DTYPES = {FLOAT: "<f4", UNSIGNED_SHORT: "<u2", UNSIGNED_INT: "<u4", 5121: "u1"}
WIDTHS = {kind: width for width, kind in TYPES.items()}


@dataclass(frozen=True)
class Piece:
    """The triangles of one node, in the scene's frame, with the base colour [H, W, 3] in [0, 1] that they show."""

    name: str
    surface: str
    unlit: bool
    positions: Array
    uv: Array
    faces: Array
    colour: Array


@dataclass(frozen=True)
class Model:
    """The pieces of a file, and where its viewer stands."""

    pieces: tuple[Piece, ...]
    viewer: Array


def read_glb(data: bytes) -> Model:
    """Return what a file shows.  Triangles without a texture show nothing.  ValueError if it cannot be read."""
    try:
        return _model(*_chunks(data))
    except (KeyError, IndexError, TypeError, ValueError, struct.error, OSError) as error:
        raise ValueError(
            f"This node cannot read the 3D file ({type(error).__name__}: {error}); connect model_3d of Panorama to 3D "
            "Scene."
        ) from error


def _chunks(data: bytes) -> tuple[dict[str, Any], bytes]:
    magic, _, _, length, kind = struct.unpack_from("<4sIII4s", data)
    if magic != MAGIC or kind != JSON_CHUNK:
        raise ValueError("it is not a GLB file")
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def _model(document: dict[str, Any], binary: bytes) -> Model:
    pieces, viewer = [], np.zeros(3)
    pictures: dict[int, Array] = {}
    for node, place in _placed(document):
        if "camera" in node:
            viewer = place[:3, 3]
        for primitive in document["meshes"][node["mesh"]]["primitives"] if "mesh" in node else ():
            pieces += _piece(document, binary, node.get("name", ""), place, primitive, pictures)
    return Model(tuple(pieces), viewer)


def _placed(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Array]]:
    """Yield the nodes of the scene with their matrices."""
    waiting = [(number, np.eye(4)) for number in document["scenes"][document.get("scene", 0)]["nodes"]]
    while waiting:
        number, above = waiting.pop(0)
        node = document["nodes"][number]
        place = above @ _matrix(node)
        waiting += [(child, place) for child in node.get("children", ())]
        yield node, place


def _matrix(node: dict[str, Any]) -> Array:
    if "matrix" in node:
        return np.array(node["matrix"], dtype=float).reshape(4, 4).T
    turn = Rotation.from_quat(node.get("rotation", (0, 0, 0, 1)))
    found = np.eye(4)
    found[:3, :3] = turn.as_matrix() * node.get("scale", (1, 1, 1))
    found[:3, 3] = node.get("translation", (0, 0, 0))
    return found


def _piece(
    document: dict[str, Any],
    binary: bytes,
    name: str,
    place: Array,
    primitive: dict[str, Any],
    pictures: dict[int, Array],
) -> Iterator[Piece]:
    material = document["materials"][primitive["material"]] if "material" in primitive else {}
    texture = material.get("pbrMetallicRoughness", {}).get("baseColorTexture")
    attributes = primitive["attributes"]
    if texture is None or "TEXCOORD_0" not in attributes or primitive.get("mode", 4) != 4:
        return
    positions, uv = (_values(document, binary, attributes[key]) for key in ("POSITION", "TEXCOORD_0"))
    faces = _values(document, binary, primitive["indices"]).astype(np.int64).reshape(-1, 3)
    source = document["textures"][texture["index"]]["source"]
    if source not in pictures:
        pictures[source] = _picture(document, binary, source)
    unlit = "KHR_materials_unlit" in material.get("extensions", {})
    moved = positions.astype(float) @ place[:3, :3].T + place[:3, 3]
    yield Piece(name, material.get("name", ""), unlit, moved, uv.astype(float), faces, pictures[source])


def _view(document: dict[str, Any], binary: bytes, number: int) -> bytes:
    view = document["bufferViews"][number]
    if "byteStride" in view:
        raise ValueError("its vertices are interleaved")
    start = view.get("byteOffset", 0)
    return binary[start : start + view["byteLength"]]


def _values(document: dict[str, Any], binary: bytes, number: int) -> Array:
    accessor = document["accessors"][number]
    width = WIDTHS[accessor["type"]]
    data = _view(document, binary, accessor["bufferView"])
    values = np.frombuffer(
        data, DTYPES[accessor["componentType"]], accessor["count"] * width, accessor.get("byteOffset", 0)
    )
    return values.reshape(-1, width) if width > 1 else values


def _picture(document: dict[str, Any], binary: bytes, number: int) -> Array:
    data = _view(document, binary, document["images"][number]["bufferView"])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32) / 255
