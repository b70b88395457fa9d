"""Rooms rendered by Blender: their maps agree with each other and depend only on the seed."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from comfyui_omnix.lab.host.environment import SetupError, blender, cache_folder
from comfyui_omnix.lab.rooms.by_blender import FAMILIES, blender_room
from comfyui_omnix.lab.rooms.labels import COLOURS
from comfyui_omnix.lab.rooms.room import Room
from comfyui_omnix.mapfiles import layout
from comfyui_omnix.omnix.pictures.panorama import camera_rays

HEIGHT = 32


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return blender(cache_folder())
    except SetupError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def rooms(python: Path) -> dict[str, Room]:
    return {family: blender_room(python, seed, HEIGHT) for seed, family in enumerate(FAMILIES)}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_hit_has_a_distance_and_a_normal_that_faces_the_camera(rooms: dict[str, Room], family: str) -> None:
    room = rooms[family]
    hit = room.semantic != room.labels.index("outside")
    rays = np.asarray(camera_rays(HEIGHT, 2 * HEIGHT))
    assert np.abs(np.linalg.norm(room.normal[hit], axis=-1) - 1).max() < 1e-3
    assert ((room.normal * rays)[hit].sum(-1) < 0.02).mean() > 0.995
    assert room.distance[hit].min() > 0.3 and room.distance[hit].max() < 100
    for picture in (room.rgb, room.albedo, room.roughness, room.metallic):
        assert picture.dtype == np.float32 and picture.min() >= 0 and picture.max() <= 1
    assert 0.1 < room.rgb.mean() < 0.9


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_a_level_floor_is_level_by_its_distance_and_its_normal(rooms: dict[str, Room], family: str) -> None:
    """Two passes of the renderer say the same of one plane."""
    room = rooms[family]
    floor = room.semantic == room.labels.index("floor")
    sine = np.sin((0.5 - (np.arange(HEIGHT) + 0.5) / HEIGHT) * math.pi)[:, None]
    height = (room.distance * sine)[floor]
    assert np.ptp(height) < 2e-3 * abs(height.mean())
    assert np.abs(room.normal[floor] - (0, 1, 0)).max() < 1e-3


def test_a_seed_is_one_room(python: Path, rooms: dict[str, Room]) -> None:
    again = blender_room(python, 0, HEIGHT)
    for name in ("distance", "normal", "albedo", "roughness", "metallic", "semantic"):
        assert np.allclose(getattr(again, name), getattr(rooms["pale"], name), rtol=0, atol=1e-6), name
    assert not np.array_equal(blender_room(python, 3, HEIGHT).distance, again.distance)


def test_the_command_makes_a_folder_with_its_legend_and_its_card(root: Path, tmp_path: Path, python: Path) -> None:
    folder = tmp_path / "rooms"
    command = [sys.executable, "-m", "lab.rooms", str(folder), "--count", "1", "--size", "64x32"]
    subprocess.run([*command, "--blender", "--captions"], cwd=root, check=True, capture_output=True)
    recipe = json.loads((folder / "manifest.jsonl").read_text().splitlines()[0])["recipe"]
    assert recipe["renderer"].endswith(f"Blender {python_version(python)}")
    assert json.loads((folder / "classes.json").read_text()) == {name: list(rgb) for name, rgb in COLOURS.items()}
    assert "1 rendered rooms" in (folder / "README.md").read_text()
    assert "floor" in layout.caption(folder, "000001")
    ours = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert ours.returncode == 1 and "choose another folder" in ours.stderr


def python_version(python: Path) -> str:
    code = "import bpy; print(bpy.app.version_string)"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.split()[-1]
