"""Nodes that make and decode panoramas."""

from __future__ import annotations

import copy
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..omnix import panorama
from ..omnix.tasks import WRAP_COLUMNS


def panorama_size() -> tuple[io.Int.Input, io.Int.Input]:
    """Return the inputs for the size of a panorama that is made."""
    return (
        io.Int.Input("width", default=1024, min=16, max=16384, step=16, tooltip="Panorama width in pixels."),
        io.Int.Input("height", default=512, min=8, max=8192, step=8, tooltip="Half the width, in pixels."),
    )


class UnclampedVAE:
    """A VAE of the host that is asked for the network's own values, so that a seam can be blended before they are cut.

    The user's VAE stays as it is: a copy that shares its weights gets another `process_output`, which the host calls
    on whole pictures, batches and tiles. Objects that have none, or do not call it, decode as they do.
    """

    def __init__(self, vae: Any) -> None:
        self.vae, self.called = vae, False

    def decode(self, latent: Tensor) -> Tensor:
        """Decode a latent to [b, H, W, c], in the network's range."""
        vae = self.vae
        if "process_output" in getattr(vae, "__dict__", {}):  # its own: not what a wrapper passes on
            vae = copy.copy(vae)
            vae.process_output = self._kept
        return vae.decode(latent)

    def _kept(self, image: Tensor) -> Tensor:
        self.called = True
        return image

    def finish(self, image: Tensor) -> Tensor:
        """Bring what `decode` gave to the VAE's own range; for FLUX's that is [0, 1], and clamped."""
        return self.vae.process_output(image.movedim(-1, 1)).movedim(1, -1) if self.called else image


class OmniXDecodePanorama(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXDecodePanorama",
            display_name="Decode Panorama",
            category="OmniX/image",
            description="VAE Decode whose left and right edges meet.",
            search_aliases=["omnix", "vae decode", "seamless", "wrap", "360"],
            inputs=[
                io.Latent.Input("samples", tooltip="The sampled panorama."),
                io.Vae.Input("vae", tooltip="The VAE of FLUX.1 (ae.safetensors)."),
                io.Int.Input(
                    "wrap_columns",
                    default=WRAP_COLUMNS,
                    min=0,
                    max=64,
                    tooltip="Latent columns that are decoded twice, once past the right edge, and blended.",
                    advanced=True,
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The decoded panorama.")],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: Any, wrap_columns: int) -> io.NodeOutput:
        own = UnclampedVAE(vae)
        return io.NodeOutput(own.finish(panorama.decode_panorama(own.decode, samples["samples"], wrap_columns)))


class OmniXPlaceOnPanorama(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        angle = {"default": 0.0, "step": 0.5}
        return io.Schema(
            node_id="OmniXPlaceOnPanorama",
            display_name="Place Image on Panorama",
            category="OmniX/image",
            description="Lay a perspective picture on a grey panorama: the condition of image_to_pano.",
            search_aliases=["omnix", "perspective to equirectangular", "P2E", "outpaint", "360", "ERP"],
            inputs=[
                io.Image.Input("image", tooltip="A perspective picture."),
                *panorama_size(),
                io.Float.Input(
                    "fov_x", default=90.0, min=1.0, max=179.0, step=0.5, tooltip="Horizontal field of view in degrees."
                ),
                io.Float.Input("yaw", min=-180.0, max=180.0, tooltip="Degrees to the right.", **angle),
                io.Float.Input("pitch", min=-90.0, max=90.0, tooltip="Degrees up.", **angle),
                io.Float.Input("roll", min=-180.0, max=180.0, tooltip="Degrees clockwise.", **angle),
            ],
            outputs=[
                io.Image.Output(display_name="panorama", tooltip="The picture on grey; encode it as reference latent."),
                io.Mask.Output(display_name="unseen", tooltip="1 where the picture does not reach."),
            ],
        )

    @classmethod
    def execute(
        cls, image: Any, width: int, height: int, fov_x: float, yaw: float, pitch: float, roll: float
    ) -> io.NodeOutput:
        return io.NodeOutput(*panorama.place_on_panorama(image, width, height, fov_x, yaw, pitch, roll))


class OmniXCameraRays(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXCameraRays",
            display_name="Camera Rays",
            category="OmniX/image",
            description="The direction each pixel of a panorama looks in, as a picture: the second condition of "
            "rgb_camray_to_normal.",
            search_aliases=["omnix", "ray map", "camray", "directions", "360"],
            inputs=[*panorama_size()],
            outputs=[io.Image.Output(display_name="rays", tooltip="ray * 0.5 + 0.5; front +X, up +Y, left +Z.")],
        )

    @classmethod
    def execute(cls, width: int, height: int) -> io.NodeOutput:
        return io.NodeOutput(panorama.camera_rays(height, width)[None] * 0.5 + 0.5)
