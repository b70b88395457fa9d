"""Nodes for the prompt, and for keeping it encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..omnix.runtime import patch
from ..omnix.runtime.adapter import fingerprint
from ..omnix.runtime.conditioning import encode_prompt, load_conditioning, note_on_rows, save_conditioning
from ..omnix.runtime.save import own_number
from ..omnix.runtime.tasks import tagged_prompt
from .files import CONDITIONING_FOLDER, allowed, check_name, choices, located, stems


class OmniXEncodePrompt(io.ComfyNode):
    """Encode the tag, the prompt and the guidance in one node.

    ComfyUI's own T5 Tokenizer Options can pad T5's text to 512 rows, but can't cut it there, and it is experimental.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXEncodePrompt",
            display_name="OmniX Encode Prompt",
            category="OmniX/conditioning",
            description="Encode a prompt the way OmniX was trained: with the tag [EQUIRECTANGULAR], 512 rows of T5 "
            "text and FLUX guidance. Replaces CLIP Text Encode and FluxGuidance.",
            search_aliases=["omnix", "panorama prompt", "equirectangular", "clip text encode", "t5 512"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoders of FLUX.1: use Load CLIP (Dual), type flux."),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="A description of the panorama. Leave it empty for depth, normals and the other maps. "
                    "Weights such as (word:1.2) and embeddings have no effect.",
                ),
                io.Float.Input(
                    "guidance",
                    default=3.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="FLUX guidance, the same as in FluxGuidance. OmniX uses 3.5.",
                ),
                io.Boolean.Input(
                    "tag",
                    default=True,
                    optional=True,
                    tooltip="Put [EQUIRECTANGULAR] before the prompt. Turn it off only if FLUX generates a picture "
                    "without OmniX.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="Connect to Set Reference Latent or Save OmniX Conditioning."
                )
            ],
        )

    @classmethod
    def execute(cls, clip: Any, prompt: str, guidance: float, tag: bool = True) -> io.NodeOutput:
        words = tagged_prompt(prompt) if tag else prompt
        return io.NodeOutput(encode_prompt(clip, words, guidance, patch.warn))


class OmniXPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXPrompt",
            display_name="OmniX Prompt",
            category="OmniX/conditioning",
            description="Put the tag [EQUIRECTANGULAR] before a prompt, for older graphs. OmniX Encode Prompt adds "
            "the tag and also encodes the prompt the way OmniX was trained.",
            search_aliases=["omnix", "panorama prompt", "equirectangular"],
            inputs=[
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="A description of the panorama. Leave it empty for depth, normals and the other maps.",
                )
            ],
            outputs=[io.String.Output(display_name="prompt", tooltip="The prompt with its tag.")],
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
            description="Save an encoded prompt in the output folder: encode it once, and never load T5 again.",
            search_aliases=["omnix", "save conditioning", "cache prompt", "text embedding"],
            is_output_node=True,
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="The encoded prompt, before any reference latent is added."
                ),
                io.String.Input(
                    "filename_prefix",
                    default=f"{CONDITIONING_FOLDER}/OmniX",
                    tooltip="File name in the output folder. Load OmniX Conditioning lists output/conditioning and "
                    "models/conditioning.",
                ),
            ],
            outputs=[io.String.Output(display_name="file", tooltip="The saved file in the output folder.")],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        return filename_prefix is None or allowed(lambda: check_name(filename_prefix))

    @classmethod
    def execute(cls, conditioning: Any, filename_prefix: str) -> io.NodeOutput:
        numbered, subfolder = stems(filename_prefix)
        with own_number(numbered) as stem:
            path = stem.with_name(f"{stem.name}.safetensors")
            save_conditioning(conditioning, path)
        file = str(Path(subfolder, path.name))
        return io.NodeOutput(file, ui={"text": [file]})


class OmniXLoadConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXLoadConditioning",
            display_name="Load OmniX Conditioning",
            category="OmniX/conditioning",
            description="Load a saved encoded prompt without loading T5.",
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
        conditioning = load_conditioning(cls.file(name))
        if notes := {note for text, _ in conditioning if (note := note_on_rows(text))}:
            patch.warn(f"{name}: {' '.join(sorted(notes))}")
        return io.NodeOutput(conditioning)

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
