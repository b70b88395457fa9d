"""Where the maps of one side lie: the plain layout, one folder of maps, one file, or the tree of a public set.

| set | depth on its disk | other maps | stem |
|---|---|---|---|
| Structured3D (Zheng et al., 2020) | PNG, millimetres, 0 = none | rgb, normal, albedo, semantic | scene_room |
| Stanford2D3D (Armeni et al., 2017) | PNG, 1/512 m, 65535 = none | rgb | file name without its last word |
| Matterport3D as UniFuse stitches it | PNG, 1/4000 m, 0 = none | rgb | file name |

Structured3D's normals are 128 (1 + n) in the world's axes, z up; its panoramas look along +y with +x on the right (its
own `visualize_mesh.py`, and Pointcept's fusion of panoramas with views): front, up, left = y, z, -x. Black is no class
in it. Stanford's normals are in a frame of the building that no picture tells, so they are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import layout
from .errors import MapError
from .metrics import FIGURES
from .pictures import Array, pixels

Read = Callable[[Path, str], Array]

MEASURED = tuple(FIGURES)
"""The kinds of map that have figures; rgb is shown beside them."""


class Side(NamedTuple):
    """One side of a comparison: kind -> stem -> file, how a file is read, and the colour that is no class.

    A kind without files is a folder that is empty: all of its stems are missing.
    """

    maps: Mapping[str, Mapping[str, Path]]
    read: Read
    unlabelled: int | None = None


class Tree(NamedTuple):
    """The tree of a public set: kind -> pattern of its files, their stems, how to read one, the colour of no class."""

    name: str
    patterns: Mapping[str, str]
    stem: Callable[[Path], str]
    read: Read
    unlabelled: int | None = None


def _structured3d(path: Path, kind: str) -> Array:
    if kind != "normal":
        return layout.read(path, kind)
    stored = _stored(path, np.uint8)
    if stored.shape[2] < 3:
        raise MapError(f"{path}: expected normals in 3 channels, got {stored.shape[2]}.")
    x, y, z = (stored[..., axis].astype(np.float32) / 128 - 1 for axis in range(3))
    return layout.marked(np.stack([y, z, -x], axis=-1), "normal")


def _stored(path: Path, dtype: type[np.generic]) -> Array:
    found = pixels(path)
    if found.dtype != dtype:
        raise MapError(f"{path}: expected {np.dtype(dtype).name}, got {found.dtype.name}.")
    return found


def _depth_by(units: float, none: int) -> Read:
    """Return a reader of depth in PNG: so many units are a metre, and one value means none."""

    def read(path: Path, kind: str) -> Array:
        if kind != "depth":
            return layout.read(path, kind)
        stored = _stored(path, np.uint16)[..., 0]
        return np.where((stored == none) | (stored == 0), np.float32(np.nan), stored / np.float32(units))

    return read


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
        lambda path: path.stem.rsplit("_", 1)[0],
        _depth_by(512.0, 65535),
    ),
    Tree(
        "Matterport3D",
        {"rgb": "*/pano_skybox_color/*.jpg", "depth": "*/pano_depth/*.png"},
        lambda path: path.stem,
        _depth_by(4000.0, 0),
    ),
)


def side(path: Path, kind: str | None) -> Side:
    """Find the maps of a folder or a file; kind narrows them, and says what a file or a folder of files holds."""
    if not path.exists():
        raise MapError(f"{path}: there is no such file or folder.")
    found = _one_file(path, kind) if path.is_file() else _folder(path, kind)
    if kind is not None:
        found = found._replace(maps={name: files for name, files in found.maps.items() if name in (kind, "rgb")})
    if not any(found.maps.get(name) for name in MEASURED):
        wanted = kind or ", ".join(MEASURED)
        raise MapError(f"{path}: no maps found; expected files in folders named {wanted}, or the tree of a known set.")
    return found


def _one_file(path: Path, kind: str | None) -> Side:
    named = [name for name in MEASURED if name in (path.parent.name, path.stem)] or [
        name for name in MEASURED if name in path.stem.lower()
    ]
    if kind is None and len(named) != 1:
        raise MapError(f"{path}: is this {', '.join(MEASURED[:-1])} or {MEASURED[-1]}? Say it with --map.")
    return Side({kind or named[0]: {path.stem: path}}, layout.read)


def _folder(path: Path, kind: str | None) -> Side:
    if layout.kinds(path):
        return Side({name: layout.files(path / name, name) for name in layout.kinds(path)}, layout.read)
    for tree in TREES:
        maps = {name: dict(_stems(tree, sorted(path.glob(pattern)))) for name, pattern in tree.patterns.items()}
        if found := {name: files for name, files in maps.items() if files}:
            return Side(found, tree.read, tree.unlabelled)
    name = kind or path.name
    return Side({name: layout.files(path, name)} if name in MEASURED else {}, layout.read)


def _stems(tree: Tree, paths: list[Path]) -> Iterator[tuple[str, Path]]:
    seen: dict[str, Path] = {}
    for path in paths:
        stem = tree.stem(path)
        if stem in seen:
            raise MapError(f"{path}: {seen[stem]} has the same stem, {stem}; compare a part of {tree.name} at a time.")
        seen[stem] = path
        yield stem, path
