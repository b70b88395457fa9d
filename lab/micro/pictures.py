"""The rooms and their maps as pictures for training: small, and all in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ...evaluation.semantic import codes
from ...mapfiles import layout
from ...mapfiles.pictures import Array, replacing
from ...omnix.pictures.panorama import UNSEEN_GREY, perspective_view, place_on_panorama
from ...omnix.scene.surface import within
from ...training.config import Config, Stream
from ...training.pictures import picture
from ..host.pack import ROOT
from ..rooms.dataset import split_of
from .classes import THINGS, in_class_colours
from .recipe import HEIGHT, PICTURES, ROOMS_HEIGHT, ROOMS_SEED, VIEW

Images = dict[str, NDArray[np.uint8]]
"""Pictures [n, H, W, 3] by stream."""
GREY = round(UNSEEN_GREY * 255)
FRONT, LEFT = 0, 2
"""The channels of a picture of normals for the directions front and left."""


class Pictures(NamedTuple):
    """Pictures by stream, uint8 [rooms, H, W, 3], of training rooms and of watched rooms."""

    train: Images
    validation: Images


def render(folder: Path, seed: int, count: int, *options: str) -> None:
    """Render the missing rooms, twice as large as needed; `options` are those of `lab.rooms`."""
    size = f"{2 * ROOMS_HEIGHT}x{ROOMS_HEIGHT}"
    command = [
        sys.executable,
        "-m",
        "lab.rooms",
        folder.resolve(),
        "--count",
        count,
        "--seed",
        seed,
        "--size",
        size,
        "--fast",
        *options,
    ]
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True)


def load(rooms: Path, cached: Path, names: Collection[str] = tuple(PICTURES)) -> Pictures:
    """Read the reduced pictures of these streams of a folder of rooms; one file keeps them for the next time."""
    if not cached.is_file():
        stems = layout.stems(rooms, *(folder for name in names for folder in PICTURES[name]))
        parts = {
            part: [stem for stem in stems if split_of(ROOMS_SEED + int(stem) - 1) == part] for part in Pictures._fields
        }
        arrays = {f"{part}.{name}": reduced(rooms, name, parts[part]) for part in parts for name in names}
        with replacing(cached) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    with np.load(cached) as found:
        return Pictures(*({name: found[f"{part}.{name}"] for name in names} for part in Pictures._fields))


def reduced(rooms: Path, name: str, stems: Sequence[str]) -> NDArray[np.uint8]:
    """Return one stream's pictures of rendered rooms, uint8 [n, H, W, 3]; labels become the classes of OmniX's maps."""
    pixels = as_trained(rooms, name, stems)
    return in_class_colours(pixels) if name == "semantic" else pixels


def as_trained(rooms: Path, name: str, stems: Sequence[str]) -> NDArray[np.uint8]:
    """Return one stream's pictures as the trainer makes them, uint8 [n, H, W, 3]."""
    config, stream = Config(size=f"{2 * HEIGHT}x{HEIGHT}"), Stream(name, PICTURES[name])
    files = ([layout.find(rooms, folder, stem) for folder in stream.folders] for stem in stems)
    made = [
        (picture(config, stream, each) * 255).round().byte() for each in tqdm(files, name, len(stems), disable=None)
    ]
    return torch.stack(made).numpy()


def otherwise(pictures: Images) -> Iterator[Images]:
    """Yield pictures of the same rooms turned by quarters and mirrored, which are equally true."""
    for quarters in range(4):
        seen = turned(pictures, quarters)
        if quarters:
            yield seen
        yield mirrored(seen)


def turned(pictures: Images, quarters: int) -> Images:
    """Return pictures of rooms that are turned to the right by quarters, directions of normals included."""
    seen = {name: np.roll(stack, quarters * stack.shape[2] // 4, 2) for name, stack in pictures.items()}
    for _ in range(quarters if "normal" in seen else 0):
        front, left = seen["normal"][..., FRONT].copy(), seen["normal"][..., LEFT].copy()
        seen["normal"][..., FRONT], seen["normal"][..., LEFT] = left, 255 - front
    return seen


def mirrored(pictures: Images) -> Images:
    """Return mirrored pictures of rooms."""
    seen = {name: stack[:, :, ::-1].copy() for name, stack in pictures.items()}
    if "normal" in seen:
        seen["normal"][..., LEFT] = 255 - seen["normal"][..., LEFT]
    return seen


def views_on_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the condition of image to panorama for panoramas [n, H, W, 3]: a view of 90 degrees on grey."""
    placed, _unseen = place_on_panorama(view(torch.from_numpy(pixels).float() / 255), 2 * HEIGHT, HEIGHT)
    return (placed * 255).round().byte().numpy()


def partly_hidden(pictures: Images) -> NDArray[np.uint8]:
    """Return what image to panorama is given of rooms, the hidden part in grey, in turns of four rooms:

    a view on grey, the shapes of another room's things, a view on grey, and a rectangle.
    """
    rgb = pictures["rgb"]
    given = views_on_grey(rgb)
    for turn, hidden in ((1, shapes_of_others(pictures["semantic"])), (3, rectangles(len(rgb)))):
        given[turn::4] = np.where(hidden[..., None], GREY, rgb)[turn::4]
    return given


def shapes_of_others(semantics: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where the things of the room before are, grown by a pixel, [n, H, W].

    What is behind a room's own things is not known; behind the shapes of another room's things it is.
    """
    flags = [within(np.isin(codes(one), THINGS), 1) for one in semantics]
    return np.roll(np.stack(flags), 1, axis=0)


def rectangles(count: int) -> NDArray[np.bool_]:
    """Return rectangles [count, H, W]: an eighth to a half of the width, a quarter to three quarters of the height."""
    random = np.random.default_rng(0)
    width, height = 2 * HEIGHT, HEIGHT
    sizes = zip(
        random.integers(width // 8, width // 2 + 1, count), random.integers(height // 4, height * 3 // 4, count)
    )
    hidden = np.zeros((count, height, width), bool)
    for one, (across, down) in zip(hidden, sizes):
        top = random.integers(height - down + 1)
        one[top : top + down, :across] = True
        one[:] = np.roll(one, random.integers(width), axis=1)
    return hidden


def view(panoramas: Tensor) -> Tensor:
    """Return the input picture [n, h, w, 3] of image to panorama: the view straight ahead in panoramas [n, H, W, 3]."""
    return perspective_view(panoramas, *VIEW)


def as_images(pixels: NDArray[np.uint8]) -> Tensor:
    """Return [n, 3, H, W] in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def halved(values: Array) -> Array:
    """Return the means of cells of 2x2 pixels [H, W, ..]; a cell without any value is NaN."""
    height, width = values.shape[0] // 2, values.shape[1] // 2
    return values.reshape(height, 2, width, 2, *values.shape[2:]).mean((1, 3))
