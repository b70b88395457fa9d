"""The float64 forward, Diffusers and the host compute the same FLUX: three implementations, one function."""

from collections.abc import Callable

import pytest
import torch
from comfyui_omnix.lab.host import tiny
from dense_flux import forward, merged
from host_flux import Inputs, inputs
from host_flux import forward as host_forward
from host_flux import load as host_load
from measure import relative_error
from oracle import _forward as diffusers_forward
from oracle import adapted, transformer

GEOMETRIES = {
    "tiny": tiny.TINY,
    "uneven": tiny.Geometry(hidden=384, double=3, single=1, text=48, pooled=16),
    "one head": tiny.Geometry(hidden=128, double=1, single=4, text=64, pooled=8),
}


def spread(given: Inputs) -> tuple[torch.Tensor, float, torch.Tensor, torch.Tensor, float]:
    """Return the inputs in the order of the two references."""
    return given.latent, given.t, given.text, given.pooled, given.guidance


@pytest.mark.parametrize("name", GEOMETRIES)
def test_three_agree(name: str, measured: Callable[[str, float], float]) -> None:
    geometry = GEOMETRIES[name]
    state = tiny.flux(geometry, seed=1)
    given = inputs(1, batch=2, text=geometry.text, pooled=geometry.pooled)
    reference = forward(state, *spread(given))
    double = Inputs(given.latent.double(), given.t, given.text.double(), given.pooled.double())
    diffusers = diffusers_forward(transformer(state, torch.float64), *spread(double))
    host = host_forward(host_load(state), given)
    assert measured(f"FLUX {name}: Diffusers float64 against ours", relative_error(diffusers, reference)) <= 1e-7
    assert measured(f"FLUX {name}: ComfyUI float32 against ours", relative_error(host, reference)) <= 1e-6


def test_merged_is_peft() -> None:
    state = tiny.flux()
    given = inputs()
    adapter = tiny.adapter(modules=list(tiny.linears()), rank=4, alpha=6.0, size=0.3)
    double = Inputs(given.latent.double(), given.t, given.text.double(), given.pooled.double())
    peft = diffusers_forward(adapted(state, adapter, torch.float64), *spread(double))
    ours = forward(merged(state, adapter), *spread(given))
    assert relative_error(peft, ours) <= 1e-7
    assert relative_error(forward(state, *spread(given)), ours) > 0.1


def test_inputs_are_left_alone() -> None:
    """The host's conversion swaps a weight in place; `load` must not let it spoil the state dict."""
    state = tiny.flux()
    before = {name: tensor.clone() for name, tensor in state.items()}
    host_forward(host_load(state), inputs())
    assert all(torch.equal(state[name], before[name]) for name in before)
