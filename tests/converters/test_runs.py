"""Runs and the system: killed, interrupted, two at once, without permission, with a full disk."""

import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from adapter_files import TREE, cli, command, small
from comfyui_omnix.converters import convert, verify
from comfyui_omnix.lab.host import tiny


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with one adapter."""
    tiny.save(small(), tmp_path / "in" / TREE)
    return tmp_path / "in"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Stops a conversion where its file is written but has no name yet, until a line comes on its standard input.
PAUSED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # the process that runs the tests may ignore it
real = os.dup
def dup(descriptor):
    print("written", flush=True)
    sys.stdin.readline()
    return real(descriptor)
os.dup = dup
from converters.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def paused(root: Path, *arguments: object) -> "subprocess.Popen[str]":
    """Start a conversion and return once it waits with its temporary file written."""
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSED, *map(str, arguments)],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


def resumed(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Let a paused conversion continue; return its status and its output."""
    out, err = process.communicate("\n", timeout=60)
    return process.returncode, out + err


def test_a_killed_run_leaves_no_result_and_the_next_cleans_up(source: Path, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "rgb_to_depth"
    process = paused(root, source, tmp_path / "out")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    (left,) = names(folder)
    assert left.endswith(".part") and left.startswith(f".omnix-{process.pid}-")
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    assert cli(root, source, tmp_path / "out").returncode == 0
    assert names(folder) == ["rgb.safetensors"]
    verify(source / TREE, folder / "rgb.safetensors")


@pytest.mark.parametrize("force", [False, True])
def test_of_two_runs_at_once_one_wins_and_nothing_is_lost(
    force: bool, source: Path, root: Path, tmp_path: Path
) -> None:
    """The temporary file of a living run is not taken for an abandoned one."""
    options = ("--force",) if force else ()
    folder = tmp_path / "out" / "rgb_to_depth"
    first = paused(root, source, tmp_path / "out", *options)
    second = paused(root, source, tmp_path / "out", *options)
    assert len(names(folder)) == 2
    assert resumed(second)[0] == 0
    before = (folder / "rgb.safetensors").read_bytes()
    status, said = resumed(first)
    assert (status, "expected no file of that name, got one; use --force" in said) == (
        (0, False) if force else (1, True)
    )
    assert names(folder) == ["rgb.safetensors"]
    assert (folder / "rgb.safetensors").read_bytes() == before


def test_many_runs_at_once(source: Path, root: Path, tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(command(source, tmp_path / "out"), cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(6)
    ]
    said = [process.communicate(timeout=120)[0].decode() for process in processes]
    assert all(
        process.returncode == 0 or "expected no file of that name" in text for process, text in zip(processes, said)
    )
    assert sum("pairs moved" in text for text in said) == 1, said  # who came later skipped it, or lost the race
    assert names(tmp_path / "out" / "rgb_to_depth") == ["rgb.safetensors"]
    verify(source / TREE, tmp_path / "out" / "rgb_to_depth" / "rgb.safetensors")


def test_a_file_too_large_for_the_disk(source: Path, root: Path, tmp_path: Path) -> None:
    """The kernel's own limit on a file's size, which stops a write in its middle as a full disk does."""
    tiny.save(small(seed=1, rank=1), source / "rgb_to_pbr_rgb.safetensors")
    large, little = (
        convert(source / name, tmp_path / "sizes" / name).bytes_out for name in (TREE, "rgb_to_pbr_rgb.safetensors")
    )
    limit = (large + little) // 2
    assert little < limit < large
    found = cli(
        root,
        source,
        tmp_path / "out",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert found.returncode == 1
    target = tmp_path / "out" / "rgb_to_depth" / "rgb.safetensors"
    assert (
        found.stderr == f"error: {target}: File too large; write to a file system that supports files of this size.\n"
    )
    assert "1 of 2 files done, 1 failed" in found.stdout
    assert names(target.parent) == []
    assert names(tmp_path / "out" / "rgb_to_pbr") == ["rgb.safetensors"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_an_ordinary_file(
    mask: int, mode: int, source: Path, root: Path, tmp_path: Path
) -> None:
    assert cli(root, source, tmp_path / "out", umask=mask).returncode == 0
    assert (tmp_path / "out" / "rgb_to_depth" / "rgb.safetensors").stat().st_mode & 0o7777 == mode


def test_an_interrupted_run_cleans_up(source: Path, root: Path, tmp_path: Path) -> None:
    process = paused(root, source, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted; finished files are complete" in err + out
    assert names(tmp_path / "out" / "rgb_to_depth") == []


@pytest.mark.parametrize("where", ["source", "destination"])
def test_without_permission(where: str, root: Path) -> None:
    """A real folder that can't be read or written; root, whom nothing stops, becomes another user for it."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        base.chmod(0o755)
        for number, part in enumerate(("locked/rgb_to_depth_rgb", "open/rgb_to_depth_depth")):
            tiny.save(small(number), base / "in" / f"{part}.safetensors").chmod(0o644)
        (base / "out").mkdir()
        (base / "out").chmod(0o777 if where == "source" else 0o555)
        if where == "source":
            (base / "in" / "locked").chmod(0)
        try:
            found = as_another_user(root, base / "in", base / "out")
        finally:
            (base / "in" / "locked").chmod(0o755)
            (base / "out").chmod(0o755)
        assert found.returncode == 1
        locked = base / "in" / "locked" if where == "source" else base / "out" / "rgb_to_depth"
        assert f"error: {locked}: Permission denied; check the permissions.\n" in found.stderr
        done = ["out/rgb_to_depth/depth.safetensors"] if where == "source" else []
        assert [str(path.relative_to(base)) for path in (base / "out").rglob("*.*")] == done


def as_another_user(root: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    code = (
        "import os, sys\nfrom converters.__main__ import main\n"
        "main([*sys.argv[1:], '--dry-run'])\n"  # loads the modules, which the other user may not be able to read
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=60, check=False)
