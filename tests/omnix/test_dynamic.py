"""Models that ComfyUI moves, copies and runs on several cards: nothing leaks, and adapters move once for each run."""

import gc
import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime import patch
from comfyui_omnix.omnix.runtime.low_rank import LowRank
from comfyui_omnix.omnix.runtime.schedule import ENTRIES, flow_shift, sigmas
from measure import relative_error
from oracle import sample
from rig import Case, Model, conditioning, forward, ksample, load_flux, make_case, patched
from torch import Tensor
from torch.overrides import TorchFunctionMode

EXACT = 1e-5
SMALL = tiny.Geometry(hidden=128, double=1, single=1)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("adapters"), geometry=SMALL)


@pytest.fixture(scope="module")
def expected(case: Case) -> Tensor:
    """Two steps of the oracle."""
    return sample(**case.oracle(), steps=2)


@pytest.fixture
def model(case: Case) -> Model:
    return load_flux(case.flux)


def core_shift(model: Model, shift: float) -> Model:
    """The same as the host's node ModelSamplingFlux."""

    class Sampling(comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.CONST):
        pass

    sampling = Sampling(model.model.model_config)
    sampling.set_parameters(shift=shift)
    shifted = model.clone()
    shifted.add_object_patch("model_sampling", sampling)
    return shifted


# --- the table of noise levels ----------------------------------------------------------------------------------------


def levels(model: Model) -> list[float]:
    """The noise levels that KSampler would sample on."""
    sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, "simple", 4).tolist()


# The host itself leaks its own table between the MODEL and ModelSamplingFlux, so OmniX must run between them.
ORDERS = ["".join(order) for order in itertools.product("poc", repeat=4)]
SWAPPED = [f"o{order}o" for order in ORDERS if "pc" not in order and "cp" not in order]


@pytest.mark.parametrize("unload", [False, True], ids=["swapped", "unloaded"])
def test_every_order_of_plain_omnix_and_core(model: Model, case: Case, unload: bool) -> None:
    before, ours = forward(model, case), patched(model, case)
    all_of_them = {"p": model, "o": ours, "c": core_shift(model, 0.63)}
    want = {name: levels(each) for name, each in all_of_them.items()}
    # The host itself leaves its own table in the MODEL when it unloads ModelSamplingFlux.
    for name in "".join(order for order in SWAPPED if not unload or "c" not in order):
        each = all_of_them[name].clone()
        comfy.model_management.load_models_gpu([each])
        assert {name: levels(each) for name, each in all_of_them.items()} == want
        if unload:
            each.detach()
            assert {name: levels(each) for name, each in all_of_them.items()} == want
    comfy.model_management.load_models_gpu([model])
    assert torch.equal(forward(model, case), before)


@pytest.mark.parametrize("turn", range(3))
def test_plain_flux_before_and_after(model: Model, case: Case, expected: Tensor, turn: int) -> None:
    """Bit-identical after any first load: OmniX, another panorama's shift, or the plain MODEL."""
    fresh = forward(load_flux(case.flux), case)
    other = patch.with_flow_shift(model, flow_shift(64, 128, 6))
    runs: list[Callable[[], Any]] = [
        lambda: relative_error(ksample(patched(model, case), case, 2), expected) <= EXACT,
        lambda: forward(other, case).isfinite().all(),
        lambda: torch.equal(forward(model, case), fresh),
    ]
    for run in (runs[turn:] + runs[:turn]) * 2:
        assert run()
    comfy.model_management.unload_all_models()
    assert torch.equal(forward(model, case), fresh)


def test_nothing_of_the_sampling_is_within_the_hosts_reach(model: Model) -> None:
    """The host keeps and restores buffers and parameters by their path; the state's names stay."""
    sampling = patch.with_flow_shift(model, 0.7).get_model_object("model_sampling")
    assert not list(sampling.named_buffers()) and not list(sampling.named_parameters())
    assert set(sampling.state_dict()) == set(model.get_model_object("model_sampling").state_dict())
    sampling.register_buffer("sigmas", torch.zeros(3))
    assert torch.equal(sampling.sigmas, sigmas(0.7))


