"""Where a picture of any shape lies on the sphere: whole, by GPano, padded or cropped; and advice for other shapes.

`Place` is in pixels of the picture as people see it, that is with the EXIF orientation applied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from torch import Tensor

from .gpano import INSTEAD, Gpano
from .layouts import advice
from .panorama import UNSEEN_GREY, bilinear, rotation

# One latent cell covers 8 pixels, and FLUX.1 works in patches of 2x2 cells. The height is a multiple of 8, so the
# width (twice the height) is a multiple of 16.
STEP = 8
# By how many pixels rounding in other tools may have changed one side.
ROUNDED = 2
SMALLEST = 2 * STEP
# Relative tolerance for GPano's numbers against each other and the picture, because resizing rounds.
STALE = 0.02


class Place(NamedTuple):
    """The part of a picture that is used (top, left, height, width), and where it lies on a sphere of pixels."""

    top: int
    left: int
    height: int
    width: int
    sphere_width: float
    """Width of 360 degrees in pixels; half of it is 180 degrees."""
    sphere_left: float = 0.0
    sphere_top: float = 0.0
    pose: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Heading, pitch and roll in degrees, as in GPano."""
    words: str = ""

    @property
    def around(self) -> bool:
        """Whether the left edge meets the right edge."""
        return abs(self.width - self.sphere_width) <= ROUNDED

    @property
    def whole(self) -> bool:
        """Whether the part covers the whole sphere."""
        return self.around and abs(self.height - self.sphere_width / 2) <= ROUNDED


def as_it_is(name: str, height: int, width: int, _gpano: Gpano | None = None, _field: float = 0.0) -> Place:
    """Return the place of a whole panorama.  Raises ValueError for a picture of another shape."""
    check_picture(name, height, width)
    return Place(0, 0, height, width, width)


def padded(name: str, height: int, width: int, _gpano: Gpano | None = None, field: float = 0.0) -> Place:
    """Centre a picture on the horizon, `field` degrees high; 0 means the height that makes it 360 degrees wide.

    That height is 180 at most.
    """
    if not 0 <= field <= 180:
        raise ValueError(f"vertical_fov is {field:g}, expected 0 to 180 degrees; change vertical_fov.")
    degrees = field or min(180.0, 360.0 * height / width)
    around = degrees * width / height
    if around > 360.0 * (1 + 1e-9):
        raise ValueError(
            f"{name}: if {width}x{height} pixels are {degrees:g} degrees high, they are {around:.0f} degrees wide, "
            f"more than 360; set vertical_fov to {int(360 * height / width)} or less, or to 0."
        )
    full = height * 360.0 / degrees
    words = f"padded: {around:.0f} x {degrees:.0f} degrees of 360 x 180"
    return _checked(name, Place(0, 0, height, width, full, (full - width) / 2, (full / 2 - height) / 2, words=words))


