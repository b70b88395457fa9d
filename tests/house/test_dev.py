"""The set-up script: it repairs what was interrupted, refuses what is not what it pinned, and says where things are."""

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def dev(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev", root / "dev.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_setup_says_where_things_are(root: Path, comfyui: Path) -> None:
    command = [os.environ["OMNIX_BASE_PYTHON"], str(root / "dev.py"), "setup", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts.keys() == {"python", "comfyui", "comfyui_version"}
    assert Path(facts["comfyui"]) == comfyui
    assert Path(facts["python"]).is_file()


def test_interrupted_folder_has_no_stamp_and_is_emptied(dev: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "environment"
    with pytest.raises(KeyboardInterrupt), dev.fresh(target):
        (target / "half").write_text("")
        raise KeyboardInterrupt
    assert not (target / dev.STAMP).exists()
    with dev.fresh(target):
        assert not (target / "half").exists()
    assert (target / dev.STAMP).is_file()


def test_broken_environment_is_made_again(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setattr(dev, "create_venv", made.append)
    monkeypatch.setattr(dev, "run", lambda command: None)
    works = [False]
    monkeypatch.setattr(dev, "works", lambda python, module: works[0])
    for count, state in ((1, False), (2, False), (2, True)):
        works[0] = state
        dev.made_venv(tmp_path, "host", ("a==1",))
        assert len(made) == count


def test_host_with_another_hash_is_refused(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(python: Path, requirement: str, folder: Path) -> Path:
        with tarfile.open(folder / "a.tar.gz", "w:gz"):
            pass
        return folder / "a.tar.gz"

    monkeypatch.setattr(dev, "download", download)
    with pytest.raises(dev.SetupError, match=r"expected sha256 .*, got .*; the download was refused"):
        dev.downloaded_host(tmp_path, dev.NEWEST, Path(sys.executable))
    assert not list(tmp_path.glob(f"*/{dev.STAMP}"))


def test_existing_host_must_be_one(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(dev.SetupError, match=r"is no ComfyUI checkout .*; fix or unset it"):
        dev.existing_host()


def test_cache_can_be_moved(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIX_CACHE", str(tmp_path))
    assert dev.cache_folder() == tmp_path
