"""Nodes that measure maps against the ground truth."""

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
            description="Compare a predicted map of a panorama with the ground truth, or with another model's map. "
            "Outputs the error as a picture and the usual metrics as text.",
            search_aliases=["omnix", "evaluate", "metrics", "AbsRel", "PSNR", "SSIM", "mIoU", "error map"],
            inputs=[
                io.Image.Input("prediction", tooltip="The map to measure."),
                io.Image.Input(
                    "truth", tooltip="The ground truth at the same size: one for all predictions, or one each."
                ),
                io.Combo.Input("kind", options=list(MEASURED), default="depth", tooltip="The kind of both maps."),
                io.Combo.Input(
                    "alignment",
                    options=list(_ALIGNMENTS),
                    default=ALIGNMENTS[SHOWN_ALIGNMENT].title,
                    optional=True,
                    tooltip="For depth: how the prediction is scaled to the ground truth before the error is drawn. "
                    "The table lists the metrics for every alignment. Other maps are compared unchanged.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="error",
                    tooltip="Black where both agree, then red, yellow and white for larger errors; blue-grey where "
                    "there is no value.",
                ),
                io.String.Output(display_name="figures", tooltip="A table of metrics. Connect to Preview as Text."),
            ],
        )

    @classmethod
    def execute(
        cls, prediction: Any, truth: Any, kind: str, alignment: str = ALIGNMENTS[SHOWN_ALIGNMENT].title
    ) -> io.NodeOutput:
        ours, true = (image.detach().float().cpu().numpy() for image in (prediction, truth))
        error, figures = compare_images(kind, ours, true, _ALIGNMENTS[alignment])
        return io.NodeOutput(torch.from_numpy(error), figures)
