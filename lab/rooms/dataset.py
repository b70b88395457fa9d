"""Make thousands of rooms: the folders that trainers and `omnix-evaluate` read, and a manifest of their contents.

Room number n is the room of seed `seed + n`, for any count, so a longer run continues a shorter one. A room
is added to the manifest when all of its maps are on the disk, and rooms in the manifest are not made again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tqdm import tqdm

from ...mapfiles import layout
from ...mapfiles.errors import MapError
from .by_blender import BLENDER, blender_room
from .foreign import FOREIGN, family_of, foreign_room
from .labels import COLOURS
from .lighting import FAST, PICTURE
from .random_room import random_room
from .room import Room, render

MANIFEST = "manifest.jsonl"
HELD_BACK = {"test": 16, "validation": 16}
"""One room in so many belongs to each of these parts; only the seed decides which."""

RENDERERS = {"own": "lab.rooms 1", "crowded": "lab.rooms 2, crowded", "foreign": FOREIGN, "blender": BLENDER}
"""Kind of rooms -> renderer and version; the version changes when the same seed gives another room."""
SHOWN = 0.005
"""The smallest share of a picture for which the caption names a class."""

Record: TypeAlias = dict[str, Any]

VALUES = {
    "rgb": "8-bit sRGB, what the camera sees",
    "depth": "metres along the ray; 0 for no surface: the sky, and the view through windows",
    "normal": "unit vectors, +X front, +Y up, +Z left, towards the camera",
    "albedo": "8-bit sRGB base colour, without light",
    "roughness": "0 to 1",
    "metallic": "0 to 1",
    "semantic": "colours of classes.json",
}
"""Folder -> its values, for the card."""

CARD = """# {count} rendered rooms

{width}x{height} pixels, equirectangular; {counts}. Made by `python -m lab.rooms` of OmniX Panorama;
renderer: {renderer}. Everything is computed, so there are no people and no photos in it.

| folder | values |
|---|---|
{values}

