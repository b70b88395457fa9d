"""The micro model proves that its maps mean something, and that every wrong wiring of the streams makes them worse.

Each wrong wiring makes the error of depth at least twice as large. Random weights can't show any of this: a picture of
noise is as wrong with the streams exchanged as without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.sd
import numpy as np
import pytest
import torch
from comfyui_omnix.converters import convert, split
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.lab.micro.base import GUIDANCE
from comfyui_omnix.lab.micro.baselines import colours_and_rows, fitted
from comfyui_omnix.lab.micro.evaluating import OTHER_SEEDS
from comfyui_omnix.lab.micro.judged import own_room
from comfyui_omnix.lab.micro.recipe import HEIGHT, JUDGED_SEED
from comfyui_omnix.omnix.pictures.panorama import decode_panorama
from comfyui_omnix.omnix.runtime import patch
from comfyui_omnix.omnix.runtime.schedule import flow_shift
from comfyui_omnix.omnix.runtime.seamless import close_seam
from perceiving import COUNT, JUDGED, Micro, Rooms, error, rooms, seam
from rig import Case
from safetensors.torch import load_file
from torch import Tensor

TASK, OTHER, SEMANTICS = "rgb_to_depth", "rgb_to_normal", "rgb_to_semantic"


@pytest.fixture(scope="module")
def micro() -> Micro:
    return Micro()


@pytest.fixture(scope="module")
def truth() -> Rooms:
    return rooms()


@pytest.fixture(scope="module")
def perceived(micro: Micro, truth: Rooms) -> dict[str, Tensor]:
    """Every task's pictures, as the shipped graphs make them."""
    return {task: micro.picture(micro.attached(task), micro.case(task, truth.images)) for task in JUDGED}


LEAST = {"rgb_to_depth": 2.0, "rgb_to_normal": 2.0, "rgb_to_albedo": 1.8, "rgb_to_pbr": 1.35, "rgb_to_semantic": 2.0}
"""How many times the error is without adapters, at least: any grey picture is near to a map of roughness."""


@pytest.mark.parametrize("task", LEAST)
def test_every_task_perceives_and_without_its_adapters_does_not(
    micro: Micro, truth: Rooms, perceived: dict[str, Tensor], task: str, measured: Callable[[str, float], float]
) -> None:
    blind = micro.picture(micro.attached(task, strengths=(0.0, 0.0)), micro.case(task, truth.images))
    right = measured(f"micro {task}, error", error(task, perceived[task], truth))
    assert (
        measured(f"micro {task}, without adapters: times the error", error(task, blind, truth) / right) >= LEAST[task]
    )


def test_semantics_know_more_than_colour_and_row(
    truth: Rooms, perceived: dict[str, Tensor], measured: Callable[[str, float], float]
) -> None:
    others = [own_room(JUDGED_SEED + OTHER_SEEDS + number) for number in range(COUNT)]
    ridge = fitted("semantic", others, colours_and_rows)
    wrong = np.mean([(ridge(room) != room.maps["semantic"]).mean() for room in truth.truth])
    right = error(SEMANTICS, perceived[SEMANTICS], truth)
    assert measured("micro semantics, ridge: times the error", float(wrong) / right) >= 1.2


def bare(files: list[Path], folder: Path) -> list[Path]:
    """Copy adapters without their headers, which tell the task and stream that they are of."""
    return [tiny.save(load_file(file), folder / f"{number}.safetensors") for number, file in enumerate(files)]


Spoilt = Callable[[Micro, Case, Path], tuple[Any, Case]]


def of_another_task(micro: Micro, case: Case, folder: Path) -> tuple[Any, Case]:
    return micro.attached(case.task.name, bare(micro.files(OTHER), folder)), case


def exchanged(micro: Micro, case: Case, folder: Path) -> tuple[Any, Case]:
    return micro.attached(case.task.name, bare(micro.files(case.task.name)[::-1], folder)), case


def condition_on_the_target(micro: Micro, case: Case, folder: Path) -> tuple[Any, Case]:
    condition, _ = micro.files(case.task.name)
    return micro.attached(case.task.name, bare([condition, condition], folder)), case


def target_off(micro: Micro, case: Case, _folder: Path) -> tuple[Any, Case]:
    return micro.attached(case.task.name, strengths=(1.0, 0.0)), case


def condition_off(micro: Micro, case: Case, _folder: Path) -> tuple[Any, Case]:
    return micro.attached(case.task.name, strengths=(0.0, 1.0)), case


def empty_condition(micro: Micro, case: Case, _folder: Path) -> tuple[Any, Case]:
    return micro.attached(case.task.name), replace(case, conditions=[torch.zeros_like(case.conditions[0])])


def another_room(micro: Micro, case: Case, _folder: Path) -> tuple[Any, Case]:
    return micro.attached(case.task.name), replace(case, conditions=[case.conditions[0].roll(1, 0)])


