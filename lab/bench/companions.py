"""What people put beside OmniX on one MODEL: core nodes as they are, and doubles of packs that do what those do to it.

A row is data: `put` returns the MODEL with the companion on it, `run` holds what KSampler is told besides. A double
does what its pack does to the model, and no more.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import comfy.controlnet
import comfy.hooks
import comfy.sd
import torch
from comfy.ldm.flux.layers import timestep_embedding
from comfy.ldm.flux.model import Flux
from comfyui_omnix.lab.host import tiny
from einops import rearrange
from torch import Tensor

Model = Any
Weights = dict[str, Tensor]
ORDERS = ("before", "after")
GUIDED = {"cfg": 2.0}
"""Where guidance is what a node is about, the negative is another text with the same reference latents."""


@dataclass(frozen=True)
class Companion:
    """One thing that was tried, and what KSampler is told with it; a `neutral` one computes what FLUX computes.

    `through` stands where KSampler calls the host's sample() and takes that first; `told` is added to the conditioning.
    `weights` makes of FLUX's weights in Diffusers' names those that the companion means; a loader comes in no order.
    """

    name: str
    source: str
    put: Callable[[Model], Model] = lambda model: model
    run: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 4
    neutral: bool = False
    through: Callable[..., Tensor] | None = None
    told: Callable[[], Mapping[str, Any]] = dict
    weights: Callable[[Weights], Weights] | None = None
    orders: tuple[str, ...] = ORDERS


def core(module: str, node: str, *values: object) -> Callable[[Model], Model]:
    """Put on a core node with these settings."""

    def put(model: Model) -> Model:
        made = getattr(__import__(f"comfy_extras.{module}", fromlist=[node]), node)
        if hasattr(made, "execute"):
            given = made.execute(model, *values)
            return getattr(given, "result", given)[0]
        return getattr(made(), made.FUNCTION)(model, *values)[0]

    return put


def ordinary_lora() -> Weights:
    """Return a LoRA of all layers that OmniX adapts, of the kind that LoRA loaders merge."""
    return tiny.adapter(seed=77, rank=4, size=0.3)


def merged(flux: Weights) -> Weights:
    """Return FLUX's weights with the ordinary LoRA added to them."""
    lora, state = ordinary_lora(), dict(flux)
    for name in lora:
        if name.endswith(".lora_A.weight"):
            layer = name.removeprefix("transformer.").removesuffix(".lora_A.weight") + ".weight"
            state[layer] = flux[layer] + lora[name.replace("lora_A", "lora_B")] @ lora[name]
    return state


def with_lora(model: Model) -> Model:
    """Do what Load LoRA does."""
    return comfy.sd.load_lora_for_models(model, None, ordinary_lora(), 1.0, 0.0)[0]


def hook_lora() -> Mapping[str, Any]:
    """Do what Create Hook LoRA and Cond Set Props do to a conditioning."""
    return {"hooks": comfy.hooks.create_hook_lora(lora=ordinary_lora(), strength_model=1.0, strength_clip=0.0)}


def control_net() -> Mapping[str, Any]:
    """Do what Apply ControlNet does to a conditioning, with one that adds nothing."""

    class Control(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy: Tensor, *_: Any) -> dict[str, list[Tensor]]:
            tokens = x_noisy.shape[-2] * x_noisy.shape[-1] // 4
            return {"input": [x_noisy.new_zeros(x_noisy.shape[0], tokens, tiny.TINY.hidden)], "output": []}

        def get_models(self) -> list[Any]:
            return []

    control: Any = Control()
    return {"control": control.set_cond_hint(torch.zeros(1, 3, 64, 128), 1.0, (0.0, 1.0))}


