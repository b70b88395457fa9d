"""Every wrong graph gives one sentence that says what to change, and the model stays unchanged."""

from pathlib import Path
from typing import Any

import comfy.controlnet
import pytest
import torch
from comfyui_omnix.converters import AdapterError, convert
from comfyui_omnix.graph.loaders import OmniXLoadAdapters
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime import patch
from comfyui_omnix.omnix.runtime.adapter import folders_with_tasks, misplaced, task_files
from comfyui_omnix.omnix.runtime.tasks import TASKS, task_header
from rig import Case, Model, conditioning, forward, hook_count, ksample, load_flux, make_case, patched


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("adapters"), "rgb_camray_to_normal")


@pytest.fixture(scope="module")
def model(manager: str, case: Case) -> Model:
    return load_flux(case.flux)


def refused(model: Model, case: Case, match: str, **changes: Any) -> None:
    """Run a graph that must be refused, and see that nothing is left of it."""
    before, hooks = forward(model, case), hook_count(model)
    with pytest.raises(ValueError, match=match) as caught:
        ksample(patched(model, case), case, 1, **changes)
    assert "\n" not in str(caught.value)
    assert torch.equal(forward(model, case), before)
    assert hook_count(model) == hooks


def test_no_reference_latent(model: Model, case: Case) -> None:
    needed = (
        r"rgb_camray_to_normal needs 2 reference latents \(rgb, camray, in this order\), got 0; chain 2 Set Reference"
    )
    refused(model, case, needed, positive=conditioning(model, case, ()))


@pytest.mark.parametrize("count", [1, 3])
def test_wrong_number_of_reference_latents(model: Model, case: Case, count: int) -> None:
    references = [case.conditions[0]] * count
    refused(model, case, f"needs 2 reference latents .* got {count}", positive=conditioning(model, case, references))


def test_reference_of_another_size(model: Model, case: Case) -> None:
    small = [case.conditions[0], case.conditions[1][..., :6, :12]]
    match = r"reference latent camray is 96x48, but the sampled latent is 128x64; resize the picture before VAE Encode"
    refused(model, case, match, positive=conditioning(model, case, small))


def test_reference_that_is_wider_by_the_seam(model: Model, case: Case) -> None:
    wide = [torch.cat((condition, condition[..., :6]), dim=-1) for condition in case.conditions]
    refused(model, case, "reference latent rgb is 176x64, but the", positive=conditioning(model, case, wide))


@pytest.mark.parametrize("shape", [(1, 4, 8, 16), (1, 16, 1, 8, 16)])
def test_reference_of_another_vae(model: Model, case: Case, shape: tuple[int, ...]) -> None:
    """The latents of SDXL's VAE, or of a video model."""
    match = r"reference latent camray is \[.*\], expected \[batch, 16, height, width\]; encode .* VAE of FLUX\.1"
    given = [model.model.latent_format.process_out(case.conditions[0]), torch.zeros(shape)]
    refused(model, case, match, positive=[[case.text, {"pooled_output": case.pooled, "reference_latents": given}]])


@pytest.mark.parametrize("shape", [(1, 4, 8, 16), (1, 16, 1, 8, 16)])
def test_latent_of_another_vae(model: Model, case: Case, shape: tuple[int, ...]) -> None:
    odd = Case(**{**vars(case), "noise": torch.randn(shape)})
    with pytest.raises(ValueError, match=r"OmniX samples latents of FLUX\.1, \[batch, 16, height, width\], got"):
        ksample(patched(model, case), odd, 1, conditioning(model, case))


def test_references_of_another_batch(model: Model, case: Case) -> None:
    """Of two panoramas for one latent the second would be dropped without a word."""
    two = [condition.expand(2, -1, -1, -1) for condition in case.conditions]
    match = "are a batch of 2, but the sampled latent is a batch of 1; set batch_size of the empty latent to 2"
    refused(model, case, match, positive=conditioning(model, case, two))


