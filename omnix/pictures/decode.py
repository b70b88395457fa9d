"""Decode a picture file into rows of sRGB; only the requested rows are converted to floats.

Pillow decodes 8 bits; PyAV decodes the formats that Pillow would cut to 8 bits: PNG and TIFF of 16 bits, TIFF of
floats, EXR and Radiance. Floats are scene-linear by convention: they are encoded as sRGB and clipped at 1.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
import torch
from av.error import FFmpegError
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageCms
from torch import Tensor

from . import exr
from .header import Header, PictureError, damaged, opened, refusing
from .icc import curves_of, linear_srgb, mixed, primaries_to_srgb

Array = NDArray[Any]
# EXIF orientation -> the transformation, as a view of decoded rows [H, W, ..].
TURNS: dict[int, Callable[[Array], Array]] = {
    2: lambda rows: rows[:, ::-1],
    3: lambda rows: rows[::-1, ::-1],
    4: lambda rows: rows[::-1],
    5: lambda rows: rows.swapaxes(0, 1),
    6: lambda rows: rows.swapaxes(0, 1)[:, ::-1],
    7: lambda rows: rows.swapaxes(0, 1)[::-1, ::-1],
    8: lambda rows: rows.swapaxes(0, 1)[::-1],
}
METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# PyAV's formats: the order of red, green, blue and opacity among the planes, or how many channels one plane has.
# They are read without PyAV's conversion, which crashes the whole process for some float formats (yaf32le).
FLOATS = {"grayf": (0,), "yaf": 2, "gbrpf": (2, 0, 1), "gbrapf": (2, 0, 1, 3), "rgbf": 3, "rgbaf": 4}
FRAMES: dict[str, tuple[type[np.generic], int | tuple[int, ...]]] = {
    **{f"{name}16le": (np.float16, places) for name, places in FLOATS.items()},
    **{f"{name}32le": (np.float32, places) for name, places in FLOATS.items()},
    **{name: (np.uint16, count) for name, count in (("gray16le", 1), ("ya16le", 2), ("rgb48le", 3), ("rgba64le", 4))},
}
# Colour space of an ICC profile -> Pillow's mode.
SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
BRIGHTEST = 1e6
"""Light is limited to this before channels are mixed, because infinity minus infinity is NaN."""
NO_PROFILE = "its colour profile can't be applied, so it is read as sRGB"


class Source(NamedTuple):
    """A decoded picture: rows(first, end) returns float32 [n, width, 3 or 4], sRGB and opacity, in [0, 1]."""

    height: int
    width: int
    channels: int
    rows: Callable[[int, int], Tensor]
    words: str = ""


def decoded(path: Path, header: Header) -> Source:
    """Decode the first frame of a picture file.  Raises ValueError if the file is not a whole picture, OSError."""
    with refusing(path):
        source = (_by_pyav if header.deep else _by_pillow)(path, header)
    if (source.height, source.width) != (header.height, header.width):
        raise damaged(path)
    return source


def _by_pillow(path: Path, header: Header) -> Source:
    image = _upright(path, header)
    width, height = image.size
    if image.mode[0] in "IF":
        note = NO_PROFILE if header.icc else ""
        return Source(height, width, 3, lambda first, end: _grey(image.crop((0, first, width, end))), note)
    clear = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    to_srgb, words = _managed(header.icc, image.mode)

    def rows(first: int, end: int) -> Tensor:
        part = image.crop((0, first, width, end))
        part = part.convert("RGBA") if clear else part
        colours = to_srgb(part)
        if clear:
            colours.putalpha(part.getchannel("A"))
        return torch.from_numpy(np.array(colours, dtype=np.float32)) / 255

    return Source(height, width, 4 if clear else 3, rows, words)


def _upright(path: Path, header: Header) -> Image.Image:
    """Decode a picture with Pillow and apply the EXIF orientation; for TIFF, Pillow does this itself."""
    with opened(path) as image:
        image.load()
        turned = header.kind != "TIFF" and header.orientation in METHODS
        return image.transpose(METHODS[header.orientation]) if turned else image


def _grey(part: Image.Image) -> Tensor:
    """Return a channel of 16-bit values or floats as three equal channels."""
    values = torch.from_numpy(np.array(part, dtype=np.float32))
    grey = encode_srgb(values) if part.mode == "F" else values / 65535
    return rearrange(grey, "h w -> h w 1").expand(-1, -1, 3)


def _managed(icc: bytes, mode: str) -> tuple[Callable[[Image.Image], Image.Image], str]:
    """Return a function that converts an 8-bit picture to sRGB, and a note if its profile can't be applied."""
    if not icc:
        return lambda part: part.convert("RGB"), ""
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        own = SPACES[cast("Any", profile.profile).xcolor_space.strip()]
        if (own == "CMYK") != (mode == "CMYK"):
            return lambda part: part.convert("RGB"), NO_PROFILE
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), own, "RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, KeyError):
        return lambda part: part.convert("RGB"), NO_PROFILE
    return lambda part: ImageCms.applyTransform(part.convert(own), transform) or part, ""


