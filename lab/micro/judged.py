"""The judged rooms, at the model's size: picture, maps, mask of the furniture, and the same room without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...evaluation import semantic
from ...mapfiles import layout
from ...mapfiles.pictures import Array
from ..rooms.dataset import maps as room_maps
from ..rooms.enclosure import Wall
from ..rooms.foreign import foreign_room
from ..rooms.labels import COLOURS
from ..rooms.lighting import FAST, Quality
from ..rooms.random_room import random_room
from ..rooms.raycast import Scene, group, leaves
from ..rooms.room import geometry, render
from ..rooms.stage import Stage
from .classes import in_class_colours, nearest
from .pictures import halved
from .recipe import ROOMS_HEIGHT

_MEANS = ("depth", "normal", "albedo", "roughness", "metallic")
MADE = (*_MEANS, "semantic")
SHELL = ("outside", "floor", "ceiling", "wall")
"""The classes of an empty room."""


class JudgedRoom(NamedTuple):
    """Picture and maps by kind, semantic ones as codes; where furniture is, bool [H, W]; depth and normals of the empty
    room, everywhere; and labels (codes) and materials as they were rendered, twice as large, where the renderer has
    them."""

    maps: Mapping[str, Array]
    furniture: Array
    empty: Mapping[str, Array]
    fine: Mapping[str, Array]


def own_room(seed: int, quality: Quality = FAST, crowded: bool = False) -> JudgedRoom:
    """Return a room of the renderer that the model was trained with."""
    stage = random_room(seed, crowded)
    size = 2 * ROOMS_HEIGHT, ROOMS_HEIGHT
    made = room_maps(render(*size, stage=stage, quality=quality))
    classes = semantic.codes(made["semantic"])
    shell = semantic.codes(np.array([COLOURS[name] for name in SHELL], dtype=np.uint8))
    fine = {"semantic": classes, **{kind: made[kind] for kind in ("roughness", "metallic")}}
    distance, normal = geometry(*size, emptied(stage))
    small = _small({kind: made[kind] for kind in ("rgb", *_MEANS)})
    small["semantic"] = nearest(in_class_colours(made["semantic"][1::2, 1::2]))  # the pixels that the trainer takes
    return JudgedRoom(small, _furniture(~np.isin(classes, shell)), _small({"depth": distance, "normal": normal}), fine)


def emptied(stage: Stage) -> Stage:
    """Return a room with only its floor, ceiling, walls and pillars, without the holes of windows."""
    own = [shape for shape in leaves(stage.scene.root) if shape.surface.semantic in SHELL]
    windows = [(opening.low, opening.high) for opening in stage.lights.openings]
    walls = [replace(shape, hole=None) if isinstance(shape, Wall) and shape.hole in windows else shape for shape in own]
    return replace(stage, scene=Scene(group(walls), stage.scene.backdrop))


def other_room(seed: int, family: str) -> JudgedRoom:
    """Return a room of the second renderer."""
    made = foreign_room(seed, ROOMS_HEIGHT, family)
    return JudgedRoom(_small(made.maps), _furniture(made.furniture), _small(made.empty), {})


def _small(maps: Mapping[str, Array]) -> dict[str, Array]:
    return {kind: layout.marked(halved(values), kind) for kind, values in maps.items()}


def _furniture(where: Array) -> Array:
    return halved(where.astype(np.float32)) >= 0.5


def write(folder: Path, rooms: Sequence[JudgedRoom]) -> list[str]:
    """Write pictures and maps in the layout of `mapfiles`; return their stems."""
    stems = [f"{number + 1:06d}" for number in range(len(rooms))]
    for stem, room in zip(stems, rooms):
        for kind, values in room.maps.items():
            shown = semantic.colours(values) if kind == "semantic" else values
            layout.write(layout.place(folder, kind, stem), kind, shown)
    return stems


def read(folder: Path, kind: str, stem: str) -> Array:
    """Read a map that was written or perceived, as `compare` wants it: semantic ones as codes of classes."""
    values = layout.read(layout.find(folder, kind, stem), kind)
    return nearest(values) if kind == "semantic" else values
