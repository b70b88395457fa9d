"""What a scene shows from aside, against the truth that the renderer of rooms knows.

python lab/bench/novel.py [--rooms 32] [--first 1000000] [--maps true usual perceived] [--aside 0.3 0.6 1.0]
                          [--keep FOLDER] [--jobs 1]

Each room is made into a scene from its true maps, from degraded ones, and from what the micro model perceives: as (a) a
mesh with cuts and nothing behind them, (b) one skin without cuts, (c) a mesh with what is invented behind the cuts, (d)
with what image_to_pano of the micro model draws there, as workflow 12 does. FOLDER keeps what the micro model makes.
Six views of 90 degrees are drawn from places aside of the viewer, towards the side that has the most room, and compared
with views of the room itself from there. Colours are the surfaces' own, without light; what was seen has those of the
true panorama. Without a sky: a bright outside stays at the far end of the depth. What is open is black. The second
table says where the error of (c) lies. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import functools
import math
import multiprocessing
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from einops import rearrange, reduce
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

if TYPE_CHECKING:
    from .aside import Known, Part, Pictures, Truth

ROOT = Path(__file__).resolve().parents[2]
Array = NDArray[Any]
Row = tuple[str, float, str]
"""Kind of maps, metres aside, and way of making the scene."""
FRONT, SKIN, BEHIND, DRAWN = "front", "skin", "behind", "drawn"
WAYS = {
    "a: cuts alone": (FRONT,),
    "b: one skin": (SKIN,),
    "c: background": (FRONT, BEHIND),
    "d: image_to_pano": (FRONT, DRAWN),
}
"""The meshes that a way of making a scene shows."""
ANALYSED = "c: background"
CLOSE = 0.05
"""A depth within this share of the true one counts."""
EDGE = 1
"""Pixels of a compared view, which are two of a view, on each side of an edge of depth."""


class Figures(NamedTuple):
    """Share of the picture that is open, PSNR in dB, SSIM, and the share of pixels whose depth is close."""

    open: float
    psnr: float
    ssim: float
    close: float


class Losses(NamedTuple):
    """Shares of the pixels and of the squared error that were hidden, and that are within a few pixels of an edge; and
    the PSNR in dB if the hidden ones were true, and if those near edges were true too."""

    hidden: float
    edges: float
    error_hidden: float
    error_edges: float
    psnr_hidden: float
    psnr_both: float


class Measured(NamedTuple):
    """The figures of one scene from one place."""

    figures: Figures
    losses: Losses


def figures(true: Pictures, made: Pictures) -> Figures:
    """Compare what a scene shows with what its room shows."""
    from skimage.metrics import structural_similarity

    fine = np.abs(made.depth / true.depth - 1) < CLOSE
    ours, theirs = (rearrange(coarser(shown.colour), "v h w c -> (v h) w c") for shown in (made, true))
    alike = np.mean(structural_similarity(ours, theirs, channel_axis=2, data_range=1.0))
    error = ((ours - theirs) ** 2).mean()
    return Figures(float(np.isinf(made.depth).mean()), decibels(error), float(alike), float(fine.mean()))


def losses(true: Truth, made: Pictures) -> Losses:
    """Return where the colours of a scene differ from those of its room."""
    errors = ((coarser(made.colour) - coarser(true.shown.colour)) ** 2).mean(axis=-1)
    hidden = coarser(true.hidden.astype(float)[..., None])[..., 0] > 0
    edges = near_edges(true.shown.depth) & ~hidden
    parts = [float((errors * part).mean()) for part in (hidden, edges)]
    rest = float(errors.mean()) - np.cumsum(parts)
    shares = np.divide(parts, errors.mean())
    return Losses(float(hidden.mean()), float(edges.mean()), *shares, *(decibels(error) for error in rest))


def near_edges(depth: Array) -> Array:
    """Return the compared pixels [v, h / 2, w / 2] near an edge: there the inverse depth, which is straight on a plane,
    bends by more than a depth that is not close."""
    inverse = reduce(1 / depth, "v (h a) (w b) -> v h w", "max", a=2, b=2)
    bends = [np.abs(np.diff(np.pad(inverse, 1, "edge")[1:-1], 2, axis=axis)) for axis in (1, 2)]
    edge = np.maximum(bends[0][:, :, 1:-1], bends[1][:, 1:-1]) > CLOSE * inverse
    return maximum_filter(edge, (1, 2 * EDGE + 1, 2 * EDGE + 1))


def decibels(error: float) -> float:
    """Return the PSNR of a mean squared error of values in [0, 1]."""
    return -10 * math.log10(error)


def coarser(pictures: Array) -> Array:
    """Return pictures [v, h, w, c] whose pixels are the means of four."""
    return reduce(pictures, "v (h a) (w b) c -> v h w c", "mean", a=2, b=2)


def meshes(room: Known, how: str, seed: int, keep: Path | None) -> tuple[dict[str, Part], float]:
    """Return the meshes of a room's maps of a kind, and how long a metre is in them."""
    from ...omnix.scene import Options, build_scene
    from ...omnix.scene.second import second_of
    from ..rooms.degraded import SETTINGS, degraded
    from .micro_maps import micro

    distance, normal, options = room.distance, room.normal, Options(camera_height=0, sky=False)
    own = micro(keep, seed) if how == "perceived" and keep else None
    if own:
        distance, normal = own.distance, own.normal
    elif how != "true":
        distance, normal = degraded(distance, normal, SETTINGS[how], seed)
    colour, true = (of_size(values, len(distance)) for values in (room.colour, room.distance))
    maps = {"image": colour.astype(np.float32), "normal": normal}
    whole = build_scene(distance, maps, options)
    skin = build_scene(distance, maps, replace(options, cut=False))
    behind = {BEHIND: whole.background}
    if own:
        second = second_of(distance, own.behind, own.hidden, {"image": own.albedo}, leave_out=True)
        behind[DRAWN] = build_scene(distance, maps, options, second).background
    parts = {name: (part[0], np.asarray(part[1].base_colour)[..., :3]) for name, part in behind.items() if part}
    seen = {FRONT: (whole.geometry, room.colour), SKIN: (skin.geometry, room.colour)}
    return seen | parts, float(np.median(distance / true))


