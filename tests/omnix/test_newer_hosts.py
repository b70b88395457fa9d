"""Doubles of what newer hosts do to FLUX: the result is right, or one sentence names the layer; never silent.

Each double is written from what is known of the change, and does no more than it:

- q, k and v travel in containers, and an override gets `preferred_attention`;
- blocks normalise and modulate in one function, and do not call their norms;
- a layer is called with keywords, and gives residual + scale * layer(activation(x));
- a function of the host runs a layer's weights itself: int8 weights, or fp16 accumulation on plain ones.
"""

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.ops
import comfy.sd
import pytest
import torch
from comfy.ldm.flux.layers import DoubleStreamBlock, SingleStreamBlock
from comfy.ldm.flux.math import apply_rope
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix import patch
from comfyui_omnix.omnix.blame import blaming
from comfyui_omnix.omnix.fused import CALLED, called
from comfyui_omnix.omnix.watch import Step, wanted_of
from einops import rearrange
from measure import relative_error
from oracle import sample
from rig import Case, Model, hook_count, ksample, load_flux, make_case, patched
from test_packs import old_forward_orig
from torch import Tensor, nn

EXACT = 1e-5
GIB = 1 << 30
BLOCKS = 4
"""Of the tiny FLUX, of both kinds."""
Run = Callable[..., Tensor]
"""Gives residual + scale * layer(activation(x)), in the way of some host."""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Adapters on every layer that a host may fuse something with, of three streams."""
    names = [*tiny.omnix_modules(), *(f"single_transformer_blocks.{i}.proj_mlp" for i in range(2))]
    names += [f"single_transformer_blocks.{i}.proj_out" for i in range(2)]
    return make_case(tmp_path_factory.mktemp("adapters"), "rgb_camray_to_normal", modules=names)


@pytest.fixture(scope="module")
def expected(case: Case) -> Tensor:
    return sample(**case.oracle(), steps=2)


@pytest.fixture(autouse=True)
def _of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands here counts as the host's: no pack is to blame for it."""
    monkeypatch.setattr(patch, "_OWN", (*patch._OWN, __name__))


@pytest.fixture
def model(case: Case) -> Model:
    return load_flux(case.flux)


def gelu(x: Tensor) -> Tensor:
    return nn.functional.gelu(x, approximate="tanh")


# --- how a layer is run -----------------------------------------------------------------------------------------------


def plainly(layer: nn.Module, x: Tensor, act: bool, residual: Tensor, scale: Tensor) -> Tensor:
    return residual + scale * layer(gelu(x) if act else x)


def by_keywords(layer: nn.Module, x: Tensor, act: bool, residual: Tensor, scale: Tensor) -> Tensor:
    return layer(x, input_act="gelu_tanh" if act else None, residual=residual, residual_scale=scale)


def by_a_kernel(layer: nn.Module, x: Tensor, act: bool, residual: Tensor, scale: Tensor) -> Tensor:
    """What `linear_input_act` does for int8 weights, and on plain ones for fp16 accumulation, unless it must not."""
    if getattr(layer, CALLED, False):
        return plainly(layer, x, act, residual, scale)
    return by_a_kernel_always(layer, x, act, residual, scale)


def by_a_kernel_always(layer: nn.Module, x: Tensor, act: bool, residual: Tensor, scale: Tensor) -> Tensor:
    """What it does on hosts on which nothing keeps it from that."""
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
    """A layer that takes a keyword that nobody has heard of."""

    def forward(self, input: Tensor, *_: Any, output_act: Any = None, **__: Any) -> Tensor:
        out = super().forward(input)
        return out if output_act is None else gelu(out)


