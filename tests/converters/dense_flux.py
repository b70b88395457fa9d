"""FLUX.1 in float64, written from its equations on a Diffusers state dict: a second opinion on every forward pass.

Plain tensors and functions; a LoRA is merged as W + scale * up @ down. Neither the pack nor ComfyUI nor Diffusers is
used, so that it is an independent check of all three.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

State = Mapping[str, Tensor]
Linear = Callable[[str, Tensor], Tensor]
HEAD, AXES, THETA = 128, (16, 56, 56), 10000.0


def merged(state: State, *adapters: State, strength: float = 1.0) -> dict[str, Tensor]:
    """Add adapters (`transformer.` keys, lora_A and lora_B, alpha where given) to the weights, all in float64."""
    result = {name: tensor.double() for name, tensor in state.items()}
    for adapter in adapters:
        for key in adapter:
            if key.endswith(".lora_A.weight"):
                module = key.removesuffix(".lora_A.weight")
                down, up = adapter[key].double(), adapter[f"{module}.lora_B.weight"].double()
                alpha = adapter.get(f"{module}.alpha")
                scale = strength * (1.0 if alpha is None else float(alpha) / down.shape[0])
                name = f"{module.removeprefix('transformer.')}.weight"
                result[name] = result[name] + scale * up @ down
    return result


def forward(state: State, latent: Tensor, t: float, text: Tensor, pooled: Tensor, guidance: float) -> Tensor:
    """Predict the velocity of a latent [b, 16, h, w]; text [b, l, c], pooled [b, d], t in [0, 1]."""
    weights = {name: tensor.double() for name, tensor in state.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    b, _, h, w = latent.shape
    image = linear("x_embedder", rearrange(latent.double(), "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2))
    words = linear("context_embedder", text.double().expand(b, -1, -1))
    vector = _vector(linear, t, guidance, pooled.double().expand(b, -1))
    angles = _angles(words.shape[1], h // 2, w // 2)
    for i in range(_count(state, "transformer_blocks.")):
        words, image = _double(weights, linear, f"transformer_blocks.{i}", words, image, vector, angles)
    both = torch.cat([words, image], dim=1)
    for i in range(_count(state, "single_transformer_blocks.")):
        both = _single(weights, linear, f"single_transformer_blocks.{i}", both, vector, angles)
    scale, shift = linear("norm_out.linear", F.silu(vector))[:, None].chunk(2, dim=-1)
    velocity = linear("proj_out", _normed(both[:, words.shape[1] :]) * (1 + scale) + shift)
    return rearrange(velocity, "b (h w) (c p q) -> b c (h p) (w q)", h=h // 2, p=2, q=2)


def _count(state: State, prefix: str) -> int:
    return len({name.split(".")[1] for name in state if name.startswith(prefix)})


def _vector(linear: Linear, t: float, guidance: float, pooled: Tensor) -> Tensor:
    parts = {"timestep_embedder": _wave(t), "guidance_embedder": _wave(guidance), "text_embedder": pooled}
    outputs = []
    for name, values in parts.items():
        hidden = F.silu(linear(f"time_text_embed.{name}.linear_1", values))
        outputs.append(linear(f"time_text_embed.{name}.linear_2", hidden))
    return outputs[0] + outputs[1] + outputs[2]


def _wave(value: float) -> Tensor:
    """Embed a number as 128 cosines and 128 sines of 1000 times it, frequencies 1 down to almost 1 / 10000.

    In float32, as in every FLUX: with angles of hundreds of radians the rounding (1.4e-5 of the result) belongs to the
    model.
    """
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
    angles = 1000 * torch.tensor(value, dtype=torch.float32) * frequencies
    return torch.cat([angles.cos(), angles.sin()])[None].double()


def _angles(words: int, rows: int, columns: int) -> Tensor:
    """Rotation angles [l, 64]: text is at the origin, an image token at (0, row, column)."""
    places = torch.zeros(words + rows * columns, 3, dtype=torch.float64)
    places[words:, 1] = torch.arange(rows).repeat_interleave(columns)
    places[words:, 2] = torch.arange(columns).repeat(rows)
    turns = [places[:, i, None] * THETA ** (-torch.arange(0, n, 2).double() / n) for i, n in enumerate(AXES)]
    return torch.cat(turns, dim=-1)


def _normed(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()


def _heads(weights: State, linear: Linear, name: str, layers: tuple[str, ...], norms: str, x: Tensor) -> list[Tensor]:
    """Return query, key and value [b, heads, l, d], the first two normalised per head."""
    query, key, value = (rearrange(linear(f"{name}.{layer}", x), "b l (h d) -> b h l d", d=HEAD) for layer in layers)
    for part, letter in ((query, "q"), (key, "k")):
        part /= (part.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        part *= weights[f"{name}.{norms}_{letter}.weight"]
    return [query, key, value]


def _attend(query: Tensor, key: Tensor, value: Tensor, angles: Tensor) -> Tensor:
    turn = torch.polar(torch.ones_like(angles), angles)
    query, key = (
        torch.view_as_real(torch.view_as_complex(rearrange(x, "b h l (d r) -> b h l d r", r=2).contiguous()) * turn)
        for x in (query, key)
    )
    weights = torch.einsum("b h i d r, b h j d r -> b h i j", query, key).div(HEAD**0.5).softmax(-1)
    return rearrange(torch.einsum("b h i j, b h j d -> b h i d", weights, value), "b h l d -> b l (h d)")


def _double(
    weights: State, linear: Linear, name: str, words: Tensor, image: Tensor, vector: Tensor, angles: Tensor
) -> tuple[Tensor, Tensor]:
    activated = F.silu(vector)
    modulation = [linear(f"{name}.{n}.linear", activated)[:, None].chunk(6, -1) for n in ("norm1_context", "norm1")]
    sides = [words, image]
    layers = (("add_q_proj", "add_k_proj", "add_v_proj"), ("to_q", "to_k", "to_v"))
    norms = ("norm_added", "norm")
    parts = [
        _heads(
            weights, linear, f"{name}.attn", layers[i], norms[i], _normed(x) * (1 + modulation[i][1]) + modulation[i][0]
        )
        for i, x in enumerate(sides)
    ]
    query, key, value = (torch.cat(pair, dim=2) for pair in zip(*parts))
    mixed = _attend(query, key, value, angles).split([words.shape[1], image.shape[1]], dim=1)
    outs, feeds = ("attn.to_add_out", "attn.to_out.0"), ("ff_context", "ff")
    for i, (_, _, gate, shift, scale, last_gate) in enumerate(modulation):
        sides[i] = sides[i] + gate * linear(f"{name}.{outs[i]}", mixed[i])
        hidden = linear(f"{name}.{feeds[i]}.net.0.proj", _normed(sides[i]) * (1 + scale) + shift)
        sides[i] = sides[i] + last_gate * linear(f"{name}.{feeds[i]}.net.2", F.gelu(hidden, approximate="tanh"))
    return sides[0], sides[1]


def _single(weights: State, linear: Linear, name: str, x: Tensor, vector: Tensor, angles: Tensor) -> Tensor:
    shift, scale, gate = linear(f"{name}.norm.linear", F.silu(vector))[:, None].chunk(3, -1)
    normed = _normed(x) * (1 + scale) + shift
    mixed = _attend(*_heads(weights, linear, f"{name}.attn", ("to_q", "to_k", "to_v"), "norm", normed), angles)
    hidden = F.gelu(linear(f"{name}.proj_mlp", normed), approximate="tanh")
    return x + gate * linear(f"{name}.proj_out", torch.cat([mixed, hidden], dim=-1))
