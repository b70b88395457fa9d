"""Injected faults and bad input: one clear sentence, exit status 1, and no file under the final name."""

import fcntl
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from adapters import HIDDEN, ORDINARY_USER, RANK, Raw, Tensors, adapter, cli, files_below, read, write
from comfyui_omnix.converters import convert
from comfyui_omnix.converters.files.write import remove_stale

KEY = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
UP = KEY.replace("lora_A", "lora_B")


def raw(*shape: int, dtype: str = "BF16") -> Raw:
    size = {"BF16": 2, "I64": 8}[dtype]
    for length in shape:
        size *= length
    return Raw(dtype, shape, bytes(size))


def without(*keys: str) -> Tensors:
    return {name: tensor for name, tensor in adapter().items() if name not in keys}


SHAPES = "is this a FLUX.1 adapter?"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (
        lambda path: write(path, adapter()) and os.truncate(path, path.stat().st_size - 1),
        "expected data up to byte 1536, got a file with 1535; the file is cut off, so download it again.",
    ),
    "header longer than the file": (
        lambda path: path.write_bytes((10**6).to_bytes(8, "little") + b"{}"),
        "header: expected at most 2 bytes in a file of 10, got a length of 1000000; "
        "the file is damaged, so download it again.",
    ),
    "empty": (
        lambda path: path.write_bytes(b""),
        "header: expected at least 8 bytes, got 0; the file is damaged, so download it again.",
    ),
    "wrong shape of down": (
        lambda path: write(path, adapter() | {KEY: raw(RANK, HIDDEN + 1)}),
        f"{KEY}: expected down [r, {HIDDEN}], got [{RANK}, {HIDDEN + 1}]; {SHAPES}",
    ),
    "wrong shape of up": (
        lambda path: write(path, adapter() | {UP: raw(HIDDEN, RANK + 1)}),
        f"{UP}: expected up [{HIDDEN}, {RANK}], got [{HIDDEN}, {RANK + 1}]; {SHAPES}",
    ),
    "a vector": (
        lambda path: write(path, adapter() | {KEY: raw(RANK)}),
        f"{KEY}: expected a floating point matrix, got BF16 [{RANK}]; {SHAPES}",
    ),
    "integers": (
        lambda path: write(path, adapter() | {KEY: raw(RANK, HIDDEN, dtype="I64")}),
        f"{KEY}: expected a floating point matrix, got I64 [{RANK}, {HIDDEN}]; {SHAPES}",
    ),
    "A without B": (
        lambda path: write(path, without(UP)),
        f"{KEY}: expected lora_B (up) for transformer_blocks.0.attn.to_q, got none; download the file again.",
    ),
    "B without A": (
        lambda path: write(path, without(KEY)),
        f"{UP}: expected lora_A (down) for transformer_blocks.0.attn.to_q, got none; download the file again.",
    ),
    "DoRA": (
        lambda path: write(path, adapter() | {KEY.replace("lora_A.weight", "lora_magnitude_vector"): raw(HIDDEN)}),
        f"{KEY.replace('lora_A.weight', 'lora_magnitude_vector')}: expected plain LoRA, got DoRA, "
        "which can't be fused into a LoRA; merge it into the model.",
    ),
    "a layer twice": (
        lambda path: write(path, adapter() | {KEY.removeprefix("transformer."): raw(RANK, HIDDEN)}),
        f"{KEY.removeprefix('transformer.')}: expected one down per layer, got {KEY} too; remove one of them.",
    ),
    "nothing in it": (
        lambda path: write(path, {}),
        "expected LoRA layers of FLUX.1 such as transformer.transformer_blocks.0.attn.to_q, got no tensor at all; "
        f"{SHAPES}",
    ),
    "nothing of FLUX": (
        lambda path: write(path, {"a.lora_A.weight": raw(2, 3), "a.lora_B.weight": raw(3, 2)}),
        "expected LoRA layers of FLUX.1 such as transformer.transformer_blocks.0.attn.to_q, got a.lora_A.weight, "
        f"a.lora_B.weight; {SHAPES}",
    ),
    "already converted": (
        lambda path: convert(write(path.parent.parent / "x.safetensors", adapter()), path),
        "omnix_blocks: expected an original adapter, got one that is already converted; "
        "put it under ComfyUI's loras folder, or give it to --split for the original.",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_in_a_tree(name: str, tmp_path: Path) -> None:
    make, sentence = BAD[name]
    good = write(tmp_path / "in" / "rgb_to_depth_depth.safetensors", adapter())
    bad = tmp_path / "in" / "rgb_to_depth_rgb.safetensors"
    make(bad)
    before = bad.read_bytes()
    done = cli(tmp_path, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {bad}: ") and done.stderr.endswith(f"{sentence}\n")
    assert "1 of 2 files done, 1 failed" in done.stdout.splitlines()[-1]
    assert files_below(tmp_path / "out") == ["rgb_to_depth/depth.safetensors"]
    assert bad.read_bytes() == before and read(good)[1] == adapter()


def test_two_files_for_one_stream_are_both_refused(tmp_path: Path) -> None:
    names = ("a/rgb_to_depth_rgb.safetensors", "rgb_to_depth/rgb/pytorch_lora_weights.safetensors")
    for seed, name in enumerate((*names, "rgb_to_depth_depth.safetensors")):
        write(tmp_path / "in" / name, adapter(seed))
    done = cli(tmp_path, tmp_path / "in", tmp_path / "out")
    paths = [tmp_path / "in" / name for name in names]
    for path, other in (paths, paths[::-1]):
        want = f"error: {path}: rgb_to_depth/rgb: expected one file, got {other} too; move one of them away."
        assert want in done.stderr.splitlines()
    assert done.returncode == 1 and "1 of 3 files done, 2 failed" in done.stdout
    assert files_below(tmp_path / "out") == ["rgb_to_depth/depth.safetensors"]


def test_names_that_differ_in_case_alone_are_both_refused(tmp_path: Path) -> None:
    for name in ("a/b.safetensors", "A/B.safetensors"):
        write(tmp_path / "in" / name, adapter())
    done = cli(tmp_path, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 1 and done.stderr.count("expected one file, got") == 2
    assert not (tmp_path / "out").exists()


def test_an_unreadable_folder_and_file(tmp_path: Path) -> None:
    write(tmp_path / "in" / "locked" / "rgb_to_depth_rgb.safetensors", adapter())
    file = write(tmp_path / "in" / "rgb_to_depth_depth.safetensors", adapter())
    write(tmp_path / "in" / "rgb_to_pbr_pbr.safetensors", adapter())
    locked = tmp_path / "in" / "locked"
    locked.chmod(0)
    file.chmod(0)
    done = cli(tmp_path, tmp_path / "in", tmp_path / "out", start=ORDINARY_USER)
    locked.chmod(0o700)
    want = {f"error: {path}: Permission denied; check the permissions." for path in (locked, file)}
    assert done.returncode == 1 and set(done.stderr.splitlines()) == want
    assert "1 of 3 files done, 2 failed" in done.stdout and files_below(tmp_path / "out") == [
        "rgb_to_pbr/pbr.safetensors"
    ]


def test_a_destination_that_is_read_only(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter())
    (tmp_path / "out").mkdir(mode=0o500)
    done = cli(tmp_path, source, tmp_path / "out" / "b.safetensors", start=ORDINARY_USER)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}/out/b.safetensors: Permission denied; check the permissions.\n"
    assert files_below(tmp_path / "out") == []


# A file may become no larger than this: the kernel refuses the write, in the middle of the file.
_LIMIT = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))\n"
# A full disk, as the kernel reports it: at the n-th write, or when the file is sent to the disk.
_FULL = """
import errno, os

def _full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

os.{call} = _full
"""


