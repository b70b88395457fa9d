"""From a picture and a prompt to a picture as in the reference: Diffusers, transformers, PEFT, numpy; none of our code.

Text is FluxPipeline's own `encode_prompt` on the tokenizers that the host ships, latents are AutoencoderKL's of FLUX's
own shape, the streams are the oracle's. What the reference pipeline draws from the VAE's encoder is taken at its mode,
as the host does. Weights are made up.
"""

from pathlib import Path

import numpy as np
import torch
from comfyui_omnix.lab.host import tiny_models
from diffusers import AutoencoderKL, FluxPipeline
from einops import rearrange
from oracle import State, decode_panorama, sample
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast


def encoded(model: AutoencoderKL, image: Tensor) -> Tensor:
    """Encode pixels [b, h, w, 3] in [0, 1] to the latent that FLUX sees."""
    latent = model.encode(rearrange(image, "b h w c -> b c h w") * 2 - 1).latent_dist.mode()
    return (latent - model.config.shift_factor) * model.config.scaling_factor


def decoded(model: AutoencoderKL, latent: Tensor, cut_first: bool = False) -> Tensor:
    """Decode a latent that FLUX has made to a panorama [b, h, w, 3]: the seam is blended, then values are cut."""

    def network(x: Tensor) -> Tensor:
        x = x / model.config.scaling_factor + model.config.shift_factor
        image = rearrange(model.decode(x, return_dict=False)[0], "b c h w -> b h w c")
        return image.clamp(-1, 1) if cut_first else image

    return (decode_panorama(network, latent) / 2 + 0.5).clamp(0, 1)


def text(comfyui: Path, prompt: str, rows: int = 512) -> tuple[Tensor, Tensor]:
    """Encode a prompt with the tiny text encoders of the tests' server: text [1, rows, 64], pooled vector [1, 32]."""
    sizes = tiny_models.TEXT_SIZES
    clip, lacking = CLIPTextModel.from_pretrained(
        None,
        config=CLIPTextConfig(hidden_act="quick_gelu", eos_token_id=2, **sizes["clip_l"]),
        state_dict=_in_half(tiny_models.clip_l()),
        output_loading_info=True,
    )
    t5, missing = T5EncoderModel.from_pretrained(
        None,
        config=T5Config(feed_forward_proj="gated-gelu", **sizes["t5xxl"]),
        state_dict=_in_half(tiny_models.t5()),
        output_loading_info=True,
    )
    assert not any([*lacking.values(), *missing.values()])
    pipeline = FluxPipeline(
        scheduler=None,
        vae=None,
        text_encoder=clip.eval(),
        tokenizer=CLIPTokenizer.from_pretrained(comfyui / "comfy" / "sd1_tokenizer", model_max_length=77),
        text_encoder_2=t5.eval(),
        tokenizer_2=T5TokenizerFast.from_pretrained(comfyui / "comfy" / "text_encoders" / "t5_tokenizer"),
        transformer=None,
    )
    embeds, pooled, _ = pipeline.encode_prompt(prompt, None, device=torch.device("cpu"), max_sequence_length=rows)
    return embeds, pooled


def _in_half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round weights as people's files of text encoders hold them, and as the host keeps them."""
    return {name: tensor.half().float() for name, tensor in state.items()}


def camera_rays(height: int, width: int) -> Tensor:
    """Return ray * 0.5 + 0.5 of each pixel's centre, [1, h, w, 3]: front +X, up +Y, left +Z."""
    lat = (0.5 - (np.arange(height)[:, None] + 0.5) / height) * np.pi
    lon = (0.5 - (np.arange(width)[None] + 0.5) / width) * 2 * np.pi
    rays = np.stack([np.cos(lat) * np.cos(lon), np.sin(lat) + 0 * lon, np.cos(lat) * np.sin(lon)], -1)
    return torch.from_numpy(rays[None] * 0.5 + 0.5).float()


def placed(image: Tensor, height: int, width: int, fov: float = 90.0) -> Tensor:
    """Lay a picture [1, h, w, 3] on a grey panorama, pixel by pixel."""
    h, w = image.shape[1:3]
    focal = w / (2 * np.tan(np.radians(fov) / 2))
    out = torch.full((1, height, width, 3), 127.5 / 255)
    for i in range(height):
        for j in range(width):
            theta, phi = 2 * np.pi * j / width - np.pi, np.pi * i / height - np.pi / 2
            x, y, z = np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)
            if x < 0:
                continue
            u, v = focal * y / x + w / 2 + 0.5, focal * z / x + h / 2 + 0.5
            if 0 <= u < w and 0 <= v < h:
                (left, a), (top, b) = divmod(u, 1), divmod(v, 1)
                for rows, down in ((int(top), 1 - b), ((int(top) + 1) % h, b)):
                    for columns, across in ((int(left), 1 - a), ((int(left) + 1) % w, a)):
                        share = down * across
                        seen = share * image[0, rows, columns]
                        out[0, i, j] = seen if (rows, columns) == (int(top), int(left)) else out[0, i, j] + seen
    return out


@torch.no_grad()
def picture(
    comfyui: Path,
    model: AutoencoderKL,
    flux: State,
    adapters: list[dict[str, Tensor]],
    conditions: list[Tensor],
    prompt: str,
    *,
    seed: int,
    steps: int,
    rows: int = 512,
    cut_first: bool = False,
    drawn: float = 0.0,
) -> Tensor:
    """Return the panorama [1, h, w, 3] that the reference makes of condition pictures and a prompt with its tag.

    `drawn`: the deviation of what is drawn round the encoder's mode, in units of the latent's own.
    """
    latents = [encoded(model, condition) for condition in conditions]
    draw = torch.Generator().manual_seed(seed + 1)
    latents = [x + drawn * x.std() * torch.randn(x.shape, generator=draw) for x in latents]
    noise = torch.randn(latents[0].shape, generator=torch.Generator().manual_seed(seed))
    embeds, pooled = text(comfyui, prompt, rows)
    return decoded(model, sample(flux, adapters, latents, noise, embeds, pooled, steps, 3.5), cut_first)
