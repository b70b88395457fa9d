"""A scene in three.js, in a real browser: from the origin it looks as the panorama does, and beside it as the room."""

import base64
import io
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from comfyui_omnix.lab.host.browser import chromium
from comfyui_omnix.lab.rooms.room import Room, render
from comfyui_omnix.lab.rooms.stage import showroom
from comfyui_omnix.lab.rooms.view import ORIGIN, Grid, look
from comfyui_omnix.omnix.pictures.panorama import perspective_view
from comfyui_omnix.omnix.scene import Options, build_scene
from everything import everything
from PIL import Image
from playwright.sync_api import ConsoleMessage, Page, Route
from rays import Array

PAGE = "http://scene.test/"
PACKAGES = Path(os.environ["OMNIX_NODE_MODULES"])
SIZE, FOV, HEIGHT = 192, 90.0, 512
# Ahead, across the seam, both poles, and aslant.
VIEWS = ((0.0, 0.0), (180.0, 0.0), (175.0, 20.0), (0.0, 90.0), (0.0, -90.0), (-60.0, -40.0), (110.0, 65.0))


class Seen(NamedTuple):
    """What the page shows: pictures [h, w, 3], where they are filled [h, w], and what is bound to the materials."""

    pictures: list[Array]
    filled: list[Any]
    kinds: list[str]
    bound: list[str]
    lights: list[str]
    named: list[list[str]]
    """Names of the meshes and of their materials."""


Client = Callable[..., Seen]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Opens a GLB in three.js; a word on the console of the page fails the test."""
    files: dict[str, bytes] = {"": Path(__file__).with_name("client.html").read_bytes()}
    said: list[str] = []

    def answer(route: Route) -> None:
        name = route.request.url.removeprefix(PAGE)
        body = files[name] if name in files else (PACKAGES / name).read_bytes()
        kind = {"": "text/html", ".js": "text/javascript"}.get(Path(name).suffix, "model/gltf-binary")
        route.fulfill(body=body, content_type=kind)

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("warning", "error") and "GPU stall due to ReadPixels" not in message.text:
            said.append(message.text)

    def look(glb: bytes, views: Any = VIEWS, place: Any = (0.0, 0.0, 0.0)) -> Seen:
        files["scene.glb"] = glb
        shown = page.evaluate("(given) => window.open(...given)", ["scene.glb", SIZE, FOV, place, views])
        assert not said, said
        found = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in shown["pictures"]
        ]
        colours, filled = [one[..., :3] / 255 for one in found], [one[..., 3] == 255 for one in found]
        return Seen(colours, filled, shown["kinds"], shown["bound"], shown["lights"], shown["named"])

    with chromium() as browser:
        page: Page = browser.new_page()
        page.on("console", hear)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.route(f"{PAGE}**", answer)
        page.goto(PAGE)
        page.wait_for_function("window.ready")
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
    assert seen.kinds == ["MeshBasicMaterial"] * (1 + cut), "what is behind the cuts is a mesh of its own"
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
    assert seen.kinds == ["MeshStandardMaterial"] and seen.lights == ["PointLight"]
    assert seen.bound == ["type", "map", "normalMap", "roughnessMap", "metalnessMap", "aoMap"]
    lit = np.concatenate([picture.max(axis=-1).ravel() for picture in seen.pictures])
    assert (lit > 0.02).mean() > 0.95, "a light at the viewer falls on what the viewer sees"
    bright = lit.mean() / np.concatenate([view_of(room.rgb, *view).max(axis=-1).ravel() for view in VIEWS]).mean()
    assert 0.6 < measured("three.js, a lit scene's mean value against the panorama's", float(bright)) < 1.5
    dark = client(build_scene(room.distance, maps, Options(cut=False, light=False)).glb)
    shining = np.concatenate([picture.max(axis=-1).ravel() for picture in dark.pictures]) > 0
    assert not dark.lights and 0 < shining.mean() < 0.1, "without a light only windows and lamps show"


def test_a_scene_with_everything_has_its_names(client: Client) -> None:
    """three.js takes the points out of names."""
    scene = everything()
    seen = client(scene.glb, place=(0.0, 1.6, 0.0))
    objects = {name for name, _ in seen.named if name.startswith("object")}
    assert {name for name, _ in seen.named} == {"Panorama", "background", "sky", "colliderfloor"} | objects
    assert len(objects) > 2 and len(seen.named) == len(objects) + 4
    wanted = {"Panorama": "Panorama", "background": "invented", "sky": "sky", "colliderfloor": "collider.floor"}
    assert all(material == wanted.get(name, "object") for name, material in seen.named)
    assert seen.lights == ["PointLight"] and all(filled.mean() > 0.99 for filled in seen.filled)
