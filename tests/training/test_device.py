"""The trainer runs on the host's device for the model, on whatever device the weights are."""

from pathlib import Path

import pytest
import torch
from comfyui_omnix.training import engine, saving
from comfyui_omnix.training.engine import train
from dynamic import use_dynamic
from made_up import TASK, base, config, latents
from safetensors.torch import load_file


def test_the_device_is_the_hosts_not_that_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DynamicVRAM leaves the weights on the CPU. Adapters that can be made on the device "meta" can be made on any."""
    loaded = base()
    monkeypatch.setattr("comfy.model_management.load_models_gpu", lambda *_args, **_named: None)
    monkeypatch.setattr("torch.autocast", lambda *_args, **_named: None)  # it knows no such device
    loaded.model.load_device = torch.device("meta")
    run = engine._Run(config(), TASK, loaded, latents(), tmp_path)
    assert {parameter.device.type for parameter in run.flux.parameters()} == {"cpu"}
    assert run.device.type == "meta" and {factor.device.type for factor in run.factors} == {"meta"}


@pytest.mark.since("0.30.0")
def test_training_under_dynamic_vram_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(name: str) -> dict[str, torch.Tensor]:
        ended = train(config(steps=3), TASK, base(), latents(), tmp_path / name, show=False)
        return load_file(ended.folder / saving.STATE)

    ordinary = trained("ordinary")
    use_dynamic(monkeypatch)
    assert base().model.is_dynamic()
    dynamic = trained("dynamic")
    assert ordinary.keys() == dynamic.keys()
    assert all(torch.equal(ordinary[name], dynamic[name]) for name in ordinary)
