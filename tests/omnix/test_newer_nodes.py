"""Core nodes of newer hosts on the model: the result is right, refused with a sentence, or has a warning."""

from collections.abc import Callable
from typing import Any

import comfy.ldm.modules.attention
import pytest
import torch
from measure import relative_error
from oracle import sample
from rig import Case, Model, conditioning, ksample, load_flux, make_case, patched
from torch import Tensor

EXACT = 1e-5
BOTH = pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
Put = Callable[[Model], Model]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def expected(case: Case) -> Tensor:
    return sample(**case.oracle(), steps=2)


@pytest.fixture
def model(case: Case) -> Model:
    return load_flux(case.flux)


def both(model: Model, case: Case, put: Put, first: bool, seam: int = 6) -> Model:
    return patched(put(model), case, seam=seam) if first else put(patched(model, case, seam=seam))


# --- Seamless Tiling --------------------------------------------------------------------------------------------------


def asking(moved: Callable[[Tensor], Tensor], at_once: bool = False) -> Put:
    """Ask the model about its input and about the same moved, and mix what comes: what Seamless Tiling does."""

    def wrapper(apply: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
        x, t, c = given["input"], given["timestep"], given["c"]
        if at_once:
            named = {name: torch.cat([part, part]) if isinstance(part, Tensor) else part for name, part in c.items()}
            return apply(torch.cat([x, moved(x)]), torch.cat([t, t]), **named).chunk(2)[0]
        return (apply(x, t, **c) + apply(moved(x), t, **c)) / 2

    def put(model: Model) -> Model:
        own = model.clone()
        own.set_model_unet_function_wrapper(wrapper)
        return own

    return put


def across(x: Tensor) -> Tensor:
    return x.roll(x.shape[-1] // 2, -1)


def both_ways(x: Tensor) -> Tensor:
    return x.roll((x.shape[-2] // 2, x.shape[-1] // 2), (-2, -1))


@BOTH
@pytest.mark.parametrize("seam", [0, 6])
@pytest.mark.parametrize("moved", [across, both_ways, lambda x: x.flip(-1)])
def test_a_picture_that_is_moved_is_refused(
    model: Model, case: Case, moved: Callable[[Tensor], Tensor], seam: int, first: bool
) -> None:
    """The conditions stay where they were: half of the result would be of another place."""
    with pytest.raises(ValueError, match=r"rolls or mirrors the picture.*Seamless Tiling"):
        ksample(both(model, case, asking(moved), first, seam), case, 2)


def test_a_picture_that_is_moved_beside_itself_is_refused(model: Model, case: Case) -> None:
    with pytest.raises(ValueError, match="rolls or mirrors the picture"):
        ksample(both(model, case, asking(across, at_once=True), True), case, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_asked_twice_or_a_little_changed_is_not(tmp_path: Any, dtype: torch.dtype) -> None:
    """With a negative, in batches, in the model's own dtype."""
    case = make_case(tmp_path, batch=2)
    negative = {"cfg": 2.0}
    model = load_flux(case.flux, dtype)
    for unmoved in (lambda x: x, lambda x: x + 1e-3 * torch.randn_like(x)):
        ours = both(model, case, asking(unmoved), True)
        assert ksample(ours, case, 2, conditioning(model, case), **negative).isfinite().all()


# --- Model Sparse Attention -------------------------------------------------------------------------------------------


def overriding(module: str, seen: list[Any]) -> Put:
    """An override of a module's, put on the model; here it leaves out nothing, as the node's own for few tokens."""

    def override(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        seen.append(args[0].shape)
        return function(*args, **kwargs)

    override.__module__ = module

    def put(model: Model) -> Model:
        own = model.clone()
        own.model_options["transformer_options"]["optimized_attention_override"] = override
        return own

    return put


@BOTH
@pytest.mark.parametrize(
    ("module", "reported"), [("comfy_extras.nodes_sparse_attention", 1), ("custom_nodes.RadialAttn", 1), ("quick", 0)]
)
def test_a_sparse_attention_is_reported(
    model: Model,
    case: Case,
    expected: Tensor,
    module: str,
    reported: int,
    first: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Any] = []
    assert relative_error(ksample(both(model, case, overriding(module, seen), first), case, 2), expected) <= EXACT
    assert seen
    assert caplog.text.count("A node adds sparse attention to the model") == reported


# --- Model Attention Backend ------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.since("0.32.0")
def test_the_hosts_choice_of_attention(model: Model, case: Case, expected: Tensor, first: bool) -> None:
    def put(model: Model) -> Model:
        own = model.clone()
        own.set_model_optimized_attention(comfy.ldm.modules.attention.get_attention_function("pytorch"))
        return own

    assert relative_error(ksample(both(model, case, put, first), case, 2), expected) <= EXACT
