"""Render rooms with their true maps, for training and for evaluation.

    python -m lab.rooms DESTINATION --count N [--size WxH] [--seed S] [--fast] [--crowded | --foreign | --blender]
                        [--captions]

DESTINATION/rgb/000001.png, depth/000001.exr, normal/, albedo/, roughness/, metallic/, semantic/ (see
mapfiles/layout.py) and manifest.jsonl: first the recipe, then for each room its stem, seed, part ("train",
"validation" or "test", by the seed) and the SHA-256 of its files. The same command continues a stopped run.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from ..host.environment import SetupError, blender, cache_folder
from ..host.pack import load_pack

KINDS = {
    "crowded": "small rooms with much furniture: on a fifth of the pixels instead of a twelfth",
    "foreign": "rooms of foreign.py, pale and colourful ones in turn: rgb, depth, normal and albedo only",
    "blender": "rooms with other shapes and looks, rendered by Blender (370 MB, installed on first use)",
}
"""Option -> its help."""


def main() -> int:
    """Make the rooms; return the exit status."""
    parser = _parser()
    options = parser.parse_args()
    if options.kind == "foreign" and options.captions:
        parser.error("--captions names classes, and foreign rooms have none; leave out --captions or --foreign")
    load_pack()
    from comfyui_omnix.lab.rooms.dataset import MANIFEST, Order, make
    from comfyui_omnix.mapfiles.errors import MapError

    try:
        python = blender(cache_folder()) if options.kind == "blender" else None
        size, captions = options.size[1], options.captions
        order = Order(
            options.destination, options.seed, options.count, size, options.fast, captions, options.kind, python
        )
        made = make(order, options.jobs, load_pack)
    except BrokenProcessPool:
        print("rooms: a worker process was killed (out of memory?). Try again with fewer --jobs.", file=sys.stderr)
        return 1
    except (MapError, OSError, RuntimeError, SetupError) as error:
        print(f"rooms: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("rooms: stopped; the same command continues from here.", file=sys.stderr)
        return 130
    print(f"{options.destination}: {made} rooms made, {options.count} in all; see {MANIFEST}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.rooms", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("destination", type=Path, help="the folder to fill")
    parser.add_argument("--count", type=_at_least(1), required=True, help="number of rooms")
    parser.add_argument(
        "--size", type=_size, default=(1024, 512), help="pixels, width twice the height (default 1024x512)"
    )
    parser.add_argument(
        "--seed",
        type=_at_least(0),
        default=0,
        help="seed of the first room (default 0); each further room has the next seed",
    )
    parser.add_argument("--fast", action="store_true", help="coarser light, for training: takes about half the time")
    parser.set_defaults(kind="own")
    renderer = parser.add_mutually_exclusive_group()
    for kind, text in KINDS.items():
        renderer.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=text)
    parser.add_argument("--captions", action="store_true", help="write a caption next to each picture")
    parser.add_argument(
        "--jobs", type=_at_least(1), default=os.cpu_count() or 1, help="processes (default: one for each core)"
    )
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text):
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text}")
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"expected {least} or more, got {text}")
        return int(text)

    return number


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    width, height = map(int, match.groups()) if match else (0, 0)
    if height < 8 or width != 2 * height:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, twice as wide as high and at least 16x8, got {text}")
    return width, height


if __name__ == "__main__":
    sys.exit(main())
