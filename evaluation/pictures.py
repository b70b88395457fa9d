"""Pictures as they are on the disk: EXR and PNG of 8 or 16 bits in any number of channels, written whole or not at all.

OpenImageIO (extra `evaluation`) does both. Pillow cuts PNG of 16 bits in three channels to 8 bits, OpenCV's wheels have
no EXR, and imageio reads EXR with what else is installed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .channels import chosen
from .errors import MapError, package

Array = NDArray[Any]


def pixels(path: Path, kind: str) -> Array:
    """Read a file as it is, [H, W, C]; of an EXR the channels that hold a kind of map."""
    oiio = package("OpenImageIO")
    _check_end(path)
    hints = oiio.ImageSpec()
    hints["oiio:UnassociatedAlpha"] = 1
    source = oiio.ImageInput.open(str(path), hints)
    if source is None:
        reason = oiio.geterror().strip().splitlines()
        raise MapError(f"{path}: can't be read as a picture ({reason[0] if reason else 'no reason given'}).")
    try:
        found = _layers(path, kind, source) if source.format_name() == "openexr" else _whole(source)
        reason = source.geterror().strip().splitlines()
    finally:
        source.close()
    if found is None or reason:
        raise MapError(f"{path}: the picture is damaged ({reason[0] if reason else 'no reason given'}).")
    return found


def _whole(source: Any) -> Array | None:
    return source.read_image(format=source.spec().format)


def _layers(path: Path, kind: str, source: Any) -> Array | None:
    """Read the channels of an EXR that hold a kind of map, from the one part that has them."""
    specs: list[Any] = []
    while source.seek_subimage(len(specs), 0):
        specs.append(source.spec())
    source.geterror()  # there is no further part
    places = [(part, channel, name) for part, spec in enumerate(specs) for channel, name in _names(spec, len(specs))]
    numbers = chosen(path, kind, [name for _, _, name in places])
    part = places[numbers[0]][0]
    found = source.read_image(part, 0, 0, specs[part].nchannels, specs[part].format)
    return None if found is None else found[..., [places[number][1] for number in numbers]]


def _names(spec: Any, parts: int) -> Iterator[tuple[int, str]]:
    """Yield the channels of a part and their names, with the part's own name before them if there are several."""
    layer = spec.getattribute("oiio:subimagename") if parts > 1 else None
    for number, name in enumerate(spec.channelnames):
        yield number, name if not layer or name.startswith(f"{layer}.") else f"{layer}.{name}"


def _check_end(path: Path) -> None:
    """Refuse a PNG that was cut off, which libpng would complain of on stderr by itself."""
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(max(0, path.stat().st_size - 64))
            end = file.read()
    except OSError as error:
        raise MapError(f"{path}: can't be read ({error.strerror}).") from error
    if start == b"\x89PNG" and b"IEND" not in end:
        raise MapError(f"{path}: the picture is damaged (its end is missing).")


def save(path: Path, values: Array) -> None:
    """Write values [H, W] or [H, W, C], uint8, uint16 or float32, in the format of the suffix; folders are made."""
    oiio = package("OpenImageIO")
    channels = values.shape[2] if values.ndim == 3 else 1
    spec = oiio.ImageSpec(values.shape[1], values.shape[0], channels, values.dtype.name.replace("float32", "float"))
    if path.suffix.lower() == ".exr":
        spec["compression"] = "zip"
        spec["DateTime"] = "1970:01:01 00:00:00"  # else the library puts the time: equal maps are equal bytes
    with replacing(path) as temporary:
        target = oiio.ImageOutput.create(str(temporary))
        if target is None or not target.open(str(temporary), spec):
            raise MapError(f"{path}: can't be written ({oiio.geterror() if target is None else target.geterror()}).")
        # Two axes would be taken for a row of pixels.
        written = target.write_image(np.ascontiguousarray(values if values.ndim == 3 else values[..., None]))
        if not target.close() or not written:
            raise MapError(f"{path}: can't be written ({target.geterror()}).")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside a file, with its suffix, and put it in the file's place if nothing went wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
