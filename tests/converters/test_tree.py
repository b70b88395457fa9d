"""Trees: which file is for which stream, where its result goes, and that no name leads out of the destination."""

import os
from pathlib import Path

import pytest
import torch
from adapter_files import small
from comfyui_omnix.converters import (
    AdapterError,
    convert_tree,
    find_adapters,
    inspect,
    jobs,
    open_adapter,
    slot_of_name,
)
from comfyui_omnix.converters.tasks import is_plain
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime.tasks import STREAMS

PLACES = {
    "rgb_to_depth/rgb/pytorch_lora_weights.safetensors": ("rgb_to_depth", "rgb"),
    "rgb_to_depth/depth/adapter_model.safetensors": ("rgb_to_depth", "depth"),
    "rgb_camray_to_normal_camray.safetensors": ("rgb_camray_to_normal", "camray"),
    "image_to_pano_masked_rgb.safetensors": ("image_to_pano", "masked_rgb"),
    "deep/er/rgb_to_pbr_pbr.safetensors": ("rgb_to_pbr", "pbr"),
    "rgb_to_albedo/albedo.safetensors": ("rgb_to_albedo", "albedo"),
    "my_task/my stream/pytorch_lora_weights.safetensors": ("my_task", "my stream"),
    "deep/rgb_to_shading_shading.safetensors": ("rgb_to_shading", "shading"),
    "über/größe.safetensors": ("über", "größe"),
    "some_style.safetensors": None,
    "pytorch_lora_weights.safetensors": None,
    "one/pytorch_lora_weights.safetensors": None,
}


def fill(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        tiny.save(small(seed), folder / name)
    return folder


@pytest.mark.parametrize("name", PLACES)
def test_places(name: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "in", name)
    (job,) = jobs(source, tmp_path / "out")
    slot = PLACES[name]
    assert job.slot == slot
    wanted = Path(name) if slot is None else Path(slot[0], f"{slot[1]}.safetensors")
    assert job.destination == tmp_path / "out" / wanted
    (back,) = jobs(source, tmp_path / "out", split=True)
    parts = Path(name) if slot is None else Path(*slot, "pytorch_lora_weights.safetensors")
    assert back.destination == tmp_path / "out" / parts
    assert find_adapters(source) == ({} if slot is None else {slot: source / name})


@pytest.mark.parametrize("start", ["", "rgb_to_depth", "rgb_to_depth/rgb"])
def test_the_root_may_be_the_folder_of_a_task_or_stream(start: str, tmp_path: Path) -> None:
    fill(tmp_path, "rgb_to_depth/rgb/pytorch_lora_weights.safetensors")
    assert [job.slot for job in jobs(tmp_path / start, tmp_path / "out")] == [("rgb_to_depth", "rgb")]
    single = tmp_path / "rgb_to_depth/rgb/pytorch_lora_weights.safetensors"
    assert [job.slot for job in jobs(single, tmp_path / "out")] == [("rgb_to_depth", "rgb")]
    assert jobs(single, tmp_path / "x.safetensors")[0].destination == tmp_path / "x.safetensors"


def test_every_task_and_stream_is_found_in_every_layout(tmp_path: Path) -> None:
    every = [(task, stream) for task, streams in STREAMS.items() for stream in streams]
    assert len(every) == 15
    for number, layout in enumerate(("{}/{}/pytorch_lora_weights", "{}_{}", "{}/{}")):
        folder = fill(tmp_path / str(number), *(f"{layout.format(*slot)}.safetensors" for slot in every))
        assert set(find_adapters(folder)) == set(every)
        assert [slot_of_name(f"x/{layout.format(*slot)}.safetensors") for slot in every] == every


@pytest.mark.parametrize(
    "name", ["a.safetensors", "x/y.safetensors", "../rgb.safetensors", "", "rgb_to_depth.safetensors"]
)
def test_names_of_no_task(name: str) -> None:
    assert slot_of_name(name) is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "c:", "x.", "x ", "a\nb", "\0", "?", "*", "x" * 121, ".x"]
)
def test_names_that_can_not_be_part_of_a_path_everywhere(name: str) -> None:
    assert not is_plain(name)