def cropped(name: str, height: int, width: int, _gpano: Gpano | None = None, _field: float = 0.0) -> Place:
    """Cut the middle, twice as wide as high, out of a picture, and use it as the whole sphere."""
    rows, columns = min(height, width // 2), min(width, 2 * height)
    words = f"cropped to {columns}x{rows}" if (rows, columns) != (height, width) else ""
    return _checked(name, Place((height - rows) // 2, (width - columns) // 2, rows, columns, columns, words=words))


def by_gpano(name: str, height: int, width: int, gpano: Gpano | None = None, _field: float = 0.0) -> Place:
    """Return the place that GPano gives; without GPano the picture must be a whole panorama."""
    if gpano is None:
        return as_it_is(name, height, width)
    if gpano.projection.lower() != "equirectangular":
        raise ValueError(
            f"{name}: the GPano data gives the projection {gpano.projection[:40]}, expected equirectangular; convert "
            f"the picture to an equirectangular panorama first, or {INSTEAD}."
        )
    pose = (gpano.heading % 360.0, gpano.pitch, gpano.roll)
    words = f"GPano: heading {pose[0]:g}, pitch {pose[1]:g}, roll {pose[2]:g}" if any(pose) else ""
    cut = any(value is not None for value in (gpano.width, gpano.height, gpano.left, gpano.top))
    if gpano.full_width is None or (not cut and abs(width - 2 * height) <= ROUNDED):
        return as_it_is(name, height, width)._replace(pose=pose, words=words)
    place = _crop(name, height, width, gpano)
    if not place.whole:
        degrees = 360.0 / place.sphere_width
        part = f"{width * degrees:.0f} x {height * degrees:.0f} degrees of 360 x 180"
        words = f"{words}, {part}" if words else f"GPano: {part}"
    return _checked(name, place._replace(pose=pose, words=words))


def _crop(name: str, height: int, width: int, gpano: Gpano) -> Place:
    """Return the place of the area that GPano says was cropped from a sphere, without its pose."""
    columns = gpano.width or (gpano.height or height) * width / height
    rows = gpano.height or columns * height / width
    scale = width / columns  # the file may have been resized since
    if abs(rows * scale - height) > ROUNDED + STALE * height:
        raise ValueError(
            f"{name}: the GPano data describes a picture of {columns:.0f}x{rows:.0f}, but this one is {width}x{height},"
            f" so it was cropped later; {INSTEAD}."
        )
    around = (gpano.full_width or 0.0) * scale
    above = around / 2 if gpano.full_height is None else gpano.full_height * scale
    top = (above - height) / 2 if gpano.top is None else gpano.top * scale
    # Phones often give the strip itself as the full panorama; the horizon is then in the middle of the strip.
    top += (around / 2 - above) / 2
    left = (around - width) / 2 if gpano.left is None else gpano.left * scale
    outside = max(width - around, above - around / 2, -top, top + height - around / 2)
    if outside > ROUNDED + STALE * height:
        raise ValueError(
            f"{name}: the GPano data contradicts itself: {columns:.0f}x{rows:.0f} at {gpano.left or 0:.0f}, "
            f"{gpano.top or 0:.0f} does not fit into {gpano.full_width:.0f}x"
            f"{gpano.full_height or around / scale / 2:.0f}; {INSTEAD}."
        )
    place = Place(0, 0, height, width, around, left % around, top)
    return place._replace(sphere_width=width, sphere_left=0.0, sphere_top=0.0) if place.whole else place


FITS: dict[str, Callable[[str, int, int, Gpano | None, float], Place]] = {
    "by GPano": by_gpano,
    "as it is": as_it_is,
    "pad": padded,
    "crop": cropped,
}
DEFAULT = "by GPano"


def check_picture(name: str, height: int, width: int) -> None:
    """Raise ValueError unless a picture of this size can be a panorama: twice as wide as high, apart from rounding."""
    if abs(width - 2 * height) > ROUNDED:
        raise ValueError(
            f"{name}: expected a panorama, twice as wide as high, got {width}x{height}; {advice(height, width)}."
        )
    _check_size(name, height, width)


def _checked(name: str, place: Place) -> Place:
    _check_size(name, round(place.sphere_width / 2), round(place.sphere_width))
    return place


def _check_size(name: str, height: int, width: int) -> None:
    if height < SMALLEST:
        raise ValueError(
            f"{name}: expected a panorama of at least {2 * SMALLEST}x{SMALLEST}, got {width}x{height}; choose a "
            "larger one."
        )


LAID = 2**19
"""The number of panorama pixels that are filled at one time."""


def laid(part: Tensor, place: Place, height: int) -> tuple[Tensor, Tensor]:
    """Lay a part [h, w, C] on the sphere; return (panorama [height, 2 height, C], seen [height, 2 height]).

    Bilinear between pixel centres. The pose turns the camera: it rolls, then pitches, then turns to its heading; the
    middle of the result faces north. The rest of the panorama is grey.
    """
    to_camera = rotation(*place.pose).T
    panorama = part.new_full((height, 2 * height, part.shape[-1]), UNSEEN_GREY)
    seen = torch.zeros(height, 2 * height, dtype=torch.bool)
    step = max(1, LAID // (2 * height))
    for first in range(0, height, step):
        rows = slice(first, min(first + step, height))
        u, v, seen[rows] = _looked_up(place, (part.shape[0], part.shape[1]), height, rows, to_camera)
        panorama[rows][seen[rows]] = bilinear(part[None], u, v)[0]
    return panorama, seen


def _looked_up(
    place: Place, size: tuple[int, int], height: int, rows: slice, to_camera: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return where the pixels of some rows of the panorama lie in the part: (u [N], v [N], seen [rows, 2 height])."""
    across, down = _directions(height, rows, to_camera)
    x = ((across * place.sphere_width - place.sphere_left) % place.sphere_width) / place.width
    y = (down * place.sphere_width / 2 - place.sphere_top) / place.height
    seen = ((x <= 1) | torch.tensor(place.around)) & (y >= 0) & (y <= 1)
    u, v = x[seen] * size[1] - 0.5, (y[seen] * size[0] - 0.5).clamp(0, size[0] - 1)
    # For u just below 0, rounding makes u % size equal to size.
    return ((u % size[1]).clamp(max=size[1] - 1e-9) if place.around else u.clamp(0, size[1] - 1)), v, seen


def _directions(height: int, rows: slice, to_camera: Tensor) -> tuple[Tensor, Tensor]:
    """Return where pixel centres lie in the camera's own panorama, across and down in [0, 1], each [rows, 2 height]."""
    across = ((torch.arange(2 * height, dtype=torch.float64) + 0.5) / (2 * height)).expand(rows.stop - rows.start, -1)
    down = rearrange((torch.arange(rows.start, rows.stop, dtype=torch.float64) + 0.5) / height, "h -> h 1")
    down = down.expand_as(across)
    if torch.equal(to_camera, torch.eye(3, dtype=to_camera.dtype)):
        return across, down
    lon, lat = (across - 0.5) * (2 * torch.pi), (down - 0.5) * torch.pi
    world = torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()])
    front, right, below = einsum(to_camera, world, "camera world, world h w -> camera h w")
    turned = torch.atan2(right, front) / (2 * torch.pi) + 0.5
    return turned, torch.atan2(below, torch.hypot(front, right)) / torch.pi + 0.5
