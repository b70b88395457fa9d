"""Draw a scene from inside, without lights: both of its meshes, cut at the camera's plane."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...omnix.scene import Scene
from ..rooms.meshes import Camera, draw

Array = NDArray[Any]
NEAR = 0.02


def seen_from(
    scene: Scene, place: tuple[float, float, float], yaw: float, pitch: float, field: float, size: tuple[int, int]
) -> Array:
    """Return what a camera at `place` (glTF's axes, front -Z) sees, [h, w, 3]; yaw to the right, in degrees."""
    rows = 2 * math.degrees(math.atan(math.tan(math.radians(field) / 2) * size[1] / size[0]))
    camera = Camera(place, tuple(np.add(place, ahead(yaw, pitch)).tolist()), rows)
    corners, uv, texture = _joined(scene)
    positions, uv, faces = before(corners, uv, camera)
    return draw(positions, uv, faces, texture, camera, size)


def ahead(yaw: float, pitch: float) -> Array:
    """Return the unit vector in glTF's axes for a view so many degrees to the right and up."""
    across, up = math.radians(yaw), math.radians(pitch)
    return np.array([math.sin(across) * math.cos(up), math.sin(up), -math.cos(across) * math.cos(up)])


def before(corners: Array, uv: Array, camera: Camera) -> tuple[Array, Array, Array]:
    """Return the part of triangles [F, 3, xyz], with uv [F, 3, 2], in front of a camera: positions, uv, and faces."""
    eye = np.array(camera.eye)
    corners, uv = _before(corners, uv, eye, np.array(camera.target) - eye)
    return corners.reshape(-1, 3), uv.reshape(-1, 2), np.arange(3 * len(corners)).reshape(-1, 3)


def _joined(scene: Scene) -> tuple[Array, Array, Array]:
    """Return the corners [F, 3, xyz] and uv [F, 3, 2] of both meshes, and their textures one above the other."""
    parts = [(scene.geometry, scene.textures), *([scene.background] if scene.background else [])]
    colours = [np.asarray(textures.base_colour)[..., :3] for _, textures in parts]
    if len({colour.shape for colour in colours}) > 1:
        raise ValueError("The two meshes of the scene have textures of two sizes; build it with one texture_size.")
    corners = np.concatenate([geometry.positions[geometry.faces] for geometry, _ in parts])
    uv = np.concatenate(
        [np.add(geometry.uv, [0, number])[geometry.faces] for number, (geometry, _) in enumerate(parts)]
    )
    return corners, uv / [1, len(parts)], np.concatenate(colours)


def _before(corners: Array, uv: Array, eye: Array, axis: Array) -> tuple[Array, Array]:
    """Keep the part of each triangle in front of the camera: all of it, a corner, or two corners as two triangles."""
    values = np.concatenate([corners, uv], axis=-1)
    depth = (corners - eye) @ axis - NEAR
    count = (depth > 0).sum(axis=1)
    # The corner that is alone on its side comes first; triangles keep their orientation.
    alone = np.where(count == 1, (depth > 0).argmax(axis=1), (depth <= 0).argmax(axis=1))
    order = (alone[:, None] + np.arange(3)) % 3
    values, depth = (np.take_along_axis(x, order if x.ndim == 2 else order[..., None], axis=1) for x in (values, depth))
    whole, one, two = (values[count == n] for n in (3, 1, 2))
    first, second = (_crossing(values, depth, corner) for corner in (1, 2))
    tip = np.stack([one[:, 0], first[count == 1], second[count == 1]], axis=1)
    lower = np.stack([first[count == 2], two[:, 1], two[:, 2]], axis=1)
    upper = np.stack([first[count == 2], two[:, 2], second[count == 2]], axis=1)
    kept = np.concatenate([whole, tip, lower, upper])
    return kept[..., :3], kept[..., 3:]


def _crossing(values: Array, depth: Array, corner: int) -> Array:
    """Return where the edge from the first corner to another one meets the plane."""
    gap = depth[:, 0] - depth[:, corner]
    share = (depth[:, 0] / np.where(gap, gap, 1.0))[:, None]
    return values[:, 0] * (1 - share) + values[:, corner] * share
