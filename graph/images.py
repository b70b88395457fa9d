"""Nodes that make and decode panoramas."""

from __future__ import annotations

import copy
from typing import Any

from comfy_api.latest import io
from einops import rearrange
from torch import Tensor

from ..omnix.pictures import panorama
from ..omnix.pictures.background import BACKGROUNDS, background_of
from ..omnix.runtime.tasks import WRAP_COLUMNS


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
            description="VAE Decode for panoramas: the left and right edges meet.",
            search_aliases=["omnix", "vae decode", "seamless", "wrap", "360"],
            inputs=[
                io.Latent.Input("samples", tooltip="The sampled panorama."),
                io.Vae.Input("vae", tooltip="The model's VAE; for OmniX that of FLUX.1 (ae.safetensors)."),
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
        image = own.finish(panorama.decode_panorama(own.decode, samples["samples"], wrap_columns))
        return io.NodeOutput(rearrange(image, "... h w c -> (...) h w c"))  # a video's frames are pictures


class OmniXPlaceOnPanorama(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        angle = {"default": 0.0, "step": 0.5}
        later = {"optional": True, "advanced": True}
        return io.Schema(
            node_id="OmniXPlaceOnPanorama",
            display_name="Place Image on Panorama",
            category="OmniX/image",
            description="Place a perspective picture on a panorama of one colour, or on one that already has pictures: "
            "the condition of image_to_pano, and of LoRAs that complete a panorama.",
            search_aliases=["omnix", "perspective to equirectangular", "P2E", "outpaint", "360", "ERP", "inpaint"],
            inputs=[
                io.Image.Input("image", tooltip="A perspective picture."),
                *panorama_size(),
                io.Float.Input(
                    "fov_x", default=90.0, min=1.0, max=179.0, step=0.5, tooltip="Horizontal field of view in degrees."
                ),
                io.Float.Input("yaw", min=-180.0, max=180.0, tooltip="Degrees to the right.", **angle),
                io.Float.Input("pitch", min=-90.0, max=90.0, tooltip="Degrees up.", **angle),
                io.Float.Input("roll", min=-180.0, max=180.0, tooltip="Degrees clockwise.", **angle),
                io.Combo.Input(
                    "background",
                    options=[*BACKGROUNDS],
                    default="grey",
                    tooltip="The colour where no picture reaches. grey: OmniX. green: the outpainting LoRAs of FLUX.2 "
                    "Klein and Krea 2.",
                    **later,
                ),
                io.String.Input(
                    "colour", default="", tooltip="Another colour, such as #7F7F7F; if empty, background.", **later
                ),
                io.Float.Input(
                    "feather",
                    default=0.0,
                    min=0.0,
                    max=45.0,
                    step=0.5,
                    tooltip="Degrees over which the picture's border fades, in the mask and over another picture.",
                    **later,
                ),
                io.Image.Input(
                    "onto", optional=True, tooltip="A panorama to place it on, from another such node or a loader."
                ),
                io.Mask.Input("onto_unseen", optional=True, tooltip="That panorama's mask: 1 where it is still empty."),
            ],
            outputs=[
                io.Image.Output(display_name="panorama", tooltip="The panorama; encode it as reference latent."),
                io.Mask.Output(display_name="unseen", tooltip="1 where no picture reaches: the part to inpaint."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Any,
        width: int,
        height: int,
        fov_x: float,
        yaw: float,
        pitch: float,
        roll: float,
        background: str = "grey",
        colour: str = "",
        feather: float = 0.0,
        onto: Any = None,
        onto_unseen: Any = None,
    ) -> io.NodeOutput:
        below = None
        if onto is not None:
            below = panorama.Laid(onto, onto.new_zeros(onto.shape[:3]) if onto_unseen is None else onto_unseen)
        elif onto_unseen is not None:
            raise ValueError("onto_unseen is connected and onto is not: connect the panorama of this mask.")
        camera = (width, height, fov_x, yaw, pitch, roll)
        look = {"background": background_of(background, colour), "feather": feather, "onto": below}
        return io.NodeOutput(*panorama.place_on_panorama(image, *camera, **look))


class OmniXRollPanorama(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXRollPanorama",
            display_name="Seam to the Middle",
            category="OmniX/image",
            description="Turn a panorama by 180 degrees, so that its edges meet in the middle, with a mask of the seam "
            "to inpaint. The same node turns it back, exactly.",
            search_aliases=["omnix", "roll", "offset", "seam", "rotate", "360", "inpaint", "equirectangular"],
            inputs=[
                io.Image.Input("image", tooltip="A panorama."),
                io.Float.Input(
                    "seam_width",
                    default=20.0,
                    min=0.0,
                    max=180.0,
                    step=0.5,
                    tooltip="Width of the mask in degrees; half of it fades out.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="panorama", tooltip="The panorama, turned by half its width."),
                io.Mask.Output(display_name="seam", tooltip="1 along the middle: the part to inpaint."),
            ],
        )

    @classmethod
    def execute(cls, image: Any, seam_width: float) -> io.NodeOutput:
        return io.NodeOutput(*panorama.seam_to_middle(image, seam_width))


class OmniXCameraRays(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OmniXCameraRays",
            display_name="Camera Rays",
            category="OmniX/image",
            description="The viewing direction of each pixel of a panorama, as a picture: the second condition of "
            "rgb_camray_to_normal.",
            search_aliases=["omnix", "ray map", "camray", "directions", "360"],
            inputs=[*panorama_size()],
            outputs=[io.Image.Output(display_name="rays", tooltip="ray * 0.5 + 0.5; front +X, up +Y, left +Z.")],
        )

    @classmethod
    def execute(cls, width: int, height: int) -> io.NodeOutput:
        return io.NodeOutput(panorama.camera_rays(height, width)[None] * 0.5 + 0.5)