def test_part_of_the_picture(model: Model, case: Case) -> None:
    """The entries that Conditioning (Set Area) adds to the conditioning."""
    area = conditioning(model, case, area=(8, 8, 0, 0), strength=1.0, set_area_to_bounds=False)
    refused(
        model,
        case,
        r"Apply OmniX Adapters can't run on a part of the picture; remove Conditioning \(Set Area\)",
        positive=area,
    )


def test_not_twice_as_wide_as_high(model: Model, case: Case) -> None:
    square = [condition[..., :8] for condition in case.conditions]
    odd = Case(**{**vars(case), "noise": case.noise[..., :8], "conditions": square})
    match = r"whole panoramas, twice as wide as high, got a latent of 64x64\. If another node cuts .* into tiles"
    refused(model, odd, match)


def test_cfg_with_a_negative_that_lacks_the_conditions(model: Model, case: Case) -> None:
    negative = conditioning(model, case, ())
    for each in (negative, negative * 2):
        refused(model, case, r"negative lacks the conditions .* or set cfg to 1", cfg=3.5, negative=each)


def test_controlnet_on_top(model: Model, case: Case) -> None:
    """The host's own ControlNet object, with a network that is never reached."""
    control = comfy.controlnet.ControlNet(torch.nn.Identity(), load_device=torch.device("cpu"))
    control.get_control = lambda *args: {"input": [torch.zeros(1, 1, 1)], "output": []}
    refused(model, case, "can't run with a ControlNet; remove", positive=conditioning(model, case, control=control))


def test_attention_mask(model: Model, case: Case) -> None:
    """The entries that Apply Style Model with a mask adds to the conditioning: text tokens against image tokens."""
    rows = case.text.shape[1] + 4 * 8
    extra = {"attention_mask": torch.ones(1, rows, rows), "attention_mask_img_shape": (4, 8)}
    refused(model, case, "can't run with an attention mask", positive=conditioning(model, case, **extra))


def test_seam_wider_than_the_panorama(model: Model, case: Case) -> None:
    with pytest.raises(ValueError, match="The seam is 64 latent columns, the latent has 16; lower seam_columns"):
        ksample(patched(model, case, seam=64), case, 1)


class NotFlux:
    """A MODEL of another architecture."""

    class model:
        diffusion_model = torch.nn.Identity()


def test_model_that_is_not_flux(case: Case) -> None:
    for action in (lambda m: patch.attach(m, case.loaded(), 1.0, 1.0, 6), lambda m: patch.with_flow_shift(m, 1.0)):
        with pytest.raises(ValueError, match=r"fit FLUX\.1-dev, got .*; connect a FLUX\.1-dev model instead"):
            action(NotFlux())


def test_flux_that_takes_a_picture_beside_the_noise(case: Case) -> None:
    """FLUX.1 Fill has 384 input columns where FLUX.1-dev has 64."""
    fill = load_flux({**case.flux, "x_embedder.weight": torch.randn(case.flux["x_embedder.weight"].shape[0], 384)})
    for action in (lambda m: patch.attach(m, case.loaded(), 1.0, 1.0, 6), lambda m: patch.with_flow_shift(m, 1.0)):
        with pytest.raises(ValueError, match=r"\(Fill, Canny, Depth\); connect FLUX\.1-dev itself"):
            action(fill)