class Wide(nn.Module):
    """A layer that gives float32 whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class Broken(RuntimeError):
    """What a test raises; nothing else raises it."""


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
    """What carries a tensor to one attention, and is empty afterwards."""

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


def left(model: Model) -> tuple[int, list[Any]]:
    """Return what could have been left on a model."""
    return hook_count(model), [vars(module).get(CALLED, "none") for module in model.model.modules()]


# --- right ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handed", [Container, lambda tensor: tensor], ids=["containers", "tensors"])
def test_containers_preferred_attention_and_modulated_norm(
    model: Model, case: Case, expected: Tensor, handed: Any
) -> None:
    assert relative_error(ksample(patched(newer(model, handed=handed), case), case, 2), expected) <= EXACT


def test_the_hosts_own_containers(model: Model, case: Case, expected: Tensor) -> None:
    """Where the host has them."""
    handed = getattr(comfy.ldm.modules.attention, "AttentionTensorContainer", None)
    if handed is not None:
        assert relative_error(ksample(patched(newer(model, handed=handed), case), case, 2), expected) <= EXACT


def test_layers_that_are_called_with_keywords(model: Model, case: Case, expected: Tensor) -> None:
    """Those with an adapter, those whose text rows run once elsewhere, and the last layer of the last block."""
    theirs = newer(mixed(model, Fused), run=by_keywords)
    assert relative_error(ksample(patched(theirs, case), case, 2), expected) <= EXACT


def test_a_kernel_on_plain_weights(model: Model, case: Case, expected: Tensor) -> None:
    """As for fp16 accumulation: nothing stays on the layers."""
    ours = patched(newer(model, by_a_kernel), case)
    before = left(ours)
    assert relative_error(ksample(ours, case, 2), expected) <= EXACT
    assert left(ours) == before


def test_layers_whose_output_has_another_dtype(tmp_path: Path) -> None:
    """bfloat16 goes in and float32 comes out: the delta is added in float32."""
    case = make_case(tmp_path)
    model = load_flux(case.flux, torch.bfloat16)
    once = ksample(patched(model, case), case, 2)
    again = ksample(patched(mixed(load_flux(case.flux, torch.bfloat16), Wide), case), case, 2)
    exact = sample(**case.oracle(), steps=2)
    assert relative_error(again, exact) <= 1.5 * relative_error(once, exact)


@pytest.mark.parametrize("run", [by_keywords, by_a_kernel])
def test_compiled(model: Model, case: Case, expected: Tensor, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a graph a layer with its adapters has no weights that a kernel could run past it."""
    # The host's attention divides by the memory that is free: a figure of its own in every graph.
    monkeypatch.setattr(
        comfy.model_management, "get_free_memory", lambda _=None, both=False: (GIB, GIB) if both else GIB
    )
    theirs = newer(mixed(model, Fused), run, handed=lambda tensor: tensor)
    compiled = theirs.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model=compiled, backend="eager", options={"guard_filter_fn": skip_torch_compile_dict})
    with mock.patch.object(Step, "ran_whole", autospec=True, side_effect=Step.ran_whole) as ran:
        assert relative_error(ksample(patched(compiled, case), case, 2), expected) <= EXACT
    assert ran.call_count == 2 * BLOCKS


def test_int8_weights(case: Case) -> None:
    """A kernel that may be kept from the weights is: each layer runs as it does where nothing is fused."""
    want, got = (ksample(patched(newer(int8(case), run), case), case, 2) for run in (plainly, by_a_kernel))
    assert torch.equal(got, want)
    assert relative_error(want, sample(**case.oracle(), steps=2)) < 0.05


def test_a_quantised_layer_computes_as_it_is_set(model: Model) -> None:
    """Whoever asks from outside is told to call it; its own forward reads what it was, after an error, too."""
    flux, name = model.model.diffusion_model, "double_blocks.0.img_mlp.2"
    layer, seen = flux.get_submodule(name), []
    x = torch.zeros(1, 1, layer.in_features)
    layer.__class__ = type("Seen", (type(layer),), {"forward": lambda self, x: seen.append(getattr(self, CALLED))})
    for before in (False, True):
        setattr(layer, CALLED, before)
        with contextlib.suppress(Broken), called(flux, [name]):
            layer(x)
            assert seen.pop() is before and getattr(layer, CALLED) is True
            raise Broken
        assert getattr(layer, CALLED) is before and not layer._forward_hooks and not layer._forward_pre_hooks


