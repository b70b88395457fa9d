"""Read a picture file's header: format, size, orientation, GPano data, colour profile; and check for truncated files.

This runs while a graph is checked, in the server's own thread, so it reads a few kilobytes and decodes no pixels.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from PIL import Image, ImageFile, TiffImagePlugin

from . import exr
from .gpano import Gpano, read_gpano

MOST = "OMNIX_LARGEST_PICTURE"
"""The environment variable that sets the largest picture, WIDTHxHEIGHT in pixels."""
MOST_BY_DEFAULT = "16384x8192"
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "PSD", "SGI", "TGA")
# Formats that people use and Pillow can't open: a pattern of the first bytes, and the name of the format.
NAMED = (
    (rb"....ftyp(heic|heix|hevc|heim|mif1|msf1)", "a HEIC picture"),
    (rb"....ftypavi[fs]", "an AVIF picture, which needs Pillow 11.3 or newer"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (rb"....ftyp(?!avi[fs])|\x1aE\xdf\xa3|RIFF....AVI ", "a video"),
    (rb"\s*<(\?xml|svg)", "an SVG picture"),
)
RADIANCE_SIZE = re.compile(rb"\n-Y +(\d+) +\+X +(\d+)\n")
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
SWAPPED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
# Tags of TIFF and EXIF.
WIDTH, HEIGHT, BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, FORMAT = 256, 257, 258, 262, 274, 277, 339
STRIPS, TILES, XMP, ICC = (273, 279), (324, 325), 700, 34675
UNSIGNED, FLOAT = 1, 3


class Header(NamedTuple):
    """The facts about a picture; its size is the size after the EXIF orientation is applied."""

    kind: str
    height: int
    width: int
    deep: bool = False
    """Whether the pixels have more than 8 bits, which Pillow would cut; PyAV decodes them."""
    orientation: int = 1
    gpano: Gpano | None = None
    icc: bytes = b""
    layer: exr.Layer | None = None


class PictureError(ValueError):
    """Its message says what is wrong with a file and what to do."""


# Picture readers can raise almost anything for a damaged file.
FAULTS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError),
    *(struct.error, SyntaxError, TypeError, ValueError),
)


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn any error about a damaged file into a PictureError; errors of the disk are passed on."""
    try:
        yield
    except PictureError:
        raise
    except Image.DecompressionBombError as error:  # the readers of WebP and a few others check Pillow's own limit
        raise PictureError(
            f"{path.name}: the picture is too large to open as {path.suffix[1:].upper()}; make it smaller, or save it "
            "as JPEG or PNG."
        ) from error
    except FAULTS as error:
        # EINVAL comes from a damaged offset in the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise damaged(path) from error


def read_header(path: Path) -> Header:
    """Read a picture's header.  Raises OSError; ValueError if the file is not a picture, truncated or too large."""
    with path.open("rb") as file:
        start = file.read(4096)
    with refusing(path):
        header = _header(path, start)
    if min(header.height, header.width) < 1:
        raise damaged(path)
    _check_most(path.name, header.height, header.width)
    return header


def _header(path: Path, start: bytes) -> Header:
    if start[:4] == exr.MAGIC:
        return _exr_header(path)
    if start[:2] == b"#?":
        return _radiance_header(path, start)
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff_header(path)
    return _pillow_header(path)


def _check_most(name: str, height: int, width: int) -> None:
    most = os.environ.get(MOST) or MOST_BY_DEFAULT
    sides = re.fullmatch(r"(\d+)x(\d+)", most)
    if not sides:
        raise PictureError(
            f"The environment variable {MOST} is {most!r}, expected a size such as {MOST_BY_DEFAULT}; change it and "
            "start ComfyUI again."
        )
    if height * width > int(sides[1]) * int(sides[2]):
        raise PictureError(
            f"{name}: expected at most {most} pixels, got {width}x{height}; make the picture smaller, or set the "
            f"environment variable {MOST} before ComfyUI starts."
        )


def _exr_header(path: Path) -> Header:
    with path.open("rb") as file:
        # PyAV decodes a truncated EXR without an error.
        if not exr.is_whole(file):
            raise damaged(path)
        try:
            layer = exr.picture_layer(file)
        except ValueError as error:
            raise PictureError(f"{path.name}: {error}") from error
    return Header("EXR", *layer.size, deep=True, layer=layer)


def _radiance_header(path: Path, start: bytes) -> Header:
    size = RADIANCE_SIZE.search(start)
    if not size:
        raise damaged(path)
    return Header("Radiance", int(size[1]), int(size[2]), deep=True)


