"""Changes of newer hosts to FLUX and its layers, each written from the known facts about the change, and no more.

- q, k and v travel in containers, and an override gets `preferred_attention`;
- blocks normalise and modulate in one function, and do not call their norms;
- a layer is called with keywords, and gives residual + scale * layer(activation(x));
- a function of the host runs a layer's weights itself: int8 weights, or fp16 accumulation on plain ones.
"""

import json
from collections.abc import Callable
from typing import Any

import comfy.ops
import comfy.sd
import torch
from comfy.ldm.flux.layers import DoubleStreamBlock, SingleStreamBlock
from comfy.ldm.flux.math import apply_rope
from comfyui_omnix.omnix.runtime.fused import CALLED
from einops import rearrange
from rig import Case, Model, load_flux
from torch import Tensor, nn

Run = Callable[..., Tensor]
"""Gives residual + scale * layer(activation(x)), in the way of some host."""


def gelu(x: Tensor) -> Tensor:
    return nn.functional.gelu(x, approximate="tanh")


# --- how a layer is run -----------------------------------------------------------------------------------------------


def plainly(layer: nn.Module, x: Tensor, act: bool, residual: Tensor, scale: Tensor) -> Tensor:
    return residual + scale * layer(gelu(x) if act else x)


def by_keywords(layer: nn.Module, x: Tensor, act: bool, residual: Tensor, scale: Tensor) -> Tensor:
    return layer(x, input_act="gelu_tanh" if act else None, residual=residual, residual_scale=scale)


def by_a_kernel(layer: nn.Module, x: Tensor, act: bool, residual: Tensor, scale: Tensor) -> Tensor:
    """Like `linear_input_act` for int8 weights, and for plain weights with fp16 accumulation, unless prevented."""
    if getattr(layer, CALLED, False):
        return plainly(layer, x, act, residual, scale)
    return by_a_kernel_always(layer, x, act, residual, scale)


def by_a_kernel_always(layer: nn.Module, x: Tensor, act: bool, residual: Tensor, scale: Tensor) -> Tensor:
    """The same on hosts where nothing prevents it."""
    weight, bias = comfy.ops.cast_bias_weight(layer, x)[:2]
    return residual + scale * nn.functional.linear(gelu(x) if act else x, weight, bias)


def by_the_hosts_own(layer: nn.Module, x: Tensor, act: bool, residual: Tensor, scale: Tensor) -> Tensor:
    """The host's function, as it is here."""
    if not act:
        return plainly(layer, x, act, residual, scale)
    return residual + scale * comfy.ops.linear_input_act(layer, x, "gelu_tanh")


class Fused(nn.Module):
    """A layer that takes the keywords, mixed into the class of a model's layer."""

    def forward(self, input: Tensor, input_act: Any = None, residual: Any = None, residual_scale: Any = None) -> Tensor:
        out = super().forward(gelu(input) if input_act == "gelu_tanh" else input)
        return out if residual is None else torch.addcmul(residual, out, residual_scale)


class Strange(nn.Module):
    """A layer that gets an unknown keyword."""

    def forward(self, input: Tensor, *_: Any, output_act: Any = None, **__: Any) -> Tensor:
        out = super().forward(input)
        return out if output_act is None else gelu(out)


class Wide(nn.Module):
    """A layer that returns float32 for any input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


def int8(case: Case) -> Model:
    """Load a FLUX whose layers are int8, as checkpoints of the host's have them."""
    state = load_flux(case.flux).model.diffusion_model.state_dict()
    quantised = dict(state)
    for key, weight in state.items():
        name = key.removesuffix(".weight")
        if name != key and weight.ndim == 2 and "_blocks" in name and "mod" not in name:
            scale = weight.abs().amax().float() / 127
            quantised[key] = (weight / scale).round().to(torch.int8)
            quantised[f"{name}.weight_scale"] = scale
            how = json.dumps({"format": "int8_tensorwise"}).encode()
            quantised[f"{name}.comfy_quant"] = torch.tensor(list(how), dtype=torch.uint8)
    with torch.inference_mode():  # as the host loads: its int8 tensors know the two kinds apart
        return comfy.sd.load_diffusion_model_state_dict(quantised, model_options={"dtype": torch.float32})


