"""FLUX.1 weights and OmniX adapters of any size with random numbers; the shapes and names are real.

Everything depends only on the seed and is in Diffusers layout. Weights are drawn so that activations keep their size
from layer to layer. Adapters are drawn so that they change the result about as much as the weights do: a test fails if
one of them is missing. Nothing here imports ComfyUI.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

HEAD = 128
LATENT = 64
FREQUENCIES = 256

OMNIX_DOUBLE = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2")
OMNIX_SINGLE = ("attn.to_q", "attn.to_k", "attn.to_v")

# spelling -> (what goes before the Diffusers name, down's suffix, up's suffix)
SPELLINGS = {
    "diffusers": ("transformer.", ".lora_A.weight", ".lora_B.weight"),
    "peft": ("base_model.model.", ".lora_A.weight", ".lora_B.weight"),
    "peft_default": ("base_model.model.", ".lora_A.default.weight", ".lora_B.default.weight"),
    "bare": ("", ".lora_A.weight", ".lora_B.weight"),
    "down_up": ("transformer.", ".lora_down.weight", ".lora_up.weight"),
    "dotted": ("transformer.", ".lora.down.weight", ".lora.up.weight"),
}


@dataclass(frozen=True)
class Geometry:
    """Sizes of a FLUX.1: hidden is a multiple of 128 (one attention head each), double and single count blocks."""

    hidden: int = 256
    double: int = 2
    single: int = 2
    text: int = 64
    pooled: int = 32
    guidance: bool = True

    @property
    def heads(self) -> int:
        """Attention heads of 128 channels."""
        return self.hidden // HEAD


TINY = Geometry()
FULL = Geometry(hidden=3072, double=19, single=38, text=4096, pooled=768)


def linears(geometry: Geometry = TINY) -> dict[str, tuple[int, int]]:
    """Name every Linear of the Diffusers FLUX and give its (columns in, rows out)."""
    h = geometry.hidden
    layers = {"x_embedder": (LATENT, h), "context_embedder": (geometry.text, h)}
    embedders = {"timestep_embedder": FREQUENCIES, "text_embedder": geometry.pooled}
    if geometry.guidance:
        embedders["guidance_embedder"] = FREQUENCIES
    for name, columns in embedders.items():
        layers[f"time_text_embed.{name}.linear_1"] = (columns, h)
        layers[f"time_text_embed.{name}.linear_2"] = (h, h)
    for i in range(geometry.double):
        layers |= {f"transformer_blocks.{i}.{name}": size for name, size in _double(h).items()}
    for i in range(geometry.single):
        layers |= {f"single_transformer_blocks.{i}.{name}": size for name, size in _single(h).items()}
    return layers | {"norm_out.linear": (h, 2 * h), "proj_out": (h, LATENT)}


def _double(h: int) -> dict[str, tuple[int, int]]:
    attention = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    layers = {f"attn.{name}": (h, h) for name in attention}
    for stream in ("ff", "ff_context"):
        layers |= {f"{stream}.net.0.proj": (h, 4 * h), f"{stream}.net.2": (4 * h, h)}
    return layers | {"norm1.linear": (h, 6 * h), "norm1_context.linear": (h, 6 * h)}


def _single(h: int) -> dict[str, tuple[int, int]]:
    layers = {f"attn.{name}": (h, h) for name in ("to_q", "to_k", "to_v")}
    return layers | {"proj_mlp": (h, 4 * h), "proj_out": (5 * h, h), "norm.linear": (h, 3 * h)}


def norms(geometry: Geometry = TINY) -> list[str]:
    """Name every RMS norm weight of the Diffusers FLUX; each has 128 entries."""
    double = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")
    names = [f"transformer_blocks.{i}.attn.{name}" for i in range(geometry.double) for name in double]
    return names + [f"single_transformer_blocks.{i}.attn.{n}" for i in range(geometry.single) for n in double[:2]]


def flux(geometry: Geometry = TINY, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Make a FLUX.1-dev state dict in Diffusers layout.  W ~ N(0, 1/in), bias ~ N(0, 0.01), norms ~ N(1, 0.01)."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, (columns, rows) in linears(geometry).items():
        state[f"{name}.weight"] = torch.randn(rows, columns, generator=generator) * columns**-0.5
        state[f"{name}.bias"] = torch.randn(rows, generator=generator) * 0.1
    for name in norms(geometry):
        state[f"{name}.weight"] = 1 + torch.randn(HEAD, generator=generator) * 0.1
    return {name: tensor.to(dtype) for name, tensor in state.items()}


def omnix_modules(geometry: Geometry = TINY) -> list[str]:
    """List the Linears that OmniX adapts: six of a double block, three of a single block."""
    double = [f"transformer_blocks.{i}.{name}" for i in range(geometry.double) for name in OMNIX_DOUBLE]
    return double + [f"single_transformer_blocks.{i}.{name}" for i in range(geometry.single) for name in OMNIX_SINGLE]


def adapter(
    geometry: Geometry = TINY,
    seed: int = 0,
    rank: int | Mapping[str, int] = 8,
    dtype: torch.dtype = torch.float32,
    *,
    modules: Iterable[str] | None = None,
    spelling: str = "diffusers",
    alpha: float | Mapping[str, float] | None = None,
    size: float = 0.7,
) -> dict[str, Tensor]:
    """Make one stream's LoRA: down [r, in] and up [out, r] for each module, and `{key}.alpha` where alpha names it.

    `modules` are Diffusers names (default: OmniX's). A delta up @ down has entries of deviation size / sqrt(in).
    """
    generator = torch.Generator().manual_seed(seed)
    prefix, down_suffix, up_suffix = SPELLINGS[spelling]
    sizes = linears(geometry)
    state = {}
    for name in omnix_modules(geometry) if modules is None else modules:
        columns, rows = sizes[name]
        r = rank if isinstance(rank, int) else rank[name]
        state[f"{prefix}{name}{down_suffix}"] = _normal((r, columns), columns**-0.5, dtype, generator)
        state[f"{prefix}{name}{up_suffix}"] = _normal((rows, r), size * r**-0.5, dtype, generator)
        if alpha is not None and (isinstance(alpha, (int, float)) or name in alpha):
            value = alpha if isinstance(alpha, (int, float)) else alpha[name]
            state[f"{prefix}{name}.alpha"] = torch.tensor(float(value))
    return state


def _normal(shape: tuple[int, int], deviation: float, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Draw in float32, or directly in the target type if possible: a full-size adapter has 112 million numbers."""
    if dtype == torch.bfloat16:
        return torch.empty(shape, dtype=dtype).normal_(0, deviation, generator=generator)
    return (torch.randn(shape, generator=generator) * deviation).to(dtype)


def full_adapter(seed: int = 0) -> dict[str, Tensor]:
    """Make an adapter of OmniX's real size: 456 tensors, rank 64, bfloat16, 224 MB."""
    return adapter(FULL, seed, 64, torch.bfloat16, size=0.05)


def save(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write `state` to a safetensors file, making its folder, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(state), path, metadata={"format": "pt", **(metadata or {})})
    return path
