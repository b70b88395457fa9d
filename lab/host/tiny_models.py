"""A models folder of a few megabytes for stock graphs: tiny FLUX.1, VAE, CLIP-L and T5 with random weights.

UNETLoader and VAELoader read these files directly. The host fixes the sizes of its text encoders, so DualCLIPLoader
needs the pack `doubles/tiny_text_encoders` next to ours. Nothing here imports ComfyUI.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .tiny import flux, save

DOUBLES = Path(__file__).resolve().parent / "doubles"
TEXT_SIZES = json.loads((DOUBLES / "tiny_text_encoders" / "config.json").read_text(encoding="utf-8"))

CHANNELS = 64
LATENT = 16
# FLUX.1's latent format: the sampler gets (latent - SHIFT) * SCALE.
SCALE, SHIFT = 0.3611, 0.1159
CLIP_VOCABULARY, CLIP_POSITIONS = 49408, 77
T5_VOCABULARY, T5_BUCKETS = 32128, 32

# TAESD's two networks: (index, layer); the other indices are activations and upsamplings.
ENCODER = (
    *((0, "first"), (1, "block")),
    *((2, "down"), (3, "block"), (4, "block"), (5, "block")),
    *((6, "down"), (7, "block"), (8, "block"), (9, "block")),
    *((10, "down"), (11, "block"), (12, "block"), (13, "block"), (14, "last")),
)
DECODER = (
    *((1, "first"), (3, "block"), (4, "block"), (5, "block")),
    *((7, "up"), (8, "block"), (9, "block"), (10, "block")),
    *((12, "up"), (13, "block"), (14, "block"), (15, "block")),
    *((17, "up"), (18, "block"), (19, "last")),
)


@dataclass(frozen=True)
class ModelNames:
    """File names as the loaders' combo boxes show them."""

    flux: str = "tiny_flux.safetensors"
    vae: str = "tiny_vae.safetensors"
    clip_l: str = "tiny_clip_l.safetensors"
    t5: str = "tiny_t5.safetensors"


def write_models(folder: Path, names: ModelNames = ModelNames()) -> ModelNames:
    """Fill `folder` (ComfyUI's `models`) with the four files and return their names."""
    save(flux(), folder / "diffusion_models" / names.flux)
    save(vae(), folder / "vae" / names.vae)
    save(clip_l(), folder / "text_encoders" / names.clip_l)
    save(t5(), folder / "text_encoders" / names.t5)
    return names


def vae(seed: int = 0, noise: float = 0.15) -> dict[str, Tensor]:
    """Make a TAESD-shaped VAE of 16 channels that VAELoader accepts: 8 pixels per latent cell.

    Its structure keeps the local mean colour, [3] -> [16] -> [3], so pictures can be recognised at an eighth of their
    resolution. Random weights of deviation noise / sqrt(fan in) are added, so that every tap and channel has an effect.
    """
    generator = torch.Generator().manual_seed(seed)
    colours = torch.linalg.qr(torch.randn(LATENT, 3, generator=generator)).Q
    state = {"vae_scale": torch.tensor(SCALE), "vae_shift": torch.tensor(SHIFT)}
    state |= {f"taesd_encoder.{name}": tensor for name, tensor in _encoder(colours).items()}
    state |= {f"taesd_decoder.{name}": tensor for name, tensor in _decoder(colours).items()}
    return {name: tensor + _noise(tensor, noise, generator) for name, tensor in state.items()}


