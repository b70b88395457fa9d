"""A graph of stock nodes and our nodes gives the oracle's numbers."""

from pathlib import Path

import pytest
import recorded
import torch
from comfyui_omnix.converters import convert
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime.tasks import TASKS
from measure import relative_error
from oracle import sample
from rig import Case, conditioning, ksample, load_flux, make_case, patched


def recorded_case(task: str) -> Case:
    """The inputs of a task's recorded runs."""
    given = recorded.inputs(task)
    rest = (given["conditions"], given["noise"], given["prompt_embeds"], given["pooled"])
    return Case(TASKS[task], recorded.flux(), [], recorded.ROOT / "adapters", *rest)


@pytest.mark.parametrize(("task", "steps"), recorded.RUNS)
def test_recorded_results(task: str, steps: int) -> None:
    case = recorded_case(task)
    model = patched(load_flux(case.flux), case)
    assert relative_error(ksample(model, case, steps), recorded.result(task, steps)) <= 1e-5


@pytest.mark.parametrize("task", TASKS)
def test_every_task(task: str, tmp_path: Path) -> None:
    case = make_case(tmp_path, task, ranks=(4, 8, 3), seed=5)
    model = patched(load_flux(case.flux), case)
    assert relative_error(ksample(model, case, 2), sample(**case.oracle(), steps=2)) <= 1e-5


@pytest.mark.parametrize("steps", [1, 3, 7, 17, 23, 28])
def test_every_step_count(steps: int, tmp_path: Path) -> None:
    """Step counts that do not divide the scheduler's table are as exact as the others."""
    case = make_case(tmp_path, height=4)
    model = patched(load_flux(case.flux), case)
    assert relative_error(ksample(model, case, steps), sample(**case.oracle(), steps=steps)) <= 1e-5


@pytest.mark.parametrize(("height", "batch", "hidden"), [(4, 2, 256), (6, 1, 128), (10, 3, 128), (14, 1, 384)])
def test_sizes_and_batches(height: int, batch: int, hidden: int, tmp_path: Path) -> None:
    """Odd token counts, with and without the seam's, and several sequences in one batch."""
    geometry = tiny.Geometry(hidden=hidden, double=1, single=2)
    case = make_case(tmp_path, "rgb_camray_to_normal", height=height, batch=batch, geometry=geometry)
    model = patched(load_flux(case.flux), case)
    assert relative_error(ksample(model, case, 2), sample(**case.oracle(), steps=2)) <= 1e-5


@pytest.mark.parametrize("seam", [0, 2, 8])
def test_seam_widths(seam: int, tmp_path: Path) -> None:
    case = make_case(tmp_path)
    model = patched(load_flux(case.flux), case, seam=seam)
    assert relative_error(ksample(model, case, 3), sample(**case.oracle(), steps=3, seam=seam)) <= 1e-5


def test_scales_and_spellings(tmp_path: Path) -> None:
    case = make_case(tmp_path, alpha=3.0)
    model = patched(load_flux(case.flux), case)
    assert relative_error(ksample(model, case, 2), sample(**case.oracle(), steps=2)) <= 1e-5


@pytest.mark.parametrize("task", ["rgb_to_depth", "rgb_camray_to_normal"])
def test_converted_files_are_the_same_adapters(task: str, tmp_path: Path) -> None:
    case = make_case(tmp_path / "original", task)
    converted = Case(**{**vars(case), "folder": tmp_path / "converted"})
    for stream in case.task.streams:
        original = case.folder / task / stream / "pytorch_lora_weights.safetensors"
        convert(original, converted.folder / task / f"{stream}.safetensors")
    model = load_flux(case.flux)
    first, second = (ksample(patched(model, source), source, 2) for source in (case, converted))
    assert torch.equal(first, second)


def test_adapters_of_every_layer(tmp_path: Path) -> None:
    """Adapters that tell the text rows of the streams apart switch off what is computed once for all."""
    case = make_case(tmp_path, modules=list(tiny.linears()))
    model = patched(load_flux(case.flux), case)
    assert relative_error(ksample(model, case, 2), sample(**case.oracle(), steps=2)) <= 1e-5


def test_strength_scales_the_adapters(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    halves = [0.5, 0.25]
    case.states = [
        {name: tensor * (half if "lora_B" in name else 1) for name, tensor in state.items()}
        for state, half in zip(case.states, halves, strict=True)
    ]
    model = patched(load_flux(case.flux), case, (0.5, 0.25))
    assert relative_error(ksample(model, case, 2), sample(**case.oracle(), steps=2)) <= 1e-5


def test_bfloat16_adds_no_error_of_its_own(tmp_path: Path) -> None:
    """At most 1.5 times what bfloat16 costs the plain model."""
    case = make_case(tmp_path, dtype=torch.bfloat16)
    exact, rounded = load_flux(case.flux), load_flux(case.flux, torch.bfloat16)
    plain = [ksample(model, case, 4, conditioning(model, case, ())) for model in (rounded, exact)]
    ours = ksample(patched(rounded, case), case, 4)
    assert relative_error(ours, sample(**case.oracle(), steps=4)) <= 1.5 * relative_error(*plain)


def test_float8_base(tmp_path: Path) -> None:
    """Equal to float32 computation on the same dequantised weights."""
    case = make_case(tmp_path)
    model = patched(load_flux(case.flux, torch.float8_e4m3fn), case)
    case.flux = {name: tensor.to(torch.float8_e4m3fn).float() for name, tensor in case.flux.items()}
    assert relative_error(ksample(model, case, 2), sample(**case.oracle(), steps=2)) <= 1e-5
