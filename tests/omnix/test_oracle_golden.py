"""The runtime's oracle computes the same as its recorded results and the same as Diffusers."""

import functools
from typing import Any

import pytest
import recorded
import torch
from measure import relative_error
from oracle import Streams, blended, decode_panorama, sample, sigmas, widened
from recorded import CASES, RUNS, flux


@functools.cache
def inputs(task: str) -> dict[str, Any]:
    """Gather the arguments of `sample` for a task, except for the step count."""
    return {"transformer_sd": flux(), **recorded.inputs(task)}


@pytest.mark.parametrize(("task", "steps"), RUNS)
def test_recorded_results(task: str, steps: int) -> None:
    assert relative_error(sample(**inputs(task), steps=steps), recorded.result(task, steps)) <= 1e-5


@pytest.mark.parametrize("task", CASES)
def test_float64_is_the_same_function(task: str) -> None:
    given = inputs(task)
    single, double = (sample(**given, steps=3, dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert double.dtype == torch.float64
    assert relative_error(single, double) <= 5e-6


def test_every_part_matters() -> None:
    """Leaving any one thing out is seen: each adapter, their order, each condition, the seam, the guidance."""
    given = inputs("rgb_camray_to_normal")
    expected = sample(**given, steps=2)
    adapters, conditions = given["adapters"], given["conditions"]
    wrong: list[dict[str, Any]] = [{"adapters": [*adapters[:i], None, *adapters[i + 1 :]]} for i in range(3)]
    wrong += [{"adapters": [adapters[1], adapters[0], adapters[2]]}, {"conditions": conditions[::-1]}]
    wrong += [{"seam": 4}, {"guidance": 3.4}, {"pooled": given["pooled"].roll(1)}]
    for change in wrong:
        assert relative_error(sample(**{**given, **change}, steps=2), expected) > 1e-3, change.keys()


def test_one_stream_is_plain_flux() -> None:
    """Alone, a stream is what Diffusers itself computes with the same adapter, its own attention left in place."""
    from oracle import _forward, adapted

    given = inputs("rgb_to_depth")
    arguments = (0.7, given["prompt_embeds"], given["pooled"], 3.5)
    state, adapter = given["transformer_sd"], given["adapters"][1]
    plain = _forward(adapted(state, adapter), given["noise"], *arguments)
    (ours,) = Streams(state, [adapter]).predict([given["noise"]], *arguments)
    assert relative_error(ours, plain) <= 2e-6


def test_batch_is_each_alone() -> None:
    given = inputs("rgb_to_depth")
    other = {"noise": given["noise"].flip(-1), "conditions": [c.flip(-2) for c in given["conditions"]]}
    both = {
        "noise": torch.cat([given["noise"], other["noise"]]),
        "conditions": [torch.cat(pair) for pair in zip(given["conditions"], other["conditions"])],
    }
    alone = torch.cat([sample(**given, steps=2), sample(**{**given, **other}, steps=2)])
    assert relative_error(sample(**{**given, **both}, steps=2), alone) <= 2e-6


def test_an_error_in_one_stream_ends_all() -> None:
    given = inputs("rgb_to_depth")
    streams = Streams(given["transformer_sd"], given["adapters"])
    with pytest.raises((RuntimeError, ValueError)):
        streams.predict([given["noise"], given["noise"][:, :8]], 0.5, given["prompt_embeds"], given["pooled"], 3.5)


def test_sigmas_by_hand() -> None:
    """1024 tokens: mu = 0.5 + 0.65 * 768 / 3840 = 0.63, e^0.63 = 1.877611; t = 1/2 gives 1.877611 / 2.877611."""
    assert sigmas(2, 64, 64) == pytest.approx([1.0, 0.652489, 0.0], abs=1e-6)


def test_seam_by_hand() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert widened(x, 2).tolist() == [1, 2, 3, 4, 1, 2]
    assert blended(torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0, 20.0]), 2).tolist() == [10, 11, 3, 4, 10, 20]


def test_decode_keeps_a_seamless_picture() -> None:
    """A decoder without memory of its neighbours repeats the columns, so widening and blending change nothing."""

    def decode(latent: torch.Tensor) -> torch.Tensor:
        return latent[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2).permute(0, 2, 3, 1)

    latent = torch.randn(1, 16, 4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(decode_panorama(decode, latent), decode(latent), atol=1e-6)
