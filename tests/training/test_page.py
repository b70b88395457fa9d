"""The commands on the trainer's page: every flag and field exists, and its file can be read."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from comfyui_omnix.training import command
from comfyui_omnix.training.command import from_file, with_flags
from comfyui_omnix.training.config import Config, check, plans

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "training" / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^python -m training .*$", PAGE, re.MULTILINE)
(FILE,) = re.findall(r"^```\n(data = .*?)```", PAGE, re.MULTILINE | re.DOTALL)
FIELDS = {field.name for field in fields(Config)}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str, tmp_path: Path) -> None:
    (tmp_path / "shading.toml").write_text(FILE)
    words = [str(tmp_path / word) if word == "shading.toml" else word for word in shlex.split(line)[3:]]
    given = command._parser().parse_args(words)
    config = with_flags(from_file(given.config) if given.config else Config(), given)
    check(config)
    assert [plan.task.name for plan in plans(config)] == ["rgb_to_shading"]
    assert config.output == "runs/shading"


def test_there_are_commands() -> None:
    assert len(COMMANDS) == 3 and sum("--resume" in line for line in COMMANDS) == 1


def test_every_flag_that_is_named_exists() -> None:
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE)) - {"--folder"}  # that of the graph's command
    known = {flag for action in command._parser()._actions for flag in action.option_strings}
    assert len(flags) > 5 and flags <= known


def test_every_option_of_the_table_exists_with_its_default() -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| ([^|]+) \|", PAGE, re.MULTILINE)
    named = [(re.findall(r"[a-z_]+", cell), values.strip().split(", ")) for cell, values in rows]
    options = [row for row in named if not FIELDS.isdisjoint(row[0])]
    assert all(FIELDS.issuperset(names) for names, _ in options)
    told = [pair for names, values in options for pair in zip(names, values, strict=True)]
    figures = {name: float(value) for name, value in told if re.fullmatch(r"[\d.]+", value)}
    assert len(figures) >= 6 and ("roll", "on") in told and Config().roll
    assert {name: float(getattr(Config(), name)) for name in figures} == figures


@pytest.mark.parametrize("line", re.findall(r"`([a-z_]+ = [^`]+)`", PAGE))
def test_every_line_that_is_quoted_reads(line: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(FILE + line + "\n")
    check(from_file(tmp_path / "run.toml"))


def test_the_example_of_python_names_what_there_is() -> None:
    code = PAGE.split("```python\n")[1].split("```")[0]
    names = set(re.findall(r"(\w+)=", code))
    assert {"data", "target"} <= names <= FIELDS


WITHOUT = (
    "import sys; sys.modules.update(dict.fromkeys({names!r})); sys.argv = {words!r}; sys.path.insert(0, {root!r})\n"
)
RUN = "import runpy; runpy.run_module('training', run_name='__main__', alter_sys=True)"


def without(names: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a Python that lacks some packages."""
    start = WITHOUT.format(names=names, words=["omnix-train", *words], root=str(ROOT))
    return subprocess.run([sys.executable, "-c", start + RUN], capture_output=True, text=True, timeout=60, check=False)


def test_the_options_are_shown_without_torch_numpy_or_yaml(tmp_path: Path) -> None:
    done = without(["torch", "numpy", "yaml", "OpenImageIO", "tqdm", "einops", "safetensors"], "--help")
    assert done.returncode == 0 and "--learning-rate" in done.stdout


@pytest.mark.parametrize(
    ("missing", "said"),
    [("torch", "run this with ComfyUI's own Python"), ("tqdm", 'pip install "omnix-panorama[training]"')],
)
def test_a_missing_package_is_one_sentence(missing: str, said: str, tmp_path: Path) -> None:
    done = without([missing], "--data", str(tmp_path), "--output", str(tmp_path / "out"), "--target", "shading")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"training needs {missing}, which is not installed here" in done.stderr and said in done.stderr


def test_yaml_without_its_package_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("rank: 8\n")
    done = without(["yaml"], str(tmp_path / "run.yaml"))
    assert done.returncode == 1 and "reading YAML needs PyYAML, which is not installed" in done.stderr
