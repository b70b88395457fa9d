"""Stand-ins for newer hosts' changes to FLUX (newer.py): the result is right, or one sentence names the layer."""

import contextlib
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.ldm.modules.attention
import comfy.model_management
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime import causes
from comfyui_omnix.omnix.runtime.causes import explaining
from comfyui_omnix.omnix.runtime.fused import CALLED, called
from comfyui_omnix.omnix.runtime.watch import Step, wanted_of
from measure import relative_error
from newer import (
    Container,
    Fused,
    Run,
    Strange,
    Wide,
    by_a_kernel,
    by_a_kernel_always,
    by_keywords,
    by_the_hosts_own,
    int8,
    mixed,
    newer,
    plain_attention,
    plainly,
)
from oracle import sample
from rig import Case, Model, hook_count, ksample, load_flux, make_case, patched
from test_packs import old_forward_orig
from torch import Tensor, nn

EXACT = 1e-5
GIB = 1 << 30
BLOCKS = 4
"""Of the tiny FLUX, of both kinds."""


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
    """Functions in this file count as the host's, so no pack is named as their source."""
    monkeypatch.setattr(causes, "_OWN", (*causes._OWN, __name__, newer.__module__))


@pytest.fixture
def model(case: Case) -> Model:
    return load_flux(case.flux)


class Broken(RuntimeError):
    """The exception that only a test raises."""


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
    """The input is bfloat16 and the output float32: the delta is added in float32."""
    case = make_case(tmp_path)
    model = load_flux(case.flux, torch.bfloat16)
    once = ksample(patched(model, case), case, 2)
    again = ksample(patched(mixed(load_flux(case.flux, torch.bfloat16), Wide), case), case, 2)
    exact = sample(**case.oracle(), steps=2)
    assert relative_error(again, exact) <= 1.5 * relative_error(once, exact)


@pytest.mark.parametrize("run", [by_keywords, by_a_kernel])
def test_compiled(model: Model, case: Case, expected: Tensor, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a graph a layer with its adapters has no weights that a kernel could run past it."""
    # The host's attention divides by the free memory, so every graph contains its own figure.
    monkeypatch.setattr(
        comfy.model_management, "get_free_memory", lambda _=None, both=False: (GIB, GIB) if both else GIB
    )
    theirs = newer(mixed(model, Fused), run, handed=lambda tensor: tensor)
    compiled = theirs.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model=compiled, backend="eager", options={"guard_filter_fn": skip_torch_compile_dict})
    with mock.patch.object(Step, "ran_whole", autospec=True, side_effect=Step.ran_whole) as ran:
        assert relative_error(ksample(patched(compiled, case), case, 2), expected) <= EXACT
    assert ran.call_count == 2 * BLOCKS


@pytest.mark.since("0.30.0")  # the first pinned host that has this kernel
def test_int8_weights(case: Case) -> None:
    """A kernel that may be kept from the weights is: each layer runs as it does where nothing is fused."""
    want, got = (ksample(patched(newer(int8(case), run), case), case, 2) for run in (plainly, by_a_kernel))
    assert torch.equal(got, want)
    assert relative_error(want, sample(**case.oracle(), steps=2)) < 0.05


def test_a_quantised_layer_computes_as_it_is_set(model: Model) -> None:
    """Other code sees a layer that must be called; the layer's forward sees the original value, also after an error."""
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


def reported(model: Model, case: Case, message: str) -> None:
    """A run ends with one sentence or two, on one line, and leaves nothing on the model."""
    ours = patched(model, case)
    before = left(ours)
    with pytest.raises(ValueError, match=message) as caught:
        ksample(ours, case, 1)
    assert "\n" not in str(caught.value)
    assert left(ours) == before


@pytest.mark.since("0.30.0")
@pytest.mark.parametrize("run", [by_a_kernel_always, by_the_hosts_own])
def test_a_kernel_that_nothing_keeps_from_the_weights(case: Case, run: Run) -> None:
    """On int8 weights the host's own function does not call a layer, as in this host."""
    layer = "img_attn.proj" if run is by_a_kernel_always else "img_mlp.2"
    message = rf"not added to double_blocks\.0\.{layer}, so .*fused kernels do\. Load FLUX\.1-dev in bf16 or fp8"
    reported(newer(int8(case), run), case, message)


UNKNOWN = {
    r"Tensor\[.*\], output_act='gelu_tanh'": lambda layer, x: layer(x, output_act="gelu_tanh"),
    r"Tensor\[.*\], input_act='swish'": lambda layer, x: layer(x, input_act="swish"),
    r"Tensor\[.*\], residual_scale=Tensor\[.*\]": lambda layer, x: layer(x, residual_scale=x),
    r"Tensor\[.*\], 'gelu_tanh'": lambda layer, x: layer(x, "gelu_tanh"),
    # Rows of all sequences in one tensor, so it is unknown which rows belong to which sequence.
    r"Tensor\[\d+, 256\]": lambda layer, x: layer(x.flatten(0, 1)).view_as(x),
    r"Tensor\[1, \d+, 256\]": lambda layer, x: layer(x.flatten(0, 1)[None]).view_as(x),
}


@pytest.mark.parametrize("call", UNKNOWN)
def test_a_call_that_nobody_knows(model: Model, case: Case, call: str) -> None:
    def run(layer: nn.Module, x: Tensor, act: bool, residual: Tensor, scale: Tensor) -> Tensor:
        return plainly(layer, x, act, residual, scale) if act else residual + scale * UNKNOWN[call](layer, x)

    theirs = newer(mixed(model, Strange), run)
    reported(theirs, case, rf"the call layer\({call}\) of double_blocks\.0\.img_attn\.proj, so its adapter can't be")


def past_the_modules(model: Model) -> Model:
    """Call each block's forward, without the module and its hooks, with the options that FLUX was given."""

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
    reported(theirs, case, r"not added to double_blocks\.0\.img_attn\.proj, ")


@pytest.mark.parametrize("added", [[], ["double_blocks.0.img_mlp.0"]])
def test_a_join_past_the_modules_without_every_adapter(added: list[str]) -> None:
    """A block whose layers were all run by kernels, and one of which one was not."""
    layers = ["double_blocks.0.img_mlp.0", "double_blocks.0.img_mlp.2"]
    step = Step(None, lambda _inner: lambda *_: None, wanted_of(layers))
    step.join(plain_attention)
    for layer in added:
        step.added(layer)
    with pytest.raises(ValueError, match=f"not added to double_blocks.0.img_mlp.{2 if added else 0}"):
        step.check(explaining(lambda _block: ()))
