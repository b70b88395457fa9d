"""The limits of the pack: no code from data, no shell, no network, and no file outside the host's folders."""

import ast
import asyncio
import json
import pickle
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfyui_omnix
import folder_paths
import pytest
import torch
from comfyui_omnix import nodes
from comfyui_omnix.converters import AdapterError
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime.conditioning import load_conditioning, save_conditioning
from comfyui_omnix.omnix.runtime.low_rank import read_layers
from safetensors.torch import save_file

CODE_FROM_DATA = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "code", "runpy", "ctypes"}
SHELL = {"subprocess", "pty", "multiprocessing", "concurrent"}
NETWORK = {"socket", "ssl", "http", "urllib", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "webbrowser"}
MODULES = CODE_FROM_DATA | SHELL | NETWORK
CALLS = {"eval", "exec", "compile", "__import__", "import_module", "system", "popen", "startfile", "allow_pickle"}
CALLS |= {"torch.load", "np.load", "numpy.load", "hub.load", "load_state_dict_from_url", "yaml.load", "os.fork"}
# The standard library's own name, which has nothing to do with code.
ALLOWED_CALLS = {"re.compile", "torch.compile"}


# Files that only the command lines run, each with what it needs and why that is safe.
COMMAND_LINES = {
    # An extra's package, by a name written in the file.
    "mapfiles/errors.py": ["importlib.import_module"],
    "training/optimizers.py": ["importlib.import_module"],
    # Our own modules, or ComfyUI's, by a name written in the file.
    "evaluation/__main__.py": ["importlib.import_module"],
    "training/__init__.py": ["importlib.import_module", "import_module"],
    "training/__main__.py": ["importlib.import_module"],
    "training/run.py": ["importlib.import_module"],
    # weights_only=True; pickle is imported for the name of its error.
    "evaluation/perceptual.py": ["pickle", "torch.load"],
    # Threads, no processes.
    "evaluation/run.py": ["concurrent.futures", "concurrent.futures.ThreadPoolExecutor"],
}


def shipped(root: Path, ending: str) -> list[Path]:
    """List the files of a kind that the published archive holds: all of git's but those that .comfyignore names."""
    left_out = [line for line in (root / ".comfyignore").read_text("utf-8").splitlines() if not line.startswith("#")]
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", f"*{ending}"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    kept = [name for name in listed if not any(name == rule or name.startswith(rule) for rule in left_out)]
    return [root / name for name in kept if (root / name).is_file()]


