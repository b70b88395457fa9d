"""A base in GGUF, through the pack ComfyUI-GGUF.

Errors in files and packs are tested with invented packs. The pack itself is tested if COMFYUI_GGUF names its
folder and its package `gguf` is installed; the tests install neither.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import folder_paths
import pytest
from comfyui_omnix.lab.host import gguf_files, tiny
from comfyui_omnix.training import host, saving
from comfyui_omnix.training.config import Config, TrainingError
from comfyui_omnix.training.engine import train
from comfyui_omnix.training.host import LoadedBase, load_model
from made_up import SMALL, TASK, config, latents
from measure import relative_error
from rig import load_flux
from safetensors.torch import load_file

LOADER = """
class UnetLoaderGGUF:
    def load_unet(self, name):
        {body}
NODE_CLASS_MAPPINGS = {{"UnetLoaderGGUF": UnetLoaderGGUF}}
"""
CLOSE = 1e-4
"""Adam divides by the size of gradients, so rounding in small ones grows."""


@pytest.fixture
def packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of packs; the host's own folders are given back afterwards."""
    kept = {name: (list(paths), ends) for name, (paths, ends) in folder_paths.folder_names_and_paths.items()}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kept)
    kept["custom_nodes"] = ([str(tmp_path / "packs")], set())
    yield tmp_path / "packs"
    for name in [name for name in sys.modules if name.split(".")[0] == host._GGUF]:
        del sys.modules[name]


def made_up(packs: Path, head: str, body: str = "pass") -> None:
    folder = packs / "ComfyUI-GGUF"
    folder.mkdir(parents=True)
    (folder / "nodes.py").touch()
    (folder / "__init__.py").write_text(head + LOADER.format(body=body))


def test_no_pack(packs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="needs the pack ComfyUI-GGUF below custom_nodes; install it"):
        load_model(tmp_path / "flux.gguf", Config())


def test_a_pack_whose_package_is_missing(packs: Path, tmp_path: Path) -> None:
    made_up(packs, "import no_such_package_gguf")
    for _ in range(2):  # what failed once is tried again
        with pytest.raises(TrainingError, match=r"no_such_package_gguf.*pip install -r .*requirements\.txt"):
            load_model(tmp_path / "flux.gguf", Config())


def test_a_file_that_the_pack_refuses(packs: Path, tmp_path: Path) -> None:
    made_up(packs, "", "raise ValueError('no\\nmagic')")
    with pytest.raises(TrainingError, match=r"flux\.gguf: ComfyUI-GGUF can't load it as FLUX.1-dev \(no magic\)"):
        load_model(tmp_path / "flux.gguf", Config())


def test_a_file_of_the_same_name_is_not_taken(packs: Path, tmp_path: Path) -> None:
    """The pack's loader takes names alone, and looks below the host's folders first."""
    for name in ("first", "wanted"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flux.gguf").touch()
    folder_paths.add_model_folder_path("diffusion_models", str(tmp_path / "first"), is_default=True)
    made_up(packs, "import folder_paths", "raise ValueError(folder_paths.get_full_path('unet', name))")
    with pytest.raises(TrainingError, match=r"wanted.flux\.gguf: .*wanted.flux\.gguf"):
        load_model(tmp_path / "wanted" / "flux.gguf", Config())


PACK = os.environ.get("COMFYUI_GGUF", "")
real = pytest.mark.skipif(not PACK, reason="COMFYUI_GGUF names no clone of ComfyUI-GGUF")


@real
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_it_trains_as_the_numbers_that_it_holds_do(packs: Path, tmp_path: Path, kind: str) -> None:
    packs.mkdir()
    (packs / "ComfyUI-GGUF").symlink_to(PACK, target_is_directory=True)
    plain = load_flux(tiny.flux(SMALL)).model.diffusion_model.state_dict()
    pytest.importorskip("gguf")
    gguf_files.write(tmp_path / "flux.gguf", plain, kind)
    exact = load_flux(gguf_files.held(plain, kind))
    results = [
        train(config(steps=3), TASK, LoadedBase(model), latents(), tmp_path / name, show=False)
        for name, model in (("gguf", load_model(tmp_path / "flux.gguf", Config())), ("exact", exact))
    ]
    found, want = (load_file(result.folder / saving.STATE) for result in results)
    factors = [name for name, factor in want.items() if name.startswith("factor.") and factor.any()]
    assert len(factors) > 20
    for name in factors:
        assert relative_error(found[name], want[name]) <= CLOSE, name


@real
def test_a_damaged_file(packs: Path, tmp_path: Path) -> None:
    packs.mkdir()
    (packs / "ComfyUI-GGUF").symlink_to(PACK, target_is_directory=True)
    pytest.importorskip("gguf")
    path = tmp_path / "flux.gguf"
    gguf_files.write(path, load_flux(tiny.flux(SMALL)).model.diffusion_model.state_dict(), "Q8_0")
    whole = path.read_bytes()
    for spoilt in (b"", b"junk" * 100, whole[:1000], whole[: len(whole) // 2]):
        path.write_bytes(spoilt)
        with pytest.raises(TrainingError, match="ComfyUI-GGUF can't load it"):
            load_model(path, Config())
