"""Tiny models of the host's other kinds, with random weights, which Seamless Panorama samples besides FLUX.1."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models as supported
import torch
from torch import Tensor, nn

Model = Any
TEXT = 5
"""Rows of the made-up text."""


@dataclass(frozen=True)
class Base:
    """One kind of model: how a tiny one is built, what its latents look like, and what its text is."""

    config: str
    """The host's class of its configuration."""
    net: dict[str, Any]
    channels: int
    text: int
    """Channels of the text."""
    patch: int = 2
    frames: int = 0
    """Of a video latent; 0 for a picture's."""
    pooled: int = 0
    more: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Other tensors on the conditioning, by name and size."""

    def shape(self, height: int, width: int, batch: int = 1) -> tuple[int, ...]:
        """The size of a latent."""
        return (batch, self.channels, *((self.frames,) if self.frames else ()), height, width)


_FLUX = {"context_in_dim": 32, "hidden_size": 128, "num_heads": 1, "depth": 1, "depth_single_blocks": 1, "theta": 10000}
_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 32,
    "adm_in_channels": 6 * 256 + 1280,
    "num_classes": "sequential",
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "num_head_channels": 32,
}
_WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 128,
    "ffn_dim": 256,
    "num_heads": 1,
    "num_layers": 2,
    "text_dim": 32,
    "text_len": TEXT,
}

_ALL: dict[str, Base] = {
    "FLUX.1": Base(
        "Flux",
        {
            **_FLUX,
            "image_model": "flux",
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": 32,
            "mlp_ratio": 4.0,
            "axes_dim": [16, 56, 56],
            "patch_size": 2,
            "qkv_bias": True,
            "guidance_embed": True,
            "txt_ids_dims": [],
        },
        *(16, 32),
        pooled=32,
    ),
    "FLUX.2": Base(
        "Flux2",
        {
            **_FLUX,
            "image_model": "flux2",
            "in_channels": 128,
            "out_channels": 128,
            "vec_in_dim": None,
            "mlp_ratio": 3.0,
            "axes_dim": [32, 32, 32, 32],
            "patch_size": 1,
            "qkv_bias": False,
            "guidance_embed": False,
            "txt_ids_dims": [3],
            "global_modulation": True,
            "mlp_silu_act": True,
            "ops_bias": False,
            "default_ref_method": "index",
            "ref_index_scale": 10.0,
        },
        *(128, 32, 1),
        pooled=32,
    ),
    "Qwen-Image": Base(
        "QwenImage",
        {"image_model": "qwen_image", "num_layers": 2, "num_attention_heads": 1, "joint_attention_dim": 32},
        *(16, 32),
        frames=1,
    ),
    "Z-Image": Base(
        "ZImage",
        {
            "image_model": "lumina2",
            "in_channels": 16,
            "dim": 256,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "axes_dims": [32, 48, 48],
            "axes_lens": [1536, 512, 512],
            "rope_theta": 256.0,
            "ffn_dim_multiplier": 2.0,
            "qk_norm": True,
            "cap_feat_dim": 32,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
        },
        *(16, 32),
    ),
    "Chroma": Base(
        "Chroma",
        {
            **_FLUX,
            "image_model": "chroma",
            "in_channels": 64,
            "out_channels": 64,
            "in_dim": 64,
            "out_dim": 128,
            "hidden_dim": 64,
            "n_layers": 1,
            "mlp_ratio": 4.0,
            "axes_dim": [16, 56, 56],
            "patch_size": 2,
            "qkv_bias": True,
            "txt_ids_dims": [],
            "vec_in_dim": None,
        },
        *(16, 32),
        pooled=32,
    ),
    "SD3.5": Base(
        "SD3",
        {
            "in_channels": 16,
            "depth": 2,
            "patch_size": 2,
            "adm_in_channels": 32,
            "num_patches": 24 * 24,
            "pos_embed_max_size": 24,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 32, "out_features": 128},
            },
            "qk_norm": "rms",
            "x_block_self_attn_layers": [0],
        },
        *(16, 32),
        pooled=32,
    ),
    "HiDream": Base(
        "HiDream",
        {
            "image_model": "hidream",
            "patch_size": 2,
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 128,
            "num_attention_heads": 1,
            "caption_channels": [32, 32],
            "text_emb_dim": 32,
            "axes_dims_rope": (64, 32, 32),
            "max_resolution": (128, 128),
            "llama_layers": [0, 1],
        },
        *(16, 32),
        pooled=32,
        more={"conditioning_llama3": (1, 2, TEXT, 32)},
    ),
    "SDXL": Base("SDXL", _UNET, *(4, 32, 4), pooled=1280),
    "Wan 2.1": Base("WAN21_T2V", {**_WAN, "in_dim": 16, "out_dim": 16}, *(16, 32), frames=2),
    "Wan 2.2": Base("WAN22_T2V", {**_WAN, "in_dim": 48, "out_dim": 48}, *(48, 32), frames=2),
    "Krea 2": Base(
        "Krea2",
        {
            "image_model": "krea2",
            "features": 128,
            "tdim": 64,
            "txtdim": 16,
            "heads": 1,
            "kvheads": 1,
            "multiplier": 2,
            "layers": 2,
            "patch": 2,
            "channels": 16,
            "txtlayers": 2,
            "txtheads": 1,
            "txtkvheads": 1,
        },
        *(16, 32),
        frames=1,
    ),
}
BASES = {kind: base for kind, base in _ALL.items() if hasattr(supported, base.config)}
"""Those that this host knows."""


def load_base(kind: str, **net: Any) -> Model:
    """Make a tiny model of one kind and hand it to the host as its loaders do; `net` changes its network."""
    base = BASES[kind]
    config = getattr(supported, base.config)({**base.net, **net})
    config.unet_config.setdefault("dtype", torch.float32)
    model = config.get_model({})
    draw_weights(model.diffusion_model)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.CoreModelPatcher(model, device, comfy.model_management.unet_offload_device())


def draw_weights(network: nn.Module, seed: int = 0) -> None:
    """Fill a network: matrices ~ N(0, 1 / in), weights and variances of norms ~ N(1, 0.01), the rest ~ N(0, 0.01)."""
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        values = torch.randn(tensor.shape, generator=draw)
        if name == "pos_embed":
            grid = math.isqrt(tensor.shape[1])
            values = _smooth(grid, tensor.shape[-1])
        elif name.endswith(("gamma", "running_var")):
            values = (1 + 0.1 * values).abs()
        elif tensor.ndim > 1:
            values = values * math.prod(tensor.shape[1:]) ** -0.5
        else:
            values = 0.1 * values + (1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) else 0.0)
        tensor.data = values.to(tensor.dtype)


def _smooth(grid: int, channels: int) -> Tensor:
    """Positions that change slowly, as SD3's own do."""
    rate = 0.5 ** torch.arange(channels // 4)
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    waves = [f(place.flatten()[:, None] * rate) for place in (rows, columns) for f in (torch.sin, torch.cos)]
    return torch.cat(waves, dim=-1)[None]


def conditioning(kind: str, seed: int = 1, **extra: Any) -> list[list[Any]]:
    """A made-up text."""
    base, draw = BASES[kind], torch.Generator().manual_seed(seed)
    options = {name: torch.randn(size, generator=draw) for name, size in base.more.items()}
    if base.pooled:
        options["pooled_output"] = torch.randn(1, base.pooled, generator=draw)
    return [[torch.randn(1, TEXT, base.text, generator=draw), {**options, **extra}]]
