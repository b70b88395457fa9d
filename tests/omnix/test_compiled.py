"""Compiled models stay compiled with OmniX: exact, one graph for each kind of block, and no traces of a run."""

import copy
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from comfyui_omnix.lab.host import tiny
from measure import relative_error
from oracle import sample
from rig import Case, Model, forward, hook_count, ksample, load_flux, make_case, offloading, patched

EXACT = 1e-5
GIB = 1 << 30
SHAPE = tiny.Geometry(hidden=128, double=1, single=2)
GRAPHS = 3
"""Of graphs: double blocks, single blocks, the last one."""


@pytest.fixture(autouse=True)
def _free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # The host's attention divides by the free memory, so every graph contains its own figure.
    monkeypatch.setattr(
        comfy.model_management, "get_free_memory", lambda _=None, both=False: (GIB, GIB) if both else GIB
    )


@pytest.fixture(autouse=True, scope="module")
def _graphs() -> Iterator[None]:
    """Graphs are expensive, so they are made once for all tests that do not count them; they keep models alive."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    gc.collect()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("adapters"), geometry=SHAPE)


@pytest.fixture
def model(case: Case) -> Model:
    return load_flux(case.flux)


def core(model: Model, backend: str = "eager") -> Model:
    """TorchCompileModel, except for its choice of backends."""
    own = model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model=own, backend=backend, options={"guard_filter_fn": skip_torch_compile_dict})
    return own


def block_wise(model: Model, backend: str = "eager") -> Model:
    """TorchCompileModelAdvanced of KJNodes: each block by itself."""
    own = model.clone()
    flux = own.get_model_object("diffusion_model")
    keys = [
        f"diffusion_model.{k}.{i}" for k in ("double_blocks", "single_blocks") for i in range(len(getattr(flux, k)))
    ]
    options = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(model=own, backend=backend, options=options, fullgraph=False, dynamic=False, keys=keys)
    return own


NODES = [core, block_wise]


def graphs() -> int:
    """Count what torch.compile has made."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.ordinary  # the core node's clone has no DynamicVRAM; another test of this node runs under it
def test_strengths_adapters_and_seeds_make_no_graph(tmp_path: Path, case: Case, model: Model) -> None:
    other = make_case(tmp_path, geometry=SHAPE, seed=5)
    other.flux = case.flux
    theirs = core(model)
    ksample(patched(theirs, case), case, 1)
    plain = load_flux(case.flux)
    before = graphs()
    for each, strength in ((case, (0.7, 0.3)), (case, (0.0, 1.3)), (other, (1.0, 1.0)), (other, (-0.4, 0.9))):
        want = ksample(patched(plain, each, strength), each, 2)
        assert relative_error(ksample(patched(theirs, each, strength), each, 2), want) <= EXACT
    assert graphs() == before


@pytest.mark.parametrize("node", NODES)
def test_the_users_model_is_as_it_was(case: Case, model: Model, node: Callable[..., Model]) -> None:
    plain, hooks, theirs = forward(model, case), hook_count(model), node(model)
    modules = list(model.model.diffusion_model.modules())
    ours = patched(theirs, case)

    def cancel(step: int, *_: Any) -> None:
        if step == 0:
            raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ksample(ours, case, 3, callback=cancel)
    want = sample(**case.oracle(), steps=2)
    for _ in range(2):
        assert relative_error(ksample(ours, case, 2), want) <= EXACT
        assert list(map(id, model.model.diffusion_model.modules())) == list(map(id, modules))
        assert torch.equal(forward(model, case), plain)
        assert relative_error(forward(theirs, case), plain) <= EXACT
    assert hook_count(model) == hooks


def test_an_error_within_a_step_leaves_nothing(case: Case, model: Model) -> None:
    plain, ours = forward(model, case), patched(core(model), case)
    modules = list(model.model.diffusion_model.modules())
    ksample(ours, case, 1)

    def fail(*_: Any) -> Any:
        raise RuntimeError("no more")

    broken = ours.clone()
    broken.set_model_patch_replace(fail, "dit", "single_block", 0)
    with pytest.raises(RuntimeError, match="no more"):
        ksample(broken, case, 1)
    assert list(map(id, model.model.diffusion_model.modules())) == list(map(id, modules))
    assert relative_error(ksample(ours, case, 2), sample(**case.oracle(), steps=2)) <= EXACT
    assert torch.equal(forward(model, case), plain)


# --- what a graph would not see ---------------------------------------------------------------------------------------


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "runs uncompiled" in record.getMessage()]


def hooked(model: Model) -> Callable[[], None]:
    layer = model.model.diffusion_model.single_blocks[0].linear1
    return layer.register_forward_hook(lambda _m, _a, out: out * 1.5).remove


def forwarded(model: Model) -> Callable[[], None]:
    layer = model.model.diffusion_model.double_blocks[0].img_mlp[0]
    theirs = layer.forward
    layer.forward = lambda x: theirs(x) * 1.5
    return lambda: vars(layer).pop("forward")


@pytest.mark.ordinary  # DynamicVRAM's compiled clone is another model than the one that is hooked
@pytest.mark.parametrize("interfere", [hooked, forwarded])
def test_another_nodes_hand_on_a_layer(
    case: Case, model: Model, interfere: Callable[..., Callable[[], None]], caplog: pytest.LogCaptureFixture
) -> None:
    """A graph knows nothing of it: such a model runs uncompiled, says so once a run, and is right."""
    ours = patched(core(model), case)
    alone = ksample(ours, case, 2)
    undo = interfere(model)
    got, want = ksample(ours, case, 2), ksample(patched(model, case), case, 2)
    assert torch.equal(got, want) and relative_error(got, alone) > EXACT
    (reported,) = said(caplog)
    assert "another node has changed" in reported
    undo()
    assert relative_error(ksample(ours, case, 2), alone) <= EXACT
    assert len(said(caplog)) == 1


