"""File names from the API, files that two servers write, full disks, and how often files are opened."""

import asyncio
import builtins
import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import comfyui_omnix
import folder_paths
import pytest
import torch
from comfyui_omnix import nodes
from comfyui_omnix.graph.panoramas import samples
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime.adapter import known_tasks
from comfyui_omnix.omnix.runtime.save import own_number, write_set
from comfyui_omnix.omnix.runtime.tasks import TASKS, Task, task_header

CONDITIONING = [(torch.ones(1, 2, 4), {"guidance": 3.5})]
HOSTILE = {
    "NUL": "a\0b",
    "newline": "a\nb",
    "no text": "a\udcff",
    "300 characters": "a" * 300,
    "300 bytes": "\u5168" * 100,
    "2,000 folders": "a/" * 2000 + "a",
    "2,000 folders, Windows": "a\\" * 2000 + "a",
}


# --- names ------------------------------------------------------------------------------------------------------------


def picture(batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 16, 32, 3)


NAMED: dict[str, Callable[[str], Any]] = {
    "load adapters": lambda name: nodes.OmniXLoadAdapters.execute("rgb_to_depth", name),
    "fingerprint of adapters": lambda name: nodes.OmniXLoadAdapters.fingerprint_inputs("rgb_to_depth", name),
    "load FLUX": lambda name: nodes.OmniXLoadDiffusersFlux.execute(name),
    "convert from": lambda name: nodes.OmniXConvertAdapter.execute(name, "converted"),
    "convert to": lambda name: nodes.OmniXConvertAdapter.execute("source.safetensors", name),
    "fingerprint of conversion": lambda name: nodes.OmniXConvertAdapter.fingerprint_inputs("source.safetensors", name),
    "save conditioning": lambda name: nodes.OmniXSaveConditioning.execute(CONDITIONING, name),
    "load conditioning": lambda name: nodes.OmniXLoadConditioning.execute(name),
    "save panorama": lambda name: nodes.OmniXSavePanorama.execute(name, "none", panorama=picture()),
    "load panorama": lambda name: nodes.OmniXLoadPanorama.file(name),
}


@pytest.mark.parametrize("node", NAMED)
@pytest.mark.parametrize("kind", HOSTILE)
def test_names_that_no_file_can_have(host_folders: Path, node: str, kind: str) -> None:
    """One short sentence, nothing written, and no cause that would double the traceback."""
    tiny.save(tiny.adapter(rank=1), host_folders / "models" / "loras" / "source.safetensors")
    before = sorted(host_folders.rglob("*"))
    with pytest.raises(ValueError, match=r"choose a (shorter name|name without them)\.$") as refused:
        NAMED[node](HOSTILE[kind])
    assert len(str(refused.value)) < 250 and str(refused.value).isprintable()
    assert len(refused.traceback) < 12 and refused.value.__cause__ is None
    assert sorted(host_folders.rglob("*")) == before


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_host_shows_the_sentence_before_anything_runs(host_folders: Path, kind: str) -> None:
    name = HOSTILE[kind]
    for reported in (
        nodes.OmniXSaveConditioning.validate_inputs(name),
        nodes.OmniXSavePanorama.validate_inputs(name),
        nodes.OmniXLoadConditioning.validate_inputs(name),
        nodes.OmniXConvertAdapter.validate_inputs(None, name),
        nodes.OmniXConvertAdapter.validate_inputs(name, None),
        nodes.OmniXLoadDiffusersFlux.validate_inputs(name),
    ):
        assert isinstance(reported, str) and reported.startswith(name[:1]) and "choose a" in reported


@pytest.mark.parametrize(
    "name", ["room", "OmniX/room", "a b/\u5168\u666f", "%date%/room", "a" * 150, "a/" * 40 + "room"]
)
def test_names_that_a_file_can_have(host_folders: Path, name: str) -> None:
    nodes.OmniXSaveConditioning.execute(CONDITIONING, name)
    nodes.OmniXSavePanorama.execute(name, "every map", panorama=picture(), depth=picture())
    assert len([path for path in (host_folders / "output").rglob("*") if path.is_file()]) == 5


# --- without a server -------------------------------------------------------------------------------------------------


