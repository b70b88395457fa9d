"""Programs that import a GLB see all of a scene with everything: Khronos' validator, trimesh, and Blender."""

import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from comfyui_omnix.lab.host.environment import SetupError, blender, cache_folder
from comfyui_omnix.omnix.scene import Scene
from everything import everything
from test_files import verdicts

PARTS = {"Panorama": "Panorama", "background": "invented", "sky": "sky", "collider.floor": "collider.floor"}
"""Node -> material; objects have one of their own, which shows both sides."""
ENDS = ("", ".glow", ".thin", ".glow.thin")
"""What glows and what is thin has a material of its own."""
IMPORT = """
import json, sys
import bpy

bpy.ops.wm.read_factory_settings(use_empty=True)
assert bpy.ops.import_scene.gltf(filepath=sys.argv[1]) == {"FINISHED"}
meshes = {}
for thing in (thing for thing in bpy.data.objects if thing.type == "MESH"):
    places = [thing.matrix_world @ vertex.co for vertex in thing.data.vertices]
    box = [[end(place[axis] for place in places) for axis in range(3)] for end in (min, max)]
    materials = [slot.material.name for slot in thing.material_slots if slot.material]
    meshes[thing.name] = {"triangles": len(thing.data.polygons), "box": box, "materials": materials}
nodes = {made.name: [node.bl_idname for node in made.node_tree.nodes] for made in bpy.data.materials}
images = {image.name: list(image.size) for image in bpy.data.images}
others = {thing.name: thing.type for thing in bpy.data.objects if thing.type != "MESH"}
print("FOUND" + json.dumps({"meshes": meshes, "nodes": nodes, "images": images, "others": others}))
"""


@pytest.fixture(scope="module")
def scene() -> Scene:
    return everything()


@pytest.fixture(scope="module")
def file(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("everything") / "scene.glb"
    path.write_bytes(scene.glb)
    return path


def parts_of(scene: Scene) -> dict[str, list[Any]]:
    """Return the meshes of each node as trimesh reads them, where they stand: one for each material."""
    loaded = trimesh.load(io.BytesIO(scene.glb), file_type="glb", process=False)
    parts: dict[str, list[Any]] = {}
    for place, name in (loaded.graph[node] for node in sorted(loaded.graph.nodes_geometry)):
        parts.setdefault(re.sub(r"_\d+$", "", name), []).append(loaded.geometry[name].copy().apply_transform(place))
    return parts


def test_khronos_and_trimesh_find_all_of_it(scene: Scene, file: Path) -> None:
    (told,) = verdicts(file)
    assert (told["numErrors"], told["numWarnings"]) == (0, 0), told
    parts = parts_of(scene)
    objects = {name for name in parts if name.startswith("object.")}
    assert set(parts) == set(PARTS) | objects and len(objects) > 2
    assert any(not name.split(".")[1].isdigit() for name in objects), "an object is named by its class"
    for name, meshes in parts.items():
        own = PARTS.get(name, "object")
        found = {mesh.visual.material.name for mesh in meshes}
        assert len(found) == len(meshes) and found <= {own + end for end in ENDS}
    assert len(parts["Panorama"]) == len(ENDS), "windows and lamps glow, and some parts are thin"
    seen = [len(mesh.faces) for name in ("Panorama", *objects) for mesh in parts[name]]
    assert sum(seen) == len(scene.geometry.faces)


@pytest.fixture(scope="module")
def imported(file: Path) -> dict[str, Any]:
    """Return what Blender holds after its import, which says nothing of a warning."""
    try:
        python = blender(cache_folder())
    except SetupError as error:
        pytest.skip(str(error))
    done = subprocess.run([python, "-c", IMPORT, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "warn" not in said.lower() and "error" not in said.lower(), said
    return json.loads(said.partition("FOUND")[2].splitlines()[0])


def test_blender_has_the_names_the_triangles_and_the_places(scene: Scene, imported: dict[str, Any]) -> None:
    parts = parts_of(scene)
    assert set(imported["meshes"]) == set(parts)
    for name, meshes in parts.items():
        found = imported["meshes"][name]
        assert found["triangles"] == sum(len(mesh.faces) for mesh in meshes)
        x, y, z = np.concatenate([mesh.vertices[np.unique(mesh.faces)] for mesh in meshes]).T
        box = np.stack([x, -z, y])  # Blender's Z is up
        assert np.allclose(found["box"], [box.min(axis=1), box.max(axis=1)], atol=1e-4)
    lamps = {name: kind for name, kind in imported["others"].items() if name.startswith("Light.")}
    assert set(lamps.values()) == {"LIGHT"} and imported["others"] == lamps | {"Viewer": "CAMERA"}


def test_blender_has_the_materials_without_helper_nodes(imported: dict[str, Any]) -> None:
    kinds = {*PARTS.values(), "object"}
    for name, mesh in imported["meshes"].items():
        own = PARTS.get(name, "object")
        assert set(mesh["materials"]) <= {own + end for end in ENDS}
    assert kinds <= set(imported["nodes"]) <= {kind + end for kind in kinds for end in ENDS}
    assert not [node for nodes in imported["nodes"].values() for node in nodes if node == "ShaderNodeMath"]
    assert all(min(size) > 0 for size in imported["images"].values())