def louder(q: Any, k: Any, v: Any, **_: Any) -> dict[str, Any]:
    return {"q": q * 1.5, "k": k, "v": v}


def louder_attention(attention: Any, q: Any, *args: Any, **kwargs: Any) -> Any:
    return attention(q * 1.5, *args, **kwargs)


def with_patch(model: Model) -> Model:
    changed = model.clone()
    changed.set_model_patch(louder, "attn1_patch")
    return changed


def with_attention(model: Model) -> Model:
    changed = model.clone()
    changed.model_options["transformer_options"]["optimized_attention_override"] = louder_attention
    return changed


@pytest.mark.parametrize(
    "of_another_node",
    # FLUX of older hosts knows no such patch
    [pytest.param(with_patch, marks=pytest.mark.since("0.18.2")), with_attention],
)
def test_a_patch_or_an_attention_of_another_node(
    of_another_node: Callable[[Model], Model], case: Case, model: Model
) -> None:
    """Either the graphs' own guards see it, or nothing does: the blocks run as written."""
    compiled = block_wise(model)
    ours = patched(compiled, case)
    alone = ksample(ours, case, 2)
    got = ksample(of_another_node(patched(compiled, case)), case, 2)
    assert torch.equal(got, ksample(of_another_node(patched(model, case)), case, 2))
    assert relative_error(got, alone) > EXACT
    assert relative_error(ksample(ours, case, 2), alone) <= EXACT


def test_a_replaced_layer_is_seen(case: Case, model: Model) -> None:
    """The twins follow a model that has changed since they were made."""
    ours = patched(core(model), case)
    alone = ksample(ours, case, 2)
    changed = ours.clone()
    layer = copy.deepcopy(model.model.diffusion_model.single_blocks[0].linear2)
    layer.weight.data *= 1.5
    changed.add_object_patch("diffusion_model.single_blocks.0.linear2", layer)
    plain = patched(model, case)
    plain.add_object_patch("diffusion_model.single_blocks.0.linear2", layer)
    want = ksample(plain, case, 2)
    got = ksample(changed, case, 2)
    assert relative_error(got, want) <= EXACT < relative_error(got, alone)
    assert relative_error(ksample(ours, case, 2), alone) <= EXACT


def test_a_compiler_that_fails(case: Case, model: Model, caplog: pytest.LogCaptureFixture) -> None:
    """Without a C++ compiler, say: as before compiling, with a line in the log."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("no compiler")

    ours = patched(block_wise(model, fail), case)  # type: ignore[arg-type]
    assert relative_error(ksample(ours, case, 2), sample(**case.oracle(), steps=2)) <= EXACT
    (reported,) = said(caplog)
    assert "torch.compile fails (BackendCompilerFailed)" in reported


@pytest.mark.parametrize("how", [{"backend": "cudagraphs"}, {"backend": "inductor", "mode": "reduce-overhead"}])
def test_cuda_graphs_are_left_out(
    case: Case, model: Model, how: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    theirs = model.clone()
    set_torch_compile_wrapper(model=theirs, **how)
    theirs.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, "torch.compile")  # this machine may lack CUDA
    before = graphs()
    assert relative_error(ksample(patched(theirs, case), case, 2), sample(**case.oracle(), steps=2)) <= EXACT
    assert graphs() == before
    assert "CUDA graphs are not supported" in said(caplog)[0]


# --- graphs are counted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "task", "batch"), [(core, "rgb_camray_to_normal", 1), (block_wise, "rgb_to_depth", 2)]
)
def test_exact_and_compiled_once(tmp_path: Path, node: Callable[..., Model], task: str, batch: int) -> None:
    torch._dynamo.reset()
    case = make_case(tmp_path, task, geometry=tiny.Geometry(hidden=128, double=2, single=3), batch=batch)
    ours = patched(node(load_flux(case.flux)), case)
    before = graphs()
    assert relative_error(ksample(ours, case, 1), sample(**case.oracle(), steps=1)) <= EXACT
    made = graphs() - before
    assert GRAPHS <= made <= GRAPHS + 1  # and what the core node's wrapper has round ours
    assert relative_error(ksample(ours, case, 3, seed=7), sample(**case.oracle(), steps=3)) <= EXACT
    assert graphs() - before == made


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("kept", ["float8", "offloaded"])
def test_weights_that_the_host_casts(
    manager: str, case: Case, monkeypatch: pytest.MonkeyPatch, node: Callable[..., Model], kept: str
) -> None:
    torch._dynamo.reset()
    model = load_flux(case.flux, torch.float8_e4m3fn if kept == "float8" else torch.float32)
    if kept == "offloaded":
        offloading(monkeypatch)
    want = ksample(patched(model, case), case, 2)
    ours, before = patched(node(model), case), graphs()
    assert relative_error(ksample(ours, case, 2), want) <= EXACT
    made = graphs() - before
    assert made > 0
    assert relative_error(ksample(ours, case, 2, seed=7), want) <= EXACT
    assert graphs() - before == made
    assert model.model.model_lowvram == (kept == "offloaded") or manager == "dynamic"


def test_compiled_by_a_node_after_ours(case: Case, model: Model) -> None:
    torch._dynamo.reset()
    before = graphs()
    ours = core(patched(model, case))
    assert relative_error(ksample(ours, case, 2), sample(**case.oracle(), steps=2)) <= EXACT
    assert graphs() > before