def test_nodes_run_in_a_script(host_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that was exported to Python has no server and no hidden inputs."""
    for node in asyncio.run(listed()):
        assert getattr(node, "hidden", None) is None
    monkeypatch.setattr(folder_paths, "input_directory", str(host_folders))
    shown, _ = nodes.OmniXLoadPanorama.execute(image=samples()[0], height=32).result
    assert shown.shape == (1, 32, 64, 3)
    nodes.OmniXSavePanorama.execute("room", "every map", panorama=shown, depth=shown)
    for read in (nodes.OmniXDepth, nodes.OmniXNormal, nodes.OmniXMaterial):
        read.execute(shown)
    nodes.OmniXContactSheet.execute(2, panorama=shown)
    nodes.OmniXPanoramaViewer.execute(shown, "", 64)
    nodes.OmniXCompareMaps.execute(shown, shown, "albedo")


async def listed() -> list[Any]:
    return await (await comfyui_omnix.comfy_entrypoint()).get_node_list()


# --- saving -----------------------------------------------------------------------------------------------------------


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_two_servers_save_into_one_folder(tmp_path: Path) -> None:
    """Each number belongs to one of them: sets are whole and not mixed, and nothing is written over."""

    def save(writer: int) -> list[str]:
        names = []
        for number in range(25):
            stems = (tmp_path / f"room_{count:05}_" for count in range(1, 1000))
            parts = (".png", "depth.png") if writer % 2 else ("depth.png", "normal.png")
            with own_number(stems) as stem:
                names += write_set(stem, ((part, f"{writer} {number}".encode()) for part in parts))
        return names

    with ThreadPoolExecutor(4) as pool:
        written = [name for names in pool.map(save, range(4)) for name in names]
    assert len(set(written)) == len(written) == 200
    assert files_of(tmp_path) == sorted(written)
    for number in range(1, 101):
        assert len({path.read_bytes() for path in tmp_path.glob(f"room_{number:05}_*")}) == 1


@pytest.mark.parametrize("fails", [1, 2, 3, 4])
def test_half_a_set_does_not_stay(host_folders: Path, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
    """The disk is full in the middle of the second panorama of a batch: the first is kept, the error names the file."""
    truncate, calls = os.ftruncate, []

    def full(descriptor: int, size: int) -> None:
        calls.append(size)
        if len(calls) == 4 + fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        truncate(descriptor, size)

    with monkeypatch.context() as patching:
        patching.setattr(os, "ftruncate", full)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as failed:
            nodes.OmniXSavePanorama.execute("room", "depth", panorama=picture(2), depth=picture(2))
    assert Path(failed.value.filename).name.startswith("room_00002_")
    first = [f"room_00001_{part}" for part in ("depth_16bit.png", "depth_float.exr", "depth_view.png", "panorama.png")]
    assert files_of(host_folders / "output") == first
    nodes.OmniXSavePanorama.execute("room", "depth", panorama=picture(), depth=picture())
    assert len(files_of(host_folders / "output")) == 8


def test_a_converted_file_that_was_deleted_is_made_again(host_folders: Path) -> None:
    """The host runs a node again if its fingerprint differs from the one of the run before."""
    loras = host_folders / "models" / "loras"
    tiny.save(tiny.adapter(rank=1), loras / "source.safetensors")
    arguments = ("source.safetensors", "OmniX/converted")
    before = nodes.OmniXConvertAdapter.fingerprint_inputs(*arguments)
    (name,) = nodes.OmniXConvertAdapter.execute(*arguments).result
    assert nodes.OmniXConvertAdapter.fingerprint_inputs(*arguments) == before
    (loras / name).unlink()
    again = nodes.OmniXConvertAdapter.fingerprint_inputs(*arguments)
    assert again != before
    nodes.OmniXConvertAdapter.execute(*arguments)
    assert nodes.OmniXConvertAdapter.fingerprint_inputs(*arguments) == again
    tiny.save(tiny.adapter(rank=1, seed=3), loras / "source.safetensors")
    assert nodes.OmniXConvertAdapter.fingerprint_inputs(*arguments) != again


# --- many files -------------------------------------------------------------------------------------------------------

SHADING = Task("rgb_to_shading", ("rgb", "shading"))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are opened."""
    names: list[str] = []
    plain = builtins.open

    def noted(path: Any, *args: Any, **kwargs: Any) -> Any:
        names.append(str(path))
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", noted)
    return names


def many(loras: Path) -> None:
    """200 LoRAs of other kinds, alone and in one folder; one OmniX task, and one that its files tell."""
    (other,) = (tiny.save(tiny.adapter(rank=1), loras / "styles" / "0.safetensors").read_bytes(),)
    for number in range(1, 100):
        (loras / "styles" / f"{number}.safetensors").write_bytes(other)
        (loras / f"style {number}.safetensors").write_bytes(other)
        (loras / f"one {number}").mkdir()
        (loras / f"one {number}" / "style.safetensors").write_bytes(other)
    for task, folder in ((TASKS["rgb_to_depth"], "OmniX"), (SHADING, "mine")):
        for stream in task.streams:
            header = task_header(task, stream) if task is SHADING else None
            tiny.save(tiny.adapter(rank=1), loras / folder / task.name / f"{stream}.safetensors", header)


def test_files_are_opened_once_and_only_where_a_task_may_be(host_folders: Path, opened: list[str]) -> None:
    loras = host_folders / "models" / "loras"
    many(loras)
    del opened[:]
    options = {each.id: each.options for each in nodes.OmniXLoadAdapters.define_schema().inputs}
    assert options["task"] == [*TASKS, SHADING.name] and options["folder"] == ["OmniX", "mine"]
    read = {Path(name).relative_to(loras).parts[0] for name in opened if name.startswith(str(loras))}
    assert read == {"styles", "OmniX", "mine"}  # the others are alone in their folders, and tell no task by their names
    del opened[:]
    nodes.OmniXLoadAdapters.define_schema()
    assert nodes.OmniXLoadAdapters.validate_inputs("OmniX") is True
    nodes.OmniXLoadAdapters.fingerprint_inputs("rgb_to_depth", "OmniX")
    nodes.OmniXLoadAdapters.fingerprint_inputs(SHADING.name, "mine")
    assert opened == []


def test_what_comes_goes_or_is_replaced_is_seen(host_folders: Path) -> None:
    loras = host_folders / "models" / "loras"
    many(loras)
    other, names = (
        Task("rgb_to_light", ("rgb", "light")),
        lambda: list(nodes.OmniXLoadAdapters.known()[1])[len(TASKS) :],
    )
    assert names() == [SHADING.name]
    for stream in other.streams:
        tiny.save(
            tiny.adapter(rank=1), loras / "styles" / f"{other.name}_{stream}.safetensors", task_header(other, stream)
        )
    assert names() == [other.name, SHADING.name]
    for file in (loras / "mine" / SHADING.name).iterdir():
        file.unlink()
    assert names() == [other.name]
    for stream in SHADING.streams:  # a file that told nothing is replaced by one that does
        new = tiny.save(tiny.adapter(rank=1), host_folders / "new", task_header(SHADING, stream))
        new.replace(loras / "styles" / f"{other.name}_{stream.replace('shading', 'light')}.safetensors")
    assert names() == []


def test_a_file_on_its_way_here_is_looked_at_again(tmp_path: Path) -> None:
    """It is listed while it is copied, and its folder does not change when the rest arrives."""
    for stream in SHADING.streams:
        tiny.save(tiny.adapter(rank=1), tmp_path / SHADING.name / f"{stream}.safetensors", task_header(SHADING, stream))
    names = [f"{SHADING.name}/{stream}.safetensors" for stream in SHADING.streams]
    whole = {name: (tmp_path / name).read_bytes() for name in names}
    find = lambda name: str(tmp_path / name)  # noqa: E731 (one function, as the host's lookup is)
    for name in names:
        (tmp_path / name).write_bytes(whole[name][:100])
    assert list(known_tasks(names, find)) == [*TASKS]
    for name in names:
        with (tmp_path / name).open("ab") as file:
            file.write(whole[name][100:])
    assert list(known_tasks(names, find)) == [*TASKS, SHADING.name]


def test_a_call_is_quick_with_2000_files(host_folders: Path) -> None:
    """After the first call it took 1.3 ms on a busy machine; here with room for a busier one."""
    loras = host_folders / "models" / "loras"
    other = tiny.save({"a": torch.zeros(1)}, loras / "styles" / "0.safetensors").read_bytes()
    for number in range(1, 2000):
        (loras / "styles" / f"{number}.safetensors").write_bytes(other)
    many_times = []
    for _ in range(6):
        start = time.perf_counter()
        nodes.OmniXLoadAdapters.known()
        many_times.append(time.perf_counter() - start)
    assert min(many_times[1:]) < 0.03