# --- blocks as newer hosts have them ----------------------------------------------------------------------------------


class Container:
    """A container that carries a tensor to one attention and is empty afterwards."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor

    def take(self) -> Tensor:
        tensor, self.tensor = self.tensor, None
        assert tensor is not None, "taken twice"
        return tensor


def attend(q: Tensor, k: Tensor, v: Tensor, pe: Tensor, options: dict[str, Any], handed: Any) -> Tensor:
    """FLUX's attention: to an override come tensors or containers (`handed`), and the checkpoint's own attention."""
    q, k = apply_rope(q, k, pe)
    override = options["optimized_attention_override"]
    given = {"skip_reshape": True, "mask": None, "transformer_options": options, "preferred_attention": nn.Identity()}
    return override(plain_attention, *map(handed, (q, k, v)), q.shape[1], **given)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    out = nn.functional.scaled_dot_product_attention(q, k, v)
    return rearrange(out, "b h n d -> b n (h d)", h=heads)


def modulated_norm(x: Tensor, norm: nn.LayerNorm, mod: Any) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:], eps=norm.eps) * (1 + mod.scale) + mod.shift


def heads_of(qkv: Tensor, heads: int) -> Tensor:
    return rearrange(qkv, "b n (k h d) -> k b h n d", k=3, h=heads)


def double(
    self: DoubleStreamBlock,
    img: Tensor,
    txt: Tensor,
    vec: Tensor,
    pe: Tensor,
    transformer_options: Any = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    img_mods, txt_mods = self.img_mod(vec), self.txt_mod(vec)
    parts = []
    for x, attn, norm, mod in (
        (txt, self.txt_attn, self.txt_norm1, txt_mods[0]),
        (img, self.img_attn, self.img_norm1, img_mods[0]),
    ):
        q, k, v = heads_of(attn.qkv(modulated_norm(x, norm, mod)), self.num_heads)
        parts.append((*attn.norm(q, k, v), v))
    q, k, v = (torch.cat(pair, dim=2) for pair in zip(*parts))
    out = attend(q, k, v, pe, transformer_options, self.handed)
    results = []
    for x, part, name, mods in (
        (img, out[:, txt.shape[1] :], "img", img_mods),
        (txt, out[:, : txt.shape[1]], "txt", txt_mods),
    ):
        x = self.run(getattr(self, f"{name}_attn").proj, part, False, x, mods[0].gate)
        mlp = getattr(self, f"{name}_mlp")
        x = self.run(mlp[2], mlp[0](modulated_norm(x, getattr(self, f"{name}_norm2"), mods[1])), True, x, mods[1].gate)
        results.append(x)
    return results[0], results[1]


def single(
    self: SingleStreamBlock,
    x: Tensor,
    vec: Tensor,
    pe: Tensor,
    transformer_options: Any = None,
    **_: Any,
) -> Tensor:
    mod, _none = self.modulation(vec)
    qkv, mlp = self.linear1(modulated_norm(x, self.pre_norm, mod)).split(
        [3 * self.hidden_size, self.mlp_hidden_dim], -1
    )
    q, k, v = heads_of(qkv, self.num_heads)
    out = attend(*self.norm(q, k, v), v, pe, transformer_options, self.handed)
    return self.run(self.linear2, torch.cat((out, gelu(mlp)), 2), False, x, mod.gate)


def newer(model: Model, run: Run = plainly, handed: Any = Container) -> Model:
    """Give a model the blocks of a newer host."""
    for kind, theirs in (("double", double), ("single", single)):
        for block in getattr(model.model.diffusion_model, f"{kind}_blocks"):
            block.run, block.handed = run, handed
            block.__class__ = type("Newer", (type(block),), {"forward": theirs})
    return model


def mixed(model: Model, mixin: type) -> Model:
    """Give all layers of a model's blocks another class."""
    for name, layer in model.model.diffusion_model.named_modules():
        if "blocks" in name and hasattr(layer, "in_features"):
            layer.__class__ = type("Mixed", (mixin, type(layer)), {})
    return model
