"""Picture files: EXR and PNG of 8 or 16 bits in any number of channels, written completely or not at all.

OpenImageIO (extra `evaluation`) reads and writes both. Pillow reduces PNG of 16 bits in three channels to 8 bits,
OpenCV's wheels lack EXR, and imageio needs another package for EXR.

The names that renderers give to an EXR's channels decide which channels contain a map. A name is a layer and a
channel: `Depth.Z`, `ViewLayer.Combined.R`, or `Z` alone. A map of one value is read from:

1. the channels of a layer that is named after the map (`Depth.V`, `Roughness.X`), or a channel of its name (`depth`);
   for a depth also Z, unless X and Y are next to it, because that is a vector;
2. else the only channel of the file, by any name;
3. else R, G and B, if the file has nothing else (they must be equal).

A map of three values is read from X, Y, Z or R, G, B of the layer that is named after the map, else of the only such
layer.
Unless the layer was found by its name, its alpha is returned too. Everything else is an error that lists the channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..converters.files.write import replacing as replacing
from .errors import MapError, package

Array = NDArray[Any]

WORDS = {
    "depth": ("depth", "distance", "dist"),
    "normal": ("normal", "normals", "n"),
    "roughness": ("roughness", "rough"),
    "metallic": ("metallic", "metalness", "metal"),
    "rgb": ("combined", "rgb", "beauty", "color", "colour"),
}
ONE_VALUE = ("depth", "roughness", "metallic")
TRIPLES = (("r", "g", "b"), ("x", "y", "z"))
ALPHA = ("a", "alpha")

Layers = dict[str, dict[str, int]]
"""Layer (lower case, "" for none) -> channel (lower case) -> its number in the file."""


def pixels(path: Path, kind: str) -> Array:
    """Read the stored numbers of a file, [H, W, C]; of an EXR only the channels that contain a kind of map."""
    oiio = package("OpenImageIO")
    _check_end(path)
    hints = oiio.ImageSpec()
    hints["oiio:UnassociatedAlpha"] = 1
    source = oiio.ImageInput.open(str(path), hints)
    if source is None:
        reason = oiio.geterror().strip().splitlines()
        raise MapError(f"{path}: can't be read as a picture ({reason[0] if reason else 'no reason given'}).")
    try:
        found = _from_exr(path, kind, source) if source.format_name() == "openexr" else _whole(path, source)
        reason = source.geterror().strip().splitlines()
    finally:
        source.close()
    if found is None or reason:
        raise MapError(f"{path}: the picture is damaged ({reason[0] if reason else 'no reason given'}).")
    return found


def _whole(path: Path, source: Any) -> Array | None:
    turned = source.spec().getattribute("Orientation") or 1
    if turned != 1:  # the maps of the same place would not be turned with it
        raise MapError(f"{path}: EXIF orientation {turned} turns or mirrors the picture; save it upright, without it.")
    return source.read_image(format=source.spec().format)


def _from_exr(path: Path, kind: str, source: Any) -> Array | None:
    """Read the channels of an EXR that contain a kind of map, from the one part that has them."""
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
    """Raise MapError for a PNG that was cut off; libpng would print its own message to stderr."""
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(max(0, path.stat().st_size - 64))
            end = file.read()
    except OSError as error:
        raise MapError(f"{path}: can't be read ({error.strerror}).") from error
    if start == b"\x89PNG" and b"IEND" not in end:
        raise MapError(f"{path}: the picture is damaged (its end is missing).")


def chosen(path: object, kind: str, names: Sequence[str]) -> list[int]:
    """Return the numbers of the channels of a kind of map, in order.  MapError if the names do not decide it."""
    layers = _layers(names)
    words = WORDS.get(kind, (kind.lower(),))
    found = [] if kind in ("normal", "rgb") else _named_value(kind, words, layers)
    found = found or _named_triples(words, layers) or _only(kind, layers)
    if len(found) == 1:
        return found[0]
    raise MapError(
        f"{path}: unclear which channels contain {kind}; it has {', '.join(names)}. Save {kind} alone, or name its "
        f"channel {'Z' if kind == 'depth' else kind}."
    )


def _layers(names: Sequence[str]) -> Layers:
    layers: Layers = {}
    for number, name in enumerate(names):
        layer, _, channel = name.lower().rpartition(".")
        layers.setdefault(layer, {})[channel] = number
    return layers


def _named_value(kind: str, words: Sequence[str], layers: Layers) -> list[list[int]]:
    """Return the one-channel layers named after a map, else the channels named after it, else Z for a depth."""
    values = {
        layer: {name: number for name, number in channels.items() if name not in ALPHA}
        for layer, channels in layers.items()
    }
    by_layer = [[*found.values()] for layer, found in values.items() if len(found) == 1 and _is_named(layer, words)]
    by_name = [[number] for found in values.values() for name, number in found.items() if name in words]
    by_z = [[found["z"]] for found in values.values() if "z" in found and not {"x", "y"} & found.keys()]
    return by_layer or by_name or (by_z if kind == "depth" else [])


def _is_named(layer: str, words: Sequence[str]) -> bool:
    return bool(set(layer.replace("_", ".").replace(" ", ".").split(".")) & set(words))


def _named_triples(words: Sequence[str], layers: Layers) -> list[list[int]]:
    named = (_triple(channels) for layer, channels in layers.items() if _is_named(layer, words))
    return [triple for triple in named if triple]


def _triple(channels: dict[str, int]) -> list[int]:
    return next(([channels[name] for name in names] for names in TRIPLES if {*names} <= channels.keys()), [])


def _only(kind: str, layers: Layers) -> list[list[int]]:
    """Return the channels of a file with one value or one triple, and its alpha, which is checked later."""
    values = [(layer, name) for layer, channels in layers.items() for name in channels if name not in ALPHA]
    if len(values) == 1:
        (layer, name) = values[0]
        return [[layers[layer][name], *_alpha(layers[layer])]]
    triples = {layer: triple for layer, channels in layers.items() if (triple := _triple(channels))}
    if kind in ONE_VALUE or kind not in WORDS:
        triples = triples if len(values) == 3 else {}
    return [[*triple, *_alpha(layers[layer])] for layer, triple in triples.items()]


def _alpha(channels: dict[str, int]) -> list[int]:
    return [number for name, number in channels.items() if name in ALPHA][:1]


def save(path: Path, values: Array) -> None:
    """Write values [H, W] or [H, W, C], uint8, uint16 or float32, in the format of the suffix; folders are made."""
    oiio = package("OpenImageIO")
    channels = values.shape[2] if values.ndim == 3 else 1
    spec = oiio.ImageSpec(values.shape[1], values.shape[0], channels, values.dtype.name.replace("float32", "float"))
    if path.suffix.lower() == ".exr":
        spec["compression"] = "zip"
        spec["DateTime"] = (
            "1970:01:01 00:00:00"  # else the library writes the time, and equal maps would not be equal bytes
        )
    with replacing(path) as temporary:
        target = oiio.ImageOutput.create(str(path))
        if target is None or not target.open(str(temporary), spec):
            raise MapError(f"{path}: can't be written ({oiio.geterror() if target is None else target.geterror()}).")
        # OpenImageIO would treat two axes as one row of pixels.
        written = target.write_image(np.ascontiguousarray(values if values.ndim == 3 else values[..., None]))
        if not target.close() or not written:
            raise MapError(f"{path}: can't be written ({target.geterror()}).")