@pytest.mark.parametrize("size", [1, 3_000, 5_000])
def test_no_room_for_the_file(size: int, tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter())
    done = cli(tmp_path, source, tmp_path / "out" / "b.safetensors", start=_LIMIT.format(size))
    assert done.returncode == 1 and done.stderr == (
        f"error: {tmp_path}/out/b.safetensors: File too large; "
        "write to a file system that supports files of this size.\n"
    )
    assert files_below(tmp_path / "out") == []


@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "dup"])
def test_a_full_disk(call: str, tmp_path: Path) -> None:
    source, before = write(tmp_path / "a.safetensors", adapter()), b"an older result"
    (tmp_path / "b.safetensors").write_bytes(before)
    done = cli(tmp_path, "--force", source, tmp_path / "b.safetensors", start=_FULL.format(call=call))
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}/b.safetensors: No space left on device; free some disk space.\n"
    assert (tmp_path / "b.safetensors").read_bytes() == before
    assert not any(name.endswith(".part") for name in files_below(tmp_path))


# kill -9 at the n-th call of a function of `os`.
_KILL = """
import os, signal

signal.signal(signal.SIGINT, signal.default_int_handler)  # the test run may ignore it
_real, _left = os.{call}, {count}

def _deadly(*arguments, **options):
    global _left
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    _left -= 1
    return _real(*arguments, **options)

os.{call} = _deadly
"""


