"""Rooms of another renderer: starts `lab/blender` as a program and returns its result as a `Room`.

Their shapes, textures, lights and colours have nothing in common with those of `random_room`, so they show how a
model handles pictures that differ from its training data.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .labels import COLOURS
from .room import Room, encode
from .shapes import Array

ROOT = Path(__file__).resolve().parents[2]
BLENDER = "lab.blender 1, Blender 5.0.1"
"""The renderer, and the version of the rooms that seeds give."""
FAMILIES = ("pale", "colourful", "outdoors")
"""The families of `lab/blender/places.py`; rooms take turns."""
LABELS = tuple(COLOURS)
EXPOSURE = 0.5
"""The mean radiance of a picture, before its highlights are compressed."""


def family_of(seed: int) -> str:
    """Return the family of a seed."""
    return FAMILIES[seed % len(FAMILIES)]


def blender_room(python: Path, seed: int, height: int) -> Room:
    """Return the room of a seed, 2 * height x height pixels, rendered by a Python that has `bpy`.

    The same seed gives the same maps. Raises RuntimeError with the renderer's last line if it fails.
    """
    with tempfile.TemporaryDirectory(prefix="omnix-blender-") as folder:
        file, listed = Path(folder) / "room", Path(folder) / "orders.json"
        order = {"seed": seed, "family": family_of(seed), "height": height, "labels": LABELS, "file": str(file)}
        listed.write_text(json.dumps([order]), encoding="utf-8")
        done = subprocess.run([python, "-m", "lab.blender", listed], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"Blender failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
        return room_of(file)


def room_of(file: Path) -> Room:
    """Return a place that `lab/blender` has rendered."""
    picture, maps = (_passes(Path(f"{file}.{ending}.exr")) for ending in ("picture", "maps"))
    data, hit = maps["data"], maps["data"][..., 2] > 0
    forward, left, up = np.moveaxis(maps["Normal"], -1, 0)
    return Room(
        rgb=encode(_rolled_off(picture["Combined"])),
        distance=np.where(hit, maps["Depth"][..., 0], np.float32(20.0)),
        normal=np.where(hit[..., None], np.stack([forward, up, left], axis=-1), np.array([0, -1, 0], dtype=np.float32)),
        albedo=encode(np.clip(np.where(hit[..., None], maps["albedo"], 0), 0, 1)),
        roughness=np.where(hit, data[..., 0], np.float32(1)),
        metallic=np.where(hit, data[..., 1], np.float32(0)),
        semantic=np.where(hit, np.rint(data[..., 2]) - 1, LABELS.index("outside")).astype(np.int32),
        labels=LABELS,
    )


def _rolled_off(radiance: Array) -> Array:
    """Return radiance in [0, 1]: metered, then 1 - exp(-x), a simpler tone curve than that of `room.py`."""
    mean = float(np.minimum(radiance, 4).mean())
    return (1 - np.exp(-radiance * np.float32(EXPOSURE / max(mean, 1e-3)))).astype(np.float32)


def _passes(path: Path) -> dict[str, Array]:
    """Return a file's passes [H, W, 1 or 3] by name, alpha left out."""
    import OpenImageIO as oiio

    opened: Any = oiio.ImageInput.open(str(path))
    found: dict[str, Array] = {}
    while opened.seek_subimage(len(found), 0):
        spec = opened.spec()
        name = spec.channelnames[0].split(".")[-2]
        found[name] = opened.read_image(len(found), 0, 0, spec.nchannels, oiio.FLOAT)[..., :3]
    opened.close()
    return found
