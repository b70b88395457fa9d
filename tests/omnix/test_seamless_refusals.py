"""Seamless Panorama refuses impossible runs in one sentence before sampling; two nodes on a model make one seam."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.context_windows
import comfy.controlnet
import comfy.samplers
import pytest
import torch
from bases import BASES, conditioning, load_base
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime import patch, seamless
from comfyui_omnix.omnix.runtime.noise import PeriodicNoise
from comfyui_omnix.omnix.runtime.sampling import Run, between_steps, of_one_width
from comfyui_omnix.omnix.runtime.tasks import APPLY, SEAMLESS, Task
from rig import Case, hook_count, ksample, load_flux, make_case, patched
from test_seamless import SEAM, WIDTH, close, sampled
from torch import Tensor


def run(kind: str, width: int = WIDTH, height: int = 0, seam: int = SEAM, model: Any = None, **options: Any) -> Tensor:
    noise = torch.randn(BASES[kind].shape(height or width // 2, width))
    return sampled(close(load_base(kind) if model is None else model, seam), noise, conditioning(kind, **options))


def refuse(told: str, kind: str, **how: Any) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        run(kind, **how)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name,seam,told",
    [
        ("Qwen-Image", 3, "seam_columns is 3, expected a multiple of 2 such as 4, or 0 .*QwenImage sees 2"),
        ("SDXL", 6, "seam_columns is 6, expected a multiple of 4 such as 8, .*SDXL sees 4 latent columns at a time"),
        ("Wan 2.1", -2, "seam_columns is -2, expected a multiple of 2 such as 2"),
        ("FLUX.2", 40, "The seam is 40 latent columns, the latent has 32; lower seam_columns"),
    ],
)
def test_seams(name: str, seam: int, told: str) -> None:
    refuse(told, name, seam=seam)


@pytest.mark.parametrize(
    "name,width,told",
    [
        (
            "Qwen-Image",
            31,
            "31 columns wide, and QwenImage sees 2 .*panorama 256 pixels wide, or another multiple of 16",
        ),
        ("SDXL", 30, "30 columns wide, and SDXL sees 4 .*panorama 256 pixels wide, or another multiple of 32"),
        ("Wan 2.2", 31, "31 columns wide, and WAN22 sees 2 .*panorama 512 pixels wide, or another multiple of 32"),
        ("SD3.5", 44, "SD3 knows positions for 48 latent columns, the panorama has 44 and 8 .*at most 320 pixels wide"),
    ],
)
def test_widths(name: str, width: int, told: str) -> None:
    refuse(told, name, width=width)


def test_the_largest_panorama_of_absolute_positions() -> None:
    assert run("SD3.5", width=40).isfinite().all()


def test_a_tile_of_a_panorama() -> None:
    """Tiled upscalers sample each tile as a separate picture, whose edges must not meet."""
    refuse(r"got a latent of 32 by 32\. If another node cuts the panorama into tiles", "FLUX.2", height=32)


def test_a_latent_of_sound() -> None:
    guider = SimpleNamespace(model_patcher=load_base("Wan 2.1"), conds={}, model_options={})
    with pytest.raises(ValueError, match=r"samples pictures .* and videos, got \[1, 1, 4096\]"):
        seamless.check_run(SEAM)(guider, torch.randn(1, 1, 4096))


@pytest.mark.parametrize("node", [APPLY, SEAMLESS])
def test_what_both_nodes_check_names_its_own(node: str) -> None:
    run = Run(16, 32, PeriodicNoise(16, 32, SEAM), node)
    with pytest.raises(ValueError, match=f"resizes the panorama of 256x128 .* but {node} samples at one size"):
        between_steps(torch.zeros(1, 4, 8, 20), run)
    told = f"that {node} has widened by {SEAM}: set seam_columns to 0, on {node} and on OmniX Flow Shift, if there is"
    with pytest.raises(ValueError, match=told), of_one_width(run):
        torch.zeros(32) + torch.zeros(32 + SEAM)


class Hint(comfy.controlnet.ControlBase):
    """A ControlNet that never gets to run."""

    def get_control(self, *_: Any) -> None:
        raise AssertionError

    def get_models(self) -> list[Any]:
        return []


def test_what_sees_the_plain_width() -> None:
    """ControlNets on the conditioning and on the model, Redux' mask, areas, pictures of another size."""
    refuse("can't run with a ControlNet", "SDXL", control=Hint())
    model = load_base("Qwen-Image")
    model.set_model_double_block_patch(SimpleNamespace(image=torch.rand(1, 64, 256, 3)))
    refuse("can't run with a ControlNet", "Qwen-Image", model=model)
    mask = {"attention_mask": torch.ones(1, 69, 69), "attention_mask_img_shape": (4, 16)}
    refuse("attention mask of the picture", "FLUX.1", **mask)
    refuse("Seamless Panorama can't run on a part of the picture", "FLUX.2", area=(8, 8, 0, 0))
    refuse(r"has time_dim_concat of \[1, 16, 1, 4, 16\]", "Wan 2.1", time_dim_concat=torch.randn(1, 16, 1, 4, 16))


