"""Time the mesh of a scene and tell its error, beside fast-simplification and beside the full grid.

python lab/bench/scene.py [--height 512] [--triangles 20000] [--rays 400]

The demo's room, without cuts, for fast-simplification knows none. Radial error: rays from the origin through pixels
chosen evenly on the sphere, the distance to the mesh against the true one. Seconds are those of one processor.
"""

from __future__ import annotations

import argparse
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fast_simplification
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
VERTEX_BYTES, FACE_BYTES = 4 * (3 + 3 + 4 + 2), 3 * 4
Array = NDArray[Any]


class Made(NamedTuple):
    """A mesh, and the processor's seconds that it took."""

    positions: Array
    faces: Array
    seconds: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=512, help="rows of the panorama (512)")
    parser.add_argument("--triangles", type=int, default=20_000, help="number after the mesh is reduced (20,000)")
    parser.add_argument("--rays", type=int, default=400, help="rays that are followed (400)")
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["load_pack"]()
    from comfyui_omnix.lab.rooms.room import render
    from comfyui_omnix.omnix.scene.frame import pixel_directions

    sys.path.insert(0, str(ROOT / "tests" / "scene"))
    from rays import cast, shared

    distance = render(2 * options.height, options.height).distance
    chance = np.random.default_rng(0)
    i = (np.arccos(1 - 2 * chance.random(options.rays)) / np.pi * options.height).astype(int)
    j = chance.integers(0, 2 * options.height, options.rays)
    rays = pixel_directions(options.height, 2 * options.height)[i, j]
    print("| mesh | triangles | error, median | 99 % | open edges | s | MB |\n|---|---|---|---|---|---|---|")
    for name, made in meshes(distance, options.triangles):
        error = np.abs(cast(made.positions, made.faces, rays) / distance[i, j] - 1)
        size = len(made.positions) * VERTEX_BYTES + len(made.faces) * FACE_BYTES
        _, triangles = shared(made.positions, made.faces)
        figures = f"{np.median(error):.3%} | {np.quantile(error, 0.99):.3%} | {(triangles == 1).sum()}"
        print(f"| {name} | {len(made.faces):,} | {figures} | {made.seconds:.1f} | {size / 1e6:.1f} |", flush=True)


def meshes(distance: Array, most: int) -> Iterator[tuple[str, Made]]:
    """Yield the meshes to compare."""
    from comfyui_omnix.omnix.scene.shape import Options, shape_of

    def ours(options: Options) -> Made:
        mesh, seconds = timed(lambda: shape_of(distance, None, options).mesh)
        return Made(mesh.positions, mesh.faces, seconds)

    full = ours(Options(cut=False, triangles=10**9, max_error=0.0))
    yield "full grid", full
    yield "ours, a hierarchy of right triangles", ours(Options(cut=False, triangles=most, max_error=0.0))
    # A seam of two columns at one place is two rims to it, which it would move apart: it gets the closed surface.
    place, first = np.unique(full.positions, axis=0, return_inverse=True)
    closed = np.asarray(place, dtype=np.float64), np.asarray(first.ravel()[full.faces], dtype=np.int32)
    found, seconds = timed(lambda: fast_simplification.simplify(*closed, target_count=most))
    yield "fast-simplification", Made(found[0], found[1], full.seconds + seconds)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what some work gives and the processor's seconds for it."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


if __name__ == "__main__":
    main()
