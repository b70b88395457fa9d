"""Make places and render them in Blender: a renderer with other shapes and other looks than `lab/rooms`.

    python -m lab.blender ORDERS.json

It runs in a Python that has `bpy`, without ComfyUI, torch or the pack; `lab/rooms/by_blender.py` starts it. ORDERS.json
is a list of {"seed", "family", "height", "labels", "file"}. Each place becomes FILE.picture.exr, the radiance, and
FILE.maps.exr: the distance along the ray, the normal in Blender's axes, the albedo (linear), and `data`, which is
roughness, metallic, and the index of the label plus 1 (0 where a ray meets nothing).
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import bpy

from .place import Place
from .places import FAMILIES

SAMPLES = 16
"""Rays per pixel; Blender's denoiser smooths the result."""


def render(order: dict[str, Any]) -> None:
    """Build one place and write its pictures."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    family = FAMILIES[order["family"]]
    family.build(Place(order["seed"], family.palette, order["labels"]))
    scene = bpy.context.scene
    _set_up(scene, order["height"])
    # The picture is antialiased; the maps are read at the centres of the pixels.
    for ending, samples, width in (("picture", SAMPLES, 1.5), ("maps", 1, 0.01)):
        scene.cycles.samples, scene.cycles.filter_width = samples, width
        scene.cycles.use_denoising = samples > 1
        scene.render.filepath = f"{order['file']}.{ending}.exr"
        bpy.ops.render.render(write_still=True)


def _set_up(scene: Any, height: int) -> None:
    """Set the camera (at the origin, along +X), the passes to render and the files to write."""
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.type, camera.data.panorama_type = "PANO", "EQUIRECTANGULAR"
    camera.rotation_euler = math.pi / 2, 0.0, -math.pi / 2
    scene.collection.objects.link(camera)
    scene.camera = camera
    scene.render.engine, scene.cycles.device, scene.cycles.seed = "CYCLES", "CPU", 0
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.resolution_x, scene.render.resolution_y = 2 * height, height
    layer = scene.view_layers[0]
    for name in ("albedo", "data"):
        layer.aovs.add().name = name
    layer.use_pass_z = layer.use_pass_normal = True
    written = scene.render.image_settings
    written.media_type, written.file_format, written.color_depth = "MULTI_LAYER_IMAGE", "OPEN_EXR_MULTILAYER", "32"


if __name__ == "__main__":
    for each in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        render(each)
