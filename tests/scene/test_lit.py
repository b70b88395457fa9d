"""The light of a lit scene: the lamps of a room are found again, and Blender is as bright as the panorama."""

from pathlib import Path
from typing import Any

import numpy as np
import pygltflib
import pytest
from comfyui_omnix.lab.host.environment import SetupError, blender, cache_folder
from comfyui_omnix.lab.host.viewers import cycles
from comfyui_omnix.lab.rooms.room import encode, render
from comfyui_omnix.omnix.pictures.glb import Lamp
from comfyui_omnix.omnix.scene import Options, Scene, build_scene
from comfyui_omnix.omnix.scene.frame import from_gltf, pixel_directions
from comfyui_omnix.omnix.scene.light import LUMINANCE, Points, brightness, glowing, lamps_of
from rays import Array
from test_files import verdicts

HEIGHT = 64
HALF = np.array([3.0, 1.5, 2.5])
"""Half the size of a box round the viewer, in metres."""


def box() -> tuple[Array, Array]:
    """Return the distance [H, W] of a box and its normals [H, W, 3] in glTF's axes."""
    rays = pixel_directions(HEIGHT, 2 * HEIGHT)
    reach = HALF / np.abs(rays)
    axis = reach.argmin(axis=-1)
    return reach.min(axis=-1), -np.sign(rays) * np.eye(3)[axis]


def shone(places: Array, normals: Array, lamp: Lamp) -> Array:
    """Return the light [.., 3] that matt white reflects, by Lambert's law, as three.js computes it."""
    towards = np.array(lamp.place) - places
    far = np.linalg.norm(towards, axis=-1, keepdims=True)
    cosine = np.maximum((towards / far * normals).sum(axis=-1, keepdims=True), 0)
    return np.array(lamp.candela) * cosine / (np.pi * far**2)


def lit(scene: Scene, places: Array, normals: Array) -> Array:
    """Return the light [.., 3] of a file's lamps on matt white."""
    tree = pygltflib.GLTF2.load_from_bytes(scene.glb)
    lights = tree.extensions["KHR_lights_punctual"]["lights"] if tree.extensions else []
    nodes = [node for node in tree.nodes if "KHR_lights_punctual" in (node.extensions or {})]
    total = np.zeros_like(places)
    for node in nodes:
        light = lights[node.extensions["KHR_lights_punctual"]["light"]]
        candela = np.array(light["color"]) * light["intensity"]
        total += shone(places, normals, Lamp(tuple(node.translation), tuple(candela)))
    return total


def test_lamps_that_a_room_was_lit_with_are_found_again(measured: Any) -> None:
    """A grey box with a cold and a warm lamp: its file looks like it, in brightness and in colour."""
    distance, normals = box()
    places = pixel_directions(HEIGHT, 2 * HEIGHT) * distance[..., None]
    lamps = Lamp((-1.8, 0.4, -1.0), (1.5, 2.0, 3.0)), Lamp((1.5, 0.8, 1.2), (2.5, 1.5, 0.5))
    albedo = 0.6
    light = albedo * sum(shone(places, normals, lamp) for lamp in lamps)
    maps = {"image": encode(light), "normal": from_gltf(normals)}
    maps["albedo"] = encode(np.full_like(light, albedo))
    scene = build_scene(distance, maps, Options(camera_height=0))
    ratio = albedo * lit(scene, places, normals) / light
    near = np.abs(np.log(ratio @ LUMINANCE)) < np.log(1.25)
    assert measured("a box with two lamps: share within 25 % of its brightness", float(near.mean())) > 0.7
    warm = ratio[..., 0] / ratio[..., 2]
    assert np.quantile(np.abs(np.log(warm)), 0.9) < np.log(1.25), "each end has its own colour"


def test_lamps_are_none_where_all_is_dark() -> None:
    rays = pixel_directions(8, 16).reshape(-1, 3)
    white, black, area = np.ones_like(rays), np.zeros_like(rays), np.ones(len(rays))
    assert lamps_of(Points(rays, -rays, white, black, area)) == ()
    assert lamps_of(Points(rays, -rays, black, white, area)) == ()
    assert lamps_of(Points(rays[:0], rays[:0], white[:0], white[:0], area[:0])) == ()
    assert len(lamps_of(Points(rays, -rays, white, white, area))) >= 1


@pytest.mark.parametrize("image", [0.0, 1.0, "half"])
@pytest.mark.parametrize("albedo", [0.0, 1.0])
def test_black_and_white_maps_make_a_valid_file(tmp_path: Path, image: Any, albedo: float) -> None:
    distance, _ = box()
    shape = (*distance.shape, 3)
    picture = np.full(shape, 0.5 if image == "half" else image, dtype=np.float32)
    if image == "half":
        picture[:8], distance[:8] = 1.0, 0.0  # what glows has no depth
    scene = build_scene(distance, {"image": picture, "albedo": np.full(shape, albedo, dtype=np.float32)})
    (tmp_path / "scene.glb").write_bytes(scene.glb)
    (told,) = verdicts(tmp_path / "scene.glb")
    assert (told["numErrors"], told["numWarnings"]) == (0, 0), told
    assert np.isfinite(scene.textures.strength)


def test_triangles_glow_where_the_picture_does() -> None:
    distance, _ = box()
    scene = build_scene(distance, {"image": np.full((*distance.shape, 3), 0.5, dtype=np.float32)})
    glow = np.zeros((HEIGHT, 2 * HEIGHT, 3), dtype=np.float32)
    assert not glowing(scene.geometry, glow).any()
    glow[20, 30] = 1
    found = scene.geometry.uv[scene.geometry.faces[glowing(scene.geometry, glow)]] * [2 * HEIGHT, HEIGHT]
    assert len(found) and (found.min(axis=1) <= [31, 21]).all() and (found.max(axis=1) >= [30, 20]).all()
    assert glowing(scene.geometry, np.ones_like(glow)).all()


def test_blender_is_as_bright_as_the_panorama(tmp_path: Path, measured: Any) -> None:
    """The demo's room in Cycles, as its importer's default reads the file: lit by its windows and lamps alone."""
    try:
        python = blender(cache_folder())
    except SetupError as error:
        pytest.skip(str(error))
    room = render(4 * HEIGHT, 2 * HEIGHT)
    maps = {"image": room.rgb, "albedo": room.albedo, "normal": room.normal}
    scene = build_scene(room.distance, maps, Options(triangles=10_000, light=False))
    (tmp_path / "room.glb").write_bytes(scene.glb)
    seen = cycles(python, tmp_path / "room.glb")
    shown = room.rgb.reshape(HEIGHT, 2, 2 * HEIGHT, 2, 3).mean(axis=(1, 3))
    rows = slice(HEIGHT // 4, -HEIGHT // 4)
    ratio = float(np.median(brightness(seen[rows]) / np.maximum(brightness(shown[rows]), 1e-3)))
    assert 0.75 < measured("Blender, a lit scene: median brightness against the panorama's", ratio) < 1.25
