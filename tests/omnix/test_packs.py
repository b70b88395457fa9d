"""Stand-ins for packs that compute FLUX in their own way: the result is right, or one sentence names the cause.

Each double does what its pack does to the model, and no more.
"""

import types
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import comfy.ldm.flux.layers
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.ldm.flux.layers import DoubleStreamBlock, SingleStreamBlock, apply_mod, timestep_embedding
from comfy.ldm.flux.math import attention
from comfy.ldm.flux.model import Flux
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from einops import rearrange
from measure import relative_error
from oracle import sample
from rig import Case, Model, forward, ksample, load_flux, make_case, patched

EXACT = 1e-5
HERE = __name__


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("adapters"), "rgb_camray_to_normal")


@pytest.fixture(scope="module")
def expected(case: Case) -> torch.Tensor:
    return sample(**case.oracle(), steps=2)


@pytest.fixture
def model(case: Case) -> Model:
    return load_flux(case.flux)


def old_forward_orig(
    self: Flux,
    img: torch.Tensor,
    img_ids: torch.Tensor,
    txt: torch.Tensor,
    txt_ids: torch.Tensor,
    timesteps: torch.Tensor,
    y: torch.Tensor,
    guidance: torch.Tensor,
    control: Any = None,
    transformer_options: Any = None,
    attn_mask: Any = None,
    run: Callable[..., Any] = lambda block, *args, **kwargs: block(*args, **kwargs),
    **_: Any,
) -> torch.Tensor:
    """The replacement by FluxForwardOverrider, TeaCache, WaveSpeed and PuLID: blocks without transformer_options."""
    img, txt = self.img_in(img), self.txt_in(txt)
    vec = self.time_in(timestep_embedding(timesteps, 256).to(img.dtype))
    vec = vec + self.guidance_in(timestep_embedding(guidance, 256).to(img.dtype)) + self.vector_in(y)
    pe = self.pe_embedder(torch.cat((txt_ids, img_ids), dim=1))
    for block in self.double_blocks:
        img, txt = run(block, img=img, txt=txt, vec=vec, pe=pe, attn_mask=attn_mask)
    img = torch.cat((txt, img), 1)
    for block in self.single_blocks:
        img = run(block, img, vec=vec, pe=pe, attn_mask=attn_mask)
    return self.final_layer(img[:, txt.shape[1] :], vec)


def by_object_patch(model: Model) -> Model:
    own = model.clone()
    flux = own.get_model_object("diffusion_model")
    own.add_object_patch("diffusion_model.forward_orig", types.MethodType(old_forward_orig, flux))
    return own


def by_function_wrapper(model: Model) -> Model:
    own = model.clone()
    flux = own.get_model_object("diffusion_model")

    def wrapper(apply: Callable[..., Any], given: dict[str, Any]) -> Any:
        with mock.patch.multiple(flux, forward_orig=old_forward_orig.__get__(flux, type(flux))):
            return apply(given["input"], given["timestep"], **given["c"])

    own.set_model_unet_function_wrapper(wrapper)
    return own


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("replace", [by_object_patch, by_function_wrapper])
def test_blocks_that_are_called_without_options_are_joined(
    model: Model, case: Case, expected: torch.Tensor, replace: Callable[[Model], Model], first: bool
) -> None:
    theirs = patched(replace(model), case) if first else replace(patched(model, case))
    assert relative_error(ksample(theirs, case, 2), expected) <= EXACT


