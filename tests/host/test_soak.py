"""A short soak: every task on one server, again and again, with flat memory and the same pictures for the same seeds.

`lab/bench/soak.py` is the long one.
"""

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from comfyui_omnix.lab.bench import soak
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.lab.host.server import PACK, GraphError, Interrupted, Server
from comfyui_omnix.lab.host.tiny_models import DOUBLES

pytestmark = pytest.mark.server
TASK = "rgb_to_depth"


@pytest.fixture(scope="module")
def own(comfyui: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this module's own: it is killed, and its memory is looked at."""
    base = tmp_path_factory.mktemp("soak")
    soak.install(base)
    packs = {PACK: root, "tiny_text_encoders": DOUBLES / "tiny_text_encoders"}
    with Server(comfyui, base, packs) as server:
        yield server


_NUMBERS = itertools.count()


def picture(server: Server, seed: int = 5, steps: int = 2) -> str:
    """Run the task and return a digest of its pixels; under a new name, for older hosts report no cached output."""
    graph = soak.graph(TASK, seed, steps)
    graph["saved"]["inputs"]["filename_prefix"] = f"picture {next(_NUMBERS)}"
    (data,) = server.images(server.run(graph), "saved")
    return soak.digest(data)


def test_memory_is_flat_and_equal_seeds_give_equal_pictures(
    own: Server, measured: Callable[[str, float], float]
) -> None:
    runs = list(soak.soak(own, 84))
    assert len({run.digest for run in runs}) == 7 * soak.SEEDS
    assert soak.changed_pictures(runs) == []
    grown = soak.growth(runs)
    if grown > soak.LEAK:  # on a busy machine the allocator fills up for longer; a leak goes on
        grown = soak.growth(list(soak.soak(own, 84)))
    assert measured("soak: growth of memory, bytes a run", grown) <= soak.LEAK


def test_the_soak_sees_a_leak_and_a_changed_picture() -> None:
    """A step of the allocator and noise, each far above what a run may leave, are no leak."""
    noise = random.Random(0)
    noisy = [10**9 + 30_000_000 * (i > 50) + noise.randrange(4_000_000) for i in range(84)]
    runs = [soak.Run("task", i % 3, str(i % 3), resident) for i, resident in enumerate(noisy)]
    leaking = [run._replace(resident=run.resident + 300_000 * i) for i, run in enumerate(runs)]
    assert soak.growth(runs) < soak.LEAK < soak.growth(leaking)
    assert soak.changed_pictures(runs) == []
    odd = runs[-1]._replace(digest="other")
    assert soak.changed_pictures([*runs[:-1], odd]) == [odd]


def test_replaced_adapter_is_used(own: Server) -> None:
    """The same graph again, after another file of the same size was put under the same name, and back."""
    file = own.base / "models" / "loras" / soak.FOLDER / f"{TASK}_depth.safetensors"
    kept = shutil.copy2(file, own.base / "kept.safetensors")
    before = picture(own)
    file.write_bytes(tiny.save(tiny.adapter(seed=77), own.base / "other.safetensors").read_bytes())
    changed = picture(own)
    shutil.copy2(kept, file)
    assert changed != before
    assert picture(own) == before


@pytest.mark.parametrize("damage", ["deleted", "truncated"])
def test_damaged_adapter_is_reported_and_corrected(own: Server, damage: str) -> None:
    file = own.base / "models" / "loras" / soak.FOLDER / f"{TASK}_depth.safetensors"
    kept, before = file.read_bytes(), picture(own)
    if damage == "deleted":
        file.unlink()
    else:
        file.write_bytes(kept[:1000])
    with pytest.raises(GraphError, match="depth") as failed:
        own.run(soak.graph(TASK, 6))
    assert "\n" not in failed.value.message
    file.write_bytes(kept)
    assert picture(own) == before


def test_cancel_then_run(own: Server) -> None:
    before = picture(own)
    running = own.submit(soak.graph(TASK, 8, 5000))
    while running not in own.running():
        assert running not in own._get(f"/history/{running}")
    own.interrupt()
    with pytest.raises(Interrupted):
        own.wait(running, timeout=60)
    assert picture(own) == before


def test_killed_server_starts_again(own: Server, comfyui: Path) -> None:
    """Killed in the middle of a run, without a chance to clean up; the next server has the same folders."""
    before, there = picture(own), files(own.base)
    running = own.submit(soak.graph(TASK, 9, 5000))
    while running not in own.running():
        assert running not in own._get(f"/history/{running}")
    process = own._process
    assert process is not None
    process.kill()
    process.wait()
    assert files(own.base) == there
    with Server(comfyui, own.base, {}) as again:
        assert picture(again) == before


def files(base: Path) -> set[Path]:
    """List what a run may leave: everything in the folders of pictures and models."""
    return {path for folder in ("output", "models", "input") for path in (base / folder).rglob("*") if path.is_file()}
