"""A panorama of a scene from another place: what was seen stays, and what nobody has seen is grey."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..pictures.panorama import UNSEEN_GREY, bilinear, check_panorama
from .build import INVENTED, SKY
from .frame import Array, reciprocal
from .raster import first_hits
from .reading import Model, Piece


class View(NamedTuple):
    """A panorama [H, W, 3] of a scene, what of it is unseen [H, W], and the distance [H, W], 0 where it is unseen."""

    panorama: Tensor
    unseen: Tensor
    distance: Tensor


def view_from(
    model: Model, offset: tuple[float, float, float], height: int, image: Tensor | None, invented: bool
) -> View:
    """Return the panorama of so many rows from a place beside the model's viewer: right, up, back in its unit.

    image: the panorama [H, W, >=3] that the scene was made of, for its colours; without it the file's own. invented:
    show what nobody saw, too. A surface that turns its back hides what is behind it, and is itself unseen.
    """
    check_panorama(height, 2 * height)
    pieces = [piece for piece in model.pieces if invented or piece.surface != INVENTED]
    if not pieces:
        raise ValueError(
            "The 3D file contains no surface that the panorama shows; connect model_3d of Panorama to 3D Scene."
        )
    check_colours(pieces, image)
    eye = model.viewer + np.array(offset)
    triangles = np.concatenate([piece.positions[piece.faces] for piece in pieces]) - eye
    hits = first_hits(triangles, height)
    faces = triangles[hits.face]
    front = (faces[..., 0, :] * np.cross(faces[..., 1, :], faces[..., 2, :])).sum(axis=-1) < 0
    seen = (hits.face >= 0) & front
    if not seen.any():
        raise ValueError("No part of the scene is visible from there; move a shorter distance.")
    colours = torch.from_numpy(_colours(pieces, hits.face[seen], hits.weights[seen], image))
    panorama = torch.full((*seen.shape, 3), UNSEEN_GREY)
    panorama[torch.from_numpy(seen)] = colours.float()
    distance = np.where(seen, reciprocal(hits.inverse), 0.0)
    return View(panorama, torch.from_numpy(~seen).float(), torch.from_numpy(distance).float())


def check_colours(pieces: list[Piece], image: Tensor | None) -> None:
    """Raise ValueError if the colours of a lit scene would be taken for those of its panorama."""
    lit = [piece.name for piece in pieces if not piece.unlit and (image is None or piece.surface == INVENTED)]
    if lit:
        raise ValueError(
            f"The material of {lit[0]} is lit, so its colours are albedo and not the panorama's; set unlit in Panorama "
            "to 3D Scene, or connect the panorama to image and turn invented off."
        )


def _colours(pieces: list[Piece], face: Array, weights: Array, image: Tensor | None) -> Array:
    """Return the colours [N, 3] at triangles [N], counted over all pieces, and weights [N, 3] of their corners."""
    found = np.zeros((len(face), 3), dtype=np.float32)
    start = 0
    for piece in pieces:
        mine = (face >= start) & (face < start + len(piece.faces))
        corners = piece.uv[piece.faces[face[mine] - start]]
        u, v = (corners * weights[mine][..., None]).sum(axis=1).T
        # Behind objects the panorama shows the objects: what is invented there, and the sky, has its own colours.
        own = image is not None and piece.surface not in (INVENTED, SKY)
        picture = image[..., :3].float().cpu() if own and image is not None else torch.from_numpy(piece.colour)
        height, width = picture.shape[:2]
        # Rows end at the poles, columns are a circle.
        places = torch.from_numpy(u * width - 0.5), torch.from_numpy(np.clip(v * height - 0.5, 0, height - 1))
        found[mine] = bilinear(picture[None], *places)[0].numpy()
        start += len(piece.faces)
    return found