def dangers(text: str) -> list[str]:
    """Name the imports and calls of a Python text that the pack may not have."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            found += [name for name in names if name.split(".")[0] in MODULES or name.split(".")[-1] in CALLS]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called not in ALLOWED_CALLS and (called in CALLS or called.split(".")[-1] in CALLS):
                found.append(called)
            found += [word.arg for word in node.keywords if word.arg in CALLS]
            found += [called for word in node.keywords if word.arg == "shell"]
    return found


@pytest.mark.parametrize(
    "text",
    [
        *("import pickle", "from urllib.request import urlopen", "import os\nos.system('x')", "eval('1')"),
        *("exec(compile('1', 'x', 'exec'))", "torch.load(path)", "np.load(path, allow_pickle=True)"),
        *("from os import popen", "import subprocess as s", "run('x', shell=True)", "__import__('x')"),
    ],
)
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    assert dangers(text)


def test_python_that_ships_runs_no_data_and_opens_no_connection(root: Path) -> None:
    files = shipped(root, ".py")
    assert {path.name for path in files} >= {
        "nodes.py",
        "loaders.py",
        "patch.py",
        "write.py",
        "engine.py",
        "metrics.py",
    }
    found = {path.relative_to(root).as_posix(): bad for path in files if (bad := dangers(path.read_text("utf-8")))}
    assert found == COMMAND_LINES


def test_scripts_of_the_browser_run_no_text_and_load_nothing_foreign(root: Path) -> None:
    danger = re.compile(
        r"\beval\s*\(|new\s+Function\b|document\.write|importScripts|XMLHttpRequest|WebSocket|sendBeacon"
        r"|\.(inner|outer)HTML\b|insertAdjacentHTML|(?:from|import|fetch)\s*\(?\s*['\"`](?:https?:)?//"
    )
    files = shipped(root, ".js")
    assert files
    found = {str(path): match.group() for path in files if (match := danger.search(path.read_text("utf-8")))}
    assert not found
    for bad in ("x.innerHTML = y", 'import a from "https://x"', "fetch('//x')", "eval (x)", "new Function('x')"):
        assert danger.search(bad), bad


OUTSIDE = "outside"
HOSTILE = (
    *("../outside", "../../outside", "../../../outside", "x/../../../outside", "./../../outside/", "....//outside"),
    *("/outside", "//outside", "~/outside", "file:///outside", "C:\\outside", "..\\..\\outside", "\\\\server\\outside"),
    *(
        "．．/．．/outside",
        "‥/‥/outside",
        "..∕..∕outside",
        "..%2f..%2foutside",
        "\u202e../../outside",
        "../../out\u200dside",
    ),
    *("../../outside\x00", "\x00", "", ".", "..", "/", " ", "\ud800", "a" * 5000, "CON", "%2e%2e/outside", "-rf"),
)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The host's folders in host/, and next to it, with the same names, a folder that no node may reach: outside/."""
    host, kinds = tmp_path / "host", ("loras", "diffusers", "vae")
    table = {kind: ([str(host / "models" / kind)], {".safetensors"}) for kind in kinds}
    for kind in kinds:
        (host / "models" / kind).mkdir(parents=True)
    (host / "output").mkdir()
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", table)
    monkeypatch.setattr(folder_paths, "models_dir", str(host / "models"))
    monkeypatch.setattr(folder_paths, "output_directory", str(host / "output"))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    asyncio.run(registered())
    outside = tmp_path / OUTSIDE
    for stream in ("rgb", "depth"):
        tiny.save(tiny.adapter(), outside / "rgb_to_depth" / stream / "pytorch_lora_weights.safetensors")
    tiny.save(tiny.flux(), outside / "transformer" / "model.safetensors")
    save_conditioning(CONDITIONING, outside / "saved.safetensors")
    before = contents(tmp_path, host)
    yield tmp_path
    assert contents(tmp_path, host) == before


async def registered() -> None:
    """Load the extension as the host does."""
    await (await comfyui_omnix.comfy_entrypoint()).on_load()


CONDITIONING = [(torch.ones(1, 2, 4), {"guidance": 3.5})]


def contents(folder: Path, without: Path) -> dict[Path, bytes | None]:
    """Read everything below a folder but one part of it."""
    paths = [path for path in folder.rglob("*") if without not in (path, *path.parents)]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def names(folders: Path, ending: str = "") -> list[str]:
    """Return the hostile names for a file or folder outside, its true path among them."""
    return [f"{name}{ending}" for name in (*HOSTILE, str(folders / OUTSIDE), f"{folders}/host/../{OUTSIDE}")]


REFUSALS = (ValueError, OSError)


def test_adapters_are_not_read_elsewhere(folders: Path) -> None:
    for name in names(folders):
        with pytest.raises(REFUSALS):
            nodes.OmniXLoadAdapters.execute("rgb_to_depth", name)
        with pytest.raises(REFUSALS):
            nodes.OmniXLoadAdapters.fingerprint_inputs("rgb_to_depth", name)


def test_adapters_are_read_where_they_belong(folders: Path) -> None:
    """The same files are taken below the loras folder: it is the place that is refused."""
    (folders / OUTSIDE / "rgb_to_depth").rename(folders / "host" / "models" / "loras" / "rgb_to_depth")
    assert nodes.OmniXLoadAdapters.execute("rgb_to_depth", ".").args[0].adapters.files
    (folders / "host" / "models" / "loras" / "rgb_to_depth").rename(folders / OUTSIDE / "rgb_to_depth")


def test_conditioning_is_not_read_elsewhere(folders: Path) -> None:
    for name in (*names(folders), *names(folders, "/saved.safetensors")):
        with pytest.raises(REFUSALS):
            nodes.OmniXLoadConditioning.execute(name)


def test_diffusers_model_is_not_read_elsewhere(folders: Path) -> None:
    for name in names(folders):
        with pytest.raises(REFUSALS):
            nodes.OmniXLoadDiffusersFlux.execute(name)


def test_lora_is_not_read_elsewhere(folders: Path) -> None:
    for name in names(folders, "/rgb_to_depth/rgb/pytorch_lora_weights.safetensors"):
        with pytest.raises(REFUSALS):
            nodes.OmniXConvertAdapter.execute(name, "converted")