def detail_daemon(model: Model) -> Model:
    """Tell the model less noise than there is in the middle of a run."""
    own = model.clone()

    def wrapper(apply: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        noise = given["timestep"]
        return apply(given["input"], noise * (1 - 0.1 * torch.sin(noise * torch.pi)), **given["c"])

    own.set_model_unet_function_wrapper(wrapper)
    return own


def blocks_without_options(
    self: Flux,
    img: Tensor,
    img_ids: Tensor,
    txt: Tensor,
    txt_ids: Tensor,
    timesteps: Tensor,
    y: Tensor,
    guidance: Tensor,
    *_: Any,
    **__: Any,
) -> Tensor:
    """FLUX as it was when these packs copied it: its blocks are called without transformer_options."""
    img, txt = self.img_in(img), self.txt_in(txt)
    vec = self.time_in(timestep_embedding(timesteps, 256).to(img.dtype))
    vec = vec + self.guidance_in(timestep_embedding(guidance, 256).to(img.dtype)) + self.vector_in(y)
    pe = self.pe_embedder(torch.cat((txt_ids, img_ids), dim=1))
    for block in self.double_blocks:
        img, txt = block(img=img, txt=txt, vec=vec, pe=pe)
    img = torch.cat((txt, img), 1)
    for block in self.single_blocks:
        img = block(img, vec=vec, pe=pe)
    return self.final_layer(img[:, txt.shape[1] :], vec)


def replaced_forward_orig(model: Model) -> Model:
    """Put another forward_orig in, for the time of a step."""
    own = model.clone()
    flux = own.get_model_object("diffusion_model")

    def wrapper(apply: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        with mock.patch.object(flux, "forward_orig", types.MethodType(blocks_without_options, flux)):
            return apply(given["input"], given["timestep"], **given["c"])

    own.set_model_unet_function_wrapper(wrapper)
    return own


class OtherFlux(Flux):
    """A FLUX whose forward runs none of the host's wrappers."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, timestep: Tensor, context: Tensor, y: Tensor, guidance: Tensor, **_: Any
    ) -> Tensor:
        """Predict the velocity of [b, c, h, w]."""
        img, places = self.process_img(x)
        nowhere = torch.zeros(x.shape[0], context.shape[1], 3)
        out = blocks_without_options(self, img, places, context, nowhere, timestep, y, guidance)
        return rearrange(out, "b (h w) (c p q) -> b c (h p) (w q)", h=x.shape[-2] // 2, p=2, q=2)


def replaced_forward(model: Model) -> Model:
    """Make the FLUX another class."""
    own = model.clone()
    own.add_object_patch("diffusion_model.__class__", OtherFlux)
    return own


def tiled(model: Model) -> Model:
    """Show the model one half of the picture after the other."""
    own = model.clone()

    def wrapper(apply: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        halves = given["input"].chunk(2, dim=-1)
        return torch.cat([apply(half, given["timestep"], **given["c"]) for half in halves], dim=-1)

    own.set_model_unet_function_wrapper(wrapper)
    return own


def rolled(model: Model) -> Model:
    """Mix in what the model says of the picture rolled by half its width."""
    own = model.clone()

    def wrapper(apply: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        x, half = given["input"], given["input"].shape[-1] // 2
        pictures = (apply(x.roll(shift, -1), given["timestep"], **given["c"]).roll(-shift, -1) for shift in (0, half))
        return sum(pictures) / 2

    own.set_model_unet_function_wrapper(wrapper)
    return own


def patched_blocks(model: Model) -> Model:
    """Put a patch round every double block that changes nothing."""
    own = model.clone()
    for number in range(len(model.model.diffusion_model.double_blocks)):

        def around(args: Mapping[str, Any], extra: Mapping[str, Any]) -> Any:
            return extra["original_block"](args)

        own.set_model_patch_replace(around, "dit", "double_block", number)
    return own


CORE = (
    Companion("EasyCache", "core", core("nodes_easycache", "EasyCacheNode", 0.2, 0.15, 0.95, False), steps=8),
    Companion(
        "EasyCache, made to reuse steps",
        "core",
        core("nodes_easycache", "EasyCacheNode", 0.9, 0.1, 1.0, False),
        steps=8,
    ),
    Companion("LazyCache", "core", core("nodes_easycache", "LazyCacheNode", 0.2, 0.15, 0.95, False), steps=8),
    Companion("HyperTile", "core", core("nodes_hypertile", "HyperTile", 256, 2, 0, False)),
    Companion("SkipLayerGuidanceDiT", "core", core("nodes_slg", "SkipLayerGuidanceDiT", 3.0, 0.0, 1.0, "1", "0")),
    Companion("APG", "core", core("nodes_apg", "APG", 1.0, 5.0, 0.0), GUIDED),
    Companion("CFGNorm", "core", core("nodes_cfg", "CFGNorm", 1.0), GUIDED),
    Companion("CFGZeroStar", "core", core("nodes_cfg", "CFGZeroStar"), GUIDED),
    Companion("Mahiro", "core", core("nodes_mahiro", "Mahiro"), GUIDED),
    Companion("TCFG", "core", core("nodes_tcfg", "TCFG"), GUIDED),
    Companion("NAGuidance", "core", core("nodes_nag", "NAGuidance", 5.0, 0.5, 1.5)),
    Companion("PerturbedAttentionGuidance", "core", core("nodes_pag", "PerturbedAttentionGuidance", 3.0)),
    Companion("FreeU_V2", "core", core("nodes_freelunch", "FreeU_V2", 1.3, 1.4, 0.9, 0.2)),
    Companion("TomePatchModel", "core", core("nodes_tomesd", "TomePatchModel", 0.3)),
    Companion("Epsilon Scaling", "core", core("nodes_eps", "EpsilonScaling", 1.005)),
    Companion("Load LoRA: one of FLUX.1", "core", with_lora, weights=merged),
    Companion("hook LoRA (Create Hook LoRA, Cond Set Props)", "core", told=hook_lora, weights=merged),
    Companion("Apply ControlNet", "core", told=control_net),
)
DOUBLES = (
    Companion("Detail Daemon", "stand-in", detail_daemon),
    Companion("a patch round every block", "stand-in", patched_blocks, neutral=True),
    Companion(
        "forward_orig replaced (TeaCache, WaveSpeed, PuLID, FluxForwardOverrider)",
        "stand-in",
        replaced_forward_orig,
        neutral=True,
    ),
    Companion("forward replaced (Fluxtapoz, ReFlux)", "stand-in", replaced_forward, neutral=True),
    Companion("tiles (TiledDiffusion)", "stand-in", tiled),
    Companion("a rolled picture (Seamless Tiling)", "stand-in", rolled),
)