def test_a_first_block_cache_is_allowed(model: Model, case: Case, expected: torch.Tensor) -> None:
    """Like TeaCache: the second step computes no block."""
    calls: list[int] = []

    def cached(self: Flux, img: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(len(calls))
        if len(calls) == 1:
            self.kept = old_forward_orig(self, img, *args, **kwargs)
        return self.kept

    own = patched(model, case)
    own.add_object_patch("diffusion_model.forward_orig", types.MethodType(cached, model.model.diffusion_model))
    out = ksample(own, case, 2)
    assert len(calls) == 2 and out.isfinite().all()
    del model.model.diffusion_model.kept


@pytest.mark.parametrize("cache", [EasyCacheNode, LazyCacheNode])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_the_hosts_caches_are_allowed(model: Model, case: Case, cache: Any, first: bool) -> None:
    def put(on: Model) -> Model:
        return cache.execute(on, 0.9, 0.1, 1.0, False).result[0]

    cached = patched(put(model), case) if first else put(patched(model, case))
    out = ksample(cached, case, 8)
    assert out.isfinite().all()
    assert relative_error(out, ksample(patched(model, case), case, 8)) > 1e-3  # it did leave out steps


def skip_by_patch(model: Model) -> Model:
    own = model.clone()
    own.set_model_patch_replace(lambda args, _extra: {"img": args["img"]}, "dit", "single_block", 0)
    own.set_model_patch_replace(lambda args, _: {"img": args["img"], "txt": args["txt"]}, "dit", "double_block", 1)
    return own


def skip_by_forward(model: Model) -> Model:
    own = model.clone()
    own.add_object_patch("diffusion_model.single_blocks.0.forward", lambda x, **_: x)
    own.add_object_patch("diffusion_model.double_blocks.1.forward", lambda img, txt, **_: (img, txt))
    return own


def test_skipped_blocks_are_allowed(model: Model, case: Case) -> None:
    """Skip layer guidance and the like: the two ways of skipping agree, and differ from the whole."""
    by_patch, by_forward = (ksample(patched(skip(model), case), case, 2) for skip in (skip_by_patch, skip_by_forward))
    assert relative_error(by_patch, by_forward) <= EXACT
    assert relative_error(by_patch, ksample(patched(model, case), case, 2)) > 1e-3


def test_a_patch_round_every_block_is_allowed(model: Model, case: Case, expected: torch.Tensor) -> None:
    own = model.clone()
    for kind, count in (("double_block", 2), ("single_block", 2)):
        for number in range(count):
            own.set_model_patch_replace(lambda args, extra: extra["original_block"](args), "dit", kind, number)
    assert relative_error(ksample(patched(own, case), case, 2), expected) <= EXACT


@pytest.mark.parametrize("chained", [False, True])
def test_a_block_patch_with_an_attention_of_its_own(
    model: Model, case: Case, expected: torch.Tensor, chained: bool
) -> None:
    """It puts its override into the options of one block, round the one that is there or in its place."""
    seen: list[int] = []

    def around(args: dict[str, Any], extra: dict[str, Any]) -> Any:
        options = args["transformer_options"]
        there = options["optimized_attention_override"]

        def override(function: Callable[..., Any], *tensors: Any, **named: Any) -> Any:
            seen.append(tensors[0].shape[0])
            return there(function, *tensors, **named) if chained else function(*tensors, **named)

        own = {**options, "optimized_attention_override": override}
        return extra["original_block"]({**args, "transformer_options": own})

    own = patched(model, case)
    own.set_model_patch_replace(around, "dit", "double_block", 0)
    assert relative_error(ksample(own, case, 2), expected) <= EXACT
    assert seen == [1, 1]


# --- what can't be joined ---------------------------------------------------------------------------------------------


class TheirFlux(Flux):
    """Fluxtapoz and ReFlux: a forward that runs no wrapper."""

    def forward(self, x, timestep, context, y=None, guidance=None, control=None, transformer_options=None, **kwargs):
        b, _, h, w = x.shape
        img, ids = self.process_img(x)
        text = torch.zeros(b, context.shape[1], 3)
        out = old_forward_orig(self, img, ids, context, text, timestep, y, guidance)
        return rearrange(out, "b (h w) (c p q) -> b c (h p) (w q)", h=h // 2, w=w // 2, p=2, q=2)


class TheirSingleBlock(SingleStreamBlock):
    """An attention that other code can't replace."""

    def forward(self, x: torch.Tensor, vec: torch.Tensor, pe: torch.Tensor, **_: Any) -> torch.Tensor:
        mod, _ = self.modulation(vec)
        qkv, mlp = self.linear1(apply_mod(self.pre_norm(x), 1 + mod.scale, mod.shift)).split(
            [3 * self.hidden_size, self.mlp_hidden_dim], dim=-1
        )
        q, k, v = rearrange(qkv, "b n (k h d) -> k b h n d", k=3, h=self.num_heads)
        attn = attention(*self.norm(q, k, v), v, pe=pe)
        return x + mod.gate * self.linear2(torch.cat((attn, self.mlp_act(mlp)), 2))


def raw_double(self: DoubleStreamBlock, *args: Any, **kwargs: Any) -> Any:
    """One layer by its weights, past the module and so past its adapter."""

    def raw(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, layer.weight, layer.bias)

    layer = self.img_attn.proj
    with mock.patch.dict(self.img_attn._modules, {"proj": torch.nn.Identity()}):
        self.img_attn._modules["proj"].forward = raw
        return DoubleStreamBlock.forward(self, *args, **kwargs)


def their_class(model: Model) -> Model:
    own = model.clone()
    own.add_object_patch("diffusion_model.__class__", TheirFlux)
    return own


def their_block(model: Model) -> Model:
    own = model.clone()
    own.add_object_patch("diffusion_model.single_blocks.1.__class__", TheirSingleBlock)
    return own


def their_old_block(model: Model) -> Model:
    """A block that takes no options, under a forward that gives it none."""
    own = by_object_patch(model)

    def forward(x: torch.Tensor, vec: torch.Tensor, pe: torch.Tensor, attn_mask: Any = None) -> torch.Tensor:
        return TheirSingleBlock.forward(block, x, vec, pe)

    block = model.model.diffusion_model.single_blocks[0]
    own.add_object_patch("diffusion_model.single_blocks.0.forward", forward)
    return own


def their_layer(model: Model) -> Model:
    own = model.clone()
    block = model.model.diffusion_model.double_blocks[1]
    own.add_object_patch("diffusion_model.double_blocks.1.forward", types.MethodType(raw_double, block))
    return own


def direct_forwards(model: Model) -> Model:
    """Blocks whose forward is called without the module and its hooks."""
    own = model.clone()
    direct = partial(old_forward_orig, model.model.diffusion_model, run=lambda block, *a, **k: block.forward(*a, **k))
    own.add_object_patch("diffusion_model.forward_orig", direct)
    return own


def without_blocks(model: Model) -> Model:
    own = model.clone()

    def nothing(img: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return img

    own.add_object_patch("diffusion_model.forward_orig", nothing)
    return own


def never_called(model: Model) -> Model:
    own = model.clone()
    own.add_object_patch("diffusion_model.forward", lambda x, *_args, **_kwargs: x)
    return own


WRONG = {
    "class": (their_class, r"FLUX ran without OmniX's streams, .* Flux\.forward is replaced by forward"),
    "block": (
        their_block,
        r"did not meet in single_blocks\.1, .* SingleStreamBlock\.forward is replaced by forward",
    ),
    "old block": (
        their_old_block,
        r"did not meet in single_blocks\.0, .* SingleStreamBlock\.forward is replaced by forward",
    ),
    "layer": (
        their_layer,
        r"not added to double_blocks\.1\.img_attn\.proj, .* DoubleStreamBlock\.forward is replaced by raw_double",
    ),
    "direct": (direct_forwards, r"streams did not meet, .* Flux\.forward_orig is replaced by old_forward_orig"),
    "no block": (without_blocks, r"FLUX ran without OmniX's streams, .* Flux\.forward_orig is replaced by nothing"),
    "never": (never_called, r"FLUX ran without OmniX's streams, .* Flux\.forward is replaced by <lambda>"),
}


def hooks_on(model: Model) -> int:
    """Count hooks; a forward that was replaced is the pack's own, and the host leaves it on the instance."""
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.model.modules())


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_what_cannot_be_joined_is_named(model: Model, case: Case, name: str, first: bool) -> None:
    replace, reported = WRONG[name]
    plain, hooks = forward(model, case), hooks_on(model)
    with pytest.raises(ValueError, match=f"{reported} of {HERE}") as caught:
        ksample(patched(replace(model), case) if first else replace(patched(model, case)), case, 2)
    assert "\n" not in str(caught.value) and "restarts" not in str(caught.value)  # it goes with its node
    assert torch.equal(forward(load_flux(case.flux), case), plain)
    assert hooks_on(model) == hooks


@pytest.mark.parametrize("place", ["attention", "optimized_attention"])
def test_an_attention_that_asks_for_no_override_is_named(model: Model, case: Case, place: str) -> None:
    """The functions with which packs replace functions of the host's modules."""
    module = comfy.ldm.flux.layers if place == "attention" else comfy.ldm.flux.math

    def theirs(q: Any, k: Any, v: Any, heads: int = 0, **_: Any) -> torch.Tensor:
        return rearrange(torch.nn.functional.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")

    with (
        mock.patch.object(module, place, theirs),
        pytest.raises(
            ValueError, match=f"attention is replaced by theirs of {HERE}, which lasts until ComfyUI restarts"
        ),
    ):
        ksample(patched(model, case), case, 1)


def test_a_class_whose_forward_is_replaced(model: Model, case: Case) -> None:
    """RES4LYF replaces Flux.forward itself."""
    with (
        mock.patch.object(Flux, "forward", TheirFlux.forward),
        pytest.raises(
            ValueError, match=rf"Flux\.forward is replaced by forward of {HERE}, which lasts until ComfyUI restarts"
        ),
    ):
        ksample(patched(model, case), case, 1)


def test_another_model_runs_plainly_meanwhile(model: Model, case: Case) -> None:
    """The watch is on the run's own FLUX alone: another MODEL may run between its steps."""
    other = load_flux(case.flux)
    want = forward(other, case)
    seen: list[torch.Tensor] = []
    ksample(patched(model, case), case, 2, callback=lambda *_: seen.append(forward(other, case)))
    assert all(torch.equal(each, want) for each in seen)
