"""Nodes for the prompt, and for keeping it encoded."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..omnix.adapter import fingerprint
from ..omnix.conditioning import load_conditioning, save_conditioning
from ..omnix.save import own_number
from ..omnix.tasks import tagged_prompt
from .files import CONDITIONING_FOLDER, allowed, check_name, choices, inside, located


class OmniXPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXPrompt",
            display_name="OmniX Prompt",
            category="OmniX/conditioning",
            description="Put the tag [EQUIRECTANGULAR] before a prompt, as OmniX was trained. Perception uses "
            "the bare tag.",
            search_aliases=["omnix", "panorama prompt", "equirectangular"],
            inputs=[
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="What the panorama shows. Leave it empty for depth, normals and the other maps.",
                )
            ],
            outputs=[io.String.Output(display_name="prompt", tooltip="For CLIP Text Encode.")],
        )

    @classmethod
    def execute(cls, prompt: str) -> io.NodeOutput:
        return io.NodeOutput(tagged_prompt(prompt))


class OmniXSaveConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXSaveConditioning",
            display_name="Save OmniX Conditioning",
            category="OmniX/conditioning",
            description="Save an encoded prompt below the output folder, so that it is encoded once and T5 is never "
            "loaded again.",
            search_aliases=["omnix", "save conditioning", "cache prompt", "text embedding"],
            is_output_node=True,
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The encoded prompt, before any reference latent."),
                io.String.Input(
                    "filename_prefix",
                    default=f"{CONDITIONING_FOLDER}/OmniX",
                    tooltip="Name below the output folder. Load OmniX Conditioning lists output/conditioning and "
                    "models/conditioning.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        return filename_prefix is None or allowed(lambda: check_name(filename_prefix))

    @classmethod
    def execute(cls, conditioning: Any, filename_prefix: str) -> io.NodeOutput:
        root = folder_paths.get_output_directory()
        inside(Path(root), filename_prefix)  # ComfyUI before 0.30 follows links that lead out of the folder
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(filename_prefix, root)
        # The host counts from 1 again where the prefix ends in a slash.
        with own_number(Path(folder, f"{name}_{number:05}_") for number in itertools.count(counter)) as stem:
            path = stem.with_name(f"{stem.name}.safetensors")
            save_conditioning(conditioning, path)
        return io.NodeOutput(ui={"text": [str(Path(subfolder, path.name))]})


class OmniXLoadConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXLoadConditioning",
            display_name="Load OmniX Conditioning",
            category="OmniX/conditioning",
            description="Load an encoded prompt that was saved, without loading T5.",
            search_aliases=["omnix", "load conditioning", "cached prompt", "text embedding"],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=choices(folder_paths.get_filename_list(CONDITIONING_FOLDER)),
                    tooltip="A file in models/conditioning or output/conditioning. Press R after saving one.",
                )
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="The encoded prompt, as saved.")],
        )

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        return io.NodeOutput(load_conditioning(cls.file(name)))

    @classmethod
    def validate_inputs(cls, name: str | None) -> bool | str:
        return name is None or allowed(lambda: cls.file(name))

    @classmethod
    def fingerprint_inputs(cls, name: str) -> str:
        return fingerprint([cls.file(name)])

    @staticmethod
    def file(name: str) -> Path:
        check_name(name)
        path = located(CONDITIONING_FOLDER)(name)
        if path is None:
            raise ValueError(
                f"{name}: no such file in models/conditioning; save one with Save OmniX Conditioning first."
            )
        return Path(path)
