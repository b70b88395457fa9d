"""The pages for people: their links work, the things that they name exist, and they agree with the code."""

import ast
import fnmatch
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_omnix.converters.tasks import PUBLISHED_NAME
from comfyui_omnix.lab.host.server import ROOT
from comfyui_omnix.lab.workflows import forms, notes
from comfyui_omnix.omnix.runtime.tasks import STREAMS
from huggingface_hub import snapshot_download

PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "lab").rglob("README.md")),
]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
FULL_ADAPTER_MB = 224
LOCAL = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """The names by which GitHub links a page's headings."""
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in re.findall(r"(?m)^#+ (.+)$", text)
    }


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for path, anchor in LOCAL.findall(read(name)):
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), path
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{path}#{anchor}"


@pytest.mark.parametrize("name", NAMES)
def test_files_that_a_page_names_are_there(name: str) -> None:
    rooms = r"(?:tests|lab|docs|web|graph|omnix|converters|locales|workflows|subgraphs)"
    named = re.findall(rf"(?<![\w/]){rooms}/[\w./*]*\w", read(name))
    for path in named:
        assert list(ROOT.glob(path)), path


def test_the_readme_leads_to_every_page() -> None:
    text = read("README.md")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in text, page.name
    steps = [text.index(f"\n## {title}") for title in ("Install", "Get the adapters", "Open workflow 3")]
    assert steps == sorted(steps) and text.index("![") < steps[0]
    assert "https://github.com/HKU-MMLab/OmniX" in text


def test_what_was_never_measured_is_said_before_anybody_installs() -> None:
    first = read("README.md").split("\n## Install")[0]
    assert "not measured" in first and "docs/hardware.md" in first
    assert "were not available" in read("docs/exactness.md")[:900]


def test_the_readme_names_every_blueprint_and_task() -> None:
    text = read("README.md")
    for path in (ROOT / "subgraphs").glob("*.json"):
        assert f"*{path.stem.replace(' with saved prompt', '')}*" in text
    assert "*with saved prompt*" in text
    assert all(f"`{task}`" in text for task in STREAMS)


def test_the_chinese_readme_has_the_same_files_tasks_and_pages() -> None:
    english, chinese = read("README.md"), read("README.zh.md")
    for pattern in (r"https://huggingface\.co/[\w./-]*\w", r"`(models/[\w/]+)`", r"\]\((docs/\w+\.md)\)"):
        assert set(re.findall(pattern, chinese)) == set(re.findall(pattern, english)), pattern
    assert COMMAND.findall(chinese) == COMMAND.findall(english)
    row = re.compile(r"(?m)^\| (`\w+`) \|.*\| (\d+(?:(?:, |、)\d+)*) \| (.*) \|$")
    tasks = [
        (task, re.findall(r"\d+", numbers), re.findall(r"\*[^*]+\*", box))
        for task, numbers, box in row.findall(chinese)
    ]
    assert len(tasks) == len(STREAMS)
    assert tasks == [(t, re.findall(r"\d+", n), re.findall(r"\*[^*]+\*", b)) for t, n, b in row.findall(english)]


def test_the_map_shows_every_folder() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    parts = [path.split("/") for path in listed.stdout.split("\n") if path and not path.startswith(".")]
    folders = {one[0] for one in parts if len(one) > 1} - {"lab"}
    folders |= {f"lab/{one[1]}" for one in parts if one[0] == "lab" and len(one) > 2}
    rows = "".join(line.split("|")[1] for line in read("lab/README.md").split("## ")[0].splitlines() if "|" in line)
    assert [folder for folder in sorted(folders) if f"`{folder}/`" not in rows] == []


COMMAND = re.compile(r'(?m)^`?(python -c ".*")`?$')


def test_pages_and_notes_name_the_same_sources() -> None:
    named = re.compile(r"https://huggingface\.co/[\w./-]*\w")
    notes_name = set(named.findall(notes.files(("rgb_to_depth",))))
    assert {url for url, _ in forms.DOWNLOADS.values()} | {notes.ADAPTERS} <= notes_name
    assert set(named.findall(read("README.md"))) == notes_name
    folders = re.compile(r"models/(?:\w+/)*\w+")
    assert {f"models/{folder}" for _, folder in forms.DOWNLOADS.values()} <= set(folders.findall(read("README.md")))
    line = notes.command(("rgb_to_depth",))
    for text in (read("README.md"), read("docs/adapters.md"), notes.files(("rgb_to_depth",))):
        assert COMMAND.findall(text) == [line]


def test_every_shell_passes_the_command_on_as_it_is() -> None:
    """cmd, PowerShell and bash agree on a text in double quotes that has none of their signs."""
    program, option, code = notes.command(tuple(STREAMS)).split(" ", 2)
    assert (program, option) == ("python", "-c")
    assert code[0] == code[-1] == '"' and not set(code[1:-1]) & set('"\\$`%!^&|<>\n')


def test_the_command_asks_for_the_task_s_files_and_puts_them_where_they_belong(tmp_path: Path) -> None:
    (tmp_path / "huggingface_hub.py").write_text("def snapshot_download(*given, **named): print([given, named])\n")
    shell = ["cmd", "/c"] if sys.platform == "win32" else ["sh", "-c"]
    line = notes.command(("rgb_to_depth", "rgb_to_pbr"))
    done = subprocess.run(
        [*shell, line.replace("python", f'"{sys.executable}"', 1)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    given, named = ast.literal_eval(done.stdout)
    assert named == {"allow_patterns": ["rgb_to_depth/*", "rgb_to_pbr/*"], "local_dir": "models/loras/OmniX"}
    inspect.signature(snapshot_download).bind(*given, **named)


def test_the_table_of_adapters_counts_the_files_of_each_pattern() -> None:
    rows = re.findall(r"(?m)^\| .*? \| `([^`]+)` \| (\d+) \| (\d+) \|$", read("docs/adapters.md"))
    published = [f"{task}/{stream}/{PUBLISHED_NAME}.safetensors" for task in STREAMS for stream in STREAMS[task]]
    assert len(rows) == len(STREAMS) + 2
    for pattern, files, size in rows:
        assert len(fnmatch.filter(published, pattern)) == int(files)
        assert int(files) * FULL_ADAPTER_MB == int(size)
