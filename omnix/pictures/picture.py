"""Read a picture file of any common pixel format as a panorama at the size that the streams work on.

Pixels are converted to floats in blocks of rows, so that a large picture needs little extra memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .decode import Source, decoded
from .fit import DEFAULT, FITS, SMALLEST, STEP, Place, laid
from .header import Header, read_header
from .layouts import check_circles

BLOCK = 2**20
"""The number of pixels that are converted to floats at one time while a picture is resized."""


class Picture(NamedTuple):
    """Colours [H, W, 3] in [0, 1], sRGB, and opacity [H, W] in [0, 1], both float32."""

    colours: Tensor
    opacity: Tensor


class Loaded(NamedTuple):
    """A panorama at its working size, and a description of what was done."""

    picture: Picture
    words: str


def load_panorama(path: Path, most: int, fit: str = DEFAULT, field: float = 0.0) -> Loaded:
    """Read a picture as a panorama, resized to the height to work at (see `working_height`).

    Raises ValueError, OSError.  fit is a name of FITS; field is the vertical field of view of a padded picture
    in degrees, 0 for 360 degrees around.
    """
    header = read_header(path)
    place = placed(path.name, header, fit, field)
    shown, words = _fitted(path.name, decoded(path, header), place, most, header.gpano is None and fit != "pad")
    return Loaded(shown, f"{header.width}x{header.height} in the file, {words}")


def fit_image(image: Tensor, most: int, fit: str, field: float = 0.0) -> Loaded:
    """Fit a decoded picture [H, W, 3 or 4] in [0, 1], in the same way as `load_panorama` does with a file."""
    height, width, channels = image.shape
    place = placed("The picture", Header("", height, width), fit, field)
    values = image.detach().float().cpu()
    source = Source(height, width, channels, lambda first, end: values[first:end])
    shown, words = _fitted("The picture", source, place, most, fit != "pad")
    return Loaded(shown, f"{width}x{height} given, {words}")


def _fitted(name: str, source: Source, place: Place, most: int, doubted: bool) -> Loaded:
    """Return a panorama of `most` rows or fewer; if `doubted`, a whole panorama is checked for two fisheye circles."""
    rows = place.height if place.whole else round(place.sphere_width / 2)
    height = working_height(rows, most)
    part = reduced(source, place, height)
    _check_numbers(name, part)
    if place.whole and doubted:
        check_circles(name, part)
    shown = _picture(part) if place.whole and not any(place.pose) else _on_sphere(part, place, height)
    return Loaded(shown, ", ".join(filter(None, (place.words, source.words, f"{2 * height}x{height} here"))))


def placed(name: str, header: Header, fit: str, field: float) -> Place:
    """Return where a picture lies on the sphere.  Raises ValueError with the reason if it can't be placed."""
    if fit not in FITS:
        raise ValueError(f"fit is {fit!r}, expected one of {', '.join(FITS)}; choose one of them.")
    return FITS[fit](name, header.height, header.width, header.gpano, field)


def _picture(values: Tensor) -> Picture:
    clear = values.shape[-1] == 4
    return Picture(values[..., :3], values[..., 3] if clear else torch.ones(values.shape[:2]))


def _on_sphere(part: Tensor, place: Place, height: int) -> Picture:
    if place.whole:
        # The part was resized to the whole sphere, so rows or columns that were missing by rounding exist again.
        place = Place(0, 0, height, 2 * height, 2 * height, pose=place.pose)
    shown = _picture(part)
    values = torch.cat([shown.colours, rearrange(shown.opacity, "h w -> h w 1")], dim=-1)
    panorama, seen = laid(values, place, height)
    return Picture(panorama[..., :3], panorama[..., 3] * seen)


def _check_numbers(name: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            f"{name}: the file contains NaN or infinite values; choose another file, or save it again without them."
        )


def working_height(height: int, most: int) -> int:
    """Return the working height: the picture's own height, at most `most`, rounded to a multiple of 8."""
    wanted = min(height, max(most, SMALLEST))
    return max(SMALLEST, STEP * round(wanted / STEP))


def reduced(source: Source, place: Place, height: int) -> Tensor:
    """Return the used part of a picture [h, w, C], at the scale of a panorama of this height.

    Bicubic and antialiased, in blocks of rows: first across, then down. The filter sees across the seam.
    """
    scale = 2 * height / place.sphere_width
    rows = height if place.whole else max(1, round(place.height * scale))
    columns = 2 * height if place.around else max(1, round(place.width * scale))
    narrow = torch.empty(place.height, columns, source.channels)
    step = max(1, BLOCK // source.width)
    for first in range(0, place.height, step):
        end = min(first + step, place.height)
        block = source.rows(place.top + first, place.top + end)[:, place.left : place.left + place.width]
        narrow[first:end] = _scaled(block, 1, columns, place.around)
    return _scaled(narrow, 0, rows, False).clamp(0, 1)


def _scaled(values: Tensor, side: int, size: int, around: bool) -> Tensor:
    """Resize one side (0 down, 1 across) of [h, w, C].

    If the picture goes all around, it is also resized after a half turn, which moves the seam to the middle. The half
    of the result around the seam comes from the turned picture.
    """
    if values.shape[side] == size:
        return values
    plain = _filtered(values, side, size)
    if not around or values.shape[side] % 2 or size % 2:
        return plain
    turned = _filtered(values.roll(values.shape[side] // 2, dims=side), side, size).roll(size // 2, dims=side)
    middle = [slice(None)] * side + [slice(size // 4, size - size // 4)]
    turned[tuple(middle)] = plain[tuple(middle)]
    return turned


def _filtered(values: Tensor, side: int, size: int) -> Tensor:
    shape = (size, values.shape[1]) if side == 0 else (values.shape[0], size)
    batch = rearrange(values, "h w c -> 1 c h w")
    scaled = F.interpolate(batch, shape, mode="bicubic", antialias=True, align_corners=False)
    return rearrange(scaled, "1 c h w -> h w c")
