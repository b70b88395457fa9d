"""The table of noise levels is exact for the scheduler that reads it."""

import math

import comfy.samplers
import pytest
import torch
from comfyui_omnix.omnix.runtime.schedule import ENTRIES, LARGEST_STEP_COUNT, flow_shift, sigmas, times


class Sampling:
    """The part of a model that the host's schedulers use."""

    def __init__(self, mu: float) -> None:
        self.sigmas = sigmas(mu)


@pytest.mark.parametrize("mu", [0.5, 0.9, 1.15])
def test_simple_is_exact_for_every_step_count(mu: float) -> None:
    sampling = Sampling(mu)
    for steps in range(1, LARGEST_STEP_COUNT + 1):
        got = comfy.samplers.simple_scheduler(sampling, steps).double()
        t = [1 - k / steps for k in range(steps)]
        want = torch.tensor([math.exp(mu) / (math.exp(mu) + 1 / x - 1) for x in t] + [0.0], dtype=torch.float64)
        assert torch.allclose(got, want, rtol=1e-7, atol=0), steps


def test_table_rises_strictly_to_one() -> None:
    table = times()
    assert table.shape == (ENTRIES,)
    assert (table.diff() > 0).all()
    assert table[-1] == 1
    assert (sigmas(1.0).diff() >= 0).all()


@pytest.mark.parametrize(("pixels", "mu"), [((256, 256), 0.5), ((1024, 1024), 1.15)])
def test_shift_of_the_square_pictures_flux_was_tuned_on(pixels: tuple[int, int], mu: float) -> None:
    assert flow_shift(pixels[0] // 8, pixels[1] // 8, 0) == pytest.approx(mu)


def test_shift_counts_the_seam() -> None:
    assert flow_shift(64, 128, 6) == pytest.approx(0.5 + 0.65 * (32 * 67 - 256) / 3840)