def of_size(values: Array, height: int) -> Array:
    """Return the means of as many pixels of [H, W, ..] as one of a map of this height covers."""
    step = len(values) // height
    return reduce(values, "(h a) (w b) ... -> h w ...", "mean", a=step, b=step)


def measured(seed: int, hows: Sequence[str], steps: Sequence[float], keep: Path | None) -> dict[Row, Measured]:
    """Return the figures of one room by its maps, metres aside, and way."""
    from .aside import drawn, free_side, known, nearer, truth

    room = known(seed)
    side = free_side(room)
    true = {step: truth(room, step * side) for step in steps}
    found = {}
    for how in hows:
        parts, scale = meshes(room, how, seed, keep)
        for step in steps:
            shown = {name: drawn(part, scale, step * side) for name, part in parts.items()}
            for way, names in WAYS.items():
                if how == "perceived" or DRAWN not in names:
                    made = functools.reduce(nearer, (shown[name] for name in names if name in shown))
                    found[how, step, way] = Measured(figures(true[step].shown, made), losses(true[step], made))
    print(f"room {seed} is measured", file=sys.stderr)
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=32, help="how many rooms (32)")
    parser.add_argument("--first", type=int, default=1_000_000, help="the first room's seed (1000000: not trained on)")
    parser.add_argument("--maps", nargs="+", default=["true", "usual"], help="also mild, harsh, perceived (true usual)")
    parser.add_argument("--aside", nargs="+", type=float, default=[0.3, 0.6, 1.0], help="metres (0.3 0.6 1)")
    parser.add_argument("--keep", type=Path, help="folder for the micro model's maps and pictures")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    options = parser.parse_args()
    if "perceived" in options.maps and options.keep is None:
        parser.error("perceived maps need --keep FOLDER")
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("novel")
    from comfyui_omnix.lab.bench import micro_maps, novel

    seeds = range(options.first, options.first + options.rooms)
    if options.keep:
        micro_maps.perceive(options.keep, seeds)
    one = functools.partial(novel.measured, hows=options.maps, steps=options.aside, keep=options.keep)
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        print(*novel.tables(pool.map(one, seeds, chunksize=1)), sep="\n")


def tables(rooms: Sequence[Mapping[Row, Measured]]) -> Iterator[str]:
    """Yield the lines of both tables: the means over rooms, and where the error of (c) lies."""
    means = {row: [np.mean(part, axis=0) for part in zip(*(room[row] for room in rooms))] for row in rooms[0]}
    yield "| maps | aside, m | scene | open | PSNR, dB | SSIM | depth within 5 % |\n|---|---|---|---|---|---|---|"
    for (how, step, way), (figure, _) in means.items():
        mean = Figures(*figure)
        told = f"{mean.open:.2%} | {mean.psnr:.2f} | {mean.ssim:.3f} | {mean.close:.1%}"
        yield f"| {how} | {step:g} | {way} | {told} |"
    yield "\n| maps | aside, m | hidden | of the error | edges | of the error | PSNR, dB | hidden true | edges too |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for (how, step, way), (figure, loss) in means.items():
        if way == ANALYSED:
            lost = Losses(*loss)
            shares = f"{lost.hidden:.1%} | {lost.error_hidden:.0%} | {lost.edges:.1%} | {lost.error_edges:.0%}"
            yield f"| {how} | {step:g} | {shares} | {figure[1]:.2f} | {lost.psnr_hidden:.2f} | {lost.psnr_both:.2f} |"


if __name__ == "__main__":
    main()