def test_convert_tree_keeps_task_and_stream(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", *(name for name, slot in PLACES.items() if slot))
    outcomes = convert_tree(source, tmp_path / "out")
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    for slot in filter(None, PLACES.values()):
        plan = open_adapter(tmp_path / "out" / slot[0] / f"{slot[1]}.safetensors")
        reported = slot if "_to_" in slot[0] else (None, None)  # a folder of any other name names no task
        assert (plan.converted, plan.task, plan.stream) == (True, *reported)
    assert set(find_adapters(tmp_path / "out")) == {slot for slot in PLACES.values() if slot}


def test_the_steps_of_a_training_stay_apart(tmp_path: Path) -> None:
    names = [f"runs/{step}/rgb_to_shading/{stream}" for step in ("step-1", "step-2") for stream in ("rgb", "shading")]
    source = fill(tmp_path / "in", *(f"{name}/pytorch_lora_weights.safetensors" for name in names))
    assert [job.destination for job in jobs(source, tmp_path / "out")] == [
        tmp_path / "out" / f"{name}.safetensors" for name in names
    ]


def test_two_files_for_one_stream_are_both_refused(tmp_path: Path) -> None:
    names = ("rgb_to_depth_rgb.safetensors", "rgb_to_depth/rgb/pytorch_lora_weights.safetensors")
    source = fill(tmp_path / "in", *names, "rgb_to_depth_depth.safetensors")
    outcomes = convert_tree(source, tmp_path / "out")
    assert [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.*")] == [
        Path("rgb_to_depth/depth.safetensors")
    ]
    refused = [outcome.error for outcome in outcomes if outcome.error]
    assert len(refused) == 2
    assert all("rgb_to_depth/rgb: expected one file, got" in error for error in refused)
    with pytest.raises(AdapterError, match=r"rgb_to_depth/rgb: expected one file, got .* too; move one of them away"):
        find_adapters(source)


def test_names_that_differ_in_case_or_accents_alone_are_refused(tmp_path: Path) -> None:
    """They are two files here and one on other systems."""
    source = fill(tmp_path / "in", "Task/a/adapter_model.safetensors", "task/a/adapter_model.safetensors")
    fill(source, "x/e\u0301.safetensors", "x/\u00e9.safetensors")
    assert len([job for job in jobs(source, tmp_path / "out") if job.problem]) == len(
        list(source.rglob("*.safetensors"))
    )


def test_converting_a_tree_into_itself(tmp_path: Path) -> None:
    name = "rgb_to_depth/rgb/pytorch_lora_weights.safetensors"
    fill(tmp_path, name)
    assert [outcome.error for outcome in convert_tree(tmp_path, tmp_path)] == [None]
    (again,) = convert_tree(tmp_path, tmp_path)
    assert again.error is None and again.result.skipped
    assert [outcome.error for outcome in convert_tree(tmp_path, tmp_path, force=True)] == [None]
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "pytorch_lora_weights.safetensors",
        "rgb.safetensors",
    ]


def test_an_original_where_its_result_would_go_is_not_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, "rgb_to_depth/rgb.safetensors")
    (outcome,) = convert_tree(tmp_path, tmp_path, force=True)
    assert outcome.error is not None and "expected another name than the source" in outcome.error


