"""The folders of maps that the room renderer writes, and the trainer and `omnix-evaluate` read.

    rgb/0001.png  depth/0001.exr  normal/0001.png  albedo/0001.png  roughness/0001.png  metallic/0001.png
    semantic/0001.png  rgb/0001.txt

Each kind of map has a folder. Files with the same stem belong together. Any folder may be missing. A folder holds one
file of a stem.

| kind | on the disk | in memory |
|---|---|---|
| rgb | PNG of 8 or 16 bits, JPEG or WebP; sRGB | float32 [H, W, 3] in [0, 1] |
| depth | EXR: any unit; PNG of 16 bits: mm; distance along the ray; 0 = no surface | float32 [H, W], NaN = no surface |
| normal | PNG of 8 or 16 bits: 0.5 + 0.5 n; EXR: n; front +X, up +Y, left +Z | float32 [H, W, 3], NaN = missing |
| albedo | PNG of 8 or 16 bits; sRGB | float32 [H, W, 3] in [0, 1] |
| roughness, metallic | PNG of 8 or 16 bits, linear; EXR | float32 [H, W] in [0, 1] |
| semantic | PNG of 8 bits: one colour a class | uint8 [H, W, 3] |

A depth in PNG is read in metres. `nothing` lists the depths that mean "no surface here". A normal is missing if it is
shorter than 0.02 (mid-grey), or black in PNG. NaN in a file is an error, because in a prediction it is a fault; the
trainer reads it as missing in depth and normal maps. Transparent pixels are an error. If an EXR has several channels,
`pictures` chooses them by their names.
A caption is the text file next to the picture, as other trainers keep it; `0001.txt` in the parent folder works too.

How to use it: `for stem in stems(folder, "rgb", "depth")` gives the stems that all of these kinds have, in order;
`read(find(folder, "depth", stem), "depth")` reads a map; `write(place(folder, "depth", stem), "depth", values)` writes
one, completely or not at all. `place` chooses the suffix, and `write` follows it. `caption(folder, stem)` is "" without
a text. Reading and writing need OpenImageIO (extra `evaluation`); the rest needs numpy. All errors are MapError.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .errors import MapError
from .nothing import nothing_there
from .pictures import Array, pixels, replacing, save
from .texts import text_of

# A mid-grey of 8 bits (128) has length 0.007.
SHORTEST_NORMAL = 0.02
MILLIMETRES = 1000.0


class Kind(NamedTuple):
    """One kind of map: its channels in memory, its files (the first suffix is written), and a new PNG's bits."""

    channels: int
    suffixes: tuple[str, ...]
    bits: int


KINDS = {
    "rgb": Kind(3, (".png", ".jpg", ".jpeg", ".webp"), 8),
    "depth": Kind(1, (".exr", ".png"), 16),
    "normal": Kind(3, (".png", ".exr"), 16),
    "albedo": Kind(3, (".png",), 8),
    "roughness": Kind(1, (".png", ".exr"), 8),
    "metallic": Kind(1, (".png", ".exr"), 8),
    "semantic": Kind(3, (".png",), 8),
}


def kinds(folder: Path) -> tuple[str, ...]:
    """Return the kinds of map in a folder, in the order of the table."""
    return tuple(kind for kind in KINDS if (folder / kind).is_dir())


