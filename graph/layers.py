"""Nodes for the layers of a 3D scene: things in front, the surfaces behind them, and the view from another place."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..mapfiles.nyu40 import CLASSES
from ..omnix.pictures.panorama import check_panorama
from ..omnix.scene import Options
from ..omnix.scene.layers import distance_of, layers_behind, masked
from ..omnix.scene.moved import view_from
from ..omnix.scene.reading import read_glb
from .images import panorama_size
from .lineage import HIDDEN, check_inputs

BackgroundLayer = io.Custom("OMNIX_BACKGROUND")
COLOURS = {name: colour for name, colour in CLASSES if name != "none" and not name.startswith("other")}
"""The names of a semantic map's colours; those of furniture may differ from OmniX's."""
SEMANTIC = (
    "The decoded target of rgb_to_semantic. Its walls, floors, ceilings, doors, windows and curtains are never masked."
)
BEHIND = {
    "albedo": "Base colour of the filled panorama.",
    "roughness": "Roughness of the filled panorama.",
    "metallic": "Metallic of the filled panorama.",
    "occlusion": "Ambient occlusion of the filled panorama.",
}
STOP, LEAVE_OUT = "stop", "leave it out"


class OmniXForeground(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXForeground",
            display_name="Mask Foreground",
            category="OmniX/maps",
            description="Mask things in front of the room, such as furniture, and paint them grey: the condition with "
            "which image_to_pano draws the room behind them.",
            search_aliases=["omnix", "mask", "inpaint", "remove objects", "occlusion", "background", "360"],
            hidden=[*HIDDEN],
            inputs=[
                io.Image.Input("image", tooltip="The panorama, twice as wide as high."),
                io.Mask.Input("depth", tooltip="The mask output of OmniX Depth."),
                io.Image.Input(
                    "normal", optional=True, tooltip="World normals, from OmniX Normal; they make the cuts more exact."
                ),
                io.Image.Input("semantic", optional=True, tooltip=SEMANTIC),
                io.Int.Input(
                    "grow",
                    default=8,
                    min=0,
                    max=256,
                    optional=True,
                    tooltip="Pixels by which the mask grows in every direction, so that no edge of an object is left.",
                ),
                io.Float.Input(
                    "tolerance",
                    default=Options().tolerance,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="The smallest gap that counts, as a share of the farther distance.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="panorama", tooltip="The panorama, grey where the mask is 1."),
                io.Mask.Output(display_name="mask", tooltip="1 on things in front of the room."),
                io.String.Output(display_name="report", tooltip="How much is masked."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Any,
        depth: Any,
        normal: Any = None,
        semantic: Any = None,
        grow: int = 8,
        tolerance: float = Options().tolerance,
    ) -> io.NodeOutput:
        check_inputs(cls, "depth", "normal", "semantic")
        given = {"image": image, "normal": normal, "semantic": semantic}
        images = {name: pixels for name, pixels in given.items() if pixels is not None}
        made = masked(images, depth, COLOURS, grow, tolerance)
        return io.NodeOutput(made.panorama, made.mask, "\n".join(made.reports))


class OmniXBackgroundLayer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXBackgroundLayer",
            display_name="Background Layer",
            category="OmniX/maps",
            description="Align the depth of the filled panorama to the first depth. Panorama to 3D Scene uses the "
            "result, with its maps, as the surface behind things in front.",
            search_aliases=["omnix", "align depth", "second layer", "behind", "inpainted", "layered depth"],
            hidden=[*HIDDEN],
            inputs=[
                io.Image.Input("image", tooltip="The filled panorama, from image_to_pano."),
                io.Mask.Input("depth", tooltip="Its depth: the mask output of OmniX Depth."),
                io.Mask.Input("first_depth", tooltip="The depth of the first panorama, with the things in front."),
                io.Mask.Input(
                    "mask",
                    tooltip="The mask that was filled, from Mask Foreground. The two depths are compared where it is "
                    "0; the layer is used where it is 1.",
                ),
                *(io.Image.Input(name, optional=True, tooltip=text) for name, text in BEHIND.items()),
                io.Combo.Input(
                    "if_different",
                    options=[STOP, LEAVE_OUT],
                    default=STOP,
                    optional=True,
                    tooltip="If the two depths do not fit: stop with a message, or make the scene without this layer "
                    "and say so in the report.",
                ),
            ],
            outputs=[
                BackgroundLayer.Output(display_name="background_layer", tooltip="For Panorama to 3D Scene."),
                io.Mask.Output(
                    display_name="depth", tooltip="The depth of the filled panorama, in the first depth's scale."
                ),
                io.String.Output(display_name="report", tooltip="Scale, shift, and how well the two depths agree."),
            ],
        )

    @classmethod
    def execute(
        cls, image: Any, depth: Any, first_depth: Any, mask: Any, if_different: str = STOP, **maps: Any
    ) -> io.NodeOutput:
        check_inputs(cls, "depth", *BEHIND)
        images = {"image": image, **{name: pixels for name, pixels in maps.items() if pixels is not None}}
        layers = layers_behind(images, depth, first_depth, mask, if_different == LEAVE_OUT)
        return io.NodeOutput(layers, distance_of(layers), "\n".join(layer.words for layer in layers))


class OmniXMoveViewpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        step = {"default": 0.0, "min": -10000.0, "max": 10000.0, "step": 0.05}
        return io.Schema(
            node_id="OmniXMoveViewpoint",
            display_name="Move Viewpoint",
            category="OmniX/maps",
            description="Render a 3D scene as a panorama from another place. Parts that the first panorama does not "
            "show are grey, so image_to_pano can fill them.",
            search_aliases=["omnix", "novel view", "walk", "render", "camera", "equirectangular", "360"],
            inputs=[
                io.File3DGLB.Input("model_3d", tooltip="The GLB of Panorama to 3D Scene."),
                io.Float.Input("right", tooltip="How far to move to the right, in the scene's unit.", **step),
                io.Float.Input("up", tooltip="How far to move up.", **step),
                io.Float.Input("forward", tooltip="How far to move towards the panorama's centre.", **step),
                *panorama_size(),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The panorama that the scene was made from, for its colours. A lit scene needs it, because "
                    "its file contains albedo instead.",
                ),
                io.Boolean.Input(
                    "invented",
                    default=False,
                    optional=True,
                    tooltip="Also show the parts that were invented behind things. If off, they are grey.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="panorama", tooltip="The view; encode it as reference latent."),
                io.Mask.Output(display_name="unseen", tooltip="1 where the first panorama does not show the surface."),
                io.Mask.Output(
                    display_name="depth", tooltip="Distance along the ray in the scene's unit; 0 where unseen is 1."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model_3d: Any,
        right: float,
        up: float,
        forward: float,
        width: int,
        height: int,
        image: Any = None,
        invented: bool = False,
    ) -> io.NodeOutput:
        check_panorama(height, width)
        if image is not None and len(image) != 1:
            raise ValueError(f"Move Viewpoint needs the one panorama of the scene, got a batch of {len(image)}.")
        model = read_glb(model_3d.get_bytes())
        view = view_from(model, (right, up, -forward), height, None if image is None else image[0], invented)
        return io.NodeOutput(*(each[None] for each in view))
