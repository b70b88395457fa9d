"""`python -m lab.rooms`: its files, how it continues, and what it refuses."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_omnix.lab.rooms import room
from comfyui_omnix.lab.rooms.dataset import split_of
from comfyui_omnix.lab.rooms.foreign import foreign_room
from comfyui_omnix.lab.rooms.labels import COLOURS
from comfyui_omnix.lab.rooms.lighting import FAST
from comfyui_omnix.lab.rooms.random_room import random_room
from comfyui_omnix.mapfiles import layout

OPTIONS = ("--size", "64x32", "--seed", "70", "--fast")


def rooms(root: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lab.rooms", str(folder), *options]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def manifest(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def sums(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("*/*"))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "rooms"
    done = rooms(root, folder, "--count", "3", *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert "3 rooms made, 3 in all" in done.stdout
    return folder


def test_the_maps_on_the_disk_are_those_of_the_room(made: Path) -> None:
    assert layout.kinds(made) == tuple(layout.KINDS)
    assert layout.stems(made, *layout.KINDS) == ["000001", "000002", "000003"]
    truth = room.render(64, 32, stage=random_room(71), quality=FAST)
    for kind in layout.KINDS:
        read = layout.read(layout.find(made, kind, "000002"), kind)
        if kind == "semantic":
            reported = np.array([COLOURS[label] for label in truth.labels], dtype=np.uint8)[truth.semantic]
            assert np.array_equal(read, reported)
        else:
            tolerance = {"depth": 0, "normal": 1e-4}.get(kind, 0.5 / 255 + 1e-6)
            off = np.abs(read - getattr(truth, {"depth": "distance"}.get(kind, kind)))
            assert np.nanmax(off) <= tolerance, kind
            assert np.array_equal(np.isnan(off), outside(truth)) if kind == "depth" else not np.isnan(off).any()


def outside(truth: room.Room) -> np.ndarray[Any, Any]:
    """Tell where the world outside is seen; there are such pixels, or nothing would be tested."""
    seen = np.array([label == "outside" for label in truth.labels])[truth.semantic]
    assert seen.any()
    return seen


def test_the_manifest_knows_every_file(made: Path) -> None:
    recipe, *records = manifest(made)
    assert recipe == {
        "recipe": {
            "renderer": "lab.rooms 1",
            "seed": 70,
            "width": 64,
            "height": 32,
            "fast": True,
            "captions": False,
        }
    }
    assert sorted(record["seed"] for record in records) == [70, 71, 72]
    assert all(record["split"] == split_of(record["seed"]) for record in records)
    known = {name: digest for record in records for name, digest in record["sha256"].items()}
    assert known == sums(made)
    assert json.loads((made / "classes.json").read_text()) == {name: list(rgb) for name, rgb in COLOURS.items()}
    assert "3 rendered rooms" in (made / "README.md").read_text()


def test_it_continues_after_a_stop(root: Path, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rooms"
    command = [sys.executable, "-m", "lab.rooms", str(folder), "--count", "400", "--jobs", "1", *OPTIONS]
    # The process that runs the tests may ignore Ctrl-C, and children inherit that.
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        while not (folder / "manifest.jsonl").exists() or len(manifest(folder)) < 2:
            assert running.poll() is None
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
    with open(folder / "manifest.jsonl", "a", encoding="utf-8") as file:
        file.write('{"stem": "0000')  # a power cut in the middle of a line
    kept = {path: path.stat().st_mtime_ns for path in (folder / "rgb").glob("000001.png")}
    again = rooms(root, folder, "--count", "3", *OPTIONS)
    assert again.returncode == 0, again.stderr
    assert all(path.stat().st_mtime_ns == time_then for path, time_then in kept.items())
    first_three = {
        name: digest for name, digest in sums(folder).items() if Path(name).stem in ("000001", "000002", "000003")
    }
    assert first_three == sums(made)
    nothing = rooms(root, folder, "--count", "3", *OPTIONS)
    assert nothing.returncode == 0 and "0 rooms made, 3 in all" in nothing.stdout


def test_a_folder_of_other_rooms_is_refused(root: Path, made: Path, tmp_path: Path) -> None:
    before = sums(made)
    other = rooms(root, made, "--count", "3", "--size", "32x16", "--seed", "70", "--fast")
    assert other.returncode == 1 and "choose another folder or the same options" in other.stderr
    assert other.stderr.count("\n") == 1 and sums(made) == before
    (tmp_path / "rgb").mkdir()
    foreign = rooms(root, tmp_path, "--count", "1", *OPTIONS)
    assert foreign.returncode == 1 and "no manifest.jsonl; choose an empty folder" in foreign.stderr


def test_foreign_rooms_have_the_maps_of_their_renderer_and_no_classes(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    done = rooms(root, folder, "--count", "3", *OPTIONS, "--foreign")
    assert done.returncode == 0, done.stderr
    assert layout.kinds(folder) == ("rgb", "depth", "normal", "albedo")
    for number, family in enumerate(("pale", "colourful", "pale")):  # seed 70 is even
        truth = foreign_room(70 + number, 32, family).maps
        for kind, expected in truth.items():
            read = layout.read(layout.find(folder, kind, f"{number + 1:06d}"), kind)
            tolerance = {"depth": 0, "normal": 1e-4}.get(kind, 0.5 / 255 + 1e-6)
            assert np.abs(read - expected).max() <= tolerance, kind
    recipe, *records = manifest(folder)
    assert recipe["recipe"]["renderer"] == "lab.rooms.foreign 1"
    assert [record["split"] for record in records] == [split_of(record["seed"]) for record in records]
    card = (folder / "README.md").read_text()
    assert "| albedo |" in card and "roughness" not in card and not (folder / "classes.json").exists()


def test_a_place_that_is_no_folder_is_one_sentence(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = rooms(root, tmp_path / "file", "--count", "1", *OPTIONS)
    assert done.returncode == 1 and done.stderr.startswith("rooms: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--count", "0"), "expected 1 or more, got 0"),
        (("--count", "many"), "expected a whole number, got many"),
        (("--count", "1", "--size", "64x64"), "twice as wide as high"),
        (("--count", "1", "--size", "1024"), "expected WIDTHxHEIGHT"),
        (("--count", "1", "--seed", "-1"), "expected 0 or more, got -1"),
        ((), "--count"),
        (("--count", "1", "--foreign", "--captions"), "leave out --captions or --foreign"),
        (("--count", "1", "--foreign", "--blender"), "not allowed with argument --foreign"),
    ],
)
def test_wrong_options_are_reported(root: Path, tmp_path: Path, options: tuple[str, ...], sentence: str) -> None:
    done = rooms(root, tmp_path / "rooms", *options)
    assert done.returncode == 2 and sentence in done.stderr
    assert not (tmp_path / "rooms").exists()
