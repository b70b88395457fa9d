"""What is invented behind the cuts: it is where the truth is, it closes the view from aside, and it is marked."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from comfyui_omnix.lab.bench import novel
from comfyui_omnix.lab.rooms.degraded import SETTINGS, degraded
from comfyui_omnix.lab.rooms.lighting import FAST
from comfyui_omnix.lab.rooms.random_room import random_room
from comfyui_omnix.lab.rooms.room import Room, render
from comfyui_omnix.omnix.scene import Options, Scene, build_scene
from comfyui_omnix.omnix.scene.behind import inpainted
from comfyui_omnix.omnix.scene.frame import pixel_directions
from comfyui_omnix.omnix.scene.walls import hull, outermost
from rays import Array, cast, hall, rays, with_box
from scipy.spatial import ConvexHull

HEIGHT = 128
RELATIVE = Options(camera_height=0)


def made(distance: Array, options: Options = RELATIVE, **maps: Array) -> Scene:
    return build_scene(distance, {"image": np.full((*distance.shape, 3), 0.5, dtype=np.float32), **maps}, options)


def whole(scene: Scene) -> tuple[Array, Any]:
    """Return positions and faces of what was seen and what is invented, together."""
    seen, invented = scene.geometry, scene.background[0] if scene.background else None
    if invented is None:
        return seen.positions, seen.faces
    faces = np.concatenate([seen.faces, invented.faces + len(seen.positions)])
    return np.concatenate([seen.positions, invented.positions]), faces


def evenly(count: int) -> Array:
    vectors = np.random.default_rng(0).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def room() -> Room:
    return render(2 * HEIGHT, HEIGHT, stage=random_room(1), quality=FAST)


def test_the_wall_goes_on_behind_a_panel() -> None:
    distance, normals, seen = with_box(HEIGHT)
    scene = made(distance, normal=normals)
    assert scene.background is not None
    chosen = pixel_directions(HEIGHT, 2 * HEIGHT)[seen][::40]
    found = cast(scene.background[0].positions, scene.background[0].faces, chosen)
    truth = hall(HEIGHT)[0][seen][::40]
    covered = np.isfinite(found)
    assert covered.mean() > 0.8
    error = np.abs(found[covered] / truth[covered] - 1)
    # At its rim the sheet comes forward to the panel.
    assert np.median(error) < 0.02 and np.quantile(error, 0.75) < 0.05


@pytest.mark.parametrize("how", ["true", *SETTINGS])
@pytest.mark.parametrize("aside", [0.3, 1.0])
def test_hardly_anything_is_open_from_aside(room: Room, how: str, aside: float) -> None:
    distance, normals = room.distance, room.normal
    if how != "true":
        distance, normals = degraded(distance, normals, SETTINGS[how], seed=1)
    scene = made(distance, Options(), normal=normals)
    positions, faces = whole(scene)
    without = made(distance, Options(background=False), normal=normals).geometry
    moved, some = np.array([aside, 0.0, 0.0]), evenly(400)
    share_open = np.isinf(cast(positions - moved, faces, some)).mean()
    assert share_open <= 0.005
    if aside == 1.0:
        assert np.isinf(cast(without.positions - moved, without.faces, some)).mean() > share_open


def test_nothing_invented_lies_beyond_the_walls() -> None:
    distance, normals, _ = with_box(HEIGHT)
    scene = made(distance, normal=normals)
    assert scene.background is not None
    low, high = scene.geometry.positions.min(axis=0), scene.geometry.positions.max(axis=0)
    beyond = np.maximum(scene.background[0].positions - high, low - scene.background[0].positions)
    assert beyond.max() < 0.02 * np.ptp(scene.geometry.positions, axis=0).max()


@pytest.mark.parametrize("how", SETTINGS)
def test_nothing_invented_leaves_the_hull_of_what_was_seen(room: Room, how: str) -> None:
    distance, normals = degraded(room.distance, room.normal, SETTINGS[how], seed=1)
    scene = made(distance, Options(), normal=normals)
    assert scene.background is not None
    sides = ConvexHull(scene.geometry.positions).equations
    beyond = (scene.background[0].positions @ sides[:, :3].T + sides[:, 3]).max(axis=1)
    # The node takes the hull of every second pixel, and a vertex is the mean of four.
    assert np.quantile(beyond, 0.99) < 0.1 and beyond.max() < 0.2


def test_what_is_seen_on_a_plane_or_on_one_side_has_a_hull_too() -> None:
    rays = pixel_directions(64, 128)
    valid = rays[..., 1] < -0.05
    floor = np.where(valid, -rays[..., 1] / 1.6, 0.0)
    sides = hull(floor, valid)
    assert np.allclose(outermost(sides, rays[valid]), floor[valid], rtol=0.02)
    assert not outermost(sides, np.array([[0.0, 1.0, 0.0]])).any()
    line = np.zeros((64, 128), dtype=bool)
    line[:, 64] = True
    assert not len(hull(np.where(line, 0.5, 0.0), line))


def test_from_aside_it_is_nearer_to_the_truth_than_a_skin_or_holes() -> None:
    found = novel.measured(1, ["true", "usual"], [0.6], keep=None)
    for how in ("true", "usual"):
        cuts, skin, whole = (each.figures for row, each in found.items() if row[0] == how)
        assert whole.open <= 0.003
        assert whole.psnr > max(cuts.psnr, skin.psnr) + (3 if how == "true" else 0)
        assert whole.close > max(cuts.close, skin.close)


def test_from_the_viewer_nothing_invented_shows(room: Room) -> None:
    scene = made(room.distance, Options(), normal=room.normal)
    seen, both = cast(scene.geometry.positions, scene.geometry.faces, evenly(400)), cast(*whole(scene), evenly(400))
    assert (np.abs(both / seen - 1) > 1e-9).mean() <= 0.005


def test_it_has_names_of_its_own_and_can_be_left_out() -> None:
    distance, _, _ = with_box(64)
    for options, nodes, materials in (
        (RELATIVE, ["Panorama", "background", "Viewer"], ["Panorama", "invented"]),
        (Options(camera_height=0, background=False), ["Panorama", "Viewer"], ["Panorama"]),
    ):
        scene = made(distance, options)
        length = struct.unpack("<I", scene.glb[12:16])[0]
        document = json.loads(scene.glb[20 : 20 + length])
        assert [node["name"] for node in document["nodes"]] == nodes
        assert [material["name"] for material in document["materials"]] == materials
        assert ("Background: invented behind" in scene.report) == options.background


def test_where_nothing_is_hidden_nothing_is_invented() -> None:
    scene = made(hall(64)[0])
    assert scene.background is None and "Background: nothing is invented" in scene.report


def test_colours_grow_inwards_and_known_ones_stay() -> None:
    picture = np.random.default_rng(0).random((33, 66, 3))
    gone = np.zeros((33, 66), dtype=bool)
    gone[8:20, 50:] = gone[8:20, :7] = True
    picture[gone] = 100.0
    filled = inpainted(picture, gone)
    assert np.allclose(filled[~gone], picture[~gone], atol=1e-6)
    assert filled[gone].min() >= 0 and filled[gone].max() <= 1
    assert np.allclose(inpainted(np.full((16, 32, 3), 0.25), gone[:16, :32]), 0.25)


@pytest.mark.parametrize("covered", [0.0, 4.0, 15.0])
def test_a_tripod_does_not_set_the_scale(covered: float) -> None:
    """A disc of so many degrees 0.25 m below the viewer; the hall is 4 m high."""
    distance, normals = hall(HEIGHT)
    down = -rays(HEIGHT)[..., 1]
    disc = down > np.cos(np.radians(covered))
    scene = made(np.where(disc, 0.25 / np.maximum(down, 1e-9), distance), Options(camera_height=1.6), normal=normals)
    assert np.allclose(scene.geometry.positions[scene.geometry.uv[:, 1] == 0][:, 1], 2.4, rtol=0.01)
