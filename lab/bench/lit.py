"""How bright lit scenes are in three.js and in Blender, against their panoramas, at the viewer's place.

python lab/bench/lit.py [--samples 32] [--keep FOLDER] [--picture] [FOLDER...]

The scenes are those of the demo's room, from its true maps, and of folders with the authors' maps (see
lab/pages/real_scenes.py), with 20,000 triangles. Pixels under the caption of the authors' maps are not counted. Blender
(Cycles) gets the file as its importer's default reads it, so what glows lights the room. Mean and median are those of
linear luminance, as a multiple of the panorama's; dark pixels have less than a quarter of it; burnt ones have a channel
at 255 and none in the panorama; the error is the mean of all channels, of 255. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import argparse
import itertools
import os
import runpy
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
HEIGHT = 256
AROUND = ((0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (270.0, 0.0), (0.0, 90.0), (0.0, -90.0))
"""The six sides of a cube: yaw and pitch in degrees."""
PICTURE, SIDE, LOOKS = ROOT / "lab" / "bench" / "lit.jpg", 256, ((-40.0, -10.0), (110.0, -5.0))
"""A picture of the first folder's scene: the size of its parts, and where they look."""
Array = NDArray[Any]


class Maps(NamedTuple):
    """A room: its name, distance [H, W], maps as `build_scene` wants them, and the pixels [H, W] that count."""

    name: str
    distance: Array
    maps: dict[str, Array]
    counts: Array


def true_room() -> Maps:
    """Return the demo's room with its true maps."""
    from ..rooms.room import render

    room = render(2 * HEIGHT, HEIGHT)
    maps = {"image": room.rgb, "albedo": room.albedo, "normal": room.normal}
    maps |= {name: np.repeat(getattr(room, name)[..., None], 3, axis=-1) for name in ("roughness", "metallic")}
    return Maps("demo room, true maps", room.distance.astype(float), maps, np.ones(room.distance.shape, dtype=bool))


def real(folder: Path) -> Maps:
    """Return the maps of a published result."""
    from ...omnix.scene.material import resized
    from ..pages.readme_picture import published, read

    covered = read(folder / "label.png")[..., 0] > 0.5
    names = ("depth", "albedo", "normal", "roughness", "metallic")
    maps = dict(zip(("image", *names), published(folder, "rgb", *names)))
    maps["normal"] = maps["normal"] * 2 - 1
    maps = {name: resized(pixels[..., :3], 2 * HEIGHT, HEIGHT) for name, pixels in maps.items()}
    return Maps(folder.name, maps.pop("depth")[..., 0].astype(float), maps, ~covered)


def figures(lit: Array, shown: Array, counts: Array) -> str:
    """Return a table's cells for pictures [.., 3] in sRGB, lit and of the panorama, where they count [..]."""
    from ...omnix.scene.light import brightness

    lit, shown = lit[counts], shown[counts]
    bright, wanted = brightness(lit), brightness(shown)
    ratio = bright / np.maximum(wanted, 1e-3)
    burnt = (lit.max(axis=-1) >= 254.5 / 255) & (shown.max(axis=-1) < 254.5 / 255)
    error = 255 * np.abs(lit - shown).mean()
    mean, median = bright.mean() / wanted.mean(), np.median(ratio)
    return f"{mean:.2f} | {median:.2f} | {(ratio < 0.25).mean():.1%} | {burnt.mean():.1%} | {error:.0f}"


def cube(panorama: Array, side: int, views: Sequence[tuple[float, float]] = AROUND) -> Array:
    """Return square views [n, side, side, C] of 90 degrees of a panorama [H, W, C], by default the sides of a cube."""
    from ...omnix.pictures.panorama import perspective_view

    pixels = torch.from_numpy(np.ascontiguousarray(panorama)).float()[None]
    return np.concatenate([perspective_view(pixels, side, side, 90.0, *view).numpy() for view in views])


def written(room: Maps, keep: Path) -> Path:
    """Write the scene of a room to a folder; return the file."""
    from ...omnix.scene import Options, build_scene

    file = keep / f"{room.name}.glb"
    file.write_bytes(build_scene(room.distance, room.maps, Options(triangles=20_000)).glb)
    return file


def rows(rooms: Iterable[Maps], samples: int, keep: Path) -> Iterator[str]:
    """Yield the rows of the table; files and pictures are written to the folder `keep`."""
    from ..host.environment import blender, cache_folder
    from ..host.viewers import cycles, three

    with three() as client:
        for room in rooms:
            file = written(room, keep)
            sides = np.stack(client(file.read_bytes(), AROUND).pictures)
            yield f"| {room.name} | three.js | {_by_three(room, sides)} |"
            yield f"| {room.name} | Blender | {_by_blender(room, cycles(blender(cache_folder()), file, samples))} |"


def picture(room: Maps, samples: int, keep: Path) -> Image.Image:
    """Return views of a panorama and of its lit scene in three.js and in Blender, a row for each direction."""
    from ...omnix.pictures.sheet import contact_sheet
    from ..host.environment import blender, cache_folder
    from ..host.viewers import cycles, three

    file = written(room, keep)
    with three() as client:
        shown = client(file.read_bytes(), LOOKS, size=SIDE).pictures
    lit = cycles(blender(cache_folder()), file, samples, width=2 * SIDE)
    views = [
        (cube(room.maps["image"], SIDE, [look])[0], own, cube(lit, SIDE, [look])[0]) for look, own in zip(LOOKS, shown)
    ]
    names = ("panorama", "lit, in three.js", "lit, in Blender (Cycles)")
    tiles = [(name, torch.from_numpy(one)[None].float()) for row in views for name, one in zip(names, row)]
    return Image.fromarray((contact_sheet(tiles, 3, SIDE)[0].numpy() * 255).round().astype(np.uint8))


def _by_three(room: Maps, sides: Array) -> str:
    counts = cube(room.counts[..., None], sides.shape[1])[..., 0] > 0.99
    return figures(sides, cube(room.maps["image"], sides.shape[1]), counts)


def _by_blender(room: Maps, lit: Array) -> str:
    from ...omnix.scene.frame import spread
    from ...omnix.scene.material import resized

    size, even = lit.shape[1::-1], spread(lit.shape[:2], lit.shape[0] * lit.shape[1] // 2)
    counts = resized(room.counts[..., None], *size)[..., 0] > 0.99
    return figures(lit[even], resized(room.maps["image"], *size)[even], counts[even])


def use_tools() -> None:
    """Name the browser and the folder of three.js, which are installed on first use."""
    from ..host.environment import cache_folder, chromium, node_modules

    os.environ["OMNIX_CHROMIUM"] = str(chromium())
    os.environ["OMNIX_NODE_MODULES"] = str(node_modules(cache_folder(), Path(sys.executable)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="folders with the authors' maps")
    parser.add_argument("--samples", type=int, default=32, help="Blender's samples for each pixel (32)")
    parser.add_argument("--keep", type=Path, help="keep the files in this folder")
    parser.add_argument("--picture", action="store_true", help="draw the README's picture of the first folder instead")
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("lit")
    from comfyui_omnix.lab.bench import lit

    lit.use_tools()
    if options.picture:
        with tempfile.TemporaryDirectory() as folder:
            lit.picture(lit.real(options.folders[0]), options.samples, Path(folder)).save(PICTURE, quality=80)
        return
    print("| room | viewer | mean | median | dark | burnt | error |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        rooms = itertools.chain([lit.true_room()], map(lit.real, options.folders))
        for row in lit.rows(rooms, options.samples, options.keep or Path(folder)):
            print(row, flush=True)


if __name__ == "__main__":
    main()
