"""Nodes that load and save panoramas."""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io
from einops import rearrange, reduce

from ..omnix import picture, save
from ..omnix.adapter import fingerprint
from ..omnix.colour import colour_view
from ..omnix.panorama import check_panorama
from .files import allowed, check_name, hidden, inside, say
from .lineage import HIDDEN, check_inputs
from .viewing import MAPS

SAMPLES = Path(__file__).resolve().parents[1] / "sample"
# What can be saved as values, by what the node calls it.
VALUES = {"depth": ("depth",), "every map": MAPS, "none": ()}
# Kinds that the host's own list of pictures may lack.
LINEAR = (".exr", ".hdr")


def samples() -> list[str]:
    """List the pictures that ship with the pack: the rendered room, then its true maps."""
    return sorted((path.name for path in SAMPLES.glob("*.png")), key=lambda name: (len(name.split("_")), name))


def pictures() -> list[str]:
    """List what can be loaded: the room, the pictures of the input folder, the room's true maps."""
    with os.scandir(folder_paths.get_input_directory()) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file())
    room, *truth = samples()
    known = {*folder_paths.filter_files_content_types(names, ["image"])} - {room, *truth}
    return [room, *(name for name in names if name in known or name.lower().endswith(LINEAR)), *truth]


def put_samples_into_input() -> None:
    """Copy the samples to where the browser looks for the picture of a loader, but for those that are there."""
    for name in samples():
        target = Path(folder_paths.get_input_directory(), name)
        if not target.exists():
            target.write_bytes((SAMPLES / name).read_bytes())


class OmniXLoadPanorama(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXLoadPanorama",
            display_name="Load Panorama",
            category="OmniX/loaders",
            description="Load a 360-degree panorama in a size that OmniX works at. What is no panorama is refused "
            "before anything runs.",
            search_aliases=["omnix", "load image", "360", "equirectangular", "upload", "HDRI", "EXR", "skybox"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "image",
                    options=pictures(),
                    upload=io.UploadType.image,
                    tooltip="A picture in the input folder, twice as wide as high, or the sample that ships with "
                    "OmniX.",
                ),
                io.Int.Input(
                    "height",
                    default=720,
                    min=16,
                    max=8192,
                    step=8,
                    tooltip="Most rows to work at; the width is twice that. OmniX perceives at up to 720. A smaller "
                    "picture keeps its size, at the nearest step of 8.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="panorama", tooltip="The whole panorama, resized, never cropped."),
                io.Mask.Output(display_name="mask", tooltip="1 where the file is transparent."),
            ],
        )

    @classmethod
    def execute(cls, image: str, height: int) -> io.NodeOutput:
        shown, (rows, columns) = picture.load_panorama(cls.file(image), height)
        say(
            f"{columns}x{rows} in the file, {shown.colours.shape[1]}x{shown.colours.shape[0]} here",
            hidden(cls, "unique_id"),
        )
        colours, clear = rearrange(shown.colours, "h w c -> 1 h w c"), rearrange(1 - shown.opacity, "h w -> 1 h w")
        return io.NodeOutput(colours, clear)

    @classmethod
    def validate_inputs(cls, image: str | None) -> bool | str:
        return image is None or allowed(lambda: cls.check(image))

    @classmethod
    def fingerprint_inputs(cls, image: str, height: int) -> str:
        return fingerprint([cls.file(image)])

    @classmethod
    def check(cls, name: str) -> None:
        path = cls.file(name)
        try:
            picture.check_picture(name, *size_of(path, fingerprint([path])))
        except OSError as error:
            raise ValueError(f"{name}: the file cannot be read ({error.strerror}); choose another one.") from error

    @staticmethod
    def file(name: str) -> Path:
        plain, base = folder_paths.annotated_filepath(name)
        root = Path(base or folder_paths.get_input_directory())
        path = inside(root, plain)
        if path.is_file():
            return path
        if base is None and plain in samples():
            return SAMPLES / plain
        raise ValueError(f"{name}: no such file in the {root.name} folder; upload a panorama, or choose another one.")


@functools.lru_cache(maxsize=64)
def size_of(path: Path, _facts: str) -> tuple[int, int]:
    """Return (height, width) of a picture file that could be read to its end; `_facts` change when the file does."""
    height, width = picture.read_picture(path).opacity.shape
    return height, width


class OmniXSavePanorama(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXSavePanorama",
            display_name="Save Panorama and Maps",
            category="OmniX/image",
            description="Save a panorama and its maps under one number, as PNG that photo viewers open as 360 degrees; "
            "depth also as exact values, with a coloured view for people.",
            search_aliases=["omnix", "save image", "360", "GPano", "XMP", "EXR", "16-bit", "save depth", "save maps"],
            is_output_node=True,
            hidden=[*HIDDEN, io.Hidden.extra_pnginfo],
            inputs=[
                io.Image.Input("panorama", optional=True, tooltip="The panorama itself, if it is to be saved."),
                *(io.Image.Input(name, optional=True, tooltip=f"The {name} map.") for name in MAPS),
                io.String.Input(
                    "filename_prefix",
                    default="OmniX/room",
                    tooltip="Name below the output folder; a number and what the file holds are added.",
                ),
                io.Combo.Input(
                    "values",
                    options=list(VALUES),
                    default="depth",
                    tooltip="Which maps are saved as values too: EXR with 32-bit floats, unchanged, and PNG with 16 "
                    "bits, grey if the channels are equal.",
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
        # The browser shows what stands under "images"; it cannot show EXR.
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


def stems(prefix: str, width: int, height: int) -> tuple[Iterator[Path], str]:
    """Return the paths without endings name_00001_ and on, from where the host counts; and their subfolder."""
    root = folder_paths.get_output_directory()
    inside(Path(root), prefix)  # ComfyUI before 0.30 follows links that lead out of the folder
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, width, height)
    return (Path(folder, f"{name}_{number:05}_") for number in itertools.count(counter)), subfolder


def posted(prompt: Any, extra: Any) -> dict[str, str]:
    """Return the texts from which the browser opens a picture's graph again, as the host's own savers write them."""
    if args.disable_metadata:
        return {}
    graph = {} if prompt is None else {"prompt": json.dumps(prompt)}
    return graph | {name: json.dumps(value) for name, value in (extra or {}).items()}
