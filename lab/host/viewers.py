"""Programs that show a GLB: three.js in a real browser, and Blender's Cycles on the processor."""

import base64
import io
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import ConsoleMessage, Page, Route

from .browser import chromium

Array = NDArray[np.float64]
PAGE = "http://scene.test/"
SIZE, FOV = 192, 90.0
# Ahead, across the seam, both poles, and aslant.
VIEWS = ((0.0, 0.0), (180.0, 0.0), (175.0, 20.0), (0.0, 90.0), (0.0, -90.0), (-60.0, -40.0), (110.0, 65.0))
# A panorama at the camera of the file, in plain sRGB: Blender's own view (AgX) is softer and darker.
RENDER = """
import sys
import bpy

source, target, samples, width = sys.argv[1:]
bpy.ops.wm.read_factory_settings(use_empty=True)
assert bpy.ops.import_scene.gltf(filepath=source) == {"FINISHED"}
scene = bpy.context.scene
(scene.camera,) = (thing for thing in bpy.data.objects if thing.type == "CAMERA")
scene.camera.data.type = "PANO"
scene.camera.data.panorama_type = "EQUIRECTANGULAR"
scene.render.engine, scene.cycles.device, scene.cycles.samples = "CYCLES", "CPU", int(samples)
scene.cycles.max_bounces, scene.cycles.use_denoising = 6, True
scene.render.resolution_x, scene.render.resolution_y = int(width), int(width) // 2
scene.render.resolution_percentage = 100
scene.view_settings.view_transform = "Standard"
scene.render.image_settings.file_format, scene.render.filepath = "PNG", target
bpy.ops.render.render(write_still=True)
"""


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


@contextmanager
def three() -> Iterator[Client]:
    """Open a GLB in three.js; RuntimeError if the page warns or reports an error."""
    packages = Path(os.environ["OMNIX_NODE_MODULES"])
    files: dict[str, bytes] = {"": Path(__file__).with_name("client.html").read_bytes()}
    said: list[str] = []

    def answer(route: Route) -> None:
        name = route.request.url.removeprefix(PAGE)
        body = files[name] if name in files else (packages / name).read_bytes()
        kind = {"": "text/html", ".js": "text/javascript"}.get(Path(name).suffix, "model/gltf-binary")
        route.fulfill(body=body, content_type=kind)

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("warning", "error") and "GPU stall due to ReadPixels" not in message.text:
            said.append(message.text)

    def look(glb: bytes, views: Any = VIEWS, place: Any = (0.0, 0.0, 0.0), size: int = SIZE) -> Seen:
        files["scene.glb"] = glb
        shown = page.evaluate("(given) => window.open(...given)", ["scene.glb", size, FOV, place, views])
        if said:
            raise RuntimeError(f"three.js: {said}")
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


def cycles(python: Path, glb: Path, samples: int = 16, width: int = 128) -> Array:
    """Return the panorama [width / 2, width, 3] of a file in Blender, as its importer's default reads it."""
    target = glb.with_suffix(".png")
    command = [python, "-c", RENDER, glb, target, str(samples), str(width)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Blender: {done.stderr}")
    return np.asarray(Image.open(target).convert("RGB"), dtype=float) / 255
