"""How much of the sphere is open where the panorama was taken: there, a scene is the panorama.

python lab/bench/closed.py [--rooms 32] [--height 128] [--keep FOLDER] [--real FOLDER...]

Scenes with cuts are made with and without the normal map: of the sample room; of random rooms, from true maps, from
degraded ones, and with --keep from what the micro model perceives (see novel.py); and of folders with the authors' maps
(see lab/pages/real_scenes.py). Only the visible part counts, without what is invented behind it. Pixels without depth
are not counted. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
MANY, FEW = 200_000, 12_000
"""Triangles: the default of the node, and those of the scenes in the pictures."""
Array = NDArray[Any]


class Maps(NamedTuple):
    """What a scene is made of: a row of the table, distance [H, W], unit normals [H, W, 3], and triangles."""

    row: str
    distance: Array
    normal: Array
    triangles: int = MANY


def sample() -> Iterator[Maps]:
    """Yield the maps of the sample room."""
    from ...mapfiles import layout

    files = {kind: ROOT / "sample" / f"omnix_sample_room_{kind}.png" for kind in ("depth", "normal")}
    depth, normal = (layout.read(file, kind) for kind, file in files.items())
    yield Maps("sample room", np.nan_to_num(depth).astype(float), normal)


def rooms(seeds: Sequence[int], height: int, keep: Path | None) -> Iterator[Maps]:
    """Yield the true, degraded and perceived maps of random rooms."""
    from ..rooms.degraded import SETTINGS, degraded
    from .aside import known
    from .micro_maps import micro

    for seed in seeds:
        room = known(seed, height)
        yield Maps("true", room.distance, room.normal)
        for name, how in SETTINGS.items():
            yield Maps(name, *degraded(room.distance, room.normal, how, seed))
        if keep:
            own = micro(keep, seed)
            yield Maps("perceived", own.distance, own.normal)
        print(f"room {seed} is measured", file=sys.stderr)


def real(folder: Path) -> Iterator[Maps]:
    """Yield the maps of a published result, as they are, enlarged, and with few triangles."""
    from ...omnix.scene.material import resized
    from ..pages.readme_picture import published

    depth, normal = published(folder, "depth", "normal")
    for height, triangles in ((256, MANY), (512, MANY), (256, FEW)):
        distance, pixels = (resized(values, 2 * height, height) for values in (depth, normal))
        row = f"{folder.name}, {2 * height}x{height}, {triangles:,} triangles"
        yield Maps(row, distance[..., 0].astype(float), pixels * 2 - 1, triangles)


def open_share(maps: Maps, mapped: bool) -> float:
    """Return the share of the sphere that is open though it has depth."""
    from rays import covered

    from ...omnix.scene import Options, build_scene
    from ...omnix.scene.shape import solid_angle

    pictures = {"image": np.full((*maps.distance.shape, 3), 0.5, dtype=np.float32)}
    options = Options(camera_height=0, triangles=maps.triangles, background=False)
    scene = build_scene(maps.distance, pictures | ({"normal": maps.normal} if mapped else {}), options)
    held = solid_angle(maps.distance > 0)
    return round(held - covered(scene.geometry.positions, scene.geometry.faces), 6) + 0.0


def table(cases: Iterator[Maps]) -> Iterator[str]:
    """Yield the lines of the table."""
    found: dict[str, list[tuple[float, float]]] = {}
    for maps in cases:
        found.setdefault(maps.row, []).append((open_share(maps, True), open_share(maps, False)))
    yield "| maps | panoramas | open with normals: mean | worst | without: mean | worst |\n|---|---|---|---|---|---|"
    for row, shares in found.items():
        mean, worst = np.mean(shares, axis=0), np.max(shares, axis=0)
        yield f"| {row} | {len(shares)} | {mean[0]:.3%} | {worst[0]:.3%} | {mean[1]:.3%} | {worst[1]:.3%} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=32, help="how many random rooms (32)")
    parser.add_argument("--first", type=int, default=1_000_000, help="the first room's seed (1000000)")
    parser.add_argument("--height", type=int, default=128, help="rows of their panoramas (128)")
    parser.add_argument("--keep", type=Path, help="folder for the micro model's maps")
    parser.add_argument("--real", type=Path, nargs="*", default=[], help="folders with the authors' maps")
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("closed")
    sys.path.insert(0, str(ROOT / "tests" / "scene"))
    from comfyui_omnix.lab.bench import closed, micro_maps

    seeds = range(options.first, options.first + options.rooms)
    if options.keep:
        micro_maps.perceive(options.keep, seeds)
    scenes = (closed.sample(), closed.rooms(seeds, options.height, options.keep), *map(closed.real, options.real))
    for line in closed.table(case for cases in scenes for case in cases):
        print(line)


if __name__ == "__main__":
    main()
