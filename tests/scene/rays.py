"""Independent readings of a scene: rays against triangles, open edges, and panoramas with a truth in closed form."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from comfyui_omnix.omnix.pictures.panorama import camera_rays
from numpy.typing import NDArray

Array = NDArray[np.floating]


class Met(NamedTuple):
    """What a ray from the origin meets first: distance, the triangle's number, and its corners' weights [3]."""

    distance: float
    face: int
    weights: Array


def meetings(positions: Array, faces: NDArray[np.integer], rays: Array) -> Iterator[Met]:
    """Follow each ray [N, 3] from the origin, by Moeller and Trumbore (1997); an infinite distance meets nothing."""
    a, b, c = (positions[faces[:, k]].astype(np.float64) for k in range(3))
    first, second = b - a, c - a
    sideways = np.cross(-a, first)
    above = (second * sideways).sum(axis=1)
    for ray in rays:
        across = np.cross(ray, second)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / (across * first).sum(axis=1)
            u, v = -(across * a).sum(axis=1) * inverse, (sideways @ ray) * inverse
            t = above * inverse
        held = (u > -1e-9) & (v > -1e-9) & (u + v < 1 + 1e-9) & (t > 0)
        distance = np.where(held, t, np.inf)
        face = int(distance.argmin())
        yield Met(distance[face], face, np.array([1 - u[face] - v[face], u[face], v[face]]))


def cast(positions: Array, faces: NDArray[np.integer], rays: Array) -> Array:
    """Return the distance from the origin to the first triangle on each ray [N, 3]."""
    return np.array([met.distance for met in meetings(positions, faces, rays)])


def shared(positions: Array, faces: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return the edges as pairs of places, and how many triangles have each; vertices at one place count as one."""
    place = np.unique(positions.astype(np.float32), axis=0, return_inverse=True)[1].ravel()
    edges = np.sort(place[np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])], axis=1)
    pairs, count = np.unique(edges, axis=0, return_counts=True)
    return pairs, count


def open_edges(positions: Array, faces: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the edges that only one triangle has."""
    pairs, count = shared(positions, faces)
    assert count.max() == 2, "more than two triangles meet in an edge"
    return pairs[count == 1]


def rays(height: int) -> Array:
    """Return the pixels' rays in our axes (front, up, left), [H, 2 H, 3]."""
    return camera_rays(height, 2 * height).double().numpy()


def slabs(height: int, front: float, left: float, above: float, below: float) -> tuple[Array, Array]:
    """Return distance [H, W] and normals [H, W, 3] (our axes) inside a box; an infinite side is not there."""
    ray = rays(height)
    sizes = np.where(ray > 0, [front, above, left], [front, below, left])
    with np.errstate(divide="ignore"):
        reach = sizes / np.abs(ray)
    nearest = reach.argmin(axis=-1)
    normals = np.zeros_like(ray)
    np.put_along_axis(normals, nearest[..., None], -np.sign(np.take_along_axis(ray, nearest[..., None], -1)), -1)
    return reach.min(axis=-1), normals


def hall(height: int) -> tuple[Array, Array]:
    """Return distance and normals of a plain hall of 12 x 16 m, 4 m high."""
    return slabs(height, 8.0, 6.0, 2.4, 1.6)


def street(height: int) -> tuple[Array, Array]:
    """Return distance and normals of a street of 12 m whose ends and facades go on to a sky of 1 km."""
    distance, normals = slabs(height, np.inf, 6.0, np.inf, 1.6)
    sky = distance > 1000
    return np.where(sky, 1000.0, distance), np.where(sky[..., None], -rays(height), normals)


def with_box(height: int) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Return the hall with a panel 2 m ahead of the viewer, 2 m wide and 1.4 m high, and where it is seen."""
    distance, normals = hall(height)
    ray = rays(height)
    with np.errstate(divide="ignore"):
        reach = 2.0 / np.where(ray[..., 0] > 0, ray[..., 0], 0.0)
    seen = (np.abs(reach * ray[..., 1]) < 0.7) & (np.abs(reach * ray[..., 2]) < 1.0)
    return np.where(seen, reach, distance), np.where(seen[..., None], [-1.0, 0.0, 0.0], normals), seen


def covered(positions: Array, faces: NDArray[np.integer]) -> float:
    """Return the solid angle of triangles at the origin as a share of the sphere, by van Oosterom and Strackee (1983).

    It is the share that is seen if no triangle lies behind another.
    """
    a, b, c = (positions[faces[:, k]] / np.linalg.norm(positions[faces[:, k]], axis=1, keepdims=True) for k in range(3))
    volume = np.abs((a * np.cross(b, c)).sum(axis=1))
    angle = 2 * np.arctan2(volume, 1 + (a * b).sum(axis=1) + (b * c).sum(axis=1) + (c * a).sum(axis=1))
    return float(angle.sum() / (4 * np.pi))
