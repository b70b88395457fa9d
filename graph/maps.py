"""Nodes that turn decoded pictures into maps, and maps into formats for other tools."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..mapfiles.nyu40 import CLASSES
from ..omnix.pictures import maps, semantics
from ..omnix.scene.inputs import normals_in_frame
from .lineage import HIDDEN, check_inputs, check_map

MogeGeometry = io.Custom("MOGE_GEOMETRY")
SEMANTIC = {
    "floor": "Floors. The colour was read from two maps.",
    "wall": "Walls. The colour was read from two maps.",
    "ceiling": "Ceilings. The colour was read from two maps.",
    "curtain": "Curtains. The colour was read from one map.",
    "door": "Doors. The colour was read from one map.",
    "window": "Windows. The colour was read from one map.",
    "unclear": "Pixels whose colour matches none of these classes, such as furniture and edges.",
}
"""Name of a mask -> what it holds, in the order of `semantics.NAMES`."""


class OmniXDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXDepth",
            display_name="OmniX Depth",
            category="OmniX/maps",
            description="Read the relative distance along each ray from a decoded depth panorama: unchanged, or "
            "stretched between two percentiles.",
            search_aliases=["omnix", "distance", "depth map", "360"],
            hidden=[*HIDDEN],
            inputs=[
                io.Image.Input("image", tooltip="The decoded target of rgb_to_depth."),
                io.Boolean.Input(
                    "stretch",
                    default=False,
                    optional=True,
                    tooltip="Map the near percentile to 0 and the far percentile to 1. This changes the data.",
                ),
                io.Float.Input(
                    "near",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    optional=True,
                    tooltip="With stretch: the percentile that becomes 0.",
                ),
                io.Float.Input(
                    "far",
                    default=100.0,
                    min=0.0,
                    max=100.0,
                    optional=True,
                    tooltip="With stretch: the percentile that becomes 1.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="depth", tooltip="Distance in three equal channels. Save it as linear EXR."
                ),
                io.Mask.Output(display_name="mask", tooltip="The same values as a mask."),
            ],
        )

    @classmethod
    def execute(cls, image: Any, stretch: bool = False, near: float = 0.0, far: float = 100.0) -> io.NodeOutput:
        check_map(cls, "depth")
        depth = maps.depth(image)
        return io.NodeOutput(*(maps.stretch(depth.mask, near, far) if stretch else depth))


class OmniXNormal(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXNormal",
            display_name="OmniX Normal",
            category="OmniX/maps",
            description="Read world-space normals from a decoded normal panorama and make them unit length. Axes: "
            "front +X, up +Y, left +Z.",
            search_aliases=["omnix", "normal map", "world normal", "360"],
            hidden=[*HIDDEN],
            inputs=[
                io.Image.Input("image", tooltip="The decoded target of rgb_to_normal or rgb_camray_to_normal."),
                io.Combo.Input(
                    "convention",
                    options=["OpenGL", "DirectX"],
                    default="OpenGL",
                    optional=True,
                    tooltip="DirectX inverts the green channel (up).",
                ),
                io.Mask.Input(
                    "depth",
                    optional=True,
                    tooltip="The mask output of OmniX Depth. With it the normals are turned to fit this depth, as "
                    "Panorama to 3D Scene does.",
                ),
            ],
            outputs=[io.Image.Output(display_name="normal", tooltip="normal * 0.5 + 0.5.")],
        )

    @classmethod
    def execute(cls, image: Any, convention: str = "OpenGL", depth: Any = None) -> io.NodeOutput:
        check_map(cls, "normal")
        read = image if depth is None else normals_in_frame(maps.normal(image), depth)
        return io.NodeOutput(maps.normal(read, directx=convention == "DirectX"))


class OmniXMaterial(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXMaterial",
            display_name="OmniX Roughness and Metallic",
            category="OmniX/maps",
            description="Split a decoded PBR panorama into its two channels, unchanged.",
            search_aliases=["omnix", "pbr", "roughness", "metallic", "material", "intrinsic"],
            hidden=[*HIDDEN],
            inputs=[io.Image.Input("image", tooltip="The decoded target of rgb_to_pbr.")],
            outputs=[
                io.Image.Output(display_name="roughness", tooltip="0 smooth, 1 rough."),
                io.Image.Output(display_name="metallic", tooltip="0 dielectric, 1 metal."),
            ],
        )

    @classmethod
    def execute(cls, image: Any) -> io.NodeOutput:
        check_map(cls, "pbr")
        return io.NodeOutput(*maps.material(image))


class OmniXSemantic(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXSemantic",
            display_name="OmniX Semantic",
            category="OmniX/maps",
            description="Make masks of floor, wall, ceiling, curtain, door and window from a decoded semantic "
            "panorama, by the nearest known colour. Furniture is unclear: its colours are not known.",
            search_aliases=["omnix", "segmentation", "mask", "floor", "wall", "window", "NYU40", "legend"],
            hidden=[*HIDDEN],
            inputs=[
                io.Image.Input("image", tooltip="The decoded target of rgb_to_semantic."),
                io.Float.Input(
                    "tolerance",
                    default=float(semantics.TOLERANCE),
                    min=0.0,
                    max=442.0,
                    step=1.0,
                    optional=True,
                    tooltip="A pixel is unclear if its colour is farther than this from every known colour, in levels "
                    "of 8 bits.",
                ),
            ],
            outputs=[
                *(io.Mask.Output(display_name=name, tooltip=text) for name, text in SEMANTIC.items()),
                io.Image.Output(
                    display_name="legend", tooltip="The map and its classes, with the colour and share of each."
                ),
            ],
        )

    @classmethod
    def execute(cls, image: Any, tolerance: float = semantics.TOLERANCE) -> io.NodeOutput:
        check_map(cls, "semantic")
        colours = {name: colour for name, colour in CLASSES if name in semantics.EVIDENCE}
        masks = semantics.classes(image, colours, tolerance)
        return io.NodeOutput(*masks.values(), semantics.legend(image, masks, colours))


class OmniXPackORM(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXPackORM",
            display_name="Pack Occlusion Roughness Metallic",
            category="OmniX/maps",
            description="Pack glTF's ORM texture: occlusion in red, roughness in green, metallic in blue.",
            search_aliases=["omnix", "ORM", "ARM", "glTF", "texture"],
            hidden=[*HIDDEN],
            inputs=[
                io.Image.Input("roughness", tooltip="0 smooth, 1 rough."),
                io.Image.Input("metallic", tooltip="0 dielectric, 1 metal."),
                io.Image.Input("occlusion", optional=True, tooltip="Ambient occlusion. If not connected, red is 1."),
            ],
            outputs=[io.Image.Output(display_name="orm", tooltip="Linear data, not sRGB.")],
        )

    @classmethod
    def execute(cls, roughness: Any, metallic: Any, occlusion: Any = None) -> io.NodeOutput:
        check_inputs(cls, "roughness", "metallic")
        return io.NodeOutput(maps.orm(roughness, metallic, occlusion))


class OmniXMogeGeometry(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXMogeGeometry",
            display_name="Depth to MoGe Geometry",
            category="OmniX/maps",
            description="Convert OmniX depth for ComfyUI's MoGe nodes, which render it and make a mesh from it.",
            search_aliases=["omnix", "mesh", "point map", "glb", "geometry"],
            hidden=[*HIDDEN],
            inputs=[
                io.Mask.Input("depth", tooltip="The mask output of OmniX Depth."),
                io.Image.Input("image", tooltip="The panorama at the size of the depth map; it becomes the texture."),
            ],
            outputs=[
                MogeGeometry.Output(display_name="moge_geometry", tooltip="Connect to the MoGe render and mesh nodes.")
            ],
        )

    @classmethod
    def execute(cls, depth: Any, image: Any) -> io.NodeOutput:
        check_inputs(cls, "depth")
        return io.NodeOutput(maps.moge_geometry(depth, image))
