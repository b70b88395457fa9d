"""The pictures that are trained on: the data's own split, and the report of a dry run about every file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_omnix.lab.rooms.dataset import MANIFEST, Order, make_one, split_of
from comfyui_omnix.mapfiles import layout
from comfyui_omnix.training import command, data
from comfyui_omnix.training.config import Config, TrainingError, plans
from comfyui_omnix.training.run import order, run
from diffusers import FluxTransformer2DModel
from folders import small_run, write_rooms


def write(folder: Path, parts: dict[str, str], end: str = "\n") -> None:
    lines = [{"recipe": {"seed": 0}}, *({"stem": stem, "split": part} for stem, part in parts.items())]
    (folder / data.MANIFEST).write_text("\n".join(map(json.dumps, lines)) + end)


def split(folder: Path, held_out: int, **changes: object) -> data.Split:
    config = Config(data=str(folder), target=("shading",), size="128x64", held_out=held_out, **changes)  # type: ignore
    (plan,) = plans(config)
    return data.split(data.find(config, plan), held_out)


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    return write_rooms(tmp_path / "rooms", 8)


def stems(*numbers: int) -> tuple[str, ...]:
    return tuple(f"{number:04d}" for number in numbers)


PARTS = dict(zip(stems(*range(8)), ["train", "test", "val", "train", "validation", "valid", "TEST", "train"]))


@pytest.mark.parametrize(
    ("held_out", "want"),
    [
        (0, data.Split(stems(0, 3, 7), (), stems(1, 2, 4, 5, 6))),
        (2, data.Split(stems(0, 3, 7), stems(2, 4), stems(1, 5, 6))),
        (50, data.Split(stems(0, 3, 7), stems(2, 4, 5), stems(1, 6))),
    ],
)
def test_validation_is_held_out_and_test_is_never_used(rooms: Path, held_out: int, want: data.Split) -> None:
    write(rooms, PARTS)
    assert split(rooms, held_out) == want


def test_without_validation_some_of_the_rest_are_held_out(rooms: Path) -> None:
    write(rooms, {"0001": "test"})
    assert split(rooms, 1) == data.Split(stems(2, 3, 4, 5, 6, 7), stems(0), stems(1))
    assert split(rooms, 1, split=False) == data.Split(stems(1, 2, 3, 4, 5, 6, 7), stems(0), ())


@pytest.mark.parametrize("more", ["", '\n{"stem": "0003", "split": "test"}\n'])
def test_a_manifest_that_was_cut(rooms: Path, caplog: pytest.LogCaptureFixture, more: str) -> None:
    """As `python -m lab.rooms` leaves it when it is killed, and when it continues then."""
    write(rooms, {"0001": "test"}, '\n{"stem": "0003", "spl' + more)
    assert split(rooms, 0).unused == (stems(1, 3) if more else stems(1))
    assert [text for text in caplog.messages if "line 3 is not JSON and is ignored" in text]


def test_a_manifest_as_windows_saves_it(rooms: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its first line was ignored, and the test picture trained on."""
    write(rooms, {"0001": "test"})
    path = rooms / MANIFEST
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "0001" in line), "utf-8-sig")
    assert split(rooms, 0).unused == stems(1)
    assert not any("is not JSON" in text for text in caplog.messages)
    path.write_text('{"stem": "0001", "split": "test"}', "utf-16")
    with pytest.raises(ValueError, match=r"manifest\.jsonl: expected text in UTF-8"):
        split(rooms, 0)


def test_a_part_that_nobody_knows(rooms: Path) -> None:
    write(rooms, {"0001": "holdout"})
    with pytest.raises(TrainingError, match=r"there is no split 'holdout'; the splits are train"):
        split(rooms, 0)


def test_nothing_left(rooms: Path) -> None:
    write(rooms, dict.fromkeys(stems(*range(8)), "test"))
    with pytest.raises(TrainingError, match="leaves nothing to train on"):
        split(rooms, 0)


def test_the_rooms_of_this_project_say_their_part(tmp_path: Path) -> None:
    """The first seed of each part, as `python -m lab.rooms` records it."""
    seeds = [next(seed for seed in range(200) if split_of(seed) == part) for part in data.PARTS]
    order = Order(tmp_path, 0, 200, 16, True)
    records = [make_one(order, seed) for seed in seeds]
    (tmp_path / MANIFEST).write_text("\n".join(map(json.dumps, [{"recipe": order.recipe}, *records])) + "\n")
    found = split_of_depth(tmp_path)
    assert [*found.trained, *found.held_out, *found.unused] == [record["stem"] for record in records]


