"""Tasks from the headers of adapter files: listed after OmniX's own, with their streams in order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime.adapter import folders_with_tasks, known_tasks, task_files, task_in
from comfyui_omnix.omnix.runtime.tasks import TASK_HEADER, TASKS, Task, task_from_header, task_header

SHADING = Task("rgb_camray_to_shading", ("rgb", "camray", "shading"))
LAYOUTS = (
    "{task}/{stream}.safetensors",
    "{task}/{stream}/pytorch_lora_weights.safetensors",
    "{task}_{stream}.safetensors",
)


def write(root: Path, task: Task, layout: str = LAYOUTS[1]) -> list[str]:
    """Write a task's adapters with headers; return their names below the root."""
    names = [layout.format(task=task.name, stream=stream) for stream in task.streams]
    for name, stream in zip(names, task.streams):
        tiny.save(tiny.adapter(rank=1), root / name, task_header(task, stream))
    return names


def finder(root: Path) -> Callable[[str], str | None]:
    return lambda name: str(root / name) if (root / name).is_file() else None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_task_in_a_header_is_listed_and_found_in_its_order(tmp_path: Path, layout: str) -> None:
    names = [f"mine/{name}" for name in write(tmp_path / "mine", SHADING, layout)]
    known = known_tasks(names, finder(tmp_path))
    assert list(known) == [*TASKS, SHADING.name]
    assert known[SHADING.name] == SHADING
    assert folders_with_tasks(names, known) == {"mine": (SHADING.name,)}
    assert folders_with_tasks(names) == {}
    files = task_files(finder(tmp_path), "mine", task_in("mine", SHADING.name, known, finder(tmp_path)))
    assert [file.relative_to(tmp_path).as_posix() for file in files] == names


def test_each_folder_reports_its_own_streams(tmp_path: Path) -> None:
    """Two trainings of one name: one with, one without camera rays."""
    other = Task(SHADING.name, ("rgb", "shading"))
    names = [f"a/{name}" for name in write(tmp_path / "a", SHADING)] + [
        f"b/{name}" for name in write(tmp_path / "b", other)
    ]
    known = known_tasks(names, finder(tmp_path))
    assert task_in("a", SHADING.name, known, finder(tmp_path)) == SHADING
    assert task_in("b", SHADING.name, known, finder(tmp_path)) == other


def test_a_header_that_lies_elsewhere_or_takes_a_name_of_omnix_does_not_count(tmp_path: Path) -> None:
    tiny.save(tiny.adapter(rank=1), tmp_path / "loras" / "style.safetensors", task_header(SHADING, "rgb"))
    swapped = Task("rgb_to_depth", ("depth", "rgb"))
    names = ["loras/style.safetensors", *write(tmp_path, swapped)]
    assert known_tasks(names, finder(tmp_path)) == TASKS
    assert task_in(".", "rgb_to_depth", TASKS, finder(tmp_path)) == TASKS["rgb_to_depth"]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "[]",
        "{",
        json.dumps({"task": "a_to_b", "streams": ["a"], "stream": "a"}),
        json.dumps({"task": "a_to_b", "streams": ["a", "a"], "stream": "a"}),
        json.dumps({"task": "a_to_b", "streams": ["a", "b"], "stream": "c"}),
        json.dumps({"task": "../x", "streams": ["a", "b"], "stream": "a"}),
        json.dumps({"task": "a_to_b", "streams": ["a", "/b"], "stream": "a"}),
        json.dumps({"task": "a_to_b", "streams": "ab", "stream": "a"}),
        json.dumps({"task": 1, "streams": ["a", "b"], "stream": "a"}),
    ],
)
def test_nonsense_in_a_header_reports_nothing(header: str) -> None:
    assert task_from_header({TASK_HEADER: header}) is None
    assert task_from_header({}) is None


def test_a_damaged_file_hides_no_other(tmp_path: Path) -> None:
    names = write(tmp_path, SHADING)
    (tmp_path / names[0]).write_bytes(b"\xff" * 20)
    assert known_tasks([*names, "x/y.pt"], finder(tmp_path))[SHADING.name] == SHADING
