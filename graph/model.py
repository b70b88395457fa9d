"""Nodes that attach OmniX to a MODEL."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..omnix.pictures import panorama
from ..omnix.runtime import patch, seamless
from ..omnix.runtime.checks import MOST_SEAM_COLUMNS, PIXELS_PER_LATENT, check_seam
from ..omnix.runtime.schedule import flow_shift
from ..omnix.runtime.tasks import SEAM_COLUMNS

SEAM_COLUMNS_OF_ANY = 8
"""A multiple of what every model sees at a time: patches of 1 and 2 columns, U-Nets of 4 and 8."""

Adapters = io.Custom("OMNIX_ADAPTERS")


def seam_input(tooltip: str, default: int = SEAM_COLUMNS) -> io.Int.Input:
    """Return the input for the seam's width."""
    most = MOST_SEAM_COLUMNS
    return io.Int.Input("seam_columns", default=default, min=0, max=most, step=2, tooltip=tooltip, advanced=True)


class OmniXApplyAdapters(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXApplyAdapters",
            display_name="Apply OmniX Adapters",
            category="OmniX/model",
            description="Run FLUX.1 on several streams at once: one clean stream for each reference latent, and the "
            "noisy target. Each stream has its own adapter, and attention joins them. The model's weights are not "
            "changed.",
            search_aliases=["omnix", "panorama", "streams", "lora", "seamless"],
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1-dev in any precision."),
                Adapters.Input("adapters", tooltip="The adapters of one task."),
                io.Float.Input(
                    "strength_condition",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Strength of the adapters on the condition streams. They were trained for 1.",
                ),
                io.Float.Input(
                    "strength_target",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Strength of the adapter on the target stream. It was trained for 1.",
                ),
                seam_input(
                    "Number of latent columns that are sampled a second time past the right edge and blended after "
                    "each step, so that the edges meet. 0 turns this off."
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with streams and seam. Connect to KSampler.")
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, adapters: Any, strength_condition: float, strength_target: float, seam_columns: int
    ) -> io.NodeOutput:
        return io.NodeOutput(patch.attach(model, adapters, strength_condition, strength_target, seam_columns))


class OmniXSeamlessPanorama(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXSeamlessPanorama",
            display_name="Seamless Panorama",
            category="OmniX/model",
            description="Let any image or video model make panoramas whose left and right edges meet. For models "
            "without OmniX's adapters: Qwen-Image, Z-Image, Krea 2, FLUX.2, SDXL, Wan and others.",
            search_aliases=["omnix", "360", "seamless", "tiling", "circular", "equirectangular", "wrap", "LoRA"],
            inputs=[
                io.Model.Input("model", tooltip="An image or video model, with its LoRAs."),
                seam_input(
                    "Latent columns that are sampled twice, once past the right edge, and blended after each step, so "
                    "that the edges meet. A multiple of 8 suits every model. 0 switches it off.",
                    SEAM_COLUMNS_OF_ANY,
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Connect to KSampler; decode with Decode Panorama.")
            ],
        )

    @classmethod
    def execute(cls, model: Any, seam_columns: int) -> io.NodeOutput:
        return io.NodeOutput(seamless.close_seam(model, seam_columns, patch.warn))


class OmniXFlowShift(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXFlowShift",
            display_name="OmniX Flow Shift",
            category="OmniX/model",
            description="Set the flow shift for the size of the panorama, and make the simple scheduler exact at any "
            "number of steps.",
            search_aliases=["omnix", "model sampling flux", "shift", "sigma"],
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1-dev, before or after Apply OmniX Adapters."),
                io.Latent.Input("latent", tooltip="The latent that will be sampled; its size sets the shift."),
                seam_input("The same value as in Apply OmniX Adapters: the shift depends on the widened latent."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Connect to KSampler and use the scheduler simple.")
            ],
        )

    @classmethod
    def execute(cls, model: Any, latent: dict[str, Any], seam_columns: int) -> io.NodeOutput:
        check_seam(seam_columns)
        height, width = latent["samples"].shape[-2:]
        panorama.check_panorama(height * PIXELS_PER_LATENT, width * PIXELS_PER_LATENT)
        return io.NodeOutput(patch.with_flow_shift(model, flow_shift(height, width, seam_columns)))