def _noise(tensor: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Random weights for a convolution [out, in, 3, 3], zeros for everything else."""
    if tensor.ndim != 4:
        return torch.zeros_like(tensor)
    return torch.randn(tensor.shape, generator=generator) * noise * tensor[0].numel() ** -0.5


def _convolution(
    out: int, columns: int, taps: tuple[int, ...], carried: Tensor, bias: Tensor | None
) -> dict[str, Tensor]:
    """Make a 3x3 convolution that applies `carried` [o, i] to the mean of the pixels at `taps` x `taps`."""
    weight = torch.zeros(out, columns, 3, 3)
    for row in taps:
        for column in taps:
            weight[: carried.shape[0], : carried.shape[1], row, column] = carried / len(taps) ** 2
    return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}


def _layers(kind: str, ends: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Make the layer at one index: an end of the network, a change of resolution, or a residual block."""
    if kind in ends:
        return ends[kind]
    if kind == "block":
        silent = _convolution(CHANNELS, CHANNELS, (1,), torch.zeros(3, 3), torch.zeros(CHANNELS))
        return {f"conv.{i}.{name}": tensor.clone() for i in (0, 2, 4) for name, tensor in silent.items()}
    # Down: the mean of 2x2 pixels. Up: 3x3 means smooth the repeated pixels.
    return _convolution(CHANNELS, CHANNELS, (1, 2) if kind == "down" else (0, 1, 2), torch.eye(3), None)


def _encoder(colours: Tensor) -> dict[str, Tensor]:
    last = 2 * colours
    ends = {
        "first": _convolution(CHANNELS, 3, (1,), torch.eye(3), torch.zeros(CHANNELS)),
        "last": _convolution(LATENT, CHANNELS, (1,), last, -0.5 * last.sum(1)),
    }
    return {f"{i}.{name}": tensor for i, kind in ENCODER for name, tensor in _layers(kind, ends).items()}


def _decoder(colours: Tensor) -> dict[str, Tensor]:
    grey = torch.zeros(CHANNELS)
    grey[:3] = 0.5
    ends = {
        "first": _convolution(CHANNELS, LATENT, (1,), colours.T / 2, grey),
        "last": _convolution(3, CHANNELS, (1,), torch.eye(3), torch.zeros(3)),
    }
    return {f"{i}.{name}": tensor for i, kind in DECODER for name, tensor in _layers(kind, ends).items()}


def clip_l(seed: int = 0) -> dict[str, Tensor]:
    """Make a CLIP-L text encoder with the sizes of the double; its pooled vector is [32]."""
    size = TEXT_SIZES["clip_l"]
    h, inner = size["hidden_size"], size["intermediate_size"]
    shapes = {
        "embeddings.token_embedding.weight": (CLIP_VOCABULARY, h),
        "embeddings.position_embedding.weight": (CLIP_POSITIONS, h),
    }
    for i in range(size["num_hidden_layers"]):
        layer = {f"self_attn.{name}_proj": (h, h) for name in "qkv"} | {"self_attn.out_proj": (h, h)}
        layer |= {"mlp.fc1": (inner, h), "mlp.fc2": (h, inner), "layer_norm1": (h,), "layer_norm2": (h,)}
        for name, shape in layer.items():
            shapes |= {f"encoder.layers.{i}.{name}.weight": shape, f"encoder.layers.{i}.{name}.bias": shape[:1]}
    shapes |= {"final_layer_norm.weight": (h,), "final_layer_norm.bias": (h,)}
    return {f"text_model.{name}": tensor for name, tensor in _random(shapes, seed).items()}


def t5(seed: int = 0) -> dict[str, Tensor]:
    """Make a T5 encoder with the sizes of the double; it embeds each token as [64]."""
    size = TEXT_SIZES["t5xxl"]
    h, inner, wide = size["d_model"], size["d_kv"] * size["num_heads"], size["d_ff"]
    shapes = {"shared.weight": (T5_VOCABULARY, h), "encoder.final_layer_norm.weight": (h,)}
    shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (T5_BUCKETS, size["num_heads"])
    for i in range(size["num_layers"]):
        layer = {f"0.SelfAttention.{name}": (inner, h) for name in "qkv"} | {"0.SelfAttention.o": (h, inner)}
        layer |= {"1.DenseReluDense.wi_0": (wide, h), "1.DenseReluDense.wi_1": (wide, h)}
        layer |= {"1.DenseReluDense.wo": (h, wide), "0.layer_norm": (h,), "1.layer_norm": (h,)}
        shapes |= {f"encoder.block.{i}.layer.{name}.weight": shape for name, shape in layer.items()}
    return _random(shapes, seed)


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Draw matrices ~ N(0, 1/in), embeddings ~ N(0, 1), norms ~ N(1, 0.01) and biases ~ N(0, 0.01)."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if "embedding" in name or name == "shared.weight":
            state[name] = values
        elif name.endswith(".bias"):
            state[name] = 0.1 * values
        else:
            state[name] = 1 + 0.1 * values if "norm" in name else values * shape[-1] ** -0.5
    return state