@pytest.mark.parametrize("entries", [10_000, ENTRIES])
def test_a_foreign_table_is_reported(model: Model, case: Case, entries: int, caplog: pytest.LogCaptureFixture) -> None:
    """Also where the shift is right: the host's own table, and one of our length that is another panorama's."""
    right = flow_shift(*case.noise.shape[-2:], 6)
    base = core_shift(model, right)
    if entries == ENTRIES:
        base.get_model_object("model_sampling").register_buffer("sigmas", sigmas(1.0))
    ksample(patch.attach(base, case.loaded(), 1.0, 1.0, 6), case, 1)
    (reported,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert reported.startswith(
        f"OmniX: The shift {right:.4f} is right, but the model's table of noise levels is not that"
    )


# --- copies to the device ---------------------------------------------------------------------------------------------


class Copies(TorchFunctionMode):
    """Counts how often tensors are moved from where they are kept; on a CPU, a move to it makes no copy else."""

    def __init__(self, kept: list[Tensor]) -> None:
        super().__init__()
        self.kept, self.count = {tensor.data_ptr() for tensor in kept}, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is Tensor.to and args[0].data_ptr() in self.kept:
            self.count += 1
            return out.clone()
        return out


@pytest.mark.since("0.30.0")
def test_adapters_move_once_a_run(model: Model, case: Case) -> None:
    loaded = case.loaded()
    kept = [factor.detach() for factor in loaded.adapters.weights.parameters()]
    ours = patch.attach(model, loaded, 1.0, 1.0, 6)
    for again in (False, True):
        with Copies(kept) as copies:
            ksample(ours, case, 3)
        # The ordinary patcher leaves them on the device for the next run.
        assert copies.count == (0 if again and not ours.is_dynamic() else len(kept))


def test_moves_are_counted(model: Model, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters that stay where they are kept are copied in every layer and step."""
    loaded = case.loaded()
    kept = [factor.detach() for factor in loaded.adapters.weights.parameters()]
    ours = patch.attach(model, loaded, 1.0, 1.0, 6)
    monkeypatch.setattr(type(loaded.patcher), "load", lambda *_args, **_kwargs: None)
    with Copies(kept) as copies:
        ksample(ours, case, 3)
    assert copies.count == 3 * len(kept)


def test_adapters_that_are_evicted_are_right(model: Model, case: Case, expected: Tensor) -> None:
    """The host may take them off the device between two steps, for want of memory; the next run has them again."""
    ours = patched(model, case)
    (adapters,) = ours.get_additional_models_with_key(patch.KEY)

    def evict(*_: Any) -> None:
        adapters.partially_unload(adapters.offload_device, 1e32)

    for _ in range(2):
        assert relative_error(ksample(ours, case, 2, callback=evict), expected) <= EXACT


# --- deep clones ------------------------------------------------------------------------------------------------------

CARDS = [torch.device("cpu"), torch.device("cpu", 1)]
"""To torch one and the same, to the host two."""


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the host find two cards."""
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: CARDS)
    yield
    torch._dynamo.reset()
    gc.collect()


def split(model: Model) -> Model:
    """MultiGPU CFG Split."""
    from comfy_extras.nodes_multigpu import MultiGPUCFGSplitNode

    return MultiGPUCFGSplitNode.execute(model, 2).args[0]


def selected(model: Model) -> Model:
    """Select Model Device, where it finds another card."""
    from comfy_extras.nodes_multigpu import _retarget_patcher

    return _retarget_patcher(model.clone(), CARDS[1], model.offload_device)


def on_the_cpu(model: Model) -> Model:
    """Select Model Device, set to the CPU."""
    from comfy_extras.nodes_multigpu import SelectModelDeviceNode

    return SelectModelDeviceNode.execute(model, "cpu").args[0]


@pytest.fixture
def diffusers(case: Case, tmp_path: Path) -> Model:
    """Load Diffusers FLUX."""
    return patch.load_diffusers_flux([str(tiny.save(case.flux, tmp_path / "flux.safetensors"))])


@pytest.mark.since("0.30.0")
@pytest.mark.parametrize("ours_first", [True, False])
def test_select_model_device(
    diffusers: Model, case: Case, expected: Tensor, ours_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = selected(patched(diffusers, case)) if ours_first else patched(selected(diffusers), case)
    assert ours.load_device == CARDS[1] and ours.model is not diffusers.model
    used: list[LowRank] = []
    add = LowRank.add_to
    monkeypatch.setattr(LowRank, "add_to", lambda self, *args: used.append(self) or add(self, *args))
    assert relative_error(ksample(ours, case, 2), expected) <= EXACT
    (adapters,) = ours.get_additional_models_with_key(patch.KEY)
    assert adapters.load_device == CARDS[1]
    assert used and set(used) <= set(adapters.model.modules())  # those that the host has moved, not the first ones


@pytest.mark.since("0.30.0")
def test_select_the_cpu(diffusers: Model, case: Case, expected: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host makes the model again without its dynamic patcher; the adapters follow it."""
    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: CARDS[1])
    ours = patched(diffusers, case)
    (before,) = ours.get_additional_models_with_key(patch.KEY)
    assert before.load_device == CARDS[1]
    chosen = on_the_cpu(ours)
    assert not chosen.is_dynamic() and chosen.load_device == CARDS[0]
    assert relative_error(ksample(chosen, case, 2), expected) <= EXACT
    (after,) = chosen.get_additional_models_with_key(patch.KEY)
    assert after.load_device == CARDS[0]


@pytest.mark.since("0.30.0")
def test_torch_compile_model_on_a_diffusers_flux(diffusers: Model, case: Case, expected: Tensor) -> None:
    """The node gets a copy without DynamicVRAM. Compiled graphs are tested elsewhere; this backend compiles none."""
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    own = TorchCompileModel.execute(diffusers, "cudagraphs").args[0]
    assert not own.is_dynamic()
    assert relative_error(ksample(patched(own, case), case, 2), expected) <= EXACT


@pytest.mark.since("0.30.0")
def test_lora_hooks_on_a_diffusers_flux(diffusers: Model, case: Case) -> None:
    """A LoRA by hooks is the same LoRA on the MODEL, with OmniX on both."""
    lora = {
        f"{name}.{side}.weight": torch.randn(size, generator=torch.Generator().manual_seed(3)) * 0.1
        for name in ("diffusion_model.single_blocks.0.linear2",)
        for side, size in (("lora_up", (128, 4)), ("lora_down", (4, 640)))
    }
    merged, _ = comfy.sd.load_lora_for_models(diffusers, None, lora, 0.8, 0)
    want = ksample(patched(merged, case), case, 2)
    hooks = comfy.hooks.create_hook_lora(lora=lora, strength_model=0.8, strength_clip=0)
    positive = conditioning(diffusers, case, hooks=hooks)
    got = ksample(patched(diffusers, case), case, 2, positive)
    assert relative_error(got, want) <= EXACT < relative_error(ksample(patched(diffusers, case), case, 2), want)


# --- several cards ----------------------------------------------------------------------------------------------------


@pytest.mark.since("0.30.0")
@pytest.mark.parametrize("ours_first", [True, False])
def test_several_cards(model: Model, case: Case, two_cards: None, ours_first: bool) -> None:
    """Positive and negative in two threads are what they are in one, each card with its own copy of the adapters."""
    drawn = make_case(case.folder / "other", geometry=SMALL, seed=7)
    negative = conditioning(model, Case(**{**vars(case), "text": drawn.text}))
    want = ksample(patched(model, case), case, 3, cfg=3.0, negative=negative)
    ours = split(patched(model, case)) if ours_first else patched(split(model), case)
    for _ in range(3):
        assert relative_error(ksample(ours, case, 3, cfg=3.0, negative=negative), want) <= EXACT
    (clone,) = ours.get_additional_models_with_key("multigpu")
    (first,), (second,) = (each.get_additional_models_with_key(patch.KEY) for each in (ours, clone))
    assert clone.load_device == second.load_device == CARDS[1]
    assert not set(first.model.modules()) & set(second.model.modules())
    assert torch._dynamo.eval_frame._stance.stance == "default"


def wrapped(model: Model) -> Model:
    """TorchCompileModel."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    own = model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(own, backend="eager")
    return own


def replaced(model: Model) -> Model:
    """Another pack's compile node, which puts a graph in a block's place."""
    own = model.clone(disable_dynamic=True)
    key = "diffusion_model.single_blocks.0"
    own.add_object_patch(key, torch.compile(own.get_model_object(key), backend="eager"))
    return own


@pytest.mark.since("0.30.0")
@pytest.mark.parametrize("compiling", [wrapped, replaced])
@pytest.mark.parametrize("split_first", [True, False])
def test_several_cards_on_one_graph_are_refused(
    model: Model, case: Case, two_cards: None, compiling: Callable[[Model], Model], split_first: bool
) -> None:
    ours = patched(compiling(split(model)) if split_first else split(compiling(model)), case)
    with pytest.raises(ValueError, match="every card run the FLUX of the first card; remove the compile node"):
        ksample(ours, case, 1, cfg=3.0)


@pytest.mark.since("0.30.0")
def test_an_error_on_one_card_leaves_nothing(model: Model, case: Case, two_cards: None) -> None:
    ours = split(patched(model, case))
    (clone,) = ours.get_additional_models_with_key("multigpu")
    negative = conditioning(model, case)
    want = ksample(ours, case, 2, cfg=2.0, negative=negative)
    fluxes = [each.model.diffusion_model for each in (ours, clone)]
    for flux in fluxes:
        handle = flux.single_blocks[0].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ksample(ours, case, 2, cfg=2.0, negative=negative)
        handle.remove()
    hooked = [m for flux in fluxes for m in flux.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooked == [] and torch._dynamo.eval_frame._stance.stance == "default"
    assert torch.equal(ksample(ours, case, 2, cfg=2.0, negative=negative), want)
