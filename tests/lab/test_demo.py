"""The demo's output while it runs: the progress of the sampler, and short paths."""

import time
from pathlib import Path

import numpy as np
import pytest
import trimesh
from comfyui_omnix.lab.demo import micro, scene
from comfyui_omnix.lab.demo.files import short
from comfyui_omnix.lab.host.progress import heard
from comfyui_omnix.lab.host.server import Server
from comfyui_omnix.lab.host.tiny_models import ModelNames
from comfyui_omnix.lab.rooms.dataset import maps
from comfyui_omnix.lab.rooms.meshes import BACKGROUND, Camera, draw
from comfyui_omnix.lab.rooms.random_room import random_room
from comfyui_omnix.lab.rooms.room import render
from comfyui_omnix.mapfiles import layout
from comfyui_omnix.omnix.scene import Options
from PIL import Image


@pytest.mark.server
def test_each_step_of_the_sampler_is_heard(server: Server) -> None:
    names = ModelNames()
    sampler = {"seed": 0, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    linked = {"model": ["1", 0], "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0]}
    clip = {"clip_name1": names.clip_l, "clip_name2": names.t5, "type": "flux"}
    graph = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": names.flux, "weight_dtype": "default"}},
        "2": {"class_type": "DualCLIPLoader", "inputs": clip},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": ""}},
        "4": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {"class_type": "KSampler", "inputs": sampler | linked},
        "6": {"class_type": "SaveLatent", "inputs": {"samples": ["5", 0], "filename_prefix": "heard"}},
    }
    steps: list[tuple[int, int]] = []
    with heard(server.url, lambda node, value, total: steps.append((value, total)) if node == "5" else None):
        server.run(graph)
        deadline = time.monotonic() + 60
        while (3, 3) not in steps and time.monotonic() < deadline:  # what is heard comes by another way than the end
            time.sleep(0.05)
    # The host reports a step only if some time has passed since the last report; the last step is always reported.
    assert steps == sorted({*steps}) and steps[-1] == (3, 3) and {total for _, total in steps} == {3}


def test_paths_are_shown_relative_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short(tmp_path / "demo-output" / "a.png") == Path("demo-output", "a.png")
    assert short(tmp_path.parent / "a.png") == tmp_path.parent / "a.png"


def test_the_room_comes_out_as_a_scene_and_a_picture_of_it(tmp_path: Path) -> None:
    truth = tmp_path / "room"
    made = maps(render(256, 128, stage=random_room(0)))
    for kind in ("rgb", "depth", "normal", "albedo", "roughness", "metallic"):
        layout.write(layout.place(truth, kind, "000001"), kind, made[kind])
    pictures = scene.show(truth, truth, made["rgb"], tmp_path)
    assert np.array_equal(*pictures)
    mesh = trimesh.load(tmp_path / "scene.glb", force="mesh")
    # The scene has the size for a camera at the height of a person's eyes.
    below = mesh.vertices[np.abs(mesh.vertices[:, [0, 2]]).max(axis=1) < 1e-3, 1].min()
    assert np.isclose(below, -Options().camera_height, rtol=0.02)
    with Image.open(tmp_path / "scene.png") as picture:
        drawn = np.asarray(picture, dtype=float) / 255
    covered = (np.abs(drawn - BACKGROUND) > 0.02).any(axis=-1)
    assert 0.1 < covered.mean() < 0.9
    assert not covered[0, 0] and covered[len(drawn) // 2, drawn.shape[1] // 2]


def test_a_drawing_shows_what_faces_the_camera_and_the_nearest_of_it() -> None:
    """Two squares before the camera: the nearer covers half of the farther, and from behind there is nothing."""
    square = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    positions = np.concatenate([square, square * [0.5, 1, 1] + [0.5, 0, 1]])
    uv = np.repeat([[0.25, 0.5], [0.75, 0.5]], 4, axis=0)
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    texture = np.array([[[1.0, 0, 0], [0, 0, 1]]])
    front = draw(positions, uv, faces, texture, Camera((0, 0, 4), fov=50), (64, 64))
    assert np.allclose(front[32, 16], [1, 0, 0]) and np.allclose(front[32, 48], [0, 0, 1])
    assert np.allclose(front[2, 2], BACKGROUND)
    back = draw(positions, uv, faces, texture, Camera((0, 0, -4), fov=50), (64, 64))
    assert np.allclose(back, BACKGROUND)


def test_a_foreign_room_takes_two_rows_of_the_sheet(tmp_path: Path) -> None:
    """Its maps are on the disk as the runs find them, and equal maps have no error."""
    truth, ours = micro.prepare_foreign(tmp_path, "pale")
    assert set(layout.kinds(truth)) == {"rgb", "depth", "normal", "albedo"} and not ours.exists()
    tiles = list(micro.foreign_tiles("pale", truth, truth))
    assert len(tiles) == 6 and len({picture.shape for _, picture in tiles}) == 1
    assert any(label == "error of depth: AbsRel 0" for label, _ in tiles)
