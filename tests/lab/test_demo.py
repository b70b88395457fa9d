"""What the demo shows while it runs: how far the sampler is, and paths that are short."""

import time
from pathlib import Path

import pytest
from comfyui_omnix.lab.demo.paths import short
from comfyui_omnix.lab.host.progress import heard
from comfyui_omnix.lab.host.server import Server
from comfyui_omnix.lab.host.tiny_models import ModelNames


@pytest.mark.server
def test_each_step_of_the_sampler_is_heard(server: Server) -> None:
    names = ModelNames()
    sampler = {"seed": 0, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    linked = {"model": ["1", 0], "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0]}
    clip = {"clip_name1": names.clip_l, "clip_name2": names.t5, "type": "flux"}
    graph = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": names.flux, "weight_dtype": "default"}},
        "2": {"class_type": "DualCLIPLoader", "inputs": clip},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": ""}},
        "4": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {"class_type": "KSampler", "inputs": sampler | linked},
        "6": {"class_type": "SaveLatent", "inputs": {"samples": ["5", 0], "filename_prefix": "heard"}},
    }
    steps: list[tuple[int, int]] = []
    with heard(server.url, lambda node, value, total: steps.append((value, total)) if node == "5" else None):
        server.run(graph)
        deadline = time.monotonic() + 10
        while (3, 3) not in steps and time.monotonic() < deadline:  # what is heard comes by another way than the end
            time.sleep(0.05)
    # The host tells a step only if the one before was told a while ago; the last is always told.
    assert steps == sorted({*steps}) and steps[-1] == (3, 3) and {total for _, total in steps} == {3}


def test_paths_are_told_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short(tmp_path / "demo-output" / "a.png") == Path("demo-output", "a.png")
    assert short(tmp_path.parent / "a.png") == tmp_path.parent / "a.png"
