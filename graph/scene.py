"""The node that makes a 3D scene of a panorama and its maps."""

from __future__ import annotations

import inspect
from io import BytesIO
from typing import Any

import torch
from comfy_api.latest import Types, io

from ..omnix.scene import Options, Scene
from ..omnix.scene.inputs import each_scene
from .layers import COLOURS, BackgroundLayer
from .lineage import HIDDEN, check_inputs
from .maps import MogeGeometry

TEXTURES = {
    "albedo": "Base colour; without it the panorama itself is shown, unlit.",
    "normal": "World normals, from OmniX Normal (OpenGL). The node turns them to fit the depth, or leaves them out if "
    "they contradict it.",
    "roughness": "0 smooth, 1 rough; 1 if not connected.",
    "metallic": "0 dielectric, 1 metal; 0 if not connected.",
    "occlusion": "Ambient occlusion; 1 if not connected.",
}
NAMING = (
    "The decoded target of rgb_to_semantic: it separates the room from objects, and names objects of a known colour."
)
SHARE = {"min": 0.0, "max": 1.0, "step": 0.001, "advanced": True}
OPTIONS: tuple[tuple[str, Any, dict[str, Any], str], ...] = (
    (
        "camera_height",
        io.Float,
        {"min": 0.0, "max": 10000.0, "step": 0.01},
        "Metres from the viewer down to the floor; it sets the scale. 0 keeps the depth's own unit.",
    ),
    (
        "triangles",
        io.Int,
        {"min": 500, "max": 10_000_000},
        "At most this many triangles; fewer if that satisfies max_error. The background may add half as many.",
    ),
    ("cut", io.Boolean, {}, "Cut where a surface ends in front of another."),
    ("tolerance", io.Float, SHARE, "The smallest gap that counts, as a share of the farther distance."),
    ("max_error", io.Float, SHARE, "Largest error of the mesh, as a share of the distance."),
    ("unlit", io.Boolean, {}, "Show the panorama itself, without lights."),
    ("textures", io.Combo, {"options": ["PNG", "JPEG"]}, "PNG is exact, JPEG is smaller."),
    ("texture_size", io.Int, {"min": 0, "max": 16384}, "Greatest width of a texture in pixels; 0 keeps the maps' own."),
    ("light", io.Boolean, {"advanced": True}, "With albedo: add up to four point lights (KHR_lights_punctual)."),
    (
        "background",
        io.Boolean,
        {},
        "With cut: invent the surfaces hidden behind the cuts, as a second mesh whose material is named invented.",
    ),
    (
        "objects",
        io.Boolean,
        {},
        "With cut: make each thing in front of the room a separate node, visible from both sides.",
    ),
    (
        "sky",
        io.Boolean,
        {},
        "Show directions without depth, and a bright outside where the depth is cut off, on an unlit dome around the "
        "scene. If off, directions without depth stay open.",
    ),
    (
        "origin",
        io.Combo,
        {"options": ["viewer", "floor"], "advanced": True},
        "Where the origin of the file is: at the viewer, or on the floor below.",
    ),
    (
        "collider",
        io.Boolean,
        {"advanced": True},
        "Add an invisible rectangle on the floor for physics, as a node named collider.floor.",
    ),
)


class OmniXScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXScene",
            display_name="Panorama to 3D Scene",
            category="OmniX/maps",
            description="Turn a panorama and its depth into a textured mesh as GLB, which Blender, three.js "
            "and Unreal open: cut where surfaces end, reduced, with the materials that you connect.",
            search_aliases=["omnix", "mesh", "glb", "gltf", "3D", "scene", "360", "export"],
            hidden=[*HIDDEN],
            inputs=[
                io.Image.Input("image", tooltip="The panorama, twice as wide as high."),
                io.Mask.Input(
                    "depth",
                    optional=True,
                    tooltip="The mask output of OmniX Depth: distance along the ray, 0 where there is none.",
                ),
                MogeGeometry.Input(
                    "moge_geometry", optional=True, tooltip="A panorama's MoGe geometry, instead of depth."
                ),
                *(io.Image.Input(name, optional=True, tooltip=text) for name, text in TEXTURES.items()),
                io.Image.Input("semantic", optional=True, tooltip=NAMING),
                BackgroundLayer.Input(
                    "background_layer",
                    optional=True,
                    tooltip="From Background Layer: the surfaces that OmniX draws behind things.",
                ),
                *_options(),
            ],
            outputs=[
                io.File3DGLB.Output(
                    display_name="model_3d", is_output_list=True, tooltip="One GLB file for each panorama of the batch."
                ),
                io.Mesh.Output(
                    display_name="mesh", is_output_list=True, tooltip="The same mesh, for ComfyUI's mesh nodes."
                ),
                io.String.Output(
                    display_name="report",
                    is_output_list=True,
                    tooltip="Report on the scene: what was made and cut, and which defaults were used.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, image: Any, depth: Any = None, moge_geometry: Any = None, background_layer: Any = None, **more: Any
    ) -> io.NodeOutput:
        check_inputs(cls, "depth", "semantic", *TEXTURES)
        maps = {name: more.pop(name, None) for name in (*TEXTURES, "semantic")}
        given = {"image": image, **{name: pixels for name, pixels in maps.items() if pixels is not None}}
        scenes = list(each_scene(given, depth, moge_geometry, Options(**more), background_layer, COLOURS))
        files = [Types.File3D(BytesIO(scene.glb), "glb") for scene in scenes]
        return io.NodeOutput(files, [host_mesh(scene) for scene in scenes], [scene.report for scene in scenes])


def _options() -> list[Any]:
    """Return the inputs other than maps; their defaults are those of `Options`."""
    usual = Options()
    return [
        kind.Input(name, default=getattr(usual, name), optional=True, tooltip=text, **more)
        for name, kind, more, text in OPTIONS
    ]


def host_mesh(scene: Scene) -> Any:
    """Return the host's MESH, batch 1, with every field that its class has and a scene can fill."""
    geometry, textures = scene.geometry, scene.textures
    arrays = {
        "vertices": geometry.positions,
        "uvs": geometry.uv,
        "texture": textures.base_colour,
        "normals": geometry.normals,
        "tangents": geometry.tangents,
        "normal_map": textures.normal,
        "metallic_roughness": textures.orm,
    }
    fields: dict[str, Any] = {
        name: torch.from_numpy(values).float()[None] for name, values in arrays.items() if values is not None
    }
    fields |= {
        "faces": torch.from_numpy(geometry.faces).long()[None],
        "unlit": textures.unlit,
        "occlusion_in_mr": "occlusion" in textures.given,
    }
    known = inspect.signature(Types.MESH).parameters
    return Types.MESH(**{name: value for name, value in fields.items() if name in known})
