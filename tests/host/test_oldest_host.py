"""A ComfyUI that is too old gives one sentence; the oldest supported version is stated once and tested."""

import importlib.util
import json
import logging
import re
import sys
from pathlib import Path
from types import ModuleType

import comfyui_omnix
import comfyui_version
import pytest


@pytest.mark.parametrize(
    ("version", "old"),
    [
        *(("0.3.40", True), ("0.16.2", True), ("0.16.2-dirty", True), ("0.9", True)),
        *(("0.16.3", False), ("0.30.0", False), ("v0.17.0rc1", False), ("1.0", False), ("nightly", False), ("", False)),
    ],
)
def test_versions_are_compared_as_numbers(version: str, old: bool) -> None:
    assert comfyui_omnix.too_old(version) is old


def loaded(root: Path) -> ModuleType:
    """Load the pack once more, under another name, as the host does."""
    path = root / "__init__.py"
    spec = importlib.util.spec_from_file_location("another_omnix", path, submodule_search_locations=[str(root)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_an_old_host_gets_one_sentence(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(comfyui_version, "__version__", "0.12.3")
    monkeypatch.setitem(sys.modules, "another_omnix", ModuleType("another_omnix"))
    with caplog.at_level(logging.ERROR):
        module = loaded(root)
    assert caplog.messages == ["OmniX needs ComfyUI 0.16.3 or newer, this is 0.12.3; update ComfyUI."]
    assert not hasattr(module, "comfy_entrypoint")
    assert "another_omnix.nodes" not in sys.modules


def test_the_oldest_host_is_the_same_everywhere(root: Path) -> None:
    stated = re.search(r'requires-comfyui = ">=([\d.]+)"', (root / "pyproject.toml").read_text("utf-8"))
    assert stated is not None
    assert json.loads(f"[{stated[1].replace('.', ',')}]") >= list(comfyui_omnix.OLDEST)
