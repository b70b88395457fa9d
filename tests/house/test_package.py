"""The Python package: sdist and wheel contain only the command lines, fit an index, and work once installed."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from comfyui_omnix.converters.version import VERSION
from comfyui_omnix.lab.host.server import ROOT

NAME = f"omnix_panorama-{VERSION}"


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it, as an index would get them; nothing is fetched."""
    folder = tmp_path_factory.mktemp("package")
    tracked = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    for name in filter(lambda name: (ROOT / name).is_file(), tracked):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "source" / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "source")
    return folder / "dist"


def packaged() -> set[str]:
    folders = [ROOT / name for name in ("converters", "evaluation", "mapfiles", "omnix", "training")]
    return {path.relative_to(ROOT).as_posix() for folder in folders for path in folder.rglob("*.py")}


def test_the_wheel_holds_the_command_lines_alone(built: Path) -> None:
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as wheel:
        names = {name for name in wheel.namelist() if not name.startswith(f"{NAME}.dist-info/")}
    assert names == {f"comfyui_omnix/{name}" for name in packaged()}


def test_the_sdist_holds_the_command_lines_and_what_builds_it(built: Path) -> None:
    with tarfile.open(built / f"{NAME}.tar.gz") as sdist:
        names = {member.name.removeprefix(f"{NAME}/") for member in sdist.getmembers() if member.isfile()}
    reported = {"README.md", "LICENSE", "MANIFEST.in", "pyproject.toml", "setup.cfg", "PKG-INFO"}
    assert {name for name in names if ".egg-info/" not in name} == packaged() | reported


def test_twine_finds_nothing(built: Path) -> None:
    said = run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), env=os.environ | {"NO_COLOR": "1"})
    assert said.stdout.count("PASSED") == 2


def test_installed_it_converts_without_torch_or_a_host(built: Path, tmp_path: Path, comfyui: Path) -> None:
    """There are no nodes in it, so none are looked for, though a ComfyUI can be imported."""
    wheel = built / f"{NAME}-py3-none-any.whl"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel)
    search = os.pathsep.join((str(tmp_path / "site"), str(comfyui)))
    python = os.environ["OMNIX_BASE_PYTHON"]
    command = [python, "-m", "comfyui_omnix.converters", "--version"]
    assert VERSION in run(*command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": search}).stdout
    assert (tmp_path / "site" / "bin" / "omnix-convert").exists() or sys.platform == "win32"
