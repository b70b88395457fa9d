"""Load the pack as ComfyUI does, with a real ComfyUI, and share expensive fixtures between the tests."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from comfyui_omnix.lab.host.server import Server

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).resolve().parent / "golden"


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"omnix_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_configure(config: pytest.Config) -> None:
    """Find the host and load the pack before any test module is imported."""
    # No test is timed: a busy machine must not fail one.
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")
    folder = os.environ.get("COMFYUI_PATH")
    if not folder:
        raise pytest.UsageError("these tests need a ComfyUI: run `python dev.py test`, which sets COMFYUI_PATH.")
    # The tiny models are fastest on one thread, five times so on a shared processor. Servers inherit it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    loading = _module(ROOT / "lab" / "host" / "pack.py")
    try:
        loading.use_host(Path(folder).resolve())
    except RuntimeError as error:
        raise pytest.UsageError(str(error)) from error
    only_distributes = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not only_distributes:  # its workers collect and run the tests
        loading.load_pack()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: browser tests wait for a third of their time."""
    return (os.cpu_count() or 1) + 1


# Files that take more than about seven seconds of a core: `dev.py test --fast` leaves them out.
SLOW = {
    *("test_captions", "test_engine", "test_folder", "test_lasting", "test_overfit", "test_parts_of_data"),  # training
    *("test_ten_minutes", "test_views"),
    *("test_making", "test_perceives"),  # the micro model
    *("test_compiled", "test_core_nodes", "test_oracle_golden", "test_packs"),  # the runtime
    *("test_true_advice", "test_wrong_graphs", "test_decode", "test_newer_hosts", "test_parity", "test_runtime"),
    *("test_dynamic", "test_faults", "test_picture", "test_seam_noise", "test_seamless", "test_stress", "test_vaes"),
    *("test_behind", "test_client", "test_closed", "test_files", "test_geometry", "test_layers"),  # scenes
    "test_moved",
    *("test_cli", "test_dialects", "test_fuzz", "test_header_scale", "test_host_lora", "test_peft"),  # the converter
    *("test_blender_rooms", "test_demo"),  # the lab
}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests of slow files."""
    if item.path.stem in SLOW:
        item.add_marker("slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and count as such, what older hosts lack: tests that name the first ComfyUI that has it.

    Browser tests come first, then other slow files: a long file at the end would leave a core idle.
    """
    items.sort(key=lambda item: ("browser" not in item.path.parts, item.path.stem not in SLOW))
    marks = {item: item.get_closest_marker("since") for item in items}
    early = [item for item, mark in marks.items() if mark is not None and _host_version() < _version(mark.args[0])]
    if early:
        config.hook.pytest_deselected(items=early)
        items[:] = [item for item in items if item not in early]


def _host_version() -> tuple[int, ...]:
    return _version(_module(Path(os.environ["COMFYUI_PATH"]).resolve() / "comfyui_version.py").__version__)


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


_MEASURED: list[tuple[str, float]] = []


@pytest.fixture(scope="session")
def measured() -> Callable[[str, float], float]:
    """Note a figure for the summary at the end of the run, and return it: `assert measured("what", value) <= limit`."""

    def note(name: str, value: float) -> float:
        _MEASURED.append((name, value))
        return value

    return note


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the figures of one of several processes to the one that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["measured"] = _MEASURED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what another process has measured."""
    _MEASURED.extend(getattr(node, "workeroutput", {}).get("measured", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests have measured."""
    if _MEASURED:
        terminalreporter.section("measured")
        width = max(len(name) for name, _ in _MEASURED)
        for name, value in _MEASURED:
            terminalreporter.write_line(f"{name:{width}}  {value:.3g}")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The host's folder."""
    return Path(os.environ["COMFYUI_PATH"]).resolve()


@pytest.fixture(scope="session")
def golden() -> Path:
    """Recorded inputs and results (see golden/README.md)."""
    return GOLDEN


@pytest.fixture(scope="session")
def server(
    comfyui: Path, tmp_path_factory: pytest.TempPathFactory, measured: Callable[[str, float], float]
) -> "Iterator[Server]":
    """A running ComfyUI with this pack, tiny models (names: tiny_models.ModelNames) and tiny text encoders.

    Its folders lie under `server.base`: put adapters into models/loras and pictures into input.
    """
    from comfyui_omnix.lab.host.server import PACK, Server
    from comfyui_omnix.lab.host.tiny_models import DOUBLES, write_models

    base = tmp_path_factory.mktemp("comfyui base")
    write_models(base / "models")
    packs = {PACK: ROOT, "tiny_text_encoders": DOUBLES / "tiny_text_encoders"}
    with Server(comfyui, base, packs) as running:
        measured("start-up of the server, seconds", running.startup_seconds)
        yield running