def split_of_depth(folder: Path) -> data.Split:
    config = Config(data=str(folder), target=("depth",), size="32x16")
    return data.split(data.find(config, plans(config)[0]), 1)


def test_pictures_that_the_manifest_omits_are_reported(rooms: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(rooms, dict.fromkeys(stems(0, 1, 2, 3, 4), "train"))
    config = Config(data=str(rooms), target=("shading",), size="128x64", held_out=0)
    assert order(config, plans(config)[0]).split.trained == stems(*range(8))
    assert any("3 pictures, such as 0005, have no split in manifest.jsonl" in text for text in caplog.messages)


def test_a_run_does_not_open_what_is_reserved(tmp_path: Path) -> None:
    given = small_run(tmp_path, steps=1, held_out=1, sample_every=0, batch=1)
    rooms = tmp_path / "rooms"
    write(rooms, {"0001": "test", "0002": "validation", "0003": "validation"})
    for reserved in ("0001", "0003"):
        layout.find(rooms, "rgb", reserved).write_bytes(b"nobody reads this")
    run(given, show=False)
    assert len(list((tmp_path / "runs" / "latents").iterdir())) == 2 * 2 + 1


def dry(capsys: pytest.CaptureFixture[str], rooms: Path, *more: str) -> tuple[int, str, str]:
    words = ["--data", str(rooms), "--target", "depth", "--output", str(rooms / "out"), "--dry-run", *more]
    status = command.main(words)
    return status, *capsys.readouterr()


def test_a_dry_run_reads_every_file(rooms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of many are broken, neither of them first; both are named, and what is not used is not read."""
    write(rooms, {"0007": "test"})
    for kind, stem in (("rgb", "0005"), ("depth", "0006"), ("rgb", "0007")):
        path = layout.find(rooms, kind, stem)
        path.write_bytes(path.read_bytes()[:150])
    status, shown, error = dry(capsys, rooms, "--size", "128x64", "--held-out", "2")
    lines = [line for line in shown.splitlines() if line.startswith("can't be used")]
    assert status == 1 and len(lines) == 2 and "0005.png" in lines[0] and "0006.exr" in lines[1]
    assert "2 pictures can't be used" in error and "5 trained on, 2 held out, 1 reserved by manifest.jsonl" in shown
    assert not (rooms / "out").exists()


def test_a_dry_run_reports_holes_and_small_pictures(rooms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = [layout.find(rooms, "depth", "0004")]
    metres = layout.read(path, "depth")
    metres[:32] = 0
    layout.save(path, metres)
    status, shown, _error = dry(capsys, rooms, "--size", "128x64")
    assert status == 0 and "left out        6.2 % of the target" in shown and "enlarged" not in shown
    status, shown, _error = dry(capsys, rooms, "--size", "256x128")
    assert status == 0 and "enlarged        16 are smaller than 256x128" in shown


def test_the_memory_of_flux_1_dev(rooms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """31 to 33 GB by hand; the base has as many weights as Diffusers' FLUX.1-dev."""
    with torch.device("meta"):
        flux = FluxTransformer2DModel(guidance_embeds=True)
    status, shown, _error = dry(capsys, rooms)
    total, base = map(float, re.findall(r"about ([\d.]+) GB .*: base ([\d.]+)", shown)[0])
    assert status == 0 and 31 <= total <= 33
    assert base == pytest.approx(2 * sum(weight.numel() for weight in flux.parameters()) / 1e9, abs=0.06)


def test_a_run_reports_that_it_enlarges(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = small_run(tmp_path, steps=1, held_out=0, batch=1)
    small = tmp_path / "rooms" / "rgb" / "0002.png"
    layout.write(small, "rgb", np.full((32, 64, 3), 0.5, np.float32))
    run(given, show=False)
    assert [text for text in caplog.messages if "0002.png is smaller than --size 128x64" in text]


def test_masks_of_a_folder(rooms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def mask(names: Sequence[str]) -> None:
        for stem in names:
            white = np.full((64, 128), 255, np.uint8)
            white[:, :64] = 0
            layout.save(rooms / "seen" / f"{stem}.png", white)

    status, _shown, error = dry(capsys, rooms, "--size", "128x64", "--mask", "seen")
    assert status == 1 and "there is no folder seen" in error and "--mask" in error
    mask(stems(0, 1))
    status, _shown, error = dry(capsys, rooms, "--size", "128x64", "--mask", "seen")
    assert status == 1 and "got none for 6" in error
    mask(stems(*range(8)))
    status, shown, _error = dry(capsys, rooms, "--size", "128x64", "--mask", "seen")
    assert status == 0 and "left out        50.0 % of the target" in shown
