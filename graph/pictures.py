"""Nodes that save panoramas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from comfy.cli_args import args
from comfy_api.latest import io
from einops import reduce

from ..omnix.pictures.colour import colour_view
from ..omnix.pictures.maps import MAPS
from ..omnix.pictures.panorama import check_panorama
from ..omnix.runtime import save
from .files import allowed, check_name, hidden, stems
from .lineage import HIDDEN, check_inputs

# Option of the node -> the maps that are saved as values.
VALUES = {"depth": ("depth",), "every map": MAPS, "none": ()}


class OmniXSavePanorama(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXSavePanorama",
            display_name="Save Panorama and Maps",
            category="OmniX/image",
            description="Save a panorama and its maps under one number, as PNG files that photo viewers open as 360 "
            "degrees. Depth is also saved as exact values and as a coloured view.",
            search_aliases=["omnix", "save image", "360", "GPano", "XMP", "EXR", "16-bit", "save depth", "save maps"],
            is_output_node=True,
            hidden=[*HIDDEN, io.Hidden.extra_pnginfo],
            inputs=[
                io.Image.Input("panorama", optional=True, tooltip="The panorama itself, if you want to save it."),
                *(io.Image.Input(name, optional=True, tooltip=f"The {name} map.") for name in MAPS),
                io.String.Input(
                    "filename_prefix",
                    default="OmniX/room",
                    tooltip="File name in the output folder. A number and the name of the map are added.",
                ),
                io.Combo.Input(
                    "values",
                    options=list(VALUES),
                    default="depth",
                    tooltip="Which maps are also saved as exact values: as EXR with unchanged 32-bit floats, and as "
                    "PNG with 16 bits (grey if the channels are equal).",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        return filename_prefix is None or allowed(lambda: check_name(filename_prefix))

    @classmethod
    def execute(cls, filename_prefix: str, values: str, **images: Any) -> io.NodeOutput:
        check_inputs(cls, "panorama", *MAPS)
        given = {name: images[name] for name in ("panorama", *MAPS) if images.get(name) is not None}
        height, width, batch = _common_size(given)
        graph = posted(hidden(cls, "prompt"), hidden(cls, "extra_pnginfo"))
        texts = graph | {save.XMP: save.gpano(width, height)}
        numbers, subfolder = stems(filename_prefix, width, height)
        shown: list[dict[str, str]] = []
        precise: list[dict[str, str]] = []
        for index in range(batch):
            files = (
                file
                for name, pictures in given.items()
                for file in encodings(name, pictures[index], name in VALUES[values], texts)
            )
            with save.own_number(numbers) as stem:
                for filename in save.write_set(stem, files):
                    file = {"filename": filename, "subfolder": subfolder, "type": "output"}
                    (precise if filename.endswith(EXACT) else shown).append(file)
        # The browser shows the files under "images"; it can't show EXR.
        return io.NodeOutput(ui={"images": shown, "omnix_values": precise})


EXACT = ("_16bit.png", "_float.exr")


def encodings(name: str, image: Any, exact: bool, texts: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield the files (ending, content) of one picture or map [H, W, C]."""
    if name == "depth":
        view = colour_view(reduce(image[None, ..., :3].float(), "b h w c -> b h w", "mean"))[0]
        yield "depth_view.png", save.with_texts(save.encoded(view, save.PNG8), texts)
    else:
        yield f"{name}.png", save.with_texts(save.encoded(image, save.PNG8), texts)
    if exact:
        yield f"{name}{EXACT[0]}", save.with_texts(save.encoded(image, save.PNG16), texts)
        yield f"{name}{EXACT[1]}", save.encoded(image, save.EXR)


def _common_size(given: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return (height, width, batch) of pictures that belong together.  Raises ValueError."""
    if not given:
        raise ValueError("There is nothing to save; connect a panorama or one of its maps.")
    first, (batch, height, width) = next((name, tuple(images.shape[:3])) for name, images in given.items())
    check_panorama(height, width)
    for name, images in given.items():
        if tuple(images.shape[:3]) != (batch, height, width):
            raise ValueError(
                f"{name} is {images.shape[2]}x{images.shape[1]} (batch {images.shape[0]}) but {first} is "
                f"{width}x{height} (batch {batch}); save maps of one panorama together, and others with a node of "
                "their own."
            )
    return height, width, batch


def posted(prompt: Any, extra: Any) -> dict[str, str]:
    """Return the metadata from which the browser opens a picture's graph again, as the host's own savers write it."""
    if args.disable_metadata:
        return {}
    graph = {} if prompt is None else {"prompt": json.dumps(prompt)}
    return graph | {name: json.dumps(value) for name, value in (extra or {}).items()}
