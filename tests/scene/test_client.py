"""A scene in three.js, in a real browser: from the origin it looks as the panorama does, and beside it as the room."""

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_omnix.lab.host.viewers import FOV, SIZE, VIEWS, Client, three
from comfyui_omnix.lab.rooms.room import Room, render
from comfyui_omnix.lab.rooms.stage import showroom
from comfyui_omnix.lab.rooms.view import ORIGIN, Grid, look
from comfyui_omnix.omnix.pictures.panorama import perspective_view
from comfyui_omnix.omnix.scene import Options, build_scene
from comfyui_omnix.omnix.scene.light import brightness
from everything import everything
from rays import Array

HEIGHT = 512


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Opens a GLB in three.js."""
    with three() as look:
        yield look


@pytest.fixture(scope="module")
def room() -> Room:
    return render(2 * HEIGHT, HEIGHT)


def psnr(found: Array, wanted: Array, where: Any) -> float:
    return -10 * math.log10(float(((found - wanted)[where] ** 2).mean()))


def view_of(panorama: Array, yaw: float, pitch: float) -> Array:
    """Return what our own perspective view shows of [H, W, C]."""
    return perspective_view(torch.from_numpy(panorama)[None], SIZE, SIZE, FOV, yaw, pitch)[0].numpy()


@pytest.mark.parametrize("cut", [False, True])
def test_from_the_origin_it_is_the_panorama(client: Client, room: Room, cut: bool, measured: Any) -> None:
    seen = client(build_scene(room.distance, {"image": room.rgb}, Options(cut=cut)).glb)
    assert seen.kinds == ["MeshBasicMaterial"] * (3 if cut else 1), "what is thin and what is behind are apart"
    figures = []
    for view, picture, filled in zip(VIEWS, seen.pictures, seen.filled):
        assert filled.mean() > 0.99 if cut else filled.all()
        figures.append(psnr(picture, view_of(room.rgb, *view), filled))
    name = f"three.js from the origin, {'cut' if cut else 'whole'}: lowest PSNR of {len(VIEWS)} views"
    assert measured(name, min(figures)) >= 30
    turned = view_of(room.rgb, 3.0, 0.0)
    assert psnr(seen.pictures[0], turned, seen.filled[0]) < min(figures) - 3


def test_beside_the_origin_it_is_the_room_where_the_origin_saw_it(client: Client, measured: Any) -> None:
    """0.3 m to the right: the room's true colours there, against the mesh that was made at the origin."""
    stage, grid = showroom(), Grid(HEIGHT, 2 * HEIGHT)
    own = look(stage.scene, ORIGIN, grid.rays())
    beside = look(stage.scene, ORIGIN - np.float32([[0], [0], [0.3]]), grid.rays())
    colours, there = (np.ascontiguousarray(grid.planes(one.albedo).transpose(1, 2, 0)) for one in (own, beside))
    distance = own.hits.distance.reshape(HEIGHT, 2 * HEIGHT)
    reach = np.linalg.norm(beside.hits.point, axis=0)
    known = np.abs(own.hits.distance[grid.pixel(beside.hits.point)] / reach - 1) < 0.01
    seen = client(build_scene(distance, {"image": colours}, Options(camera_height=0)).glb, place=(0.3, 0.0, 0.0))
    true = np.dstack([there, known.reshape(HEIGHT, 2 * HEIGHT)]).astype(np.float32)
    figures = []
    for view, picture, filled in zip(VIEWS, seen.pictures, seen.filled):
        wanted = view_of(true, *view)
        where = filled & (wanted[..., 3] > 0.99)
        assert where.mean() > 0.7
        figures.append(psnr(picture, wanted[..., :3], where))
    assert measured("three.js 0.3 m beside the origin: median PSNR of the views", float(np.median(figures))) >= 25
    still = psnr(seen.pictures[0], view_of(colours, *VIEWS[0]), seen.filled[0])
    assert still < figures[0] - 3, "the camera has not moved"


def test_a_lit_scene_has_all_its_maps(client: Client, room: Room, measured: Any) -> None:
    grey = {name: np.repeat(getattr(room, name)[..., None], 3, axis=-1) for name in ("roughness", "metallic")}
    maps = {
        "image": room.rgb,
        "albedo": room.albedo,
        "normal": room.normal,
        "occlusion": np.ones_like(room.rgb),
        **grey,
    }
    seen = client(build_scene(room.distance, maps, Options(cut=False)).glb)
    assert (
        seen.kinds == ["MeshStandardMaterial"] * 2 and 1 <= len(seen.lights) <= 4 and {*seen.lights} == {"PointLight"}
    )
    assert seen.bound[: len(seen.bound) // 2] == ["type", "map", "normalMap", "roughnessMap", "metalnessMap", "aoMap"]
    lit = np.concatenate([picture.reshape(-1, 3) for picture in seen.pictures])
    shown = np.concatenate([view_of(room.rgb, *view).reshape(-1, 3) for view in VIEWS])
    assert (lit.max(axis=-1) > 0.02).mean() > 0.95, "lamps shine on what the viewer sees"
    ratio = float(np.median(brightness(lit) / np.maximum(brightness(shown), 1e-3)))
    assert 0.75 < measured("three.js, a lit scene: median brightness against the panorama's", ratio) < 1.25
    burnt = float(((lit.max(axis=-1) > 0.998) & (shown.max(axis=-1) < 0.998)).mean())
    assert measured("three.js, a lit scene: share that is pure white only there", burnt) < 0.02
    dark = client(build_scene(room.distance, maps, Options(cut=False, light=False)).glb)
    shining = np.concatenate([picture.max(axis=-1).ravel() for picture in dark.pictures]) > 0
    assert not dark.lights and 0 < shining.mean() < 0.1, "without a light only windows and lamps show"


def test_a_scene_with_everything_has_its_names(client: Client) -> None:
    """three.js takes the points out of names, and numbers the materials of one mesh."""
    scene = everything()
    seen = client(scene.glb, place=(0.0, 1.6, 0.0))
    named = {
        (re.sub(r"_\d+$", "", name), re.sub(r"(\.glow)?(\.thin)?$", "", material)) for name, material in seen.named
    }
    objects = {name for name, _ in named if name.startswith("object")}
    wanted = {"Panorama": "Panorama", "background": "invented", "sky": "sky", "colliderfloor": "collider.floor"}
    assert named == set(wanted.items()) | {(name, "object") for name in objects} and len(objects) > 2
    assert {*seen.lights} == {"PointLight"} and all(filled.mean() > 0.99 for filled in seen.filled)
