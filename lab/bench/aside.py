"""Views from a place aside of the viewer: what a room shows there, and what a mesh of its panorama does."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, maximum_filter

from ...omnix.scene.frame import directions, from_gltf, pixel_directions
from ..pages.inside import ahead, before
from ..rooms.meshes import Camera, axes_of, nearest_face
from ..rooms.random_room import random_room
from ..rooms.room import encode
from ..rooms.view import ORIGIN, Grid, look

Array = NDArray[Any]
Part = tuple[Any, Array]
"""The geometry of a mesh, and its colours [h, w, 3]."""
HEIGHT, SIDE = 256, 128
"""Rows of the panoramas, and of the views, whose colours are compared at half of it."""
VIEWS = ((0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (270.0, 0.0), (0.0, 89.9), (0.0, -89.9))
BEHIND = 0.05
"""What lies this share of the distance behind the pixel that was seen was hidden."""


class Pictures(NamedTuple):
    """Six views: colours [6, h, w, 3], and depth along their axes in metres [6, h, w], infinite where it is open."""

    colour: Array
    depth: Array


class Truth(NamedTuple):
    """What a room shows from aside, and which pixels [6, h, w] of it were hidden from the viewer."""

    shown: Pictures
    hidden: Array


class Known(NamedTuple):
    """What the renderer knows of a room: the stage, and distance, normals and colours of its panorama."""

    stage: Any
    distance: Array
    normal: Array
    colour: Array


def known(seed: int, height: int = HEIGHT) -> Known:
    """Return a random room, not turned, without light."""
    stage, grid = replace(random_room(seed), yaw=0.0), Grid(height, 2 * height)
    view = look(stage.scene, ORIGIN, grid.rays())
    parts = [
        encode(look(stage.scene, ORIGIN, grid.rays(*part)).albedo)
        for part in itertools.product((-0.25, 0.25), repeat=2)
    ]
    normal, colour = (np.moveaxis(grid.planes(values), 0, -1) for values in (view.normal, np.mean(parts, axis=0)))
    return Known(stage, view.hits.distance.reshape(height, -1).astype(float), normal, colour)


def free_side(room: Known) -> Array:
    """Return the level unit vector, in glTF's axes, along which the nearest thing within 35 degrees is farthest."""
    ways = directions(0.5, np.arange(16) / 16)
    rays = pixel_directions(*room.distance.shape)
    return max(ways, key=lambda way: room.distance[rays @ way > np.cos(np.radians(35))].min())


def truth(room: Known, place: Array) -> Truth:
    """Return what the room itself shows from a place in metres, in glTF's axes."""
    across = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    grid, start = Grid(HEIGHT, 2 * HEIGHT), from_gltf(place)[:, None].astype(np.float32)
    around = np.pad(room.distance, ((0, 0), (1, 1)), mode="wrap")
    farthest = maximum_filter(around, 3, mode="nearest")[:, 1:-1].reshape(-1)
    shown = []
    for view in VIEWS:
        right, up, axis = axes_of(ahead(*view))
        rays = axis + across[None, :, None] * right - across[:, None, None] * up
        length = np.linalg.norm(rays, axis=-1)
        ours = from_gltf(rays / length[..., None]).reshape(-1, 3).T.astype(np.float32)
        seen = look(room.stage.scene, start, ours)
        points = seen.hits.point
        hidden = np.linalg.norm(points, axis=0) > farthest[grid.pixel(points)] * (1 + BEHIND)
        depth = seen.hits.distance.reshape(SIDE, SIDE) / length
        shown.append((encode(seen.albedo).T.reshape(SIDE, SIDE, 3), depth, hidden.reshape(SIDE, SIDE)))
    colour, depth, hidden = (np.stack(part) for part in zip(*shown))
    return Truth(Pictures(colour, depth), hidden)


def drawn(part: Part, scale: float, place: Array) -> Pictures:
    """Return what a mesh, in units of `scale` a metre, shows from a place in metres; black where it is open."""
    geometry, texture = part
    corners, uv = geometry.positions[geometry.faces], geometry.uv[geometry.faces]
    shown = []
    for view in VIEWS:
        camera = Camera(tuple(place * scale), tuple(place * scale + ahead(*view)), 90.0)
        some = may_be_in(corners - place * scale, *view)
        seen = nearest_face(*before(corners[some], uv[some], camera), camera, (SIDE, SIDE))
        colours, depth = np.zeros((SIDE * SIDE, 3)), np.full(SIDE * SIDE, np.inf)
        places = [seen.uv[:, axis] * texture.shape[1 - axis] - 0.5 for axis in (1, 0)]
        for axis in range(3):
            colours[seen.pixel, axis] = map_coordinates(texture[..., axis], places, order=1, mode="nearest")
        depth[seen.pixel] = seen.depth / scale
        shown.append((colours.reshape(SIDE, SIDE, 3), depth.reshape(SIDE, SIDE)))
    return Pictures(*(np.stack(part) for part in zip(*shown)))


def may_be_in(corners: Array, yaw: float, pitch: float) -> Array:
    """Return which triangles [F, 3, xyz] may be in a view of 90 degrees from the origin: no side has all corners."""
    right, up, axis = axes_of(ahead(yaw, pitch))
    sides = np.stack([axis + right, axis - right, axis + up, axis - up])
    return ((corners @ sides.T) > 0).any(axis=1).all(axis=1)


def nearer(one: Pictures, two: Pictures) -> Pictures:
    """Return what two meshes show together."""
    first = one.depth <= two.depth
    return Pictures(np.where(first[..., None], one.colour, two.colour), np.where(first, one.depth, two.depth))
