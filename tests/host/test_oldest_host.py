"""A ComfyUI that is too old gives one sentence; the oldest supported version is stated once and tested."""

import json
import logging
import re
import sys
from pathlib import Path

import comfyui_omnix
import comfyui_version
import pytest
from comfyui_omnix.lab.host.pack import load_pack


@pytest.mark.parametrize(
    ("version", "old"),
    [
        *(("0.3.40", True), ("0.16.2", True), ("0.16.2-dirty", True), ("0.9", True)),
        *(("0.16.3", False), ("0.30.0", False), ("v0.17.0rc1", False), ("1.0", False), ("nightly", False), ("", False)),
    ],
)
def test_versions_are_compared_as_numbers(version: str, old: bool) -> None:
    assert comfyui_omnix.too_old(version) is old


def test_an_old_host_gets_one_sentence(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(comfyui_version, "__version__", "0.12.3")
    monkeypatch.delitem(sys.modules, "another_omnix", raising=False)
    with caplog.at_level(logging.ERROR):
        module = load_pack(root, "another_omnix")
    assert caplog.messages == ["OmniX needs ComfyUI 0.16.3 or newer, this is 0.12.3; update ComfyUI."]
    assert not hasattr(module, "comfy_entrypoint")
    assert "another_omnix.nodes" not in sys.modules


def test_the_oldest_host_is_the_same_everywhere(root: Path) -> None:
    stated = re.search(r'requires-comfyui = ">=([\d.]+)"', (root / "pyproject.toml").read_text("utf-8"))
    assert stated is not None
    assert json.loads(f"[{stated[1].replace('.', ',')}]") >= list(comfyui_omnix.OLDEST)
