"""Write panoramas and maps as files: PNG of 8 and 16 bits, EXR of 32-bit floats.

PNG files of panoramas contain GPano data in XMP, so that photo viewers open them as 360-degree panoramas
(developers.google.com/streetview/spherical-metadata).
"""

from __future__ import annotations

import glob
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
from torch import Tensor

from ...converters import write_bytes

PNG = b"\x89PNG\r\n\x1a\n"
HEADER_END = 33
"""Where a PNG's first chunk ends: signature 8, length 4, type 4, IHDR 13, checksum 4."""
XMP = "XML:com.adobe.xmp"


class Encoding(NamedTuple):
    """How values in [0, 1] are written: codec, largest value (0: unchanged floats), PyAV's formats by channels."""

    codec: str
    largest: int
    dtype: str
    given: Mapping[int, str]
    written: Mapping[int, str]


PNG8 = Encoding("png", 255, "u1", {1: "gray", 3: "rgb24"}, {1: "gray", 3: "rgb24"})
PNG16 = Encoding("png", 65535, "u2", {1: "gray16le", 3: "rgb48le"}, {1: "gray16be", 3: "rgb48be"})
EXR = Encoding("exr", 0, "f4", {1: "grayf32le", 3: "gbrpf32le"}, {1: "grayf32le", 3: "gbrpf32le"})


def encoded(image: Tensor, how: Encoding) -> bytes:
    """Return an image [H, W, >=1] as a file; three equal channels become one, except in 8-bit files for viewing.

    Integers are rounded to the nearest, and values outside [0, 1] are clipped; floats are written unchanged.
    """
    values = image.detach().float().cpu().numpy()
    values = values[..., :3] if values.shape[-1] >= 3 else values[..., :1]
    if how is not PNG8 and bool((values == values[..., :1]).all()):
        values = values[..., :1]
    if how.largest:
        values = np.rint(np.nan_to_num(values).clip(0, 1) * how.largest)
    pixels = np.ascontiguousarray(values.astype(how.dtype))
    channels = pixels.shape[-1]
    frame = av.VideoFrame.from_ndarray(pixels[..., 0] if channels == 1 else pixels, format=how.given[channels])
    return _written(frame, how.codec, how.written[channels])


def _written(frame: av.VideoFrame, name: str, kind: str) -> bytes:
    codec = cast("Any", av.CodecContext.create(name, "w"))  # a VideoCodecContext, as the name says
    codec.width, codec.height, codec.pix_fmt, codec.time_base = frame.width, frame.height, kind, Fraction(1, 1)
    if frame.format.name != kind:
        frame = frame.reformat(format=kind)
    if name == "exr":
        codec.options = {"compression": "zip16"}
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


def with_texts(png: bytes, texts: Mapping[str, str]) -> bytes:
    """Return a PNG with texts by keyword (iTXt, UTF-8) after its header."""
    if png[:8] != PNG:
        raise ValueError("expected a PNG, got another kind of file.")
    chunks = b"".join(
        _chunk(b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + text.encode()) for key, text in texts.items()
    )
    return png[:HEADER_END] + chunks + png[HEADER_END:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def gpano(width: int, height: int) -> str:
    """Return the XMP packet of a whole panorama of this size, in pixels."""
    facts = {
        "ProjectionType": "equirectangular",
        "UsePanoramaViewer": "True",
        "FullPanoWidthPixels": width,
        "FullPanoHeightPixels": height,
        "CroppedAreaImageWidthPixels": width,
        "CroppedAreaImageHeightPixels": height,
        "CroppedAreaLeftPixels": 0,
        "CroppedAreaTopPixels": 0,
    }
    attributes = "".join(f'\n   GPano:{name}="{value}"' for name, value in facts.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        ' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        '  <rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"'
        f"{attributes}/>\n </rdf:RDF>\n</x:xmpmeta>\n"
        '<?xpacket end="r"?>'
    )


@contextmanager
def own_number(stems: Iterable[Path]) -> Iterator[Path]:
    """Yield the first stem that no file's name uses yet; other processes can't get it until the context ends.

    A hidden file next to it claims the stem, because only one process can create that file.
    """
    for stem in stems:
        claim = stem.with_name(f".{stem.name}.claim")
        try:
            claim.touch(exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:  # the disk is full, or the folder can't be written to
            raise OSError(error.errno, error.strerror, str(stem)) from error
        try:
            if not any(stem.parent.glob(f"{glob.escape(stem.name)}*")):
                yield stem
                return
        finally:
            claim.unlink(missing_ok=True)


def write_set(stem: Path, files: Iterable[tuple[str, bytes]]) -> list[str]:
    """Write files (ending, content) that belong together: all of them or none.  Return their names.

    Raises OSError with the path of the file that could not be written.
    """
    written: list[Path] = []
    try:
        for ending, data in files:
            path = stem.with_name(f"{stem.name}{ending}")
            write_bytes(path, data, force=False)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return [path.name for path in written]
