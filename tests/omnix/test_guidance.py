"""Several conditionings and sequences in one call: CFG, batches, regions, and the host's work between them."""

from typing import Any

import comfy.sampler_helpers
import pytest
import torch
from comfy_extras.nodes_nag import NAGuidance
from measure import relative_error
from oracle import sample
from rig import Case, Model, conditioning, ksample, load_flux, make_case, patched

EXACT = 1e-5


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("adapters"), batch=2)


@pytest.fixture(scope="module")
def other(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Another text and other conditions for the same noise."""
    drawn = make_case(tmp_path_factory.mktemp("other"), batch=2, seed=7)
    return Case(**{**vars(case), "text": drawn.text, "conditions": drawn.conditions})


@pytest.fixture
def model(case: Case) -> Model:
    return load_flux(case.flux)


def test_cfg_over_one_with_conditions_on_the_negative(model: Model, case: Case, other: Case) -> None:
    cond, uncond = (sample(**each.oracle(), steps=1) for each in (case, other))
    assert relative_error(cond, uncond) > 0.01
    got = ksample(patched(model, case), case, 1, cfg=3.0, negative=conditioning(model, other))
    assert relative_error(got, uncond + 3.0 * (cond - uncond)) <= EXACT


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_normalised_attention_guidance_meets_its_own_negative(
    model: Model, case: Case, other: Case, cfg: float
) -> None:
    """NAG cuts the batch inside each block: with a negative equal to the positive there is nothing to guide."""
    guided = NAGuidance.execute(patched(model, case), 5.0, 0.5, 1.5).result[0]
    want = ksample(patched(model, case), case, 2, cfg=cfg)
    assert relative_error(ksample(guided, case, 2, cfg=cfg), want) <= EXACT
    assert relative_error(ksample(guided, case, 2, cfg=cfg, negative=conditioning(model, other)), want) > 1e-3


def test_regions_are_given_by_masks(model: Model, case: Case, other: Case) -> None:
    """Conditioning (Set Mask): one text on the left, another on the right; the seam belongs to the left."""
    left = torch.zeros(1, 64, 128)
    left[..., :64] = 1
    positive = [
        [text, {**options, "mask": mask, "set_area_to_bounds": False, "mask_strength": 1.0}]
        for each, mask in ((case, left), (other, 1 - left))
        for text, options in conditioning(model, each)
    ]
    got = ksample(patched(model, case), case, 1, positive)
    first, second = (sample(**each.oracle(), steps=1) for each in (case, other))
    assert relative_error(got, torch.cat((first[..., :8], second[..., 8:]), dim=-1)) <= EXACT


@pytest.mark.parametrize("batch", [1, 2])
def test_one_condition_is_for_every_sequence(model: Model, case: Case, batch: int) -> None:
    one = [condition[:batch] for condition in case.conditions]
    got = ksample(patched(model, case), case, 2, conditioning(model, case, one))
    want = sample(**{**case.oracle(), "conditions": [condition.expand(2, -1, -1, -1) for condition in one]}, steps=2)
    assert relative_error(got, want) <= EXACT


@pytest.mark.parametrize("sequences", [1, 2], ids=["one for all", "one each"])
def test_memory_estimate_sees_every_stream_of_every_sequence(
    model: Model, case: Case, monkeypatch: pytest.MonkeyPatch, sequences: int
) -> None:
    """Two streams of two sequences are four rows, whether the reference is one panorama or one a sequence.

    The host's own formula says how many rows of x its estimate stands for.
    """
    found: list[tuple[float, float]] = []
    estimate = comfy.sampler_helpers.estimate_memory

    def record(*given: Any) -> Any:
        found.append(estimate(*given))
        return found[-1]

    monkeypatch.setattr(comfy.sampler_helpers, "estimate_memory", record)
    given = [condition[:sequences] for condition in case.conditions]
    ksample(patched(model, case), case, 1, conditioning(model, case, given))
    (_, minimum), row = found[0], model.model.memory_required([1, 16, 8, 22])
    assert minimum / row == pytest.approx(4 - 6 / 22)  # the host counts a reference without the seam


@torch.inference_mode()
def test_what_is_shown_is_what_comes_out(model: Model, case: Case) -> None:
    """The last x0 of euler is its result, in previews and in the second output of SamplerCustomAdvanced too."""
    shown: list[torch.Tensor] = []
    out = ksample(patched(model, case), case, 2, callback=lambda step, x0, x, total: shown.append(x0))
    assert relative_error(shown[-1], out) <= 1e-6