@pytest.mark.parametrize(
    ("geometry", "match"),
    [
        (tiny.Geometry(hidden=128), r"double_blocks\.0\.img_attn\.qkv: expected at most \[384, 128\] .* another model"),
        (tiny.Geometry(double=1), r"double_blocks\.1\.img_attn\.qkv: the model has no such layer"),
    ],
)
def test_adapters_of_another_size(case: Case, geometry: tiny.Geometry, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        patch.attach(load_flux(tiny.flux(geometry)), case.loaded(), 1.0, 1.0, 6)


def test_incomplete_set_names_the_missing_file(case: Case) -> None:
    missing = {"rgb_camray_to_normal/camray/pytorch_lora_weights.safetensors"}
    with pytest.raises(
        AdapterError, match=r"OmniX: camray: expected a file for each stream .* missing in that folder: .*camray"
    ):
        task_files(lambda name: None if name[6:] in missing else case.locate(name[6:]), "OmniX", case.task)


@pytest.mark.parametrize(
    ("more", "header", "words"),
    [
        (
            {"transformer.transformer_blocks.0.attn.to_z.lora_A.weight": (8, 256)},
            {},
            "got 2 that do not .*--allow-unused",
        ),
        ({}, {"lora_alpha": "2"}, r"got alpha 2 in the header \(scale 0.25\).*--header-alpha apply"),
    ],
)
def test_what_the_converter_asks_about_is_not_decided_by_the_loader(
    tmp_path: Path, more: dict[str, tuple[int, int]], header: dict[str, str], words: str
) -> None:
    """It left tensors out, or chose one of two strengths, without a word."""
    case = make_case(tmp_path)
    file = tmp_path / "rgb_to_depth/depth/pytorch_lora_weights.safetensors"
    down = {name: torch.zeros(size) for name, size in more.items()}
    up = {name.replace("lora_A", "lora_B"): torch.zeros(size[::-1]) for name, size in more.items()}
    tiny.save(case.states[1] | down | up, file, header)
    with pytest.raises(AdapterError, match=f"depth.*{words}.*omnix-convert"):
        case.loaded()


def test_folders_that_hold_a_whole_task() -> None:
    files = [
        "OmniX/rgb_to_depth/rgb/pytorch_lora_weights.safetensors",
        "OmniX/rgb_to_depth/depth/pytorch_lora_weights.safetensors",
        "OmniX/rgb_to_pbr/rgb.safetensors",
        "flat\\rgb_to_normal_rgb.safetensors",
        "flat\\rgb_to_normal_normal.safetensors",
        "image_to_pano/masked_rgb.safetensors",
        "image_to_pano/filled_rgb.safetensors",
        "style.safetensors",
    ]
    found = {".": ("image_to_pano",), "OmniX": ("rgb_to_depth",), "flat": ("rgb_to_normal",)}
    assert folders_with_tasks(files) == found


@pytest.mark.parametrize("task", TASKS)
def test_every_layout_is_found(task: str, tmp_path: Path) -> None:
    case = make_case(tmp_path / "a", task)
    layouts = ("{}/{}/pytorch_lora_weights.safetensors", "{}/{}.safetensors", "{}_{}.safetensors")
    for number, layout in enumerate(layouts):
        want = []
        for stream in case.task.streams:
            target = tmp_path / str(number) / layout.format(task, stream)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((case.folder / layouts[0].format(task, stream)).read_bytes())
            want.append(target)
        other = Case(**{**vars(case), "folder": tmp_path / str(number)})
        assert list(task_files(other.locate, ".", case.task)) == want
        assert len(other.loaded().adapters.stream_layers()) == len(want)


@pytest.mark.parametrize("converted", [False, True])
def test_files_that_changed_places_are_reported(
    tmp_path: Path, converted: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The adapters of two streams have the same shapes, so nothing else shows that they were exchanged."""
    task, files = TASKS["rgb_to_depth"], []
    for stream, state in zip(task.streams, (tiny.adapter(seed=1), tiny.adapter(seed=2))):
        header = {} if converted else task_header(task, stream)
        files.append(tiny.save(state, tmp_path / f"{stream}.original.safetensors", header))
        if converted:
            files[-1] = tmp_path / f"{stream}.safetensors"
            convert(tmp_path / f"{stream}.original.safetensors", files[-1], slot=(task.name, stream))
    plain = tiny.save(tiny.adapter(), tmp_path / "published.safetensors")
    assert not [*misplaced(files, task), *misplaced([plain, plain], task)]
    monkeypatch.setattr(OmniXLoadAdapters, "found", lambda *_: (task, tuple(reversed(files))))
    OmniXLoadAdapters.execute(task.name, ".")
    (first, second) = caplog.messages
    assert "the adapter depth of rgb_to_depth, and its name that it is rgb of rgb_to_depth" in first
    assert "the adapter rgb of rgb_to_depth, and its name that it is depth of rgb_to_depth" in second