`manifest.jsonl` has the recipe, and for each room its stem, seed, part and the SHA-256 of its files. Keep the parts
apart: train on `train`, choose on `validation`, report on `test`.
"""


@dataclass(frozen=True)
class Order:
    """The order for a data set: the folder, its first seed, the number of rooms, and how they are rendered.

    kind: one of RENDERERS; blender: the interpreter with `bpy` that renders rooms of this kind.
    """

    folder: Path
    seed: int
    count: int
    height: int
    fast: bool
    captions: bool = False
    kind: str = "own"
    blender: Path | None = None

    @property
    def recipe(self) -> Record:
        """What all rooms of one folder have in common."""
        size = {"width": 2 * self.height, "height": self.height}
        return {"renderer": self.renderer, "seed": self.seed, **size, "fast": self.fast, "captions": self.captions}

    @property
    def renderer(self) -> str:
        """The renderer and its version."""
        return RENDERERS[self.kind]


def split_of(seed: int) -> str:
    """Return the part of the room of a seed, "train", "validation" or "test": the same in every data set."""
    place = int.from_bytes(hashlib.sha256(f"room {seed}".encode()).digest()[:8], "big") / 2**64
    for part, share in HELD_BACK.items():
        if place < 1 / share:
            return part
        place -= 1 / share
    return "train"


def make(order: Order, jobs: int, prepare: Callable[[], Any] | None = None) -> int:
    """Make the rooms that are missing, on `jobs` processes that call `prepare` first; return how many were made."""
    done = _begun(order)
    missing = [number for number in range(order.count) if f"{number + 1:06d}" not in done]
    progress = tqdm(total=order.count, initial=order.count - len(missing), unit="room", disable=None)
    # Every core has its own worker, started as a new process, because a fork of a process with threads may hang.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    spawn = multiprocessing.get_context("spawn")
    manifest = open(order.folder / MANIFEST, "a", encoding="utf-8")  # noqa: SIM115 (the next line closes it)
    with manifest, progress, ProcessPoolExecutor(jobs, spawn, prepare) as pool:
        for record in _results(pool, order, missing, 4 * jobs):
            manifest.write(json.dumps(record) + "\n")
            manifest.flush()
            progress.update()
    describe(order)
    return len(missing)


def _results(pool: ProcessPoolExecutor, order: Order, numbers: list[int], ahead: int) -> Iterator[Record]:
    """Yield the records of finished rooms; only a few rooms are queued ahead, so that Ctrl-C ends the run soon."""
    waiting: set[Future[Record]] = set()
    for number in numbers:
        waiting.add(pool.submit(make_one, order, number))
        if len(waiting) >= ahead:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    done, _ = wait(waiting)
    yield from (future.result() for future in done)


def make_one(order: Order, number: int) -> Record:
    """Render one room and write its maps; return its record for the manifest."""
    seed, stem = order.seed + number, f"{number + 1:06d}"
    if order.kind == "foreign":
        made = foreign_room(seed, order.height, family_of(seed)).maps
    else:
        made = maps(room := _rendered(order, seed))
        if order.captions:
            layout.write_caption(order.folder, stem, caption(room))
    sums = {}
    for kind, values in made.items():
        path = layout.place(order.folder, kind, stem)
        layout.write(path, kind, values)
        sums[path.relative_to(order.folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"stem": stem, "seed": seed, "split": split_of(seed), "sha256": sums}


def _rendered(order: Order, seed: int) -> Room:
    if order.blender:
        return blender_room(order.blender, seed, order.height)
    quality = FAST if order.fast else PICTURE
    return render(2 * order.height, order.height, stage=random_room(seed, order.kind == "crowded"), quality=quality)


def caption(room: Room) -> str:
    """Return the classes that a picture shows, the largest first, as a caption."""
    shares = np.bincount(room.semantic.ravel(), minlength=len(room.labels)) / room.semantic.size
    seen = [room.labels[number] for number in np.argsort(-shares, kind="stable") if shares[number] >= SHOWN]
    return f"a {'street or garden' if 'ceiling' not in seen else 'room'} with {', '.join(seen)}"


def describe(order: Order) -> None:
    """Write the other files of a folder: README.md, and `classes.json`, label -> 8-bit sRGB, if it has classes."""
    kinds = layout.kinds(order.folder)
    if "semantic" in kinds:
        (order.folder / "classes.json").write_text(json.dumps(COLOURS, indent=1) + "\n", encoding="utf-8")
    parts = Counter(record["split"] for record in records(order.folder))
    counts = ", ".join(f"{parts[part]} {part}" for part in ("train", *HELD_BACK))
    values = "\n".join(f"| {kind} | {text} |" for kind, text in VALUES.items() if kind in kinds)
    card = CARD.format(count=parts.total(), counts=counts, values=values, **order.recipe)
    (order.folder / "README.md").write_text(card, encoding="utf-8")


def maps(room: Room) -> dict[str, np.ndarray[Any, Any]]:
    """Return a room's maps by kind, in the layout's form in memory.

    The scenery outside windows and above walls has no depth, like the sky in measured data. With its 20 m as white, a
    room of 3 m would use only the darkest seventh of a depth picture.
    """
    outside = room.semantic == room.labels.index("outside")
    colours = np.array([COLOURS[label] for label in room.labels], dtype=np.uint8)
    return {
        "rgb": room.rgb,
        "depth": np.where(outside, np.float32(np.nan), room.distance),
        "normal": room.normal,
        "albedo": room.albedo,
        "roughness": room.roughness,
        "metallic": room.metallic,
        "semantic": colours[room.semantic],
    }


def records(folder: Path) -> list[Record]:
    """Return the records of a folder's rooms, without the recipe and without an incomplete last line."""
    found = []
    for line in _lines(folder)[1:]:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def _lines(folder: Path) -> list[str]:
    path = folder / MANIFEST
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _begun(order: Order) -> set[str]:
    """Return the stems that are done; begin the manifest, or check that it is of the same rooms."""
    order.folder.mkdir(parents=True, exist_ok=True)
    path, first = order.folder / MANIFEST, json.dumps({"recipe": order.recipe})
    lines = _lines(order.folder)
    if not lines:
        if any(layout.kinds(order.folder)):
            raise MapError(f"{order.folder}: there are maps but no {MANIFEST}; choose an empty folder.")
        path.write_text(first + "\n", encoding="utf-8")
        return set()
    if lines[0] != first:
        raise MapError(f"{path}: begun as {lines[0]}, asked for {first}; choose another folder or the same options.")
    # A killed run may have left half a line. A line break ends it, so that the next record has its own line.
    if not path.read_text(encoding="utf-8").endswith("\n"):
        with open(path, "a", encoding="utf-8") as manifest:
            manifest.write("\n")
    return {record["stem"] for record in records(order.folder)}
