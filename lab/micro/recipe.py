"""The sizes of the micro model, and the length of training of each part: the table that `make` follows."""

from __future__ import annotations

from typing import NamedTuple

from ...training.samples import may_roll
from ..host.tiny import Geometry

GEOMETRY = Geometry(hidden=128, double=5, single=1)
"""Both kinds of blocks, one head of 128 channels: 3.4 million parameters. Most blocks are double, because OmniX adapts
all matrices of the image there, but only q, k and v in a single block."""
HEIGHT = 64
"""Pixels. 128x64 has 32 tokens, a quarter of 256x128's, so training uses four times as many rooms in the same time."""
ROOMS_HEIGHT = 128
"""The rooms are rendered twice as large and reduced."""
ROOMS_SEED, ROOMS = 0, 9000
JUDGED_SEED, JUDGED = 1_000_000, 64
"""The judged rooms; their seeds are far from those of the training rooms, for both renderers."""
SEAM_COLUMNS = 2
"""Of 16 latent columns. OmniX uses 6 of 128, a smaller share."""
PROMPT_TOKENS = 1
BEGUN = "begun"
"""The folder next to the saves with the initial weights of a run, if it did not start from nothing."""
NOT_LEARNED = ("metallic",)
"""Kinds of map in which the shipped weights are no better than a constant."""
VIEW = (HEIGHT, HEIGHT)
"""Width and height of the input picture of image to panorama."""

PICTURES = {
    "rgb": ("rgb",),
    "depth": ("depth",),
    "normal": ("normal",),
    "albedo": ("albedo",),
    "pbr": ("roughness", "metallic"),
    "semantic": ("semantic",),
}
"""Stream -> the folders of `mapfiles/layout.py` that its picture is made of."""


class Others(NamedTuple):
    """Further rooms for the adapters: their number for each own room, the option of `lab.rooms` that makes them, and
    their streams. A task with other streams is trained without them."""

    share: float
    option: str
    streams: tuple[str, ...]


OTHERS = {
    "crowded": Others(0.8, "--crowded", (*PICTURES, "masked_rgb", "filled_rgb")),
    "foreign": Others(0.5, "--foreign", ("rgb", "depth", "normal", "albedo")),
}


class Stage(NamedTuple):
    """One part that is trained: optimiser steps, pictures a step, learning rate."""

    steps: int
    batch: int
    learning_rate: float


STAGES = {
    "vae": Stage(4500, 8, 2e-3),
    "base": Stage(3700, 32, 2e-3),
    "rgb_to_depth": Stage(17000, 16, 5e-3),
    "rgb_to_normal": Stage(6000, 16, 5e-3),
    "rgb_to_albedo": Stage(12500, 16, 5e-3),
    "rgb_to_pbr": Stage(4500, 16, 5e-3),
    "rgb_to_semantic": Stage(5000, 16, 5e-3),
    "image_to_pano": Stage(2000, 16, 5e-3),
}
TASKS = tuple(STAGES)[2:]
FIRST = TASKS[0]
"""Trained from nothing; the other tasks start from its adapters."""
RANK = 32
TURNED = tuple(name for name, folders in PICTURES.items() if may_roll(folders))
"""Streams that may be rolled, as in the trainer."""
