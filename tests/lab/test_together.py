"""The texts on the page of companions follow from the measurements."""

import re

import pytest
from comfyui_omnix.lab.bench import together
from comfyui_omnix.lab.host.server import ROOT


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (1e-7, 2e-7, "right"),
        (1e-7, 0.2, "order matters: put it before Apply OmniX Adapters"),
        ("Remove it.", 1e-7, "order matters: put it after Apply OmniX Adapters"),
        ("Remove it.", "Remove it.", "refused"),
        (0.1, 0.1, "**wrong**"),
        ("Remove it.", 0.1, "**wrong**"),
        (float("nan"), float("nan"), "**wrong**"),
    ],
)
def test_the_verdict(before: float | str, after: float | str, said: str) -> None:
    assert together.verdict({together.CALLS: 4, "before": before, "after": after}) == said


def test_the_verdict_on_a_loader_and_on_what_fails_by_itself() -> None:
    assert together.verdict({together.CALLS: 4, "before": 1e-7}) == "right"
    assert together.verdict({}) == "fails on this ComfyUI without OmniX too"


def test_the_page_is_what_the_command_writes() -> None:
    text = together.PAGE.read_text(encoding="utf-8")
    version = re.search(r"on ComfyUI (\S+)\. The figure", text)
    assert version is not None and text.startswith(together.HEAD.format(version=version[1]))
    assert together.PAGE == ROOT / "docs" / "together.md"
