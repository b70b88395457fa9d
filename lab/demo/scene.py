"""The room of the demo as a 3D scene, from predicted and from true maps, and pictures of it from outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...mapfiles import layout
from ...mapfiles.pictures import Array
from ...omnix.scene import Options, Scene, build_scene
from ..rooms.meshes import Camera, draw
from .files import save_picture, short

SIZE = 960, 600
TEXTURES = ("normal", "albedo", "roughness", "metallic")
VIEW = np.array([-0.4, 0.62, 0.73])
"""The camera's position in multiples of half the room's largest size: above a corner, looking down."""


def show(perceived: Path, truth: Path, rgb: Array, output: Path) -> list[Array]:
    """Write scene.glb of the predicted maps; return pictures [h, w, 3] of it and of the scene of the true maps."""
    print("\n== 7. The room as a 3D scene, from the perceived maps")
    made, true = (scene_of(folder, rgb) for folder in (perceived, truth))
    (output / "scene.glb").write_bytes(made.glb)
    print(f"{short(output / 'scene.glb')}: for Blender, three.js, Unreal, and Load 3D in ComfyUI")
    print("\n".join(f"  {line}" for line in made.report.splitlines()))
    pictures = [drawn(made, rgb), drawn(true, rgb)]
    save_picture(output / "scene.png", pictures[0])
    print(f"{short(output / 'scene.png')}: the scene from outside, unlit; its ceiling and near walls face inwards")
    return pictures


def scene_of(folder: Path, rgb: Array) -> Scene:
    """Build the scene of the one room in a folder of maps; pixels without a depth have no surface."""
    kinds = layout.kinds(folder)
    (stem,) = layout.stems(folder, "depth")
    found = {kind: layout.read(layout.find(folder, kind, stem), kind) for kind in kinds}
    maps = {kind: found[kind].reshape(*rgb.shape[:2], -1) for kind in TEXTURES if kind in found}
    return build_scene(np.nan_to_num(found["depth"]), {"image": rgb, **maps}, Options())


def drawn(scene: Scene, texture: Array) -> Array:
    """Draw a scene with the panorama on it, from outside and as a whole, [h, w, 3]."""
    mesh = scene.geometry
    size = np.abs(mesh.positions).max()
    camera = Camera(tuple(2.2 * size * VIEW), target=(0.0, -0.1 * size, 0.0))
    return draw(mesh.positions, mesh.uv, mesh.faces, texture, camera, SIZE)