def test_tiles_are_refused_and_windows_of_time_are_not() -> None:
    def halves(apply: Any, given: dict[str, Any]) -> Tensor:
        parts = given["input"].chunk(2, dim=-1)
        return torch.cat([apply(part, given["timestep"], **given["c"]) for part in parts], dim=-1)

    def rolled(apply: Any, given: dict[str, Any]) -> Tensor:
        return apply(given["input"].roll(5, -1), given["timestep"], **given["c"]).roll(-5, -1)

    for wrapper, told in (
        (halves, "cuts the panorama .*parts of 20 by 16"),
        (rolled, "rolls or mirrors .* the seam_columns of Seamless Panorama close"),
    ):
        model = load_base("FLUX.2")
        model.set_model_unet_function_wrapper(wrapper)
        refuse(told, "FLUX.2", model=model)
    windows = comfy.context_windows.IndexListContextHandler(
        comfy.context_windows.get_matching_context_schedule("standard_static"),
        comfy.context_windows.get_matching_fuse_method("pyramid"),
        context_length=1,
        context_overlap=0,
        dim=2,
    )
    video = load_base("Wan 2.1")
    video.model_options["context_handler"] = windows
    assert run("Wan 2.1", model=video).isfinite().all()


def test_kinds_that_cannot() -> None:
    model = load_base("FLUX.2")
    type(model.model).__name__, named = "HiDreamO1", type(model.model).__name__
    try:
        with pytest.raises(ValueError, match="can't close the seam of HiDreamO1: its positions are counted before"):
            close(model)
    finally:
        type(model.model).__name__ = named


# --- with Apply OmniX Adapters ----------------------------------------------------------------------------------------


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return make_case(tmp_path, geometry=tiny.Geometry(hidden=128, double=1, single=1))


def test_both_nodes_make_one_seam(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    model = load_flux(case.flux)
    want = ksample(patched(model, case, seam=6), case, 2)
    orders = {
        seamless.KEPT: lambda: close(patched(model, case, seam=6)),
        seamless.REPLACED: lambda: patched(close(model), case, seam=6),
    }
    for told, order in orders.items():
        both = order()
        assert [record.message for record in caplog.records if "Seamless" in record.message] == [f"OmniX: {told}"]
        assert torch.equal(ksample(both, case, 2), want)
        assert all(len(entry) == 1 for kinds in both.wrappers.values() for entry in kinds.values())
        caplog.clear()
    assert not hook_count(model)


def test_the_mechanism_is_that_of_apply(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of one stream at no strength is FLUX.1 itself: Apply's numbers are Seamless Panorama's, bit for bit."""
    model = load_flux(case.flux)
    alone = Task("plain", ("target",))
    adapters = patch.load_adapters([case.folder / "rgb_to_depth" / "depth" / "pytorch_lora_weights.safetensors"], alone)
    text = [[case.text, {"pooled_output": case.pooled, "guidance": case.guidance}]]
    for sampler in ("euler", "dpmpp_2m", "euler_ancestral", "heun"):
        ours, theirs = (
            ksample(each, case, 3, text, sampler=sampler)
            for each in (close(model, 6), patch.attach(model, adapters, 0.0, 0.0, 6))
        )
        assert torch.equal(ours, theirs)
