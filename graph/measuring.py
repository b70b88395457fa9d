"""Nodes that measure maps against the truth."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..evaluation.depth import ALIGNMENTS
from ..evaluation.views import SHOWN_ALIGNMENT, compare_images
from ..mapfiles.trees import MEASURED

_ALIGNMENTS = {alignment.title: name for name, alignment in ALIGNMENTS.items()}


class OmniXCompareMaps(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXCompareMaps",
            display_name="Compare Maps",
            category="OmniX/maps",
            description="Measure a predicted map of a panorama against the truth, or against another model's: the "
            "error as a picture, and the figures that the field prints as text.",
            search_aliases=["omnix", "evaluate", "metrics", "AbsRel", "PSNR", "SSIM", "mIoU", "error map"],
            inputs=[
                io.Image.Input("prediction", tooltip="The map to be measured."),
                io.Image.Input("truth", tooltip="The map it should be, in the same size; one, or as many."),
                io.Combo.Input("kind", options=list(MEASURED), default="depth", tooltip="What both maps hold."),
                io.Combo.Input(
                    "alignment",
                    options=list(_ALIGNMENTS),
                    default=ALIGNMENTS[SHOWN_ALIGNMENT].title,
                    optional=True,
                    tooltip="How a depth is brought to the truth's scale before its error is drawn. The figures are "
                    "told under each; other maps are compared as they are.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="error",
                    tooltip="Black where both agree, then red, yellow and white; blue-grey where there is no value.",
                ),
                io.String.Output(display_name="figures", tooltip="A table, for Preview as Text."),
            ],
        )

    @classmethod
    def execute(
        cls, prediction: Any, truth: Any, kind: str, alignment: str = ALIGNMENTS[SHOWN_ALIGNMENT].title
    ) -> io.NodeOutput:
        ours, true = (image.detach().float().cpu().numpy() for image in (prediction, truth))
        error, figures = compare_images(kind, ours, true, _ALIGNMENTS[alignment])
        return io.NodeOutput(torch.from_numpy(error), figures)
