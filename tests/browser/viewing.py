"""Panoramas for the viewer in a real browser: what is uploaded, what must be seen, and the fixtures that show it."""

import math
import time
from typing import Any

import benches
import numpy as np
import pytest
from comfyui_omnix.lab.host.browser import Pixels, ViewerOnPage, Workbench
from comfyui_omnix.lab.host.server import Server
from PIL import Image

browser, bench = benches.browser, benches.bench

# Older frontends lay their panels over the node, whose pixels are compared.
MARKS = [pytest.mark.server, pytest.mark.since("0.20.1")]

# The canvas has the same content in both renderers, so the tests use one of them.
inside = pytest.mark.parametrize("bench", ["legacy"], indirect=True)

KEY_STEP = 7.5  # degrees an arrow key turns at the first field of view, 90 degrees
DRAWN_WITHIN = 60.0
CLOSE = 4 / 255  # 8 bits in the file, in the texture and on the screen


def directions(height: int, width: int) -> Pixels:
    """Return the direction (right, up, front) of every pixel of a panorama, [H, W, 3]."""
    lon = ((np.arange(width) + 0.5) / width - 0.5) * 2 * math.pi
    lat = (0.5 - (np.arange(height) + 0.5) / height) * math.pi
    lon, lat = np.meshgrid(lon, lat)
    return np.stack([np.cos(lat) * np.sin(lon), np.sin(lat), np.cos(lat) * np.cos(lon)], -1)


def looked_at(view: Pixels, yaw: float, pitch: float, fov: float = 90.0) -> Pixels:
    """Return the direction (right, up, front) that every pixel of such a view shows, [h, w, 3]; angles in degrees."""
    height, width = view.shape[:2]
    half = math.tan(math.radians(fov) / 2)
    x, y = np.meshgrid(
        ((np.arange(width) + 0.5) / width * 2 - 1) * half,
        (1 - (np.arange(height) + 0.5) / height * 2) * half * height / width,
    )
    psi, theta = math.radians(yaw), math.radians(pitch)
    up, front = y * math.cos(theta) + math.sin(theta), math.cos(theta) - y * math.sin(theta)
    right, front = x * math.cos(psi) + front * math.sin(psi), front * math.cos(psi) - x * math.sin(psi)
    rays = np.stack([right, up, front], -1)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def direction(x: float, y: float, yaw: float) -> tuple[float, float]:
    """Return (lon, lat) in degrees of the point (x, y) of the picture plane at distance 1 of a level camera."""
    lon = (yaw + math.degrees(math.atan(x)) + 180) % 360 - 180
    return lon, math.degrees(math.atan2(y, math.hypot(1, x)))


def as_colour(rays: Pixels) -> Pixels:
    return rays * 0.5 + 0.5


@pytest.fixture(scope="module")
def pictures(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pixels]:
    """Upload panoramas whose colour is the direction, two ways, and noise with a copy turned half way round."""
    rng = np.random.default_rng(0)
    noise = rng.random((512, 1024, 3))
    made = {
        "rays": as_colour(directions(256, 512)),
        "swapped": as_colour(directions(256, 512))[..., ::-1],
        "noise": noise,
        "turned": np.roll(noise, 512, axis=1),
    }
    folder = tmp_path_factory.mktemp("panoramas")
    for name, values in made.items():
        Image.fromarray(np.round(values * 255).astype(np.uint8)).save(folder / f"{name}.png")
        server.upload(folder / f"{name}.png")
    return {name: np.round(values * 255) / 255 for name, values in made.items()}


def graph(image: str, normal: str, width: int = 400) -> dict[str, dict[str, Any]]:
    """Return a graph that views two pictures as the maps "image" and "normal"."""
    inputs = {"image": ["1", 0], "normal": ["2", 0], "view": "", "width": width}
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": f"{image}.png"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": f"{normal}.png"}},
        "3": {"class_type": "OmniXPanoramaViewer", "inputs": inputs},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }


def opened(bench: Workbench, image: str, normal: str) -> ViewerOnPage:
    """Open and run such a graph; return its viewer once it shows something."""
    bench.load(graph(image, normal))
    bench.run()
    viewer = ViewerOnPage(bench)
    viewer.wait()
    return viewer


def error(shown: Pixels, expected: Pixels) -> float:
    """Return the largest difference away from the border, where the screen may blend in its surroundings."""
    return float(np.abs(shown - expected)[4:-4, 4:-4].max())


def sees(viewer: ViewerOnPage, yaw: float, pitch: float, fov: float = 90.0, swapped: bool = False) -> None:
    """Check every pixel on the screen against the directions of such a camera, once it is drawn: on a later frame."""
    deadline = time.monotonic() + DRAWN_WITHIN
    while (apart := _apart(viewer, yaw, pitch, fov, swapped)) >= CLOSE and time.monotonic() < deadline:
        viewer.bench.settle()
    assert apart < CLOSE


def _apart(viewer: ViewerOnPage, yaw: float, pitch: float, fov: float, swapped: bool) -> float:
    shown = viewer.pixels()
    expected = as_colour(looked_at(shown, yaw, pitch, fov))
    return error(shown, expected[..., ::-1] if swapped else expected)