def test_links_in_the_destination_do_not_lead_out_of_it(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", "rgb_to_depth_rgb.safetensors", "rgb_to_pbr_rgb.safetensors")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rgb_to_depth").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    first, second = convert_tree(source, tmp_path / "out", force=True)
    assert first.error is not None and "expected a path in" in first.error and "remove the link" in first.error
    assert second.error is None
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_at_the_destination_is_replaced_not_followed(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", "rgb_to_depth_rgb.safetensors")
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out/rgb_to_depth").mkdir(parents=True)
    (tmp_path / "out/rgb_to_depth/rgb.safetensors").symlink_to(tmp_path / "precious")
    assert convert_tree(source, tmp_path / "out")[0].error is not None
    assert convert_tree(source, tmp_path / "out", force=True)[0].error is None
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "out/rgb_to_depth/rgb.safetensors").is_symlink()


def test_linked_sources_are_read_and_loops_are_not_followed(tmp_path: Path) -> None:
    """As in a download cache, whose trees are links to files elsewhere."""
    blob = tiny.save(small(), tmp_path / "blobs" / "0123abcd")
    (tmp_path / "in/rgb_to_depth/rgb").mkdir(parents=True)
    (tmp_path / "in/rgb_to_depth/rgb/pytorch_lora_weights.safetensors").symlink_to(blob)
    (tmp_path / "in/loop").symlink_to(tmp_path / "in", target_is_directory=True)
    (outcome,) = convert_tree(tmp_path / "in", tmp_path / "out")
    assert outcome.error is None and outcome.job.slot == ("rgb_to_depth", "rgb")


def test_linked_folders_are_followed_once_round(tmp_path: Path) -> None:
    fill(tmp_path / "real", "rgb/pytorch_lora_weights.safetensors", "depth.safetensors")
    source = fill(tmp_path / "in", "style.safetensors")
    (source / "rgb_to_depth").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real" / "up").symlink_to(source, target_is_directory=True)
    outcomes = convert_tree(source, tmp_path / "out")
    assert [(outcome.job.slot, outcome.error) for outcome in outcomes] == [
        (None, None),
        (("rgb_to_depth", "depth"), None),
        (("rgb_to_depth", "rgb"), None),
    ]


