"""Nodes that show panoramas and their maps to people."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from einops import reduce

from ..omnix.pictures import panorama
from ..omnix.pictures.colour import COLOURS, colour_view
from ..omnix.pictures.maps import MAPS
from ..omnix.pictures.sheet import contact_sheet
from ..omnix.pictures.view import cut_out, read_view
from .lineage import HIDDEN, check_inputs


class OmniXContactSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXContactSheet",
            display_name="OmniX Contact Sheet",
            category="OmniX/image",
            description="Put a panorama and its maps on one labelled sheet.",
            search_aliases=["omnix", "grid", "overview", "labels"],
            hidden=[*HIDDEN],
            inputs=[
                io.Image.Input("panorama", optional=True, tooltip="The panorama itself."),
                *(io.Image.Input(name, optional=True, tooltip=f"The {name} map.") for name in MAPS),
                io.Int.Input("columns", default=2, min=1, max=8, tooltip="Pictures per row."),
            ],
            outputs=[io.Image.Output(display_name="sheet", tooltip="The labelled sheet.")],
        )

    @classmethod
    def execute(cls, columns: int, **images: Any) -> io.NodeOutput:
        check_inputs(cls, "panorama", *MAPS, views=True)
        given = [(name, images[name]) for name in ("panorama", *MAPS) if images.get(name) is not None]
        return io.NodeOutput(contact_sheet(given, columns))


class OmniXPanoramaViewer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXPanoramaViewer",
            display_name="Panorama Viewer (360)",
            category="OmniX/image",
            description="Look around inside a panorama and its maps, which share one camera. Drag to turn, use the "
            "wheel to zoom. Capture makes the next run output this view as an image.",
            search_aliases=[
                *("omnix", "360 viewer", "equirectangular preview", "panorama preview", "skybox", "HDRI", "ERP"),
            ],
            is_output_node=True,
            hidden=[*HIDDEN],
            inputs=[
                io.Image.Input("image", tooltip="The panorama, twice as wide as high."),
                *(io.Image.Input(name, optional=True, tooltip=f"The {name} map.") for name in MAPS),
                io.String.Input("view", default="", tooltip="The captured view. The viewer fills this field."),
                io.Int.Input(
                    "width",
                    default=1024,
                    min=16,
                    max=8192,
                    step=8,
                    advanced=True,
                    tooltip="Width of the captured view in pixels.",
                ),
            ],
            outputs=[io.Image.Output(display_name="view", tooltip="The captured view of the chosen map.")],
        )

    @classmethod
    def execute(cls, image: Any, view: str, width: int, **images: Any) -> io.NodeOutput:
        check_inputs(cls, *MAPS, views=True)
        shown = {"image": image, **{name: images[name] for name in MAPS if images.get(name) is not None}}
        for pictures in shown.values():
            panorama.check_panorama(*pictures.shape[1:3])
        captured = cut_out(shown, read_view(view), width)
        saved = [{"label": name, **cls.previews(name, pictures)} for name, pictures in shown.items()]
        return io.NodeOutput(captured, ui={"omnix_maps": saved})

    @classmethod
    def previews(cls, name: str, pictures: Any) -> dict[str, Any]:
        """Return the files that the browser gets for one map; a depth map also in the colours of Colour Depth."""
        drawn = {"images": pictures}
        if name == "depth":
            drawn["coloured"] = colour_view(reduce(pictures[..., :3].float(), "b h w c -> b h w", "mean"))
        return {kind: ui.PreviewImage(images, cls=cls).as_dict()["images"] for kind, images in drawn.items()}


class OmniXColourDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXColourDepth",
            display_name="Colour Depth",
            category="OmniX/maps",
            description="Colour a depth map for viewing. Keep the map itself for other tools.",
            search_aliases=["omnix", "colormap", "color map", "spectral", "turbo", "depth preview"],
            hidden=[*HIDDEN],
            inputs=[
                io.Mask.Input("depth", tooltip="The mask output of OmniX Depth."),
                io.Combo.Input(
                    "colours", options=list(COLOURS), tooltip="Colour scheme. The OmniX paper uses Spectral."
                ),
                io.Boolean.Input("invert", default=False, tooltip="Reverse the colour scheme."),
            ],
            outputs=[
                io.Image.Output(display_name="view", tooltip="A picture for viewing; don't use it as depth data.")
            ],
        )

    @classmethod
    def execute(cls, depth: Any, colours: str, invert: bool) -> io.NodeOutput:
        check_inputs(cls, "depth")
        return io.NodeOutput(colour_view(depth, colours, invert))
