"""Nodes that bring a panorama into a graph, from a file or from any other loader, at a size that suits OmniX."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io
from einops import rearrange

from ..omnix.pictures import fit as fitting
from ..omnix.pictures import picture
from ..omnix.pictures.header import Header, read_header
from ..omnix.runtime.adapter import fingerprint
from .files import allowed, hidden, inside, posted_input, say

SAMPLES = Path(__file__).resolve().parents[1] / "sample"
# File types that may be missing from the host's own list of pictures.
LINEAR = (".exr", ".hdr")
COPIED = ".omnix_samples"


def samples() -> list[str]:
    """List the pictures that ship with the pack: the rendered room, then its ground-truth maps."""
    return sorted((path.name for path in SAMPLES.glob("*.png")), key=lambda name: (len(name.split("_")), name))


def pictures() -> list[str]:
    """List what can be loaded: the room, the pictures of the input folder, the room's ground-truth maps."""
    with os.scandir(folder_paths.get_input_directory()) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file())
    room, *truth = samples()
    known = {*folder_paths.filter_files_content_types(names, ["image"])} - {room, *truth}
    return [room, *(name for name in names if name in known or name.lower().endswith(LINEAR)), *truth]


def put_samples_into_input() -> None:
    """Copy each sample once to the input folder, where the browser looks for a loader's picture.

    A hidden file in that folder lists the copied samples, so that a deleted sample stays deleted. It is kept in the
    folder itself because ComfyUI may use another folder at the next start.
    """
    folder = Path(folder_paths.get_input_directory())
    listed = folder / COPIED
    before = listed.read_text(encoding="utf-8").split("\n") if listed.exists() else []
    for name in samples():
        if name not in before and not (folder / name).exists():
            (folder / name).write_bytes((SAMPLES / name).read_bytes())
    if not {*samples()} <= {*before}:
        listed.write_text("\n".join(dict.fromkeys([*filter(None, before), *samples()])), encoding="utf-8")


def fitted_by(fits: list[str], default: str, more: str = "") -> tuple[io.Int.Input, io.Combo.Input, io.Float.Input]:
    """Return the inputs for the working size of a panorama, and for pictures of other shapes."""
    return (
        io.Int.Input(
            "height",
            default=720,
            min=16,
            max=8192,
            step=8,
            tooltip="Largest height in pixels; the width is twice the height. OmniX perceives at up to 720. A smaller "
            "picture keeps its size, rounded to a multiple of 8.",
        ),
        io.Combo.Input(
            "fit",
            options=fits,
            default=default,
            optional=True,
            tooltip=f"{more}as it is: only pictures twice as wide as high. pad: centre the picture on the horizon and "
            "fill the rest with grey (masked as unseen). crop: cut out the middle, twice as wide as high.",
        ),
        io.Float.Input(
            "vertical_fov",
            default=0.0,
            min=0.0,
            max=180.0,
            step=0.5,
            optional=True,
            tooltip="With pad: the height of the picture in degrees. 0 chooses the height that makes the picture 360 "
            "degrees wide.",
        ),
    )


class OmniXLoadPanorama(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXLoadPanorama",
            display_name="Load Panorama",
            category="OmniX/loaders",
            description="Load a 360-degree panorama, or a part of one, at a size that suits OmniX. Pictures of other "
            "shapes are rejected before the workflow starts, unless fit says what to do with them.",
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
                *fitted_by(
                    [*fitting.FITS],
                    fitting.DEFAULT,
                    "by GPano: place the picture as the file's GPano data says; without GPano data: as it is. ",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="panorama", tooltip="The whole panorama, resized."),
                io.Mask.Output(display_name="mask", tooltip="1 where the file is transparent or has no picture."),
            ],
        )

    @classmethod
    def execute(cls, image: str, height: int, fit: str = fitting.DEFAULT, vertical_fov: float = 0.0) -> io.NodeOutput:
        shown, words = picture.load_panorama(cls.file(image), height, fit, vertical_fov)
        say(words, hidden(cls, "unique_id"))
        colours, clear = rearrange(shown.colours, "h w c -> 1 h w c"), rearrange(1 - shown.opacity, "h w -> 1 h w")
        return io.NodeOutput(colours, clear)

    @classmethod
    def validate_inputs(cls, image: str | None) -> bool | str:
        # The host marks every input that this function takes as an argument and repeats the message at each of them.
        # So it takes only the picture.
        node = hidden(cls, "unique_id")
        fit, field = posted_input(node, "fit", fitting.DEFAULT), posted_input(node, "vertical_fov", 0.0)
        # Linked values are known only during the run; values of a wrong type are refused by the host itself.
        if image is None or not isinstance(fit, str) or not isinstance(field, (int, float)):
            return True
        answer = allowed(lambda: cls.check(image, fit, field))
        if isinstance(answer, str):
            say(answer, node)
        return answer

    @classmethod
    def fingerprint_inputs(cls, image: str, **_more: Any) -> str:
        return fingerprint([cls.file(image)])

    @classmethod
    def check(cls, name: str, fit: str, field: float) -> None:
        path = cls.file(name)
        try:
            picture.placed(name, header_of(path, fingerprint([path])), fit, field)
        except OSError as error:
            raise ValueError(f"{name}: the file can't be read ({error.strerror}); choose another one.") from error

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


class OmniXFitPanorama(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXFitPanorama",
            display_name="Fit Panorama",
            category="OmniX/image",
            description="Bring a picture from any loader to a shape and size that suit OmniX. Pictures of other shapes "
            "are rejected, unless fit says what to do with them.",
            search_aliases=["omnix", "resize", "360", "equirectangular", "pad", "crop", "2:1"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Image.Input("image", tooltip="A panorama, or a part of one."),
                *fitted_by([name for name in fitting.FITS if name != fitting.DEFAULT], "as it is"),
            ],
            outputs=[
                io.Image.Output(display_name="panorama", tooltip="The whole panorama, resized."),
                io.Mask.Output(display_name="mask", tooltip="1 where there is no picture."),
            ],
        )

    @classmethod
    def execute(cls, image: Any, height: int, fit: str = "as it is", vertical_fov: float = 0.0) -> io.NodeOutput:
        found = [picture.fit_image(one, height, fit, vertical_fov) for one in image]
        colours = torch.stack([one.picture.colours for one in found])
        node = hidden(cls, "unique_id")
        # A box says it only where it matters.
        if colours.shape[1:3] != image.shape[1:3] or ":" not in str(node):
            say(found[0].words, node)
        return io.NodeOutput(colours, 1 - torch.stack([one.picture.opacity for one in found]))


@functools.lru_cache(maxsize=64)
def header_of(path: Path, _facts: str) -> Header:
    """Return the header of a picture file; `_facts` change when the file changes, so the cache stays right."""
    return read_header(path)
