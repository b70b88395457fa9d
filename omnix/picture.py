"""Read a picture file as the panorama that the streams work on: every kind of pixel, no corner cut off, no part lost.

PyAV decodes, as in ComfyUI's own Load Image: 8 and 16 bits, grey, palette and alpha, EXR and Radiance.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.error import FFmpegError
from einops import rearrange, repeat
from PIL import Image, ImageOps
from torch import Tensor

from . import exr

# Latents have an eighth of the pixels, and FLUX.1 takes them in patches of two: the width, twice the height, is then
# a multiple of 16.
STEP = 8
# What rounding in other tools may have taken from one side, in pixels.
ROUNDED = 2
SMALLEST = 2 * STEP


class Picture(NamedTuple):
    """Colours [H, W, 3] in [0, 1], sRGB, and opacity [H, W] in [0, 1], both float32."""

    colours: Tensor
    opacity: Tensor


def read_picture(path: Path) -> Picture:
    """Read the first frame of a picture file.  Raises ValueError for what is no whole picture, OSError if it is lost.

    Floats (EXR, Radiance) are scene-linear by convention: they are encoded as sRGB and end at 1.
    """
    picture = _whole(path)
    if not bool(torch.isfinite(picture.colours).all()):
        raise ValueError(
            f"{path.name}: expected numbers, got values that are none (NaN); choose another file, or save this one "
            "without them."
        )
    return picture


def _whole(path: Path) -> Picture:
    with path.open("rb") as file:
        kind = file.read(4)
    # PyAV takes half of these for a whole.
    if kind == exr.MAGIC and not exr.is_whole(path.read_bytes()):
        raise _damaged(path)
    if kind == b"GIF8":
        return _decoded_by_pillow(path)
    try:
        return _decoded(path)
    except (FFmpegError, IndexError, StopIteration):
        return _decoded_by_pillow(path)


def _decoded(path: Path) -> Picture:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        # Without this half a file becomes half a picture.
        stream.codec_context.options = {"err_detect": "explode"}
        frame = next(container.decode(stream))
    turns = round(frame.rotation / 90) % 4
    return Picture(*(torch.rot90(part, turns, (0, 1)) for part in _picture(frame)))


def _decoded_by_pillow(path: Path) -> Picture:
    """Read what PyAV does not know, such as TIFF with alpha; 8 bits."""
    try:
        with Image.open(path) as image:
            values = (
                torch.from_numpy(np.asarray(ImageOps.exif_transpose(image).convert("RGBA"), dtype=np.float32)) / 255
            )
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _damaged(path) from error
    return Picture(values[..., :3], values[..., 3])


def _damaged(path: Path) -> ValueError:
    return ValueError(
        f"{path.name}: expected a whole picture, got a damaged file or one of another kind; choose another file, or "
        "get this one again."
    )


def _picture(frame: av.VideoFrame) -> Picture:
    names = frame.format.name
    alpha = names == "pal8" or any(part.is_alpha for part in frame.format.components)
    if any(part.bits == 32 for part in frame.format.components) or "f16" in names:
        return _linear(frame, alpha)
    deep = any(part.bits > 8 for part in frame.format.components)
    kind, most = ("rgba64le", 65535) if deep else ("rgba", 255)
    values = torch.from_numpy(frame.reformat(format=kind).to_ndarray().astype(np.float32)) / most
    return Picture(values[..., :3], values[..., 3] if alpha else torch.ones(values.shape[:2]))


def _linear(frame: av.VideoFrame, alpha: bool) -> Picture:
    # Another format than the frame's own would end at 1 before the curve is applied.
    grey = frame.format.name.startswith("gray")
    kind = "grayf32le" if grey else ("gbrapf32le" if alpha else "gbrpf32le")
    values = torch.from_numpy(frame.to_ndarray(format=kind).astype(np.float32))
    colours = repeat(values, "h w -> h w c", c=3) if grey else values[..., :3]
    return Picture(encode_srgb(colours), values[..., 3].clamp(0, 1) if alpha else torch.ones(values.shape[:2]))


def encode_srgb(linear: Tensor) -> Tensor:
    """Encode linear light as sRGB (IEC 61966-2-1), cut to [0, 1]."""
    light = linear.clamp(0, 1)
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp(min=1e-8) ** (1 / 2.4) - 0.055)


def check_picture(name: str, height: int, width: int) -> None:
    """Raise ValueError unless a picture of this size can be a panorama: twice as wide as high, but for rounding."""
    if abs(width - 2 * height) > ROUNDED:
        raise ValueError(
            f"{name}: expected a panorama, twice as wide as high, got {width}x{height}; choose another picture, or "
            "make a panorama of this one with Place Image on Panorama."
        )
    if height < SMALLEST:
        raise ValueError(
            f"{name}: expected a panorama of at least {2 * SMALLEST}x{SMALLEST}, got {width}x{height}; choose a "
            "larger one."
        )


def working_height(height: int, most: int) -> int:
    """Return the height to work at: a picture's own, or `most` if that is less, at the nearest multiple of 8."""
    wanted = min(height, max(most, SMALLEST))
    return max(SMALLEST, STEP * round(wanted / STEP))


def resized(values: Tensor, height: int) -> Tensor:
    """Resize a panorama [H, W, C] to [height, 2 * height, C]; the filter sees across the seam.

    Bicubic, antialiased.  Seen half way round, what was the seam lies in the middle: its half of the result comes from
    there.
    """
    width = 2 * height
    if values.shape[:2] == (height, width):
        return values
    plain = _scaled(values, height, width)
    if values.shape[1] % 2:
        return plain
    turned = _scaled(values.roll(values.shape[1] // 2, dims=1), height, width).roll(height, dims=1)
    middle = slice(width // 4, width - width // 4)
    turned[:, middle] = plain[:, middle]
    return turned


def _scaled(values: Tensor, height: int, width: int) -> Tensor:
    batch = rearrange(values, "h w c -> 1 c h w")
    scaled = F.interpolate(batch, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return rearrange(scaled, "1 c h w -> h w c").clamp(0, 1)


def load_panorama(path: Path, most: int) -> tuple[Picture, tuple[int, int]]:
    """Read a panorama, resized to the height to work at (see `working_height`), and the file's own (height, width).

    Raises ValueError, OSError.
    """
    colours, opacity = read_picture(path)
    check_picture(path.name, *opacity.shape)
    height = working_height(opacity.shape[0], most)
    shown = Picture(resized(colours, height), resized(rearrange(opacity, "h w -> h w 1"), height)[..., 0])
    return shown, (opacity.shape[0], opacity.shape[1])
