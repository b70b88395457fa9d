"""What a scene shows from aside, against the truth that the renderer of rooms knows.

python lab/bench/novel.py [--rooms 32] [--first 0] [--maps true usual] [--aside 0.3 0.6 1.0]

Each room is made into a scene from its true maps and from degraded ones, as (a) a mesh with cuts and nothing behind
them, (b) one skin without cuts, (c) a mesh with what is invented behind the cuts. Six views of 90 degrees are drawn
from the viewer and from places aside of it, towards the side that has the most room, and compared with views of the
room itself from there. Colours are the surfaces' own, without light. What is open is black. COMFYUI_PATH names the
host.
"""

from __future__ import annotations

import argparse
import itertools
import math
import runpy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange, reduce
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

ROOT = Path(__file__).resolve().parents[2]
Array = NDArray[Any]
HEIGHT, SIDE = 256, 192
"""Rows of the panoramas, and of the views, which are compared at half of it."""
VIEWS = ((0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (270.0, 0.0), (0.0, 89.9), (0.0, -89.9))
WAYS = {
    "a: cuts alone": {"background": False},
    "b: one skin": {"cut": False},
    "c: background": {},
}
CLOSE = 0.05
"""A depth within this share of the true one counts."""


class Figures(NamedTuple):
    """Share of the picture that is open, PSNR in dB, SSIM, and the share of pixels whose depth is close."""

    open: float
    psnr: float
    ssim: float
    close: float


class Pictures(NamedTuple):
    """Six views: colours [6, h, w, 3], and depth along their axes in metres [6, h, w], infinite where it is open."""

    colour: Array
    depth: Array


class Known(NamedTuple):
    """What the renderer knows of a room: the stage, and distance, normals and colours of its panorama."""

    stage: Any
    distance: Array
    normal: Array
    colour: Array


def known(seed: int, height: int = HEIGHT) -> Known:
    """Return a random room, not turned, without light."""
    from ..rooms.random_room import random_room
    from ..rooms.room import encode
    from ..rooms.view import ORIGIN, Grid, look

    stage, grid = replace(random_room(seed), yaw=0.0), Grid(height, 2 * height)
    view = look(stage.scene, ORIGIN, grid.rays())
    parts = [
        encode(look(stage.scene, ORIGIN, grid.rays(*part)).albedo)
        for part in itertools.product((-0.25, 0.25), repeat=2)
    ]
    normal, colour = (np.moveaxis(grid.planes(values), 0, -1) for values in (view.normal, np.mean(parts, axis=0)))
    return Known(stage, view.hits.distance.reshape(height, -1).astype(float), normal, colour)


def free_side(room: Known) -> Array:
    """Return the level unit vector, in glTF's axes, along which the nearest thing within 35 degrees is farthest."""
    from ...omnix.scene.frame import directions, pixel_directions

    ways = directions(0.5, np.arange(16) / 16)
    rays = pixel_directions(*room.distance.shape)
    return max(ways, key=lambda way: room.distance[rays @ way > np.cos(np.radians(35))].min())


def figures(true: Pictures, made: Pictures) -> Figures:
    """Compare what a scene shows with what its room shows."""
    from skimage.metrics import structural_similarity

    fine = np.abs(made.depth / true.depth - 1) < CLOSE
    ours, theirs = (rearrange(reduced.colour, "v h w c -> (v h) w c") for reduced in (coarser(made), coarser(true)))
    error = float(((ours - theirs) ** 2).mean())
    alike = np.mean(structural_similarity(ours, theirs, channel_axis=2, data_range=1.0))
    return Figures(float(np.isinf(made.depth).mean()), -10 * math.log10(error), float(alike), float(fine.mean()))


def coarser(pictures: Pictures) -> Pictures:
    """Return pictures whose pixels are the means of four."""
    return pictures._replace(colour=reduce(pictures.colour, "v (h a) (w b) c -> v h w c", "mean", a=2, b=2))


def truth(room: Known, place: Array) -> Pictures:
    """Return what the room itself shows from a place in metres, in glTF's axes."""
    from ...omnix.scene.frame import from_gltf
    from ..pages.inside import ahead
    from ..rooms.room import encode
    from ..rooms.view import look

    across = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    shown = []
    for view in VIEWS:
        axis = ahead(*view)
        right = np.cross(axis, [0.0, 1.0, 0.0])
        right /= np.linalg.norm(right)
        rays = axis + across[None, :, None] * right - across[:, None, None] * np.cross(right, axis)
        length = np.linalg.norm(rays, axis=-1)
        ours = from_gltf(rays / length[..., None]).reshape(-1, 3).T.astype(np.float32)
        seen = look(room.stage.scene, from_gltf(place)[:, None].astype(np.float32), ours)
        shown.append((encode(seen.albedo).T.reshape(SIDE, SIDE, 3), seen.hits.distance.reshape(SIDE, SIDE) / length))
    return Pictures(*(np.stack(part) for part in zip(*shown)))


def drawn(scene: Any, scale: float, place: Array) -> Pictures:
    """Return what a scene, in units of `scale` a metre, shows from a place in metres; black where it is open."""
    from ..pages.inside import ahead, before
    from ..rooms.meshes import Camera, nearest_face

    shown = []
    for view in VIEWS:
        camera = Camera(tuple(place * scale), tuple(place * scale + ahead(*view)), 90.0)
        positions, uv, faces, texture = before(scene, camera)
        seen = nearest_face(positions, uv, faces, camera, (SIDE, SIDE))
        colours, depth = np.zeros((SIDE * SIDE, 3)), np.full(SIDE * SIDE, np.inf)
        places = [seen.uv[:, axis] * texture.shape[1 - axis] - 0.5 for axis in (1, 0)]
        for axis in range(3):
            colours[seen.pixel, axis] = map_coordinates(texture[..., axis], places, order=1, mode="nearest")
        depth[seen.pixel] = seen.depth / scale
        shown.append((colours.reshape(SIDE, SIDE, 3), depth.reshape(SIDE, SIDE)))
    return Pictures(*(np.stack(part) for part in zip(*shown)))


def scenes(room: Known, how: str, seed: int) -> Iterator[tuple[str, Any, float]]:
    """Yield the ways, the scenes of a room's true or degraded maps, and how long a metre is in them."""
    from ...omnix.scene import Options, build_scene
    from ..rooms.degraded import SETTINGS, degraded

    distance, normal = room.distance, room.normal
    if how != "true":
        distance, normal = degraded(distance, normal, SETTINGS[how], seed)
    for way, options in WAYS.items():
        maps = {"image": room.colour.astype(np.float32), "normal": normal}
        scene = build_scene(distance, maps, Options(camera_height=0, **options))
        yield way, scene, float(np.median(distance / room.distance))


def measured(seed: int, hows: Sequence[str], steps: Sequence[float]) -> dict[tuple[str, float, str], Figures]:
    """Return the figures of one room by its maps, metres aside, and way."""
    room = known(seed)
    side = free_side(room)
    true = {step: truth(room, step * side) for step in steps}
    return {
        (how, step, way): figures(true[step], drawn(scene, scale, step * side))
        for how in hows
        for way, scene, scale in scenes(room, how, seed)
        for step in steps
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=32, help="how many rooms (32)")
    parser.add_argument("--first", type=int, default=0, help="the first room's seed (0)")
    parser.add_argument("--maps", nargs="+", default=["true", "usual"], help="true, mild, usual, harsh (true usual)")
    parser.add_argument("--aside", nargs="+", type=float, default=[0.0, 0.3, 0.6, 1.0], help="metres (0 0.3 0.6 1)")
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("novel")
    from comfyui_omnix.lab.bench import novel

    print("| maps | aside, m | scene | open | PSNR, dB | SSIM | depth within 5 % |\n|---|---|---|---|---|---|---|")
    seeds = range(options.first, options.first + options.rooms)
    rooms = []
    for seed in seeds:
        rooms.append(novel.measured(seed, options.maps, options.aside))
        print(f"room {seed} is measured", file=sys.stderr)
    for row in itertools.product(options.maps, options.aside, novel.WAYS):
        mean = novel.Figures(*np.mean([room[row] for room in rooms], axis=0))
        told = f"{mean.open:.2%} | {mean.psnr:.2f} | {mean.ssim:.3f} | {mean.close:.1%}"
        print(f"| {row[0]} | {row[1]:g} | {row[2]} | {told} |")


if __name__ == "__main__":
    main()
