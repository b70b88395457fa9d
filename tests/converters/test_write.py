"""Failures while writing: full disks, killed runs, two runs at once. A file is complete, or it does not exist."""

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest
from adapter_files import TREE, small
from comfyui_omnix.converters import AdapterError, convert, verify, write_bytes
from comfyui_omnix.converters.files.write import remove_stale
from comfyui_omnix.lab.host import tiny

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with one adapter."""
    tiny.save(small(), tmp_path / "in" / TREE)
    return tmp_path / "in"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "dup"])
def test_a_full_disk_at_any_step(call: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise NO_SPACE

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        convert(source / TREE, tmp_path / "out" / "b.safetensors")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "out" / "b.safetensors")
    assert names(tmp_path / "out") == []


def test_a_full_disk_that_only_flushing_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that can't be made again is flushed to the disk before it gets its name."""

    def full(_: int) -> None:
        raise NO_SPACE

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_bytes(tmp_path / "b", b"xy", force=False)
    assert names(tmp_path) == []


def test_writes_that_are_cut_short_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, position: real(descriptor, data[:3], position))
    write_bytes(tmp_path / "b", bytes(range(20)), force=False)
    assert (tmp_path / "b").read_bytes() == bytes(range(20))


def test_reads_that_are_cut_short_are_continued(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, size, position: real(descriptor, min(size, 5), position))
    convert(source / TREE, tmp_path / "b.safetensors")
    monkeypatch.undo()
    verify(source / TREE, tmp_path / "b.safetensors")


def test_systems_without_pread_and_pwrite(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: seek and read, seek and write."""
    monkeypatch.delattr(os, "pread")
    monkeypatch.delattr(os, "pwrite")
    convert(source / TREE, tmp_path / "b.safetensors")
    monkeypatch.undo()
    verify(source / TREE, tmp_path / "b.safetensors")


def test_a_source_that_can_not_be_read_is_the_one_that_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        convert(source / TREE, tmp_path / "b.safetensors")
    assert caught.value.filename == str(source / TREE)


def test_a_source_that_is_written_to_meanwhile(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, done = os.pwrite, []

    def pwrite(*arguments: object) -> int:
        if not done:
            done.append(True)
            with open(source / TREE, "ab") as file:
                file.write(b"more")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(
        AdapterError, match="expected a complete file, got one that another program is writing; try again later"
    ):
        convert(source / TREE, tmp_path / "out" / "b.safetensors")
    assert names(tmp_path / "out") == []


def test_file_systems_without_hard_links(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", unknown)
    convert(source / TREE, tmp_path / "out" / "b.safetensors")
    with pytest.raises(AdapterError, match="expected no file of that name"):
        write_bytes(tmp_path / "out" / "b.safetensors", b"", force=False)
    assert names(tmp_path / "out") == ["b.safetensors"]


def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a temporary file is only taken for abandoned after a day."""

    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unknown)
    left = tmp_path / ".omnix-1-0123456789abcdef.part"
    left.write_bytes(b"x")
    write_bytes(tmp_path / "b", b"y", force=False)
    assert names(tmp_path) == [left.name, "b"]
    yesterday = time.time() - 90_000
    os.utime(left, (yesterday, yesterday))
    remove_stale(tmp_path)
    assert names(tmp_path) == ["b"]


def test_only_our_own_leftovers_are_removed(tmp_path: Path) -> None:
    others = [".omnix-1-0123456789abcdef.part.safetensors", ".omnix-x-0123456789abcdef.part", "omnix.part"]
    for name in others:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / ".omnix-1-00000000000000ff.part").symlink_to(tmp_path / "target")
    (tmp_path / ".omnix-1-0123456789abcdef.part").write_bytes(b"x")
    remove_stale(tmp_path)
    assert names(tmp_path) == sorted([*others, ".omnix-1-00000000000000ff.part", "target"])


def test_zeros_are_holes(tmp_path: Path) -> None:
    """Rows that no part fills take no room on the disk, if the file system knows holes at all."""
    with open(tmp_path / "probe", "wb") as file:
        file.truncate(1 << 20)
    if_holes = (tmp_path / "probe").stat().st_blocks == 0
    modules = [f"single_transformer_blocks.0.attn.to_{name}" for name in "qkv"]
    state = tiny.adapter(tiny.Geometry(hidden=1024), rank=32, modules=modules)
    source = tiny.save(state, tmp_path / "a.safetensors")
    convert(source, tmp_path / "b.safetensors")
    found = (tmp_path / "b.safetensors").stat()
    assert found.st_size > 7 * 1024 * 96 * 4
    assert (found.st_blocks * 512 < 0.6 * found.st_size) == if_holes
    verify(source, tmp_path / "b.safetensors")


def test_an_existing_destination_is_kept(source: Path, tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_text("mine")
    with pytest.raises(
        AdapterError, match=r"b\.safetensors: file: expected no file of that name, got one; use --force"
    ):
        convert(source / TREE, tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_text() == "mine"
    convert(source / TREE, tmp_path / "b.safetensors", force=True)
    verify(source / TREE, tmp_path / "b.safetensors")
