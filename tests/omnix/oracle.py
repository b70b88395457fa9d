"""The plain computation of OmniX: one whole Diffusers FLUX with its own PEFT adapter for each stream.

The models of a step run side by side, one thread each, and meet in every attention layer, where each waits for the keys
and values of all others. Nothing is folded, shared, fused or computed once for all, and nothing here imports the pack.
"""

import itertools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from einops import rearrange
from torch import Tensor, nn

State = Mapping[str, Tensor]
HEAD = 128
TIMEOUT = 300.0


class Meeting:
    """The exchange of keys and values between the streams of one step, layer by layer."""

    def __init__(self, streams: int) -> None:
        self.barrier = threading.Barrier(streams, timeout=TIMEOUT)
        self.table: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * streams

    def exchange(self, stream: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Give this stream's [b, l, heads, d] and get those of all streams in order, [b, streams * l, heads, d]."""
        self.table[stream] = (key, value)
        self.barrier.wait()
        keys, values = (torch.cat(parts, dim=1) for parts in zip(*self.table))
        self.barrier.wait()
        return keys, values


class JointAttention:
    """FLUX attention whose queries see the keys and values of every stream."""

    def __init__(self, stream: int, meeting: Meeting) -> None:
        self.stream = stream
        self.meeting = meeting

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        assert image_rotary_emb is not None
        rows = [(hidden_states, attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k)]
        if encoder_hidden_states is not None:
            text = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k)
            rows.insert(0, (encoder_hidden_states, *text))
        parts = [_query_key_value(*row) for row in rows]
        query, key, value = (torch.cat(part, dim=1) for part in zip(*parts))
        query, key = _rotate(query, *image_rotary_emb), _rotate(key, *image_rotary_emb)
        key, value = self.meeting.exchange(self.stream, key, value)
        mixed = F.scaled_dot_product_attention(*(rearrange(part, "b l h d -> b h l d") for part in (query, key, value)))
        mixed = rearrange(mixed, "b h l d -> b l (h d)")
        if encoder_hidden_states is None:
            return mixed
        length = encoder_hidden_states.shape[1]
        return attn.to_out[0](mixed[:, length:]), attn.to_add_out(mixed[:, :length])


def _query_key_value(x: Tensor, q: Any, k: Any, v: Any, norm_q: Any, norm_k: Any) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (rearrange(layer(x), "b l (h d) -> b l h d", d=HEAD) for layer in (q, k, v))
    return norm_q(query), norm_k(key), value


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate each pair of channels (2i, 2i + 1) of [b, l, h, d] by its angle; tables [l, d] repeat each angle twice."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cosine, sine = (table[:, None, 0::2].to(x.dtype) for table in (cosine, sine))
    return torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1).flatten(-2)


def transformer(state: State, dtype: torch.dtype = torch.float32) -> FluxTransformer2DModel:
    """Build the Diffusers model that fits a FLUX state dict in Diffusers layout, and load it in `dtype`."""
    # nn.Module.to: Diffusers' own warns, needlessly here, about modules it would rather keep in float32.
    model = FluxTransformer2DModel(
        num_layers=_blocks(state, "transformer_blocks"),
        num_single_layers=_blocks(state, "single_transformer_blocks"),
        num_attention_heads=state["x_embedder.weight"].shape[0] // HEAD,
        joint_attention_dim=state["context_embedder.weight"].shape[1],
        pooled_projection_dim=state["time_text_embed.text_embedder.linear_1.weight"].shape[1],
        guidance_embeds="time_text_embed.guidance_embedder.linear_1.weight" in state,
    )
    nn.Module.to(model, dtype)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()})
    return model.eval().requires_grad_(False)


def _blocks(state: State, name: str) -> int:
    return 1 + max(int(key.split(".")[1]) for key in state if key.startswith(f"{name}."))


def adapted(state: State, adapter: State | None, dtype: torch.dtype = torch.float32) -> FluxTransformer2DModel:
    """Build the model with one adapter (`transformer.` keys; alpha tensors count) through Diffusers and PEFT."""
    model = transformer(state, dtype)
    if adapter:
        weights = {name: tensor.to(dtype) for name, tensor in adapter.items() if not name.endswith(".alpha")}
        model.load_lora_adapter(weights, network_alphas=_alphas(adapter), prefix="transformer", adapter_name="stream")
    return nn.Module.to(model, dtype).eval().requires_grad_(False)