@pytest.mark.parametrize(("call", "count"), [("pwrite", 0), ("pwrite", 7), ("ftruncate", 0), ("dup", 0), ("link", 0)])
def test_kill_9_leaves_no_result_and_the_next_run_cleans_up(call: str, count: int, tmp_path: Path) -> None:
    source, out = write(tmp_path / "rgb_to_depth_rgb.safetensors", adapter()), tmp_path / "out"
    done = cli(tmp_path, source, out, start=_KILL.format(call=call, count=count))
    assert done.returncode == -signal.SIGKILL
    (left,) = files_below(out)
    assert left.startswith("rgb_to_depth/.omnix-") and left.endswith(".part")
    write(tmp_path / "in" / "rgb_to_depth_depth.safetensors", adapter(1))
    assert cli(tmp_path, tmp_path / "in", out).returncode == 0
    assert files_below(out) == ["rgb_to_depth/depth.safetensors"]
    assert cli(tmp_path, "--verify", tmp_path / "in", out).returncode == 0


def test_kill_9_after_the_name_was_given(tmp_path: Path) -> None:
    source, out = write(tmp_path / "rgb_to_depth_rgb.safetensors", adapter()), tmp_path / "out"
    done = cli(tmp_path, source, out, start=_KILL.format(call="unlink", count=0))
    assert done.returncode == -signal.SIGKILL and len(files_below(out)) == 2
    assert cli(tmp_path, "--verify", source, out).returncode == 0
    assert cli(tmp_path, "--force", source, out).returncode == 0
    assert files_below(out) == ["rgb_to_depth/rgb.safetensors"]


def test_a_temporary_file_is_no_source(tmp_path: Path) -> None:
    write(tmp_path / "in" / ".omnix-1-0123456789abcdef.part", adapter())
    write(tmp_path / "in" / ".hidden.safetensors", adapter())
    done = cli(tmp_path, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 1 and "expected .safetensors files in this folder, got none" in done.stderr


@pytest.mark.parametrize("options", [(), ("--force",)])
def test_also_a_run_that_is_refused_cleans_up(options: tuple[str, ...], tmp_path: Path) -> None:
    source = write(tmp_path / "rgb_to_depth_rgb.safetensors", adapter())
    target = tmp_path / "out" / "rgb_to_depth" / "rgb.safetensors"
    target.parent.mkdir(parents=True)
    target.write_text("mine")
    (target.parent / ".omnix-1-0123456789abcdef.part").write_bytes(b"half")
    done = cli(tmp_path, *options, source, tmp_path / "out")
    assert done.returncode == (0 if options else 1)
    assert files_below(tmp_path / "out") == ["rgb_to_depth/rgb.safetensors"]


def test_the_temporary_file_of_a_living_run_stays(tmp_path: Path) -> None:
    living, dead = (tmp_path / f".omnix-{pid}-0123456789abcdef.part" for pid in (1, 2))
    other = tmp_path / ".omnix-3-x.part"
    for path in (living, dead, other):
        path.write_bytes(b"half")
    with open(living, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_stale(tmp_path)
    assert files_below(tmp_path) == sorted([living.name, other.name])


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter())
    start = _KILL.format(call="pwrite", count=3).replace("SIGKILL", "SIGINT")
    done = cli(tmp_path, source, tmp_path / "out", start=start)
    assert done.returncode == 1 and files_below(tmp_path / "out") == []
    assert done.stderr == ("omnix-convert: interrupted; finished files are complete, the others were not written\n")


def test_ctrl_c_reports_what_was_done_as_json(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        write(tmp_path / "in" / f"{name}.safetensors", adapter(seed))
    start = _KILL.format(call="link", count=1).replace("SIGKILL", "SIGINT")
    done = cli(tmp_path, "--json", tmp_path / "in", tmp_path / "out", start=start)
    reported = json.loads(done.stdout)
    assert done.returncode == 1 and reported["error"].startswith("interrupted; ")
    assert [Path(file["source"]).name for file in reported["files"]] == ["a.safetensors"]
    assert reported["summary"] == {"files": 1, "done": 1, "failed": 1}