# --- told -------------------------------------------------------------------------------------------------------------


def told(model: Model, case: Case, message: str) -> None:
    """A run ends with one sentence or two, on one line, and leaves nothing on the model."""
    ours = patched(model, case)
    before = left(ours)
    with pytest.raises(ValueError, match=message) as caught:
        ksample(ours, case, 1)
    assert "\n" not in str(caught.value)
    assert left(ours) == before


@pytest.mark.parametrize("run", [by_a_kernel_always, by_the_hosts_own])
def test_a_kernel_that_nothing_keeps_from_the_weights(case: Case, run: Run) -> None:
    """On int8 weights the host's own function passes a layer over, as it is in this host."""
    layer = "img_attn.proj" if run is by_a_kernel_always else "img_mlp.2"
    message = rf"not added to double_blocks\.0\.{layer}, so .*fused kernels do\. Load FLUX\.1-dev in bf16 or fp8"
    told(newer(int8(case), run), case, message)


UNKNOWN = {
    "output_act='gelu_tanh'": lambda layer, x: layer(x, output_act="gelu_tanh"),
    "input_act='swish'": lambda layer, x: layer(x, input_act="swish"),
    "residual_scale=Tensor": lambda layer, x: layer(x, residual_scale=x),
    "Tensor, 'gelu_tanh'": lambda layer, x: layer(x, "gelu_tanh"),
}


@pytest.mark.parametrize("call", UNKNOWN)
def test_a_call_that_nobody_knows(model: Model, case: Case, call: str) -> None:
    def run(layer: nn.Module, x: Tensor, _act: bool, residual: Tensor, scale: Tensor) -> Tensor:
        return residual + scale * UNKNOWN[call](layer, x)

    shown = call if call.startswith("Tensor") else f"Tensor, {call}"
    told(
        newer(mixed(model, Strange), run),
        case,
        rf"the call layer\({re.escape(shown)}\) of double_blocks\.0\.img_attn\.proj",
    )


def past_the_modules(model: Model) -> Model:
    """Call each block's forward, past the module and all that hangs on it, with the options that FLUX was given."""

    def theirs(*args: Any, transformer_options: Any = None, **_: Any) -> Tensor:
        *given, options = (*args, transformer_options)[:9]

        def run(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return block.forward(*args, transformer_options=options, **kwargs)

        return old_forward_orig(model.model.diffusion_model, *given, run=run)

    own = model.clone()
    own.add_object_patch("diffusion_model.forward_orig", theirs)
    return own


def test_blocks_that_are_run_past_their_modules(model: Model, case: Case, expected: Tensor) -> None:
    assert relative_error(ksample(patched(past_the_modules(newer(model)), case), case, 2), expected) <= EXACT
    theirs = past_the_modules(newer(model, by_a_kernel_always))
    told(theirs, case, r"not added to double_blocks\.0\.img_attn\.proj, ")


@pytest.mark.parametrize("added", [[], ["double_blocks.0.img_mlp.0"]])
def test_a_join_past_the_modules_without_every_adapter(added: list[str]) -> None:
    """A block whose layers were all run by kernels, and one of which one was not."""
    layers = ["double_blocks.0.img_mlp.0", "double_blocks.0.img_mlp.2"]
    step = Step(None, lambda _inner: lambda *_: None, wanted_of(layers))
    step.join(plain_attention)
    for layer in added:
        step.added(layer)
    with pytest.raises(ValueError, match=f"not added to double_blocks.0.img_mlp.{2 if added else 0}"):
        step.check(blaming(lambda _block: (), ()))
