"""The micro model's classes: in the colours of OmniX's own maps, as the pack's node reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_omnix.evaluation import semantic
from comfyui_omnix.lab.micro import classes, judged
from comfyui_omnix.lab.rooms.dataset import maps
from comfyui_omnix.lab.rooms.labels import CLASS_OF, COLOURS
from comfyui_omnix.lab.rooms.lighting import FAST
from comfyui_omnix.lab.rooms.random_room import random_room
from comfyui_omnix.lab.rooms.room import Room, render
from comfyui_omnix.mapfiles.nyu40 import CLASSES
from comfyui_omnix.omnix.pictures import semantics

SEED = 1_000_002


@pytest.fixture(scope="module")
def room() -> Room:
    return render(256, 128, stage=random_room(SEED), quality=FAST)


def test_the_node_finds_the_room_where_the_renderer_has_it(room: Room) -> None:
    painted = torch.from_numpy(classes.in_class_colours(maps(room)["semantic"]) / 255)[None]
    masks = semantics.classes(painted, dict(CLASSES))
    labels = np.array([CLASS_OF[label] for label in room.labels])[room.semantic]
    for name in semantics.EVIDENCE:
        assert (masks[name][0].numpy() == (labels == name)).all(), name
    assert {"floor", "wall", "ceiling"} <= {*labels.ravel()}


def test_every_label_has_a_class_and_every_class_is_read_again() -> None:
    assert CLASS_OF.keys() == COLOURS.keys()
    shown = classes.in_class_colours(np.array([[*COLOURS.values()]], np.uint8))
    codes = classes.nearest(shown)
    assert (semantic.colours(codes) == shown).all() and {*codes.ravel()} == {*classes.LEGEND}
    off = np.random.default_rng(0).integers(-8, 9, shown.shape)
    assert (classes.nearest(np.clip(shown + off, 0, 255).astype(np.uint8)) == codes).all()
    with pytest.raises(KeyError):
        classes.in_class_colours(np.array([[[1, 2, 3]]], np.uint8))


def test_judged_classes_are_kept_in_a_folder(room: Room, tmp_path: Path) -> None:
    own = judged.own_room(SEED)
    codes = semantic.codes(classes.in_class_colours(maps(room)["semantic"]))
    cells = codes.reshape(64, 2, 128, 2).transpose(0, 2, 1, 3).reshape(64, 128, 4)
    assert (own.maps["semantic"][..., None] == cells).any(-1).all(), "no class that its cell lacks"
    (stem,) = judged.write(tmp_path, [own])
    assert (judged.read(tmp_path, "semantic", stem) == own.maps["semantic"]).all()
