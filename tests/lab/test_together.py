"""The texts on the page of companions follow from the measurements."""

import re
from types import SimpleNamespace

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


def test_the_command_changes_only_what_it_measures() -> None:
    text = together.PAGE.read_text(encoding="utf-8")
    made = together.rewritten(text, ("9.8.7", "| row |", "- message"))
    start, before_table, rest = text.partition(together.MARKS[1][0])
    rows, after_table, rest = rest.partition(together.MARKS[1][1])
    middle, before_messages, rest = rest.partition(together.MARKS[2][0])
    messages, after_messages, end = rest.partition(together.MARKS[2][1])
    version = re.search(r"on ComfyUI (\S+)\. The figure", start)
    assert version is not None and start.count(version[1]) == 1
    assert len(rows.splitlines()) >= 30 and all(line.count("|") == 7 for line in rows.splitlines())
    assert messages and all(line.startswith("- ") for line in messages.splitlines())
    parts = (start.replace(version[1], "9.8.7"), "| row |", middle, "- message", end)
    assert made == parts[0] + before_table + parts[1] + after_table + parts[2] + before_messages + parts[3] + (
        after_messages + parts[4]
    )
    assert together.rewritten(made, (version[1], rows, messages)) == text


def test_a_row_of_the_page_is_what_the_command_writes() -> None:
    text = together.PAGE.read_text(encoding="utf-8")
    companion = SimpleNamespace(name="EasyCache", source="core", steps=8)
    assert together.row(companion, {together.CALLS: 8, "before": 1.9e-7, "after": 1.9e-7}) in text.splitlines()
    assert together.PAGE == ROOT / "docs" / "together.md"