def _alphas(adapter: State) -> dict[str, float]:
    """Give every module its alpha, its rank (scale 1) if it has none: Diffusers would guess one from the others."""
    modules = {
        name.removesuffix(".lora_A.weight"): tensor.shape[0] for name, tensor in adapter.items() if "lora_A" in name
    }
    given = {name: tensor.item() for name, tensor in adapter.items() if name.endswith(".alpha")}
    return {f"{module}.alpha": given.get(f"{module}.alpha", float(rank)) for module, rank in modules.items()}


class Streams:
    """The streams of one task, conditions first, target last."""

    def __init__(self, state: State, adapters: Sequence[State | None], dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.models = [adapted(state, adapter, dtype) for adapter in adapters]

    def predict(
        self, latents: Sequence[Tensor], t: float, text: Tensor, pooled: Tensor, guidance: float
    ) -> list[Tensor]:
        """Run FLUX once on every stream's latent [b, 16, h, w]; t in [0, 1].  Returns each stream's velocity."""
        meeting = Meeting(len(self.models))
        for stream, model in enumerate(self.models):
            model.set_attn_processor(JointAttention(stream, meeting))

        def run(stream: int) -> Tensor:
            try:
                return _forward(self.models[stream], latents[stream].to(self.dtype), t, text, pooled, guidance)
            except BaseException:
                meeting.barrier.abort()
                raise

        with ThreadPoolExecutor(len(self.models)) as pool:
            return list(pool.map(run, range(len(self.models))))


@torch.no_grad()
def _forward(
    model: FluxTransformer2DModel, latent: Tensor, t: float, text: Tensor, pooled: Tensor, guidance: float
) -> Tensor:
    b, _, h, w = latent.shape
    rows, columns = torch.meshgrid(torch.arange(h // 2), torch.arange(w // 2), indexing="ij")
    places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1)
    velocity = model(
        hidden_states=rearrange(latent, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2),
        encoder_hidden_states=text.to(latent.dtype).expand(b, -1, -1),
        pooled_projections=pooled.to(latent.dtype).expand(b, -1),
        timestep=torch.full((b,), t, dtype=latent.dtype),
        guidance=torch.full((b,), guidance, dtype=latent.dtype),
        img_ids=rearrange(places, "h w c -> (h w) c").to(latent.dtype),
        txt_ids=torch.zeros(text.shape[1], 3, dtype=latent.dtype),
        return_dict=False,
    )[0]
    return rearrange(velocity, "b (h w) (c p q) -> b c (h p) (w q)", h=h // 2, p=2, q=2)


def sigmas(steps: int, height: int, width: int) -> list[float]:
    """Noise levels of a run on a latent of height x width (widened): steps values from 1 downwards, then 0."""
    tokens = (height // 2) * (width // 2)
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    times = [(steps - i) / steps for i in range(steps)]
    return [math.exp(mu) / (math.exp(mu) + 1 / t - 1) for t in times] + [0.0]


def widened(x: Tensor, columns: int) -> Tensor:
    """Append a copy of the first columns on the right."""
    return torch.cat([x, x[..., :columns]], dim=-1)


def blended(x: Tensor, columns: int) -> Tensor:
    """Fade the appended columns into the first ones, column by column."""
    x = x.clone()
    width = x.shape[-1] - columns
    for j in range(columns):
        x[..., j] = x[..., width + j] * (1 - j / columns) + x[..., j] * (j / columns)
    return x


def sample(
    transformer_sd: State,
    adapters: Sequence[State | None],
    conditions: Sequence[Tensor],
    noise: Tensor,
    prompt_embeds: Tensor,
    pooled: Tensor,
    steps: int,
    guidance: float,
    seam: int = 6,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Denoise the target stream with Euler steps and return its latent [b, 16, h, w].

    `adapters` holds one LoRA for each condition, in order, and the target's last; `conditions` and `noise` are latents
    after shift and scale.
    """
    streams = Streams(transformer_sd, adapters, dtype)
    fixed = [widened(condition.to(dtype), seam) for condition in conditions]
    x = widened(noise.to(dtype), seam)
    levels = sigmas(steps, *x.shape[-2:])
    for now, after in itertools.pairwise(levels):
        velocity = streams.predict([*fixed, x], now, prompt_embeds, pooled, guidance)[-1]
        x = blended(x + (after - now) * velocity, seam)
    x = blended(x, seam)
    return x[..., : x.shape[-1] - seam]


def decode_panorama(decode: Callable[[Tensor], Tensor], latent: Tensor, columns: int = 2) -> Tensor:
    """Decode a latent [b, 16, h, w] to [b, 8h, 8w, 3] without a seam; `decode` maps any latent to its image."""
    image = rearrange(decode(widened(latent, columns)), "b h w c -> b c h w")
    image = blended(image, 8 * columns)
    return rearrange(image[..., : 8 * latent.shape[-1]], "b c h w -> b h w c")