def _by_pyav(path: Path, header: Header) -> Source:
    frame = _frame(path, header)
    turn = TURNS.get(header.orientation, lambda rows: rows)
    planes = [turn(plane) for plane in _planes(frame)]
    curves = curves_of(header.icc)
    floats = planes[0].dtype.kind == "f"
    grey = sum(plane.shape[2] for plane in planes) <= 2
    clear = any(part.is_alpha for part in frame.format.components)
    matrix = curves.matrix if floats and curves is not None else None
    if header.layer is not None and header.layer.primaries and not grey:
        matrix = primaries_to_srgb(header.layer.primaries)

    def rows(first: int, end: int) -> Tensor:
        values = np.concatenate([plane[first:end].astype(np.float32) for plane in planes], axis=-1)
        colours = torch.from_numpy(values if floats else values / 65535)
        light, opacity = (colours[..., :1].expand(-1, -1, 3) if grey else colours[..., :3]), colours[..., -1:]
        if matrix is not None:
            light = mixed(light.clamp(max=BRIGHTEST), matrix)
        elif curves is not None:
            light = linear_srgb(light, curves)
        shown = encode_srgb(light) if floats or curves is not None else light
        return torch.cat([shown, opacity.clamp(0, 1)], dim=-1) if clear else shown

    height, width = planes[0].shape[:2]
    return Source(height, width, 4 if clear else 3, rows, NO_PROFILE if header.icc and curves is None else "")


def _frame(path: Path, header: Header) -> av.VideoFrame:
    """Decode a picture with PyAV, in one of the formats of the tables."""
    # Without "explode" PyAV decodes half a file as half a picture. With it, PyAV rejects a TIFF with unknown tags.
    options = {} if header.kind == "TIFF" else {"err_detect": "explode"}
    if header.layer is not None:
        options |= {"layer": header.layer.prefix}
    try:
        with av.open(_content(path, header)) as container:
            stream = container.streams.video[0]
            stream.codec_context.options = options
            frame = next(container.decode(stream))
    except (FFmpegError, IndexError, StopIteration) as error:
        raise _not_decoded(path, header) from error
    known = frame.format.name.replace("16be", "16le").replace("48be", "48le").replace("64be", "64le")
    if known not in FRAMES:
        raise _not_decoded(path, header)
    return frame if frame.format.name == known else frame.reformat(format=known)


def _content(path: Path, header: Header) -> str | BytesIO:
    if header.layer is None or not header.layer.part:
        return str(path)
    with path.open("rb") as file:
        return BytesIO(exr.single_part(file, header.layer.part))


def _not_decoded(path: Path, header: Header) -> PictureError:
    if header.kind not in ("EXR", "TIFF"):
        return damaged(path)
    return PictureError(
        f"{path.name}: the pixels can't be read. The {header.kind} is damaged or uses an unsupported compression. Save "
        "it again as EXR (half or float, ZIP compression) or as PNG."
    )


def _planes(frame: av.VideoFrame) -> list[Array]:
    """Return views of a frame's channels [H, W, n], red first."""
    kind, places = FRAMES[frame.format.name]
    channels = places if isinstance(places, int) else 1
    found = []
    for plane in frame.planes:
        rows = np.frombuffer(cast("Any", plane), kind).reshape(frame.height, -1)
        found.append(rearrange(rows[:, : frame.width * channels], "h (w n) -> h w n", n=channels))
    return found if isinstance(places, int) else [found[place] for place in places]


def encode_srgb(linear: Tensor) -> Tensor:
    """Encode linear light as sRGB (IEC 61966-2-1), clipped to [0, 1]."""
    light = linear.clamp(0, 1)
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp(min=1e-8) ** (1 / 2.4) - 0.055)
