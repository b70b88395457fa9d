"""The page "ten minutes from a folder to a map": each of its commands, with fewer rooms and steps."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_omnix.training import record
from comfyui_omnix.training.__main__ import main
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "training" / "ten_minutes.md").read_text("utf-8")
COMMANDS = re.findall(r"^```\n(python .*)\n```$", PAGE, re.MULTILINE)
SETTINGS = re.search(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[1]  # type: ignore[index]
FEWER = {"--count 200": "--count 12", "--steps 400 --decay-steps 400": "--steps 3 --decay-steps 3"}
SHORTER = {"steps = 300": "steps = 2", "_every = 100": "_every = 1", "batch = 8": "batch = 2"}


def replaced(text: str, table: dict[str, str], used: set[str]) -> str:
    for old, new in table.items():
        if old in text:
            used.add(old)
            text = text.replace(old, new)
    return text


def test_every_command_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in the clone; the files that the page reads and writes next to it are in another folder here."""
    used: set[str] = set()
    settings = (
        replaced(SETTINGS, SHORTER, used)
        .replace('"rooms"', f'"{tmp_path}/rooms"')
        .replace("runs/", f"{tmp_path}/runs/")
    )
    (tmp_path / "first.toml").write_text(settings)
    monkeypatch.chdir(ROOT)
    assert len(COMMANDS) == 4
    for line in COMMANDS:
        python, _m, module, *words = shlex.split(replaced(line, FEWER, used))
        placed = [str(tmp_path / word) if word in ("rooms", "first.toml") else word for word in words]
        assert python == "python"
        if module == "training":
            assert main(placed) == 0, line
        else:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, "-m", module, *placed], cwd=ROOT, env=environment, check=True, timeout=300)
    assert used == {*FEWER, *SHORTER}
    first = tmp_path / "runs" / "first"
    assert [row["step"] for row in record.read(first / "loss.csv")] == [1, 2, 3]
    for step in range(4):
        with Image.open(first / "samples" / f"step-{step:06d}.png") as sheet:
            assert sheet.width > 3 * 300
    assert [path.name for path in sorted((first / "step-000003" / "rgb_to_depth").glob("*.safetensors"))] == [
        "depth.safetensors",
        "rgb.safetensors",
    ]