def merged_as_an_ordinary_lora(micro: Micro, case: Case, _folder: Path) -> tuple[Any, Case]:
    """Do what others do: Load LoRA for both files, and the panorama as the host's own reference latent."""
    model = patch.with_flow_shift(micro.model, flow_shift(HEIGHT // 8, HEIGHT // 4, 0))
    for file in micro.files(case.task.name):
        model = comfy.sd.load_lora_for_models(model, None, load_file(file), 1.0, 0.0)[0]
    return model, case


SPOILT: tuple[Spoilt, ...] = (
    of_another_task,
    exchanged,
    condition_on_the_target,
    target_off,
    condition_off,
    empty_condition,
    another_room,
    merged_as_an_ordinary_lora,
)


KNOWN_BLIND = {(SEMANTICS, empty_condition): 1.4}
"""Without a picture the model paints the usual room, the floor below and the ceiling above: three pixels of four."""


@pytest.mark.parametrize("task", [TASK, SEMANTICS])
@pytest.mark.parametrize("spoilt", SPOILT)
def test_it_perceives_with_everything_in_its_place_alone(
    micro: Micro,
    truth: Rooms,
    perceived: dict[str, Tensor],
    tmp_path: Path,
    spoilt: Spoilt,
    task: str,
    measured: Callable[[str, float], float],
) -> None:
    model, case = spoilt(micro, micro.case(task, truth.images), tmp_path)
    worse = error(task, micro.picture(model, case), truth)
    right = error(task, perceived[task], truth)
    least = KNOWN_BLIND.get((task, spoilt), 2)
    assert measured(f"micro {task}, {spoilt.__name__}: times the error", worse / right) >= least


def test_seamless_panorama_closes_the_seam_of_the_base(micro: Micro, measured: Callable[[str, float], float]) -> None:
    """Without adapters and conditions the base paints rooms and maps; 1 is a seam like any other place."""
    text = [[micro.text, {"pooled_output": micro.pooled, "guidance": GUIDANCE}]]
    noise = torch.randn(8, 16, HEIGHT // 8, HEIGHT // 4, generator=torch.Generator().manual_seed(5))
    settings = (20, 1.0, "euler", "simple", text, text, torch.zeros_like(noise))

    def across(model: Any, wrap: int) -> float:
        with torch.inference_mode():
            latent = comfy.sample.sample(model, noise, *settings, disable_pbar=True, seed=0)
            picture = decode_panorama(micro.vae.decode, latent, wrap)
        neighbours = (picture[:, :, 1:] - picture[:, :, :-1]).abs().mean()
        return float((picture[:, :, 0] - picture[:, :, -1]).abs().mean() / neighbours)

    plain = measured("micro base, seam of the host", across(micro.model, 0))
    closed = measured("micro base, seam with Seamless Panorama", across(close_seam(micro.model, 8, patch.warn), 2))
    assert closed < 1.5 and plain >= 2 * closed


def test_the_columns_past_the_seam_close_it(
    micro: Micro, truth: Rooms, perceived: dict[str, Tensor], measured: Callable[[str, float], float]
) -> None:
    model = micro.attached(TASK, seam=0)
    open_seam = seam(TASK, micro.picture(model, micro.case(TASK, truth.images), wrap=0), truth)
    closed = measured("micro depth, seam", seam(TASK, perceived[TASK], truth))
    assert measured("micro depth, seam without its columns", open_seam) >= 2 * closed


def converted(micro: Micro, folder: Path) -> Any:
    return micro.attached(TASK, [_converted(file, folder) for file in micro.files(TASK)])


def split_and_converted_again(micro: Micro, folder: Path) -> Any:
    halves = folder / "split"
    parts = [halves / f"{file.parent.name}.safetensors" for file in micro.files(TASK)]
    for file, part in zip(micro.files(TASK), parts):
        split(_converted(file, folder), part)
    return micro.attached(TASK, [_converted(part, folder / "again") for part in parts])


def _converted(file: Path, folder: Path) -> Path:
    target = folder / f"{file.parent.name}_{file.stem}.safetensors"
    convert(file, target)
    return target


def in_float8(micro: Micro, _folder: Path) -> Any:
    return micro.attached(TASK, model=micro.loaded(torch.float8_e4m3fn))


OTHER_FILES = (converted, split_and_converted_again, in_float8)
MOST = 1.02
"""How many times the error may be; float8 keeps 3 bits of a weight."""


@pytest.mark.parametrize("way", OTHER_FILES)
def test_other_files_cost_nearly_nothing(
    micro: Micro,
    truth: Rooms,
    perceived: dict[str, Tensor],
    tmp_path: Path,
    way: Callable[[Micro, Path], Any],
    measured: Callable[[str, float], float],
) -> None:
    picture = micro.picture(way(micro, tmp_path), micro.case(TASK, truth.images))
    times = error(TASK, picture, truth) / error(TASK, perceived[TASK], truth)
    assert measured(f"micro depth, {way.__name__}: times the error", times) <= MOST


@pytest.mark.parametrize("changes", [{"steps": 28}, {"sampler": "heun"}, {"sampler": "dpmpp_2m"}], ids=str)
def test_other_samplers_and_more_steps_are_as_good_as_four(micro: Micro, truth: Rooms, changes: dict[str, Any]) -> None:
    four, other = (
        micro.picture(micro.attached(TASK), micro.case(TASK, truth.images), **{"steps": 4, **change})
        for change in ({}, changes)
    )
    assert error(TASK, other, truth) == pytest.approx(error(TASK, four, truth), rel=0.1)


def test_a_rolled_panorama_gives_the_rolled_map(
    micro: Micro, truth: Rooms, perceived: dict[str, Tensor], measured: Callable[[str, float], float]
) -> None:
    """By whole tokens, the noise rolled along: what is left is the cut at the seam, which is elsewhere."""
    columns = HEIGHT
    case = micro.case(TASK, truth.images.roll(columns, 2))
    case.noise = case.noise.roll(columns // 8, -1)
    rolled = micro.picture(micro.attached(TASK), case).roll(-columns, 2)
    off = (rolled - perceived[TASK]).square().mean().sqrt()
    other_rooms = (perceived[TASK].roll(1, 0) - perceived[TASK]).square().mean().sqrt()
    assert measured("micro depth, rolled: of the distance to another room", float(off / other_rooms)) <= 0.25
