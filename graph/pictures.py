"""Nodes that load and save panoramas."""

from __future__ import annotations

import functools
import glob
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

from ..omnix import fit as fitting
from ..omnix import picture, save
from ..omnix.adapter import fingerprint
from ..omnix.colour import colour_view
from ..omnix.header import Header, read_header
from ..omnix.panorama import check_panorama
from .files import allowed, inside, say
from .viewing import MAPS

SAMPLES = Path(__file__).resolve().parents[1] / "sample"
# What can be saved as values, by what the node calls it.
VALUES = {"depth": ("depth",), "every map": MAPS, "none": ()}
# Kinds that the host's own list of pictures may lack.
LINEAR = (".exr", ".hdr")
COPIED = ".omnix_samples"


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
    """Copy each sample once to where the browser looks for the picture of a loader; a deleted one stays away.

    A hidden file in the input folder lists what was copied, since the folder may be another at the next start.
    """
    folder = Path(folder_paths.get_input_directory())
    listed = folder / COPIED
    before = listed.read_text(encoding="utf-8").split("\n") if listed.exists() else []
    for name in samples():
        if name not in before and not (folder / name).exists():
            (folder / name).write_bytes((SAMPLES / name).read_bytes())
    if not {*samples()} <= {*before}:
        listed.write_text("\n".join(dict.fromkeys([*filter(None, before), *samples()])), encoding="utf-8")


class OmniXLoadPanorama(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXLoadPanorama",
            display_name="Load Panorama",
            category="OmniX/loaders",
            description="Load a 360-degree panorama, or a part of one, in a size that OmniX works at. Pictures of "
            "other shapes are refused before the workflow starts, unless fit says what to do with them.",
            search_aliases=[
                "omnix",
                "load image",
                "360",
                "equirectangular",
                "upload",
                "HDRI",
                "EXR",
                "skybox",
                "GPano",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "image",
                    options=pictures(),
                    upload=io.UploadType.image,
                    tooltip="A picture in the input folder, or the sample that ships with OmniX.",
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
                io.Combo.Input(
                    "fit",
                    options=[*fitting.FITS],
                    default=fitting.DEFAULT,
                    optional=True,
                    tooltip="by GPano: where the camera wrote that the picture belongs; without GPano as it is. "
                    "as it is: twice as wide as high only. pad: centred on the horizon, the rest grey and unseen. "
                    "crop: the middle, twice as wide as high.",
                ),
                io.Float.Input(
                    "vertical_fov",
                    default=0.0,
                    min=0.0,
                    max=180.0,
                    step=0.5,
                    optional=True,
                    tooltip="With pad: degrees from the bottom of the picture to its top. 0: what makes the picture "
                    "360 degrees wide.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="panorama", tooltip="The whole panorama, resized."),
                io.Mask.Output(display_name="mask", tooltip="1 where the file is transparent or shows nothing."),
            ],
        )

    @classmethod
    def execute(cls, image: str, height: int, fit: str = fitting.DEFAULT, vertical_fov: float = 0.0) -> io.NodeOutput:
        shown, words = picture.load_panorama(cls.file(image), height, fit, vertical_fov)
        say(words, cls.hidden.unique_id)
        colours, clear = rearrange(shown.colours, "h w c -> 1 h w c"), rearrange(1 - shown.opacity, "h w -> 1 h w")
        return io.NodeOutput(colours, clear)

    @classmethod
    def validate_inputs(
        cls, image: str | None, fit: str | None = fitting.DEFAULT, vertical_fov: float | None = 0.0
    ) -> bool | str:
        if image is None or fit is None or vertical_fov is None:  # linked, so known in the run alone
            return True
        told = allowed(lambda: cls.check(image, fit, vertical_fov))
        if isinstance(told, str):
            say(told, getattr(cls.hidden, "unique_id", None))
        return told

    @classmethod
    def fingerprint_inputs(cls, image: str, **_more: Any) -> str:
        return fingerprint([cls.file(image)])

    @classmethod
    def check(cls, name: str, fit: str, field: float) -> None:
        path = cls.file(name)
        try:
            picture.placed(name, header_of(path, fingerprint([path])), fit, field)
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
def header_of(path: Path, _facts: str) -> Header:
    """Return what a picture file says before it is decoded; `_facts` change when the file does."""
    return read_header(path)


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
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
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
    def execute(cls, filename_prefix: str, values: str, **images: Any) -> io.NodeOutput:
        given = {name: images[name] for name in ("panorama", *MAPS) if images.get(name) is not None}
        height, width, batch = _common_size(given)
        texts = posted(cls.hidden.prompt, cls.hidden.extra_pnginfo) | {save.XMP: save.gpano(width, height)}
        shown: list[dict[str, str]] = []
        precise: list[dict[str, str]] = []
        for index, (stem, subfolder) in zip(range(batch), stems(filename_prefix, width, height)):
            for name, pictures in given.items():
                for part, data in encodings(name, pictures[index], name in VALUES[values], texts):
                    write_whole(stem.with_name(f"{stem.name}{part}"), data)
                    file = {"filename": f"{stem.name}{part}", "subfolder": subfolder, "type": "output"}
                    (precise if part.endswith(EXACT) else shown).append(file)
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


def stems(prefix: str, width: int, height: int) -> Iterator[tuple[Path, str]]:
    """Yield (path without ending, subfolder) of the next numbers that no file has yet: name_00001_ and on."""
    root = folder_paths.get_output_directory()
    inside(Path(root), prefix)  # ComfyUI before 0.30 follows links that lead out of the folder
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, width, height)
    for number in itertools.count(counter):
        stem = Path(folder, f"{name}_{number:05}_")
        if not any(stem.parent.glob(f"{glob.escape(stem.name)}*")):
            yield stem, subfolder


def posted(prompt: Any, extra: Any) -> dict[str, str]:
    """Return the texts from which the browser opens a picture's graph again, as the host's own savers write them."""
    if args.disable_metadata:
        return {}
    graph = {} if prompt is None else {"prompt": json.dumps(prompt)}
    return graph | {name: json.dumps(value) for name, value in (extra or {}).items()}


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there as a whole or not at all.  Raises OSError."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