def kept_inside(write: Callable[[], Any], root: Path) -> None:
    """Write or refuse; what was written lies below `root` (and the fixture sees that nothing else changed)."""
    before = set(root.rglob("*"))
    try:
        write()
    except Exception as refusal:  # noqa: BLE001 (the host raises a bare Exception)
        assert "outside" in str(refusal) or isinstance(refusal, REFUSALS), refusal
        assert {path for path in root.rglob("*") if path.is_file()} <= before
    else:
        new = [path for path in root.rglob("*") if path.is_file() and path not in before]
        assert len(new) == 1
        assert new[0].resolve().is_relative_to(root.resolve())


def test_conditioning_is_not_written_elsewhere(folders: Path) -> None:
    for name in (*names(folders), *names(folders, "/new")):
        kept_inside(lambda n=name: nodes.OmniXSaveConditioning.execute(CONDITIONING, n), folders / "host" / "output")


def test_lora_is_not_written_elsewhere(folders: Path) -> None:
    root = folders / "host" / "models" / "loras"
    tiny.save(tiny.adapter(), root / "source.safetensors")
    for name in (*names(folders), *names(folders, "/new")):
        kept_inside(lambda n=name: nodes.OmniXConvertAdapter.execute("source.safetensors", n), root)
        for path in root.rglob("*.safetensors"):
            if path != root / "source.safetensors":
                path.unlink()


def test_nothing_is_written_through_a_link_that_leads_elsewhere(folders: Path) -> None:
    for folder in ("models/loras", "output"):
        (folders / "host" / folder / "link").symlink_to(folders / OUTSIDE, target_is_directory=True)
    tiny.save(tiny.adapter(), folders / "host" / "models" / "loras" / "source.safetensors")
    with pytest.raises(ValueError, match="a path that leads elsewhere; change the name"):
        nodes.OmniXConvertAdapter.execute("source.safetensors", "link/new")
    with pytest.raises(ValueError, match="a path that leads elsewhere; change the name"):
        nodes.OmniXSaveConditioning.execute(CONDITIONING, "link/new")


def test_shards_of_an_index_stay_in_its_folder_and_hold_no_pickle(folders: Path) -> None:
    folder = folders / "host" / "models" / "diffusers" / "flux" / "transformer"
    tiny.save({"x": torch.zeros(1)}, folder / "one.safetensors")
    (folder / "evil.bin").write_bytes(b"not a tensor")
    shards = ("../../../../../outside/transformer/model.safetensors", "/etc/passwd", "..", "", "evil.bin")
    for shard in shards:
        index = {"weight_map": {"a": shard}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
        with pytest.raises(ValueError, match="download it again"):
            nodes.OmniXLoadDiffusersFlux.execute("flux")


class Bomb:
    """A pickle of this makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("read", [read_layers, load_conditioning])
def test_pickles_are_never_loaded(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    for number, make in enumerate((lambda thing: pickle.dumps(thing), zipped)):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(make(Bomb(tmp_path / "went off")))
        with pytest.raises(AdapterError):
            read(path)
    assert not (tmp_path / "went off").exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "went off")))
    assert (tmp_path / "went off").exists()  # the bomb works


def zipped(thing: Any) -> bytes:
    """Return what torch.save makes of it."""
    import io

    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("length", [0, 1, 100_000_001, 2**31, 2**63, 2**64 - 1])
@pytest.mark.parametrize("read", [read_layers, load_conditioning])
def test_header_sizes_are_limited(tmp_path: Path, read: Callable[[Path], Any], length: int) -> None:
    """A file that announces a header it does not have, or one larger than safetensors allows, is not believed."""
    path = tmp_path / "file.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" + bytes(1000))
    with pytest.raises(AdapterError) as refused:
        read(path)
    assert str(path) in str(refused.value)


def test_conditioning_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for metadata in (None, {"omnix_conditioning": "{}"}, {"omnix_conditioning": "[1]"}, {"omnix_conditioning": "["}):
        save_file({"a": torch.zeros(1)}, path, metadata=metadata)
        with pytest.raises(AdapterError, match="expected a file from Save OmniX Conditioning"):
            load_conditioning(path)
