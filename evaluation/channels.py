"""Which channels of an EXR hold a map: chosen by their names, as renderers write them.

A name is a layer and a channel: `Depth.Z`, `ViewLayer.Combined.R`, or `Z` alone. For a map of one value:

1. the channels of a layer that is named after the map (`Depth.V`, `Roughness.X`), or a channel of its name (`depth`);
   for a depth also Z, unless X and Y stand beside it, which is a vector;
2. else the only channel of the file, by any name;
3. else R, G and B, if the file has nothing else (they must be equal).

For a map of three values: X, Y, Z or R, G, B of the layer that is named after the map, else of the only such layer.
The alpha of the same layer comes along where colours were not asked for by name. Everything else is an error that
lists the channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import MapError

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


def chosen(path: object, kind: str, names: Sequence[str]) -> list[int]:
    """Return the numbers of the channels that hold a kind of map, in order.  MapError where the names do not tell."""
    layers = _layers(names)
    words = WORDS.get(kind, (kind.lower(),))
    found = [] if kind in ("normal", "rgb") else _named_value(kind, words, layers)
    found = found or _named_triples(words, layers) or _only(kind, layers)
    if len(found) == 1:
        return found[0]
    raise MapError(
        f"{path}: can't tell which channels hold {kind}; it has {', '.join(names)}. Save {kind} alone, or name its "
        f"channel {'Z' if kind == 'depth' else kind}."
    )


def _layers(names: Sequence[str]) -> Layers:
    layers: Layers = {}
    for number, name in enumerate(names):
        layer, _, channel = name.lower().rpartition(".")
        layers.setdefault(layer, {})[channel] = number
    return layers


def _named_value(kind: str, words: Sequence[str], layers: Layers) -> list[list[int]]:
    """Return the one-channel layers that are named after a map, else the channels that are, else Z for a depth."""
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
    """Return what the file holds if that is one value or one triple; its alpha comes along to be checked."""
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