def files(folder: Path, kind: str) -> dict[str, Path]:
    """Return stem -> file of the maps of one kind in a folder, in order; empty if there is no folder."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.suffix.lower() not in KINDS[kind].suffixes:
            continue
        if path.stem in found:
            raise MapError(f"{path}: there is also {found[path.stem].name}; keep one file of a stem.")
        found[path.stem] = path
    return found


def stems(folder: Path, *kinds: str) -> list[str]:
    """Return the stems that all of these kinds have, in order."""
    sets = [files(folder / kind, kind).keys() for kind in kinds]
    return sorted(set.intersection(*map(set, sets))) if sets else []


def find(folder: Path, kind: str, stem: str) -> Path:
    """Return the file of one map; MapError if there is no file."""
    for suffix in KINDS[kind].suffixes:
        if (path := place(folder, kind, stem, suffix)).is_file():
            return path
    raise MapError(f"{folder / kind}: no {kind} of {stem}; expected {' or '.join(KINDS[kind].suffixes)}.")


def place(folder: Path, kind: str, stem: str, suffix: str = "") -> Path:
    """Return the path of a map; the default suffix is that of a newly written file of its kind."""
    return folder / kind / f"{stem}{suffix or KINDS[kind].suffixes[0]}"


def caption(folder: Path, stem: str) -> str:
    """Return the caption of a stem, stripped; "" if there is none."""
    for path in (folder / "rgb" / f"{stem}.txt", folder / f"{stem}.txt"):
        if path.is_file():
            return text_of(path).strip()
    return ""


def write_caption(folder: Path, stem: str, text: str) -> None:
    """Write a caption next to the picture, completely or not at all."""
    with replacing(folder / "rgb" / f"{stem}.txt") as temporary:
        temporary.write_text(text, encoding="utf-8")


def read(path: Path, kind: str, nan_is_missing: bool = False) -> Array:
    """Read one map; shape, dtype and range as in the table above. MapError describes what is wrong with the file.

    nan_is_missing: NaN in a depth or normal map means that there is no value; else, and in other maps, it is an error.
    """
    values = stored(path, kind, nan_is_missing and kind in ("depth", "normal"))
    if kind == "semantic":
        return values
    if kind == "depth":
        return distances(values, MILLIMETRES if values.dtype.kind == "u" else 1.0)
    if values.dtype.kind == "f":
        return marked(values.astype(np.float32), kind)
    if kind == "normal":
        return directions(values, np.iinfo(values.dtype).max / 2)
    return values / np.float32(np.iinfo(values.dtype).max)


def stored(path: Path, kind: str, nan_allowed: bool = False) -> Array:
    """Return the numbers of a file, checked, in the channels of its kind."""
    found = pixels(path, kind)
    _check_type(path, kind, found.dtype)
    if not nan_allowed and found.dtype.kind == "f" and np.isnan(found).any():
        raise MapError(f"{path}: {int(np.isnan(found).sum())} values are NaN; write 0 where there is no value.")
    return _channels(path, kind, found)


def distances(values: Array, units: float) -> Array:
    """Return stored depths as distances, NaN without a surface; `units` of the file are one metre."""
    found = values if values.dtype.kind == "u" else values.astype(np.float32)
    return np.where(nothing_there(found), np.float32(np.nan), found / np.float32(units))


def directions(values: Array, middle: float) -> Array:
    """Return normals that are stored as middle (1 + n), as unit vectors; NaN for missing ones (mid-grey, black)."""
    vectors = values.astype(np.float32) / np.float32(middle) - 1
    return marked(np.where(values.any(axis=-1, keepdims=True), vectors, np.float32(0)), "normal")


def marked(values: Array, kind: str) -> Array:
    """Set missing depths and normals to NaN; bring the other normals to unit length."""
    if kind == "depth":
        return distances(values, 1.0)
    if kind == "normal":
        length = np.sqrt(np.einsum("hwc,hwc->hw", values, values))
        shorten = np.where(length < SHORTEST_NORMAL, np.float32(np.nan), 1 / np.maximum(length, SHORTEST_NORMAL))
        return values * shorten[..., None]
    return values


def _check_type(path: Path, kind: str, dtype: np.dtype[Any]) -> None:
    """Raise MapError for a number type that is never used for this kind of map."""
    if path.suffix.lower() == ".exr":
        allowed = ("float16", "float32")
    elif kind == "depth":
        allowed = ("uint16",)
    else:
        allowed = ("uint8",) if kind == "semantic" else ("uint8", "uint16")
    if dtype.name not in allowed:
        hint = "; save it as EXR, or as PNG of 16 bits in millimetres" if kind == "depth" else ""
        raise MapError(f"{path}: expected {kind} as {' or '.join(allowed)}, got {dtype.name}{hint}.")


def _channels(path: Path, kind: str, found: Array) -> Array:
    """Convert [H, W, C] to the channels of a kind: remove opaque alpha, merge equal channels, or repeat grey."""
    colours = found.shape[2] - (found.shape[2] in (2, 4))
    opaque = 1.0 if found.dtype.kind == "f" else np.iinfo(found.dtype).max
    if (found[..., colours:] != opaque).any():
        raise MapError(f"{path}: some pixels are transparent, which no {kind} map can be; remove the alpha.")
    values = found[..., :colours]
    if KINDS[kind].channels == 3:
        if colours == 1 and kind in ("rgb", "albedo"):
            return np.repeat(values, 3, axis=-1)
        if colours != 3:
            raise MapError(f"{path}: expected {kind} in 3 channels, got {colours}.")
        return values
    first = np.broadcast_to(values[..., :1], values.shape)
    if colours not in (1, 3) or not np.array_equal(values, first, equal_nan=True):
        raise MapError(f"{path}: expected {kind} in 1 channel or in 3 equal ones, got {colours} that differ.")
    return values[..., 0]


def write(path: Path, kind: str, values: Array, bits: int = 0) -> None:
    """Write one map (as `read` returns it) to a file, completely or not at all; creates folders.

    The suffix chooses the format. bits is 8 or 16 for PNG; 0 means 16 for depth and normals, 8 for the others.
    """
    if path.suffix.lower() not in KINDS[kind].suffixes[:2] or path.suffix.lower().startswith(".j"):
        raise MapError(f"{path}: {kind} is written as {' or '.join(KINDS[kind].suffixes[:2])}.")
    _check_shape(path, kind, values)
    save(path, _stored(path, kind, values, bits or KINDS[kind].bits))


def _check_shape(path: Path, kind: str, values: Array) -> None:
    axes = 3 if KINDS[kind].channels == 3 else 2
    if values.ndim != axes or (axes == 3 and values.shape[2] != 3) or 0 in values.shape:
        expected = "[H, W, 3]" if axes == 3 else "[H, W]"
        raise MapError(f"{path}: expected {kind} as {expected}, got {list(values.shape)}.")


def _stored(path: Path, kind: str, values: Array, bits: int) -> Array:
    """Return the numbers for the file: float32 for EXR, else uint8 or uint16."""
    if kind == "semantic":
        if values.dtype != np.uint8:
            raise MapError(f"{path}: expected semantic as uint8, got {values.dtype}.")
        return values
    numbers = np.asarray(values, dtype=np.float64)
    if kind in ("depth", "normal"):
        numbers = np.where(np.isnan(numbers), 0.0, numbers)
    elif not ((numbers >= 0) & (numbers <= 1)).all():
        raise MapError(f"{path}: expected {kind} in 0 to 1, got {numbers.min():g} to {numbers.max():g}.")
    if path.suffix.lower() == ".exr":
        return numbers.astype(np.float32)
    if kind == "depth":
        return _millimetres(path, numbers)
    scale = 255 if bits == 8 else 65535
    numbers = 0.5 + 0.5 * numbers if kind == "normal" else numbers
    return np.rint(numbers * scale).astype(np.uint8 if bits == 8 else np.uint16)


def _millimetres(path: Path, metres: Array) -> Array:
    """Round to millimetres; MapError for a depth that does not fit into 16 bits, or would become 0 (no surface)."""
    rounded = np.rint(metres * MILLIMETRES)
    if (rounded > 65535).any() or ((metres != 0) & (rounded < 1)).any():
        raise MapError(f"{path}: depths outside 0.001 to 65.535 m don't fit into a PNG; write .exr instead.")
    return rounded.astype(np.uint16)
