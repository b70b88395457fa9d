"""Find the maps of one side: the plain layout, one folder of maps, one file, or a public data set.

| set | depth on its disk | other maps | stem |
|---|---|---|---|
| Structured3D (Zheng et al., 2020) | PNG, millimetres, 0 = none | rgb, normal, albedo, semantic | scene_room |
| Stanford2D3D (Armeni et al., 2017) | PNG, 1/512 m, 65535 = none | rgb | file name without its last word |
| the same, as UniFuse and DA360 list it | the same, without the folder `pano` | rgb | the same |
| Matterport3D as UniFuse stitches it | PNG, 1/4000 m, 0 = none | rgb | file name |
| a folder of Save Panorama and Maps | EXR or PNG of 16 bits, relative | all | prefix and number |

Axes of the normals of each set. Each row needs a source that reads or writes normals:

| set | red, green, blue | source |
|---|---|---|
| Structured3D | front, up, left; 128 (1 + n) | [1], [2], [3] |
| Stanford2D3D | not read: axes of the building, which the picture does not show | README of 2D-3D-S, "Normal" |
| Matterport3D, stitched | no normals | UniFuse's Matterport3D/stitch.m writes colour and depth |
| Save Panorama and Maps | front, up, left; 0.5 + 0.5 n, in EXR too | OmniX Normal, which is connected to it |

[1] The author in issue 61 of bertjiazheng/Structured3D: R is the look-at, G is up, B follows in a left-handed system.
[2] OmniX's src/systems/builder.py, get_equi_raymap_numpy: "Structured3D: Front +X, Up +Y, Left +Z".
[3] PaGeR's dataloaders/Structured3D_dataloader.py reads right, up, back as -B, G, -R.

`evaluation.slope` checks the normals of any set against the depth. Structured3D's `semantic.png` is either one
channel of NYUv2's class numbers, as its page documents, or colours; black is no class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import layout
from .errors import MapError
from .nyu40 import COLOURS
from .pictures import Array, pixels

Read = Callable[[Path, str], Array]

MEASURED = tuple(kind for kind in layout.KINDS if kind != "rgb")
"""The kinds of map that have figures; rgb is only shown."""


class Side(NamedTuple):
    """One side of a comparison: kind -> stem -> file, the function that reads a file, and the colour of no class.

    A kind without files is an empty folder: all of its stems are missing.
    """

    maps: Mapping[str, Mapping[str, Path]]
    read: Read
    unlabelled: int | None = None


class Tree(NamedTuple):
    """A public data set: kind -> pattern of its files, their stems, the reader of a file, the colour of no class."""

    name: str
    patterns: Mapping[str, str]
    stem: Callable[[Path], str]
    read: Read
    unlabelled: int | None = None


def _structured3d(path: Path, kind: str) -> Array:
    if kind == "normal":
        found = _of_type(path, kind, np.uint8)
        if found.shape[2] < 3:
            raise MapError(f"{path}: expected normals in 3 channels, got {found.shape[2]}.")
        return layout.directions(found[..., :3], 128)
    if kind == "semantic" and (found := _of_type(path, kind, np.uint8)).shape[2] == 1:
        return _classes(path, found[..., 0])
    return layout.read(path, kind)


def _classes(path: Path, numbers: Array) -> Array:
    """Return the colours of class numbers [H, W]."""
    if numbers.max(initial=0) >= len(COLOURS):
        raise MapError(f"{path}: expected class numbers up to {len(COLOURS) - 1}, got {numbers.max()}.")
    return COLOURS[numbers]


def _of_type(path: Path, kind: str, dtype: type[np.generic]) -> Array:
    found = pixels(path, kind)
    if found.dtype != dtype:
        raise MapError(f"{path}: expected {np.dtype(dtype).name}, got {found.dtype.name}.")
    return found


def _depth_by(units: float) -> Read:
    """Return a reader of depth in PNG: `units` are one metre."""

    def read(path: Path, kind: str) -> Array:
        return (
            layout.distances(_of_type(path, kind, np.uint16)[..., 0], units)
            if kind == "depth"
            else layout.read(path, kind)
        )

    return read


def _saved(path: Path, kind: str) -> Array:
    """Read a file of Save Panorama and Maps: every map is a picture in [0, 1], in EXR too; 65535 is 1 in 16 bits."""
    if kind not in ("depth", "normal"):
        return layout.read(path, kind)
    values = layout.stored(path, kind)
    if values.dtype.kind == "u":
        values = values / np.float32(np.iinfo(values.dtype).max)
    return layout.marked(values if kind == "depth" else values * 2 - 1, kind)


def _without_last_word(path: Path) -> str:
    return path.stem.rsplit("_", 1)[0]


_ROOM = "scene_*/2D_rendering/*/panorama/full"
TREES = (
    Tree(
        "Structured3D",
        {
            "rgb": f"{_ROOM}/rgb_rawlight.png",
            **{kind: f"{_ROOM}/{kind}.png" for kind in ("depth", "normal", "albedo", "semantic")},
        },
        lambda path: f"{path.parents[4].name}_{path.parents[2].name}",
        _structured3d,
        unlabelled=0,
    ),
    Tree(
        "Stanford2D3D",
        {"rgb": "area_*/pano/rgb/*_rgb.png", "depth": "area_*/pano/depth/*_depth.png"},
        _without_last_word,
        _depth_by(512.0),
    ),
    Tree(
        "Stanford2D3D",
        {"rgb": "area_*/rgb*/*_rgb.png", "depth": "area_*/depth/*_depth.png"},
        _without_last_word,
        _depth_by(512.0),
    ),
    Tree(
        "Matterport3D",
        {"rgb": "*/pano_skybox_color/*.jpg", "depth": "*/pano_depth/*.png"},
        lambda path: path.stem,
        _depth_by(4000.0),
    ),
)
SAVED = re.compile(rf"(.+_[0-9]{{5,}})_(panorama|{'|'.join(MEASURED)})(_16bit\.png|_float\.exr|\.png)")
"""A file of Save Panorama and Maps: its stem, its map, and its format; depth_view is only for viewing."""
SAVED_AS = {
    "depth": ("_float.exr", "_16bit.png"),
    "normal": ("_float.exr", "_16bit.png", ".png"),
    "semantic": (".png",),
}
"""Kind -> the formats that are read, the best first."""


def side(path: Path, kind: str | None) -> Side:
    """Find the maps of a folder or a file; kind limits them, and names the kind of a single file or folder of files."""
    if not path.exists():
        raise MapError(f"{path}: there is no such file or folder.")
    found = _one_file(path, kind) if path.is_file() else _folder(path, kind)
    if kind is not None:
        found = found._replace(maps={name: files for name, files in found.maps.items() if name in (kind, "rgb")})
    if not any(found.maps.get(name) for name in MEASURED):
        wanted = kind or ", ".join(MEASURED)
        raise MapError(f"{path}: no maps found; expected files in folders named {wanted}, or a public data set.")
    return found


def _one_file(path: Path, kind: str | None) -> Side:
    if (saved := SAVED.fullmatch(path.name)) and saved[2] in MEASURED:
        return Side({saved[2]: {path.stem: path}}, _saved)
    named = [name for name in MEASURED if name in (path.parent.name, path.stem)] or [
        name for name in MEASURED if name in path.stem.lower()
    ]
    if kind is None and len(named) != 1:
        raise MapError(f"{path}: is this {', '.join(MEASURED[:-1])} or {MEASURED[-1]}? Name it with --map.")
    return Side({kind or named[0]: {path.stem: path}}, layout.read)


def _folder(path: Path, kind: str | None) -> Side:
    if layout.kinds(path):
        return Side({name: layout.files(path / name, name) for name in layout.kinds(path)}, layout.read)
    for tree in TREES:
        maps = {name: dict(_stems(tree, sorted(path.glob(pattern)))) for name, pattern in tree.patterns.items()}
        if found := {name: files for name, files in maps.items() if files}:
            return Side(found, tree.read, tree.unlabelled)
    if saved := _saved_maps(path):
        return Side(saved, _saved)
    name = kind or path.name
    return Side({name: layout.files(path, name)} if name in MEASURED else {}, layout.read)


def _saved_maps(folder: Path) -> dict[str, dict[str, Path]]:
    """Return kind -> stem -> the best file of each, of a folder of Save Panorama and Maps."""
    written: dict[str, dict[str, set[str]]] = {}
    for path in sorted(folder.iterdir()):
        if match := SAVED.fullmatch(path.name):
            stem, shown, form = match.groups()
            written.setdefault(shown, {}).setdefault(stem, set()).add(form)
    found: dict[str, dict[str, Path]] = {}
    for shown, stems in written.items():
        kind = "rgb" if shown == "panorama" else shown
        for stem, forms in stems.items():
            if form := next((form for form in SAVED_AS.get(kind, ("_16bit.png", ".png")) if form in forms), None):
                found.setdefault(kind, {})[stem] = folder / f"{stem}_{shown}{form}"
    return found


def _stems(tree: Tree, paths: list[Path]) -> Iterator[tuple[str, Path]]:
    seen: dict[str, Path] = {}
    for path in paths:
        stem = tree.stem(path)
        if stem in seen:
            raise MapError(f"{path}: {seen[stem]} has the same stem, {stem}; compare a part of {tree.name} at a time.")
        seen[stem] = path
        yield stem, path
