"""Vertex normals, tangents, and a normal texture against the very frame that a client interpolates between them."""

from __future__ import annotations

import numpy as np
from einops import einsum

from .frame import Array, directions, pixel_directions
from .mesh import Ints, Mesh


def shaded(mesh: Mesh) -> tuple[Array, Array]:
    """Return normals [V, 3] and tangents [V, 4] (xyz and sign) of a mesh.

    A normal is the map's, or where that says nothing the mean of the faces', weighted by their angles. The tangent
    runs along +u, made of the faces' own as MikkTSpace does. Seen from inside no face is mirrored in its picture, and
    the bitangent sign * cross(normal, tangent) points up in the picture, as glTF wants: the sign is 1 everywhere.
    """
    edges = np.stack([mesh.positions[mesh.faces[:, k]] - mesh.positions[mesh.faces[:, k - 1]] for k in (1, 2, 0)])
    angles = _angles(edges)
    faces = unit(np.cross(edges[0], edges[1]))
    welded = np.stack([_gathered(mesh.weld[mesh.faces[:, k]], faces * angles[k][:, None], mesh) for k in range(3)])
    geometric = unit(welded.sum(axis=0))[mesh.weld]
    mapped = (mesh.normals**2).sum(axis=1) > 0.01
    normals = np.where(mapped[:, None], unit(mesh.normals), geometric)
    # A triangle too small for a normal faces the viewer.
    normals = np.where((normals**2).sum(axis=1, keepdims=True) > 0.5, normals, -unit(mesh.positions))
    return normals, np.concatenate([_tangents(mesh, edges, angles, normals), np.ones((len(normals), 1))], axis=1)


def _angles(edges: Array) -> list[Array]:
    """Return the angle of each triangle at its three vertices, [F] each, from its edges 0-1, 1-2, 2-0."""
    along = [unit(edge) for edge in edges]
    return [np.arccos(np.clip(-(along[k] * along[k - 1]).sum(axis=1), -1, 1)) for k in range(3)]


def _gathered(places: Ints, vectors: Array, mesh: Mesh) -> Array:
    return np.stack([np.bincount(places, vectors[:, axis], len(mesh.positions)) for axis in range(3)], axis=1)


def _tangents(mesh: Mesh, edges: Array, angles: list[Array], normals: Array) -> Array:
    """Return the unit tangents [V, 3]: each face's direction of +u, laid into the vertex's plane, weighted by angle."""
    u, v = np.moveaxis(mesh.uv[mesh.faces], -1, 0)
    first, second = (u[:, 1] - u[:, 0], v[:, 1] - v[:, 0]), (u[:, 2] - u[:, 1], v[:, 2] - v[:, 1])
    sign = np.sign(first[0] * second[1] - first[1] * second[0])[:, None]
    along = sign * (edges[0] * second[1][:, None] - edges[1] * first[1][:, None])
    total = np.zeros_like(mesh.positions)
    for corner in range(3):
        places = mesh.faces[:, corner]
        total += _gathered(places, unit(_flat(along, normals[places])) * angles[corner][:, None], mesh)
    lost = (total**2).sum(axis=1) < 1e-12
    eastwards = directions(mesh.uv[:, 1] * 0 + 0.5, mesh.uv[:, 0] + 0.25)
    tangents = unit(_flat(np.where(lost[:, None], eastwards, total), normals))
    # Where the normal itself points east, up is as good as any.
    lost = (tangents**2).sum(axis=1) < 0.5
    return np.where(lost[:, None], unit(_flat(np.broadcast_to([0.0, 1.0, 0.0], normals.shape), normals)), tangents)


def _flat(vectors: Array, normals: Array) -> Array:
    return vectors - normals * (vectors * normals).sum(axis=-1, keepdims=True)


def unit(vectors: Array) -> Array:
    """Return vectors [.., 3] at length 1, and zero where they have none."""
    length = np.sqrt((vectors**2).sum(axis=-1, keepdims=True))
    return vectors / np.where(length > 1e-12, length, np.inf)


def baked_frame(mesh: Mesh, normals: Array, tangents: Array, height: int, width: int) -> Array:
    """Return the interpolated normal and tangent at each texel of the lattice, [M, N, 6] float32.

    Triangles of one shape cover the same texels with the same weights, only elsewhere, so each shape is done at once.
    Texels that no triangle covers (beside a fan, or without distance) keep the frame of a sphere.
    """
    frame = _spherical(height, width)
    corners = mesh.lattice[mesh.faces]
    spans = (corners[:, 1:] - corners[:, :1]).reshape(-1, 4)
    shapes, which = np.unique(spans, axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    bounds = np.searchsorted(which.ravel()[order], np.arange(len(shapes) + 1))
    attributes = np.concatenate([normals, tangents[:, :3]], axis=1).astype(np.float32)
    for shape, start, end in zip(shapes, bounds, bounds[1:]):
        faces = order[start:end]
        offsets, weights = _covered(shape.reshape(2, 2))
        places = (corners[faces, 0] // 2)[:, None] + offsets
        frame[places[..., 0], places[..., 1]] = einsum(
            weights, attributes[mesh.faces[faces]], "texel corner, face corner part -> face texel part"
        )
    return frame


def _spherical(height: int, width: int) -> Array:
    inwards = -pixel_directions(height, width)
    eastwards = np.broadcast_to(directions(0.5, (np.arange(width) + 0.5) / width + 0.25), inwards.shape)
    return np.concatenate([inwards, eastwards], axis=-1).astype(np.float32)


def _covered(span: Ints) -> tuple[Ints, Array]:
    """Return the texels [K, 2] that a triangle covers, counted from its first vertex, and their weights [K, 3].

    `span` holds the second and third vertex, in halves of a texel from the first; texels' centres are at odd halves.
    """
    low, high = np.minimum(span.min(axis=0), 0), np.maximum(span.max(axis=0), 0)
    rows, columns = (np.arange(low[k] // 2, -(-high[k] // 2)) for k in (0, 1))
    offsets = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = (2 * offsets + 1) @ np.linalg.inv(span.astype(float))
    weights = np.concatenate([1 - weights.sum(axis=1, keepdims=True), weights], axis=1)
    inside = (weights > -1e-9).all(axis=1)
    return offsets[inside], weights[inside].astype(np.float32)


def tangent_space(normals: Array, frame: Array) -> Array:
    """Return world normals [h, w, 3] in the frames [h, w, 6], unit length and facing out of the surface.

    A client rebuilds n = x T + y B + z N from unit T, B = cross(N, T) and N, so this solves for x, y, z. Where the map
    says nothing, and where it turns away from the mesh, which glTF cannot store, it is kept flat or just facing.
    """
    n, t = unit(frame[..., :3]), unit(frame[..., 3:])
    b = unit(np.cross(n, t))
    parts = [(normals * np.cross(*pair)).sum(axis=-1) for pair in ((b, n), (n, t), (t, b))]
    volume = (t * np.cross(b, n)).sum(axis=-1)
    solved = unit(np.stack(parts, axis=-1) / np.maximum(volume, 1e-6)[..., None])
    solved[..., 2] = np.maximum(solved[..., 2], 0.02)
    flat = (normals**2).sum(axis=-1, keepdims=True) < 1e-6
    return unit(np.where(flat, [0.0, 0.0, 1.0], solved))
