"""The trainer's samples of held-out pictures equal KSampler's result with the same adapters and noise."""

from __future__ import annotations

from pathlib import Path

import pytest
from comfyui_omnix.training import adapters as own
from comfyui_omnix.training.flow import Prompt, recording, sample
from measure import relative_error
from rig import ksample, load_flux, make_case, patched

EXACT = 1e-5


@pytest.mark.parametrize(("task", "steps", "seam"), [("rgb_to_depth", 4, 6), ("rgb_camray_to_normal", 3, 0)])
def test_it_is_what_ksampler_gives(tmp_path: Path, task: str, steps: int, seam: int) -> None:
    case = make_case(tmp_path, task, batch=2)
    model = load_flux(case.flux)
    want = ksample(patched(model, case, seam=seam), case, steps)
    files = [case.folder / task / stream / "pytorch_lora_weights.safetensors" for stream in case.task.streams]
    streams, flux = own.streams_of([own.from_file(file) for file in files]), model.model.diffusion_model
    prompt = Prompt(case.text.expand(2, -1, -1), case.pooled.expand(2, -1), case.guidance)
    with recording(flux, streams):
        found = sample(flux, streams, case.conditions, case.noise, prompt, steps, seam)
        another = sample(flux, streams, case.conditions, case.noise, prompt, steps + 1, seam)
    assert relative_error(found, want) <= EXACT < relative_error(another, want)
