"""The set-up script: it repairs interrupted set-ups, refuses downloads that are not pinned, and prints its folders."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from comfyui_omnix.lab.host import environment, pins
from comfyui_omnix.lab.host.server import Server
from PIL import Image


def test_setup_says_where_things_are(root: Path, comfyui: Path) -> None:
    command = [os.environ["OMNIX_BASE_PYTHON"], str(root / "dev.py"), "setup", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts.keys() == {"python", "comfyui", "comfyui_version"}
    assert Path(facts["comfyui"]) == comfyui
    assert Path(facts["python"]).is_file()


def test_interrupted_folder_has_no_stamp_and_is_emptied(tmp_path: Path) -> None:
    target = tmp_path / "environment"
    with pytest.raises(KeyboardInterrupt), environment.fresh(target):
        (target / "half").write_text("")
        raise KeyboardInterrupt
    assert not (target / environment.STAMP).exists()
    with environment.fresh(target):
        assert not (target / "half").exists()
    assert (target / environment.STAMP).is_file()


def test_broken_environment_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setattr(environment, "create_venv", made.append)
    monkeypatch.setattr(environment, "run", lambda command: None)
    works = [False]
    monkeypatch.setattr(environment, "works", lambda python, module: works[0])
    for count, state in ((1, False), (2, False), (2, True)):
        works[0] = state
        environment.made_venv(tmp_path, "host", ("a==1",))
        assert len(made) == count


def test_host_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(python: Path, requirement: str, folder: Path) -> Path:
        with tarfile.open(folder / "a.tar.gz", "w:gz"):
            pass
        return folder / "a.tar.gz"

    monkeypatch.setattr(environment, "download", download)
    with pytest.raises(environment.SetupError, match=r"expected sha256 .*, got .*; the download was refused"):
        environment.downloaded_host(tmp_path, pins.NEWEST, Path(sys.executable))
    assert not list(tmp_path.glob(f"*/{environment.STAMP}"))


def test_existing_host_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(environment.SetupError, match=r"is not a ComfyUI checkout .*; correct or unset it"):
        environment.existing_host()


def test_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIX_CACHE", str(tmp_path))
    assert environment.cache_folder() == tmp_path


def demo(root: Path, cache: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the demo where nothing is set up; what is said must be said before that."""
    command = [os.environ["OMNIX_BASE_PYTHON"], str(root / "dev.py"), "demo", *options]
    environment = os.environ | {"OMNIX_CACHE": str(cache), "COLUMNS": "120"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert not cache.exists() and "Traceback" not in done.stderr
    return done


def test_the_demo_reports_its_own_options_before_any_set_up(root: Path, tmp_path: Path) -> None:
    done = demo(root, tmp_path / "cache", "--help")
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--panorama", "--adapters", "--steps", "--output"))
    assert "7 GB" in done.stdout and "2.2 GB" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--panorama", "nope.png"], "demo: --panorama nope.png: expected a file, it does not exist; check the path."),
        (["--panorama", "."], "demo: --panorama .: expected a file, this is a folder; check the path."),
        (["--adapters", "dev.py"], "--flux, --vae, --clip-l, --t5 missing"),
        (["--output", __file__], "expected a folder, this is a file; name another one."),
        (["--height", "130"], "demo: --height 130: expected a multiple of 8, 64 or more."),
        (["--steps", "0"], "demo: --steps 0: expected 1 or more."),
        (["--height", "256"], "demo: --height: without real weights the demo uses the micro model"),
        (["--panorma", "x"], "unrecognized arguments: --panorma x"),
    ],
)
def test_a_wrong_option_of_the_demo_is_reported_at_once(
    root: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    done = demo(root, tmp_path / "cache", *options)
    assert done.returncode != 0 and said in done.stderr


def test_a_wrong_panorama_is_reported_before_the_host_is_loaded(root: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.png"
    Image.new("RGB", (64, 48)).save(wrong)
    weights = [f"--{name}={__file__}" for name in ("flux", "vae", "clip-l", "t5")]
    own = [*weights, f"--adapters={tmp_path}", "--panorama", str(wrong)]
    command = [sys.executable, str(root / "lab" / "demo" / "main.py"), *own]
    without_host = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=without_host, timeout=120)
    assert done.stderr == (
        f"demo: --panorama {wrong}: expected a picture twice as wide as high, got 64x48; resize it.\n"
    )
    wrong.write_text("no picture")
    done = subprocess.run(command, capture_output=True, text=True, env=without_host, timeout=120)
    assert done.stderr.startswith(f"demo: --panorama {wrong}: expected a picture (")


def test_a_frontend_is_downloaded_once_and_shown_by_the_test_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def install(command: list[str]) -> None:
        asked.append(command)
        static = Path(command[command.index("--target") + 1], "comfyui_frontend_package", "static")
        static.mkdir(parents=True)
        (static / "index.html").write_text("a frontend")

    monkeypatch.setattr(environment, "run", install)
    folders = [
        environment.downloaded_frontend(tmp_path, version, Path(sys.executable)) for version in ("newest", "newest")
    ]
    assert [command[-1] for command in asked] == [f"comfyui-frontend-package=={pins.NEWEST_FRONTEND}"]
    assert folders[0] == folders[1] and (folders[0] / "index.html").is_file()
    monkeypatch.setenv("OMNIX_FRONTEND", str(folders[0]))
    options = Server(tmp_path, tmp_path / "base").options
    assert options[options.index("--front-end-root") + 1] == str(folders[0])
    monkeypatch.delenv("OMNIX_FRONTEND")
    assert "--front-end-root" not in Server(tmp_path, tmp_path / "base").options