def _tiff_header(path: Path) -> Header:
    """Read a TIFF's own tags: Pillow can't open colour floats, and PyAV reads 32-bit integers as floats."""
    with path.open("rb") as file:
        start = file.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(start + (file.read(8) if b"+" in start[:4] else b""))
        file.seek(cast("int", tags.next))
        tags.load(file)
        length = file.seek(0, 2)
    offsets, counts = next(((tags[a], tags[b]) for a, b in (STRIPS, TILES) if a in tags), ((), ()))
    if not offsets or any(offset + count > length for offset, count in zip(offsets, counts)):
        raise damaged(path)
    bits, samples = tags.get(BITS, (1,))[0], tags.get(SAMPLES, 1)
    kind = (bits, tags.get(FORMAT, (UNSIGNED,))[0])
    if kind not in ((16, UNSIGNED), (32, FLOAT)) and bits > 8:
        what = f"{bits}-bit {'floats' if kind[1] == FLOAT else 'integers'}"
        raise PictureError(
            f"{path.name}: expected 8 or 16 bits or 32-bit floats, got a TIFF of {what}; save it as EXR."
        )
    if bits > 8 and tags.get(PHOTOMETRIC) not in (1, 2):
        raise PictureError(f"{path.name}: expected grey or RGB, got a TIFF in another colour space; save it as RGB.")
    turn = tags.get(ORIENTATION, 1)
    width, height = (int(tags[WIDTH]), int(tags[HEIGHT]))[:: -1 if turn in SWAPPED else 1]
    gpano = _gpano(path, [tags[XMP]] if isinstance(tags.get(XMP), bytes) else [])
    deep = bits > 8 and (*kind, samples) != (32, FLOAT, 1)
    return Header("TIFF", height, width, deep, turn, gpano, tags.get(ICC, b""))


def _pillow_header(path: Path) -> Header:
    with opened(path) as image:
        kind, turn = image.format or "", _turn(image)
        with path.open("rb") as file:
            if not WHOLE.get(kind, lambda _: True)(file):
                raise damaged(path)
        deep = image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in image.tile)
        width, height = image.size[:: -1 if turn in SWAPPED else 1]
        icc = image.info.get("icc_profile") or b""
        return Header(kind, height, width, deep, turn, _gpano(path, _packets(image)), icc)


def _turn(image: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation, 1 if EXIF can't be read.  (Pillow's getexif would decode a PNG.)"""
    exif = Image.Exif()
    with suppress(OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        exif.load(image.info.get("exif") or b"")
    return exif.get(ORIENTATION, 1)


def _packets(image: ImageFile.ImageFile) -> list[bytes]:
    """Return the XMP packets of a picture; in a JPEG each packet is an APP1 segment."""
    segments = [data for name, data in getattr(image, "applist", ()) if name == "APP1"]
    packets = [data[len(XMP_HEADER) :] for data in segments if data.startswith(XMP_HEADER)]
    text = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    return packets or [text.encode() if isinstance(text, str) else text]


def _gpano(path: Path, packets: list[bytes]) -> Gpano | None:
    try:
        return read_gpano(packet for packet in packets if packet)
    except ValueError as error:
        raise PictureError(f"{path.name}: {error}") from error


def _png_is_whole(file: BinaryIO) -> bool:
    """Return whether the chain of chunks ends with IEND."""
    file.seek(8)
    while len(chunk := file.read(8)) == 8:
        if chunk[4:] == b"IEND":
            return True
        file.seek(int.from_bytes(chunk[:4], "big") + 4, 1)
    return False


def _webp_is_whole(file: BinaryIO) -> bool:
    file.seek(4)
    (size,) = struct.unpack("<I", file.read(4))
    return size + 8 <= file.seek(0, 2)


# Formats whose truncated files can be found without decoding; other formats are refused when they are decoded.
WHOLE = {"PNG": _png_is_whole, "WEBP": _webp_is_whole}


def _openers() -> dict[str, Any]:
    """Return Pillow's readers of the formats. They skip Pillow's fixed pixel limit, because ours can be changed."""
    Image.init()
    return {name: Image.OPEN[name] for name in FORMATS if name in Image.OPEN}


@contextmanager
def opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open a picture with Pillow, decoding nothing."""
    with path.open("rb") as file:
        yield _image(path, file)


def _image(path: Path, file: BinaryIO) -> ImageFile.ImageFile:
    start = file.read(64)
    for factory, accept in _openers().values():
        if accept is None or accept(start[:16]) is True:
            file.seek(0)
            with suppress(*FAULTS):
                return factory(file, str(path))
    for pattern, name in NAMED:
        if re.match(pattern, start, re.DOTALL) and not ("AVIF" in name and "AVIF" in _openers()):
            raise PictureError(f"{path.name}: expected a picture, got {name}; save it as JPEG or PNG first.")
    raise damaged(path)


def damaged(path: Path) -> PictureError:
    """Return the error for a file that is truncated or not a picture."""
    return PictureError(
        f"{path.name}: the file is damaged or is not a picture; choose another file, or copy or download it again."
    )