def test_a_destination_inside_the_source_is_no_source(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", "rgb_to_depth_rgb.safetensors", "style.safetensors")
    convert_tree(source, source / "out")
    fill(source, "soft.safetensors")
    outcomes = convert_tree(source, source / "out", force=True)
    assert len(outcomes) == 3 and not any(outcome.error for outcome in outcomes)


def test_a_file_is_no_destination_of_a_tree(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", "style.safetensors")
    (tmp_path / "out").write_text("mine")
    for given in (source, source / "style.safetensors"):
        with pytest.raises(AdapterError, match=r"out: expected a folder, got a file; choose another destination"):
            convert_tree(given, tmp_path / "out")


def test_a_place_may_be_named_by_way_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path, "rgb_to_depth/depth/pytorch_lora_weights.safetensors", "rgb_to_depth/rgb/x.safetensors")
    monkeypatch.chdir(folder / "rgb_to_depth" / "rgb")
    (outcome,) = convert_tree("../depth/pytorch_lora_weights.safetensors", tmp_path / "out")
    assert outcome.job.slot == ("rgb_to_depth", "depth")


def test_a_dangling_link_is_one_failure(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", "rgb_to_depth_rgb.safetensors")
    (source / "a.safetensors").symlink_to(tmp_path / "nowhere")
    first, second = convert_tree(source, tmp_path / "out")
    assert first.error is not None and "No such file or directory; check the path." in first.error
    assert second.error is None


def test_hidden_and_other_files_are_left_alone(tmp_path: Path) -> None:
    fill(tmp_path / "in", "rgb_to_depth_rgb.safetensors", ".omnix-1-0123456789abcdef.safetensors")
    (tmp_path / "in/notes.txt").write_text("x")
    assert len(jobs(tmp_path / "in", tmp_path / "out")) == 1


def test_empty_and_missing_trees(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"expected \.safetensors files in this folder, got none"):
        jobs(tmp_path, tmp_path / "out")
    with pytest.raises(AdapterError, match="expected a file or folder, found nothing of that name"):
        jobs(tmp_path / "none", tmp_path / "out")


def test_a_folder_that_can_not_be_read_is_reported_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fill(tmp_path / "in", "a/rgb_to_depth_rgb.safetensors", "b/rgb_to_depth_depth.safetensors")
    real = os.listdir

    def listdir(path: str) -> list[str]:
        if os.fspath(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    first, second = convert_tree(source, tmp_path / "out")
    assert first.error is None and first.job.slot == ("rgb_to_depth", "depth")
    assert second.error == f"{source / 'a'}: Permission denied; check the permissions."
    with pytest.raises(PermissionError):
        find_adapters(source)


def test_inspect_describes_files(tmp_path: Path) -> None:
    source = fill(tmp_path, "rgb_to_depth_rgb.safetensors") / "rgb_to_depth_rgb.safetensors"
    found = inspect(source)
    assert found["format"] == "a FLUX.1 LoRA in Diffusers layout"
    assert (found["task"], found["stream"], found["ranks"], found["dtypes"]) == ("rgb_to_depth", "rgb", [4], ["BF16"])
    assert found["geometry"] == {"hidden": 8, "mlp": 32, "double": 2, "single": 2}
    assert found["layers"]["double_blocks.1.img_attn.qkv"]["parts"][1] == {
        "part": "transformer_blocks.1.attn.to_k",
        "down": "transformer.transformer_blocks.1.attn.to_k.lora_A.weight",
        "up": "transformer.transformer_blocks.1.attn.to_k.lora_B.weight",
        "alpha": None,
        "rows": [8, 16],
        "rank": 4,
        "scale": 1.0,
    }
    convert_tree(source, tmp_path / "out")
    again = inspect(tmp_path / "out/rgb_to_depth/rgb.safetensors")
    assert (again["format"], again["task"], again["stream"]) == ("converted by omnix-convert", "rgb_to_depth", "rgb")
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    state = {f"{key}.lora_down.weight": torch.ones(2, 8), f"{key}.lora_up.weight": torch.ones(24, 2)}
    kohya = inspect(tiny.save(state, tmp_path / "k.safetensors"))
    assert kohya["format"] == "a kohya/sd-scripts FLUX LoRA"
    assert kohya["advice"].endswith("; ComfyUI's LoRA loaders also accept it unchanged, merged and bypassed")
    assert kohya["layers"]["double_blocks.0.img_attn.qkv"]["parts"][0]["down"] == f"{key}.lora_down.weight"


def test_suffixes_in_capitals_are_found(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", "STYLE.SAFETENSORS", "rgb_to_depth/rgb/pytorch_lora_weights.SafeTensors")
    outcomes = convert_tree(source, tmp_path / "out")
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["STYLE.safetensors", "rgb.safetensors"]
    (job,) = jobs(source / "STYLE.SAFETENSORS", tmp_path / "B.SAFETENSORS")
    assert job.destination == tmp_path / "B.SAFETENSORS"


def test_a_tree_converted_into_itself_can_be_used_again(tmp_path: Path) -> None:
    """A result that an earlier run wrote next to its originals is recognised as a result, not as a second original."""
    names = ("rgb_to_depth/rgb/pytorch_lora_weights.safetensors", "rgb_to_depth_depth.safetensors")
    fill(tmp_path / "in", *names)
    assert not [outcome.error for outcome in convert_tree(tmp_path / "in", tmp_path / "in") if outcome.error]
    found = find_adapters(tmp_path / "in")
    assert {path.name for path in found.values()} == {"rgb.safetensors", "depth.safetensors"}
    again = convert_tree(tmp_path / "in", tmp_path / "out")
    assert len(again) == 2 and not [outcome.error for outcome in again if outcome.error]
    back = jobs(tmp_path / "in", tmp_path / "back", split=True)
    assert [job.problem for job in back] == [None, None]
    assert {job.source.name for job in back} == {"rgb.safetensors", "depth.safetensors"}
