"""What the micro model perceives of rooms, and what it draws behind their furniture, kept in a folder.

The graph is workflow 12's: depth, normals and semantics of a room, Mask Foreground, image_to_pano, depth and albedo of
the filled panorama. The model works at 128x64 pixels.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ...mapfiles import layout
from ...mapfiles.pictures import replacing
from ..host.graphs import API, Graph
from ..host.server import Server
from ..micro import graphs
from ..micro.pictures import halved
from ..micro.recipe import HEIGHT
from ..rooms.lighting import FAST
from ..rooms.random_room import random_room
from ..rooms.room import render

Array = NDArray[Any]
FIRST, SECOND, HIDDEN = "first", "second", "hidden"
SAVED = {
    FIRST: {"depth": ["depth", 0], "normal": ["normal", 0]},
    SECOND: {"depth": ["depth_behind", 0], "albedo": ["decoded_albedo_behind", 0]},
}
"""What a run of the graph saves: folder -> input of Save Panorama and Maps -> output of a node."""
GROW = 1
"""Pixels that the mask grows by: they are eight times as wide as in a panorama of 1024x512."""


class Micro(NamedTuple):
    """Relative distance [H, W] and unit normals [H, W, 3]; of the filled panorama its own relative distance, the pixels
    that were filled, and albedo [H, W, 3]."""

    distance: Array
    normal: Array
    behind: Array
    hidden: NDArray[np.bool_]
    albedo: Array


def perceive(folder: Path, seeds: Sequence[int]) -> None:
    """Run the graph on the random rooms of these seeds, not turned, in a server of its own; skip what is kept."""
    missing = [seed for seed in seeds if not layout.place(folder / HIDDEN, "rgb", _stem(seed)).is_file()]
    if not missing:
        return
    with tempfile.TemporaryDirectory(prefix="omnix-novel-") as base:
        graphs.install(Path(base) / "models", graphs.WEIGHTS)
        with Server(Path(os.environ["COMFYUI_PATH"]), Path(base)) as server:
            for seed in tqdm(missing, "perceived", disable=None):
                picture = Path(base) / f"{seed}.png"
                room = render(4 * HEIGHT, 2 * HEIGHT, stage=replace(random_room(seed), yaw=0.0), quality=FAST)
                layout.write(picture, "rgb", halved(room.rgb))
                _perceived(server, server.upload(picture), folder, _stem(seed))


def _perceived(server: Server, image: str, folder: Path, stem: str) -> None:
    """Run the graph on one picture; the server computes only once what several savers need."""
    graph = _graph(image)
    for name, links in SAVED.items():
        graphs.perceived(server, _saving(graph, "OmniXSavePanorama", {"values": "depth", **links}), folder / name, stem)
    (flags,) = server.run(_saving(graph, "SaveImage", {"images": ["flags", 0]})).files("kept")
    with replacing(layout.place(folder / HIDDEN, "rgb", stem)) as temporary:
        temporary.write_bytes(server.fetch(flags))


def micro(folder: Path, seed: int) -> Micro:
    """Return what is kept of a room."""
    return Micro(
        _read(folder, FIRST, "depth", seed).astype(float),
        _read(folder, FIRST, "normal", seed),
        _read(folder, SECOND, "depth", seed).astype(float),
        _read(folder, HIDDEN, "rgb", seed)[..., 0] > 0.5,
        _read(folder, SECOND, "albedo", seed),
    )


def _graph(image: str) -> Graph:
    """Return workflow 12 for the micro model, with its mask as a picture."""
    graph = graphs.on_micro(json.loads((API / "whole_scene.json").read_text(encoding="utf-8")), image)
    graph = {name: node for name, node in graph.items() if name not in ("scene", "light", "save", "drawn", "report")}
    front = {**graph["front"], "inputs": {**graph["front"]["inputs"], "grow": GROW}}
    flags = {"class_type": "MaskToImage", "inputs": {"mask": ["front", 1]}}
    return {**graph, "front": front, "flags": flags}


def _saving(graph: Graph, kind: str, inputs: Mapping[str, object]) -> Graph:
    return {**graph, "kept": {"class_type": kind, "inputs": {"filename_prefix": "novel", **inputs}}}


def _read(folder: Path, part: str, kind: str, seed: int) -> Array:
    return np.nan_to_num(layout.read(layout.find(folder / part, kind, _stem(seed)), kind))


def _stem(seed: int) -> str:
    return f"{seed:07d}"
