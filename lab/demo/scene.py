"""Last part of the demo: the room as a 3D scene, from its true maps, and what it looks like from outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ...omnix.scene import Options, build_scene
from ..rooms.furniture import FLOOR
from ..rooms.meshes import FROM_OUTSIDE, draw
from .paths import short

SIZE = 960, 600


def show(output: Path) -> None:
    """Write scene.glb and scene.png of the room whose picture and truth lie in `output`."""
    print("\n== 7. The room as a 3D scene, from its true maps")
    with np.load(output / "panorama_truth.npz") as truth, Image.open(output / "panorama.png") as picture:
        maps = {name: truth[name] for name in ("normal", "albedo")}
        maps |= {name: truth[name][..., None] for name in ("roughness", "metallic")}
        image = np.asarray(picture, dtype=np.float32) / 255
        made = build_scene(truth["distance"], {"image": image, **maps}, Options(camera_height=-FLOOR))
    (output / "scene.glb").write_bytes(made.glb)
    print(f"{short(output / 'scene.glb')}: for Blender, three.js, Unreal, and Load 3D in ComfyUI")
    print("\n".join(f"  {line}" for line in made.report.splitlines()))
    mesh = made.geometry
    drawn = draw(mesh.positions, mesh.uv, mesh.faces, image, FROM_OUTSIDE, SIZE)
    Image.fromarray((drawn * 255 + 0.5).astype(np.uint8)).save(output / "scene.png")
    print(f"{short(output / 'scene.png')}: the scene from outside, unlit; its ceiling and near walls face inwards")
