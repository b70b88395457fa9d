"""Turned and mirrored panoramas, like a turned camera or a mirror, with their directions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_omnix.mapfiles import layout
from comfyui_omnix.omnix.pictures.panorama import camera_rays
from comfyui_omnix.training.config import Config, Stream, TrainingError, plans
from comfyui_omnix.training.data import maps, views
from comfyui_omnix.training.pictures import View, seen, turned
from comfyui_omnix.training.run import run
from comfyui_omnix.training.samples import may_roll
from folders import small_run

VIEWS = [View(32), View(104), View(0, True), View(40, True)]


@pytest.mark.parametrize("view", VIEWS)
def test_the_directions_of_the_pixels_themselves_do_not_change(view: View) -> None:
    """Camera rays as a map: each pixel of a turned or mirrored panorama still looks along its own ray."""
    rays = camera_rays(64, 128) * 0.5 + 0.5
    for folder in ("normal", "camray"):
        torch.testing.assert_close(turned(rays, view, folder), rays, atol=1e-6, rtol=0)
    assert not torch.allclose(turned(rays, view, "albedo"), rays, atol=0.1)


@pytest.mark.parametrize("view", VIEWS)
def test_a_room_that_is_turned_or_mirrored_itself(view: View) -> None:
    """Colours and normals as functions of the direction, by numpy, in float64, from a turned camera or mirrored."""

    def room(turn: float, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
        """Look at the room from a camera that was turned to the left, or at the mirrored room."""
        rays = camera_rays(64, 128).double().numpy()
        front, up, left = rays[..., 0], rays[..., 1], rays[..., 2] * (-1 if mirrored else 1)
        world = np.stack(
            [front * np.cos(turn) - left * np.sin(turn), up, front * np.sin(turn) + left * np.cos(turn)], axis=-1
        )
        colours = 0.5 + 0.5 * np.sin(world @ np.array([[5, 1, 2], [3, 7, 1], [2, 1, 6]]))
        facing = np.cross(world, [0.3, 0.9, 0.2]) / 2
        x, y, z = np.moveaxis(facing, -1, 0)
        seen_x, seen_z = x * np.cos(turn) + z * np.sin(turn), z * np.cos(turn) - x * np.sin(turn)
        return colours, np.stack([seen_x, y, -seen_z if mirrored else seen_z], axis=-1)

    colours, facing = room(0, False)
    want_colours, want_facing = room(2 * np.pi * view.columns / 128, view.mirrored)
    for folder, given, want in (
        ("rgb", colours, want_colours),
        ("normal", facing * 0.5 + 0.5, want_facing * 0.5 + 0.5),
    ):
        found = turned(torch.from_numpy(given), view, folder).numpy()
        np.testing.assert_allclose(found, want, atol=1e-6)


def test_weights_move_with_the_picture(tmp_path: Path) -> None:
    metres = np.full((64, 128), 2, np.float32)
    metres[:8, :8] = 0
    metres[9, 9] = 3
    layout.save(tmp_path / "depth" / "a.exr", metres)
    given = Config(size="128x64")
    weight = seen(given, Stream("depth", ("depth",)), [tmp_path / "depth" / "a.exr"], None, View(32, True)).weight
    assert [tuple(cell) for cell in (weight == 0).nonzero().tolist()] == [(0, 11)]


def test_a_run_on_turned_and_mirrored_normals(tmp_path: Path) -> None:
    """Every view has its own latents; the held-out picture is shown unchanged."""
    given = small_run(tmp_path, target=("normal",), turns=4, mirror=True, steps=1, held_out=1, sample_every=0)
    for path in sorted((tmp_path / "rooms" / "rgb").iterdir()):
        facing = np.broadcast_to(np.array([1, 0, 0], np.float32), (64, 128, 3))
        layout.write(layout.place(tmp_path / "rooms", "normal", path.stem), "normal", facing)
    (result,) = run(given, show=False)
    assert result.step == 1
    # Three rooms of 8 views and a held-out one; all rooms share the file of normals, and so its latents; a prompt.
    assert len(list((tmp_path / "runs" / "latents").iterdir())) == 3 * 8 + 1 + 8 + 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"turns": 4}, "The maps of this task are rolled at every step; leave out --turns"),
        ({"turns": 3, "roll": False}, "--turns 3: expected a divisor of the 16 latent columns"),
        ({"turns": 0}, "turns is 0; it must be at least 1"),
    ],
)
def test_turns_that_change_nothing_or_do_not_fit(tmp_path: Path, changes: dict[str, int], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        run(small_run(tmp_path, held_out=0, **changes), show=False)


@pytest.mark.parametrize("folder", ["normals", "world_normal", "NormalMap"])
def test_normals_in_a_folder_of_another_name(folder: str) -> None:
    """They were rolled, and their directions not turned, without a word."""
    given = Config(target=(f"normal={folder}",), size="128x64")
    (plan,) = plans(given)
    assert not may_roll(maps(plan)) and may_roll(["camray", *maps(plan)])
    assert len(views(given, plan)) == 1
    for changes in ({"turns": 4}, {"mirror": True}):
        with pytest.raises(TrainingError, match=f"not those of {folder}; rename it to normal"):
            views(replace(given, **changes), plan)
