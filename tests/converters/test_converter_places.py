"""Places for results: races, permissions, links and odd names; no result is in a wrong place or incomplete."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from adapters import ROOT, adapter, cli, files_below, prepared, read, write
from comfyui_omnix.converters import AdapterError
from comfyui_omnix.converters.files.write import write_bytes


@pytest.mark.parametrize("force", [False, True])
def test_a_race_to_one_destination(force: bool, tmp_path: Path) -> None:
    source, target = write(tmp_path / "a.safetensors", adapter(hidden=256)), tmp_path / "out" / "b.safetensors"
    options = ["--force"] if force else []
    for _ in range(3):
        target.unlink(missing_ok=True)
        racers = [
            subprocess.Popen(
                [sys.executable, "-m", "converters", *options, str(source), str(target)],
                cwd=ROOT,
                env=prepared(tmp_path / "site"),
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
            for _ in range(4)
        ]
        results = [(racer.communicate(timeout=120)[1], racer.returncode) for racer in racers]
        taken = f"error: {target}: file: expected no file of that name, got one; use --force to replace it.\n"
        assert sorted(results) == [("", 0)] * 4 if force else sorted(results) == [("", 0), *[(taken, 1)] * 3]
        assert files_below(tmp_path / "out") == ["b.safetensors"]
        assert cli(tmp_path, "--verify", source, target).returncode == 0


def test_threads_that_race_in_one_process(tmp_path: Path) -> None:
    outcomes: list[str] = []

    def run(number: int) -> None:
        try:
            write_bytes(tmp_path / "a", bytes([number]) * 100_000, force=False)
            outcomes.append("won")
        except AdapterError:
            outcomes.append("lost")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (tmp_path / "a").read_bytes()
    assert sorted(outcomes) == ["lost"] * 7 + ["won"] and len(set(content)) == 1 and len(content) == 100_000
    assert files_below(tmp_path) == ["a"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_an_ordinary_file(umask: int, mode: int, tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter())
    done = cli(tmp_path, source, tmp_path / "b.safetensors", start=f"import os; os.umask({umask})")
    assert done.returncode == 0
    assert stat.S_IMODE((tmp_path / "b.safetensors").stat().st_mode) == mode


def test_the_umask_is_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads of a server create files at the same time."""
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask was touched"))
    write_bytes(tmp_path / "a", b"x", force=False)


def test_links_in_the_destination_lead_nowhere(tmp_path: Path) -> None:
    write(tmp_path / "in" / "rgb_to_depth_rgb.safetensors", adapter())
    write(tmp_path / "in" / "rgb_to_pbr_pbr.safetensors", adapter())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rgb_to_depth").symlink_to(tmp_path / "elsewhere")
    done = cli(tmp_path, tmp_path / "in", tmp_path / "out")
    target = tmp_path / "out" / "rgb_to_depth" / "rgb.safetensors"
    assert done.returncode == 1 and done.stderr == (
        f"error: {target}: expected a path in {tmp_path}/out, got a link that leads to {tmp_path}/elsewhere; "
        "remove the link.\n"
    )
    assert files_below(tmp_path / "elsewhere") == [] and (tmp_path / "out" / "rgb_to_pbr" / "pbr.safetensors").is_file()


@pytest.mark.parametrize("force", [False, True])
def test_a_result_does_not_go_through_a_link_in_its_name(force: bool, tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter())
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "b.safetensors").symlink_to(tmp_path / "precious")
    done = cli(tmp_path, *(["--force"] if force else []), source, tmp_path / "b.safetensors")
    assert done.returncode == (0 if force else 1) and (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "b.safetensors").is_symlink() != force


def test_names_that_climb_stay_inside(tmp_path: Path) -> None:
    """A task and stream in metadata name no path; folders of odd names stay below the destination."""
    source = write(tmp_path / "in" / "a.safetensors", adapter(), {"omnix_task": "../../up", "omnix_stream": "/etc/x"})
    for name in ("..\\up", "...", "~", "深度", "e\u0301", "\u202egnp", "C:", "$HOME"):
        write(tmp_path / "in" / name / "stream" / "pytorch_lora_weights.safetensors", adapter())
    done = cli(tmp_path, tmp_path / "in", tmp_path / "new" / "out")
    assert done.returncode == 0, done.stderr
    assert len(files_below(tmp_path / "new" / "out")) == 9 and len(files_below(tmp_path / "new")) == 9
    assert cli(tmp_path, "--split", tmp_path / "new" / "out", tmp_path / "new" / "back").returncode == 0
    assert len(files_below(tmp_path / "new" / "back")) == 9 and len(files_below(tmp_path / "new")) == 18
    assert source.is_file() and not (tmp_path / "up").exists()


def test_the_source_is_no_destination(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter())
    (tmp_path / "link.safetensors").hardlink_to(source)
    for name in ("a.safetensors", "link.safetensors"):
        done = cli(tmp_path, "--force", source, tmp_path / name)
        want = f"error: {tmp_path / name}: file: expected another name than the source; choose another one.\n"
        assert (done.returncode, done.stderr) == (1, want)
    assert read(source)[1] == adapter()


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter())
    (tmp_path / "b.safetensors").mkdir()
    done = cli(tmp_path, "--force", source, tmp_path / "b.safetensors")
    want = f"error: {tmp_path}/b.safetensors: file: expected a file name, got a folder; choose another one.\n"
    assert (done.returncode, done.stderr) == (1, want)


def test_a_source_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter())
    start = f"""
import os
_real = os.pread
def _shrinking(*arguments):
    os.truncate({str(source)!r}, 3000)
    return _real(*arguments)
os.pread = _shrinking
"""
    done = cli(tmp_path, source, tmp_path / "out" / "b.safetensors", start=start)
    assert done.returncode == 1 and "the file changed while it was read, so start again." in done.stderr
    assert files_below(tmp_path / "out") == []


def test_a_source_that_is_written_to_meanwhile(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter())
    start = f"""
import os
_real = os.pread
def _writing(*arguments):
    os.utime({str(source)!r}, (1, 1))
    return _real(*arguments)
os.pread = _writing
"""
    done = cli(tmp_path, source, tmp_path / "out" / "b.safetensors", start=start)
    assert done.returncode == 1 and done.stderr == (
        f"error: {source}: expected a complete file, got one that another program is writing; try again later.\n"
    )
    assert files_below(tmp_path / "out") == []


def test_a_disk_without_links(tmp_path: Path) -> None:
    """FAT and some network shares know no hard links; then a result is renamed into place."""
    start = "import errno, os\ndef _none(*_):\n    raise OSError(errno.EPERM, 'no links')\nos.link = _none\n"
    source = write(tmp_path / "a.safetensors", adapter())
    assert cli(tmp_path, source, tmp_path / "out" / "b.safetensors", start=start).returncode == 0
    done = cli(tmp_path, source, tmp_path / "out" / "b.safetensors", start=start)
    assert done.returncode == 1 and "expected no file of that name" in done.stderr
    assert files_below(tmp_path / "out") == ["b.safetensors"]


def test_a_disk_that_fails_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        write_bytes(tmp_path / "a", b"new", force=True)
    assert caught.value.filename == str(tmp_path / "a")
    assert files_below(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"
