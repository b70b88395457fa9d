"""FLUX.1's VAE in Diffusers' layout, with its real shape and random weights that depend on each tensor's name."""

import zlib

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

SHAPE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def flux_vae() -> AutoencoderKL:
    """Make the VAE, 335 MB in float32; the host loads its state dict too."""
    made = AutoencoderKL(**SHAPE).eval().requires_grad_(False)
    made.load_state_dict({name: made_up(name, tensor.shape) for name, tensor in made.state_dict().items()})
    return made


def made_up(name: str, shape: torch.Size) -> Tensor:
    """Draw a tensor by its name: weights keep the size of their input, and the last layer's output exceeds [-1, 1]."""
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return torch.from_numpy(0.1 * draw + name.endswith("weight"))
    size = 1.5 if "conv_out" in name else 1.0
    return torch.from_numpy(draw * size * np.prod(shape[1:], dtype=np.float32) ** -0.5)
