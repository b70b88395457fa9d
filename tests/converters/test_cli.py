"""The command line as a process that can't import torch and numpy, unless arithmetic is needed."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from adapters import adapter, alpha, cli, files_below, peak_of_cli, prepared, read, write
from comfyui_omnix.converters import convert
from comfyui_omnix.converters.lora import layout

ROOT = Path(__file__).resolve().parents[2]
TREE = {
    "rgb_to_depth/rgb/pytorch_lora_weights.safetensors": "rgb_to_depth/rgb.safetensors",
    "rgb_to_depth_depth.safetensors": "rgb_to_depth/depth.safetensors",
    "loose.safetensors": "loose.safetensors",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for seed, name in enumerate(TREE):
        write(tmp_path / "in" / name, adapter(seed))
    return tmp_path / "in"


def test_the_blocker_of_these_tests_blocks(tmp_path: Path) -> None:
    done = cli(tmp_path, "--version", start="import torch")
    assert "torch is not here" in done.stderr


def test_a_tree(tree: Path, tmp_path: Path) -> None:
    done = cli(tmp_path, tree, tmp_path / "out")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    notes = [line for line in lines if line.startswith("note: no known model has layers 16 wide")]
    assert (
        len(lines) == 4 + len(notes)
        and len(notes) == 3
        and re.fullmatch(r"3 of 3 files done, 0 failed, 0\.\d MB, \d+\.\d\d s", lines[-1])
    )
    line = rf"{tree}/loose.safetensors -> {tmp_path}/out/loose.safetensors: 5 layers, 9 pairs moved, rank 2, "
    assert any(re.fullmatch(line + r"\d\.\d -> \d\.\d MB in \d\.\d\d s", found) for found in lines)
    assert files_below(tmp_path / "out") == sorted(TREE.values())


def test_a_file_into_a_folder_or_a_name(tree: Path, tmp_path: Path) -> None:
    source = tree / "rgb_to_depth_depth.safetensors"
    assert cli(tmp_path, source, tmp_path / "out").returncode == 0
    assert cli(tmp_path, source, tmp_path / "new" / "mine.safetensors").returncode == 0
    assert files_below(tmp_path / "out") == ["rgb_to_depth/depth.safetensors"]
    first, second = tmp_path / "out/rgb_to_depth/depth.safetensors", tmp_path / "new/mine.safetensors"
    assert first.read_bytes() == second.read_bytes()


def test_verify_and_split(tree: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    cli(tmp_path, tree, out)
    done = cli(tmp_path, "--verify", tree, out)
    assert done.returncode == 0, done.stderr
    assert (
        f"{out}/loose.safetensors: 5 of 5 deltas equal, bit for bit, those of {tree}/loose.safetensors" in done.stdout
    )
    done = cli(tmp_path, "--split", out, back)
    assert done.returncode == 0, done.stderr
    assert files_below(back) == [
        "loose.safetensors",
        "rgb_to_depth/depth/pytorch_lora_weights.safetensors",
        "rgb_to_depth/rgb/pytorch_lora_weights.safetensors",
    ]
    assert read(back / "loose.safetensors")[1] == adapter(2)


def test_verify_fails_on_a_changed_result(tree: Path, tmp_path: Path) -> None:
    cli(tmp_path, tree, tmp_path / "out")
    path = tmp_path / "out" / "loose.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = cli(tmp_path, "--verify", tree, tmp_path / "out")
    assert done.returncode == 1 and "2 of 3 files done, 1 failed" in done.stdout
    assert f"error: {path}: single_blocks.0.linear1: expected zeros outside the blocks" in done.stderr


def test_json(tree: Path, tmp_path: Path) -> None:
    write(tree / "bad.safetensors", {})
    done = cli(tmp_path, "--json", tree, tmp_path / "out")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and found["summary"] == {"files": 4, "done": 3, "failed": 1}
    good = next(file for file in found["files"] if file.get("stream") == "depth")
    assert (good["source"], good["error"]) == (str(tree / "rgb_to_depth_depth.safetensors"), None)
    assert (good["moved"], good["computed"], good["parts"], good["ranks"], good["dtypes"]) == (9, 0, 9, [2], ["BF16"])
    assert good["bytes_out"] == (tmp_path / "out/rgb_to_depth/depth.safetensors").stat().st_size
    assert good["layers"]["single_blocks.0.linear1"] == [
        f"single_transformer_blocks.0.attn.to_{name}" for name in "qkv"
    ]
    bad = next(file for file in found["files"] if file["error"])
    assert bad["source"] == str(tree / "bad.safetensors") and "is this a FLUX.1 adapter?" in bad["error"]


@pytest.mark.parametrize("command", ["--inspect", "--verify", "--split"])
def test_json_of_the_other_commands(command: str, tree: Path, tmp_path: Path) -> None:
    cli(tmp_path, tree, tmp_path / "out")
    places = {"--inspect": [tree], "--verify": [tree, tmp_path / "out"], "--split": [tmp_path / "out", tmp_path / "b"]}
    done = cli(tmp_path, command, "--json", *places[command])
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["command"] == command[2:] and found["summary"]["done"] == 3
    assert all(len(file["layers"]) == 5 for file in found["files"])


def test_json_says_why_there_is_nothing(tmp_path: Path) -> None:
    done = cli(tmp_path, "--json", tmp_path / "nowhere", tmp_path / "out")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and found["files"] == [] and found["summary"]["failed"] == 1
    assert (
        found["error"] == f"{tmp_path}/nowhere: expected a file or folder, found nothing of that name; check the path."
    )


def test_inspect(tree: Path, tmp_path: Path) -> None:
    done = cli(tmp_path, "--inspect", tree / "rgb_to_depth_depth.safetensors", "--keys")
    assert done.returncode == 0
    for line in (
        "format: a FLUX.1 LoRA in Diffusers layout",
        "task: rgb_to_depth",
        "stream: depth",
        "geometry: hidden 16, mlp 64, double 1, single 1",
        "ranks: 2",
        "scales: 1.0",
        "  transformer.transformer_blocks.0.attn.to_k.lora_A.weight, "
        "transformer.transformer_blocks.0.attn.to_k.lora_B.weight -> double_blocks.0.img_attn.qkv rows 16:32, rank 2",
    ):
        assert line in done.stdout.splitlines()


FOREIGN = {
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (
        "a Stable Diffusion LoRA",
        "this converter is for FLUX.1; load it with the model it was trained for",
    ),
}


@pytest.mark.parametrize("key", FOREIGN)
def test_foreign_files_are_answered(key: str, tmp_path: Path) -> None:
    name, advice = FOREIGN[key]
    up = key.replace("down.weight", "up.weight").replace("lora_A", "lora_B")
    raws = list(adapter().values())
    source = write(tmp_path / "a.safetensors", {key: raws[0], up: raws[1]})
    done = cli(tmp_path, "--inspect", source)
    assert done.returncode == 0 and f"format: {name}\nadvice: {advice}" in done.stdout
    done = cli(tmp_path, source, tmp_path / "out")
    want = f"error: {source}: expected a FLUX.1 LoRA, got {name}; {advice}.\n"
    assert (done.returncode, done.stderr) == (1, want) and not (tmp_path / "out").exists()


def test_layout_is_the_printed_table(tmp_path: Path) -> None:
    done = cli(tmp_path, "--layout")
    assert (done.returncode, done.stdout) == (0, layout.table() + "\n")
    assert done.stdout in (ROOT / "docs" / "converter.md").read_text(encoding="utf-8")


def test_dry_run_writes_nothing(tree: Path, tmp_path: Path) -> None:
    done = cli(tmp_path, "--dry-run", tree, tmp_path / "out")
    assert done.returncode == 0 and done.stdout.count("; not written") == 3 and not (tmp_path / "out").exists()
    assert "0.0 MB not written" in done.stdout or re.search(r"\d MB not written", done.stdout)


def test_existing_files_need_force(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cli(tmp_path, tree, out)
    (out / "loose.safetensors").write_text("mine")
    done = cli(tmp_path, tree, out)
    want = f"error: {out}/loose.safetensors: file: expected no file of that name, got one; use --force to replace it."
    assert done.returncode == 1 and want in done.stderr.splitlines()
    assert "2 of 3 files done (2 of them skipped, because they are unchanged), 1 failed" in done.stdout
    assert (out / "loose.safetensors").read_text() == "mine"
    assert cli(tmp_path, "--force", tree, out).returncode == 0
    assert read(out / "loose.safetensors")[1]


def test_unused_keys(tmp_path: Path) -> None:
    extra = {f"text_model.{i}.weight": raw for i, raw in enumerate(list(adapter().values())[:7])}
    source = write(tmp_path / "a.safetensors", adapter() | extra)
    done = cli(tmp_path, source, tmp_path / "out")
    some = ", ".join(f"text_model.{i}.weight" for i in range(5))
    assert done.returncode == 1 and done.stderr == (
        f"error: {source}: text_model.0.weight: expected every tensor to belong to a FLUX.1 layer, got 7 that do not "
        f"({some}); use --allow-unused to leave them out.\n"
    )
    done = cli(tmp_path, "--allow-unused", source, tmp_path / "out")
    assert done.returncode == 0 and "; left out 7 tensors" in done.stdout


def test_arithmetic_asks_for_torch(tmp_path: Path) -> None:
    key = "transformer.transformer_blocks.0.attn.to_q"
    source = write(tmp_path / "a.safetensors", adapter() | {f"{key}.alpha": alpha(1)})
    done = cli(tmp_path, source, tmp_path / "out")
    assert done.returncode == 1 and done.stderr.startswith(
        f"error: {source}: {key}.lora_B.weight: expected torch for the arithmetic of a scale or dtype, got "
    )
    assert "install torch, or run this in ComfyUI's Python." in done.stderr and files_below(tmp_path / "out") == []
    assert cli(tmp_path, source, tmp_path / "out", blocked=()).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "SOURCE is missing"),
        (["a"], "DESTINATION is missing"),
        (["--inspect", "a", "b"], "--inspect takes no DESTINATION"),
        (["--inspect", "--split", "a"], "not allowed with argument"),
        (["--verify", "--dtype", "float16", "a", "b"], "--dtype can't be used with --verify"),
        (["--dtype", "int8", "a", "b"], "invalid choice"),
        (["--keys", "a", "b"], "--keys needs --inspect"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_wrong_calls_end_with_status_2(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = cli(tmp_path, *arguments)
    assert done.returncode == 2 and sentence in done.stderr


@pytest.mark.parametrize("there", [False, True])
def test_nothing_to_convert_is_an_error(there: bool, tmp_path: Path) -> None:
    if there:
        (tmp_path / "empty").mkdir()
    done = cli(tmp_path, tmp_path / "empty", tmp_path / "out")
    assert done.returncode == 1 and done.stderr.startswith(f"omnix-convert: {tmp_path}/empty: expected ")
    assert done.stderr.endswith("; check the path.\n") and not (tmp_path / "out").exists()


def test_names_of_any_bytes_are_shown_and_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"r\xfcck\x1b[31m.safetensors")
    write(tmp_path / "in" / name, adapter())
    done = cli(tmp_path, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and os.listdir(tmp_path / "out") == [name]


def test_memory_of_a_full_size_adapter(tmp_path: Path) -> None:
    """OmniX's real size: 456 tensors, rank 64, 224 MB; and a tree of two."""
    full = {"hidden": 3072, "rank": 64, "double": 19, "single": 38}
    write(tmp_path / "in" / "rgb_to_depth_rgb.safetensors", adapter(**full))
    assert (tmp_path / "in" / "rgb_to_depth_rgb.safetensors").stat().st_size > 224_000_000
    assert peak_of_cli(tmp_path, tmp_path / "in", tmp_path / "out") < 64
    assert peak_of_cli(tmp_path, "--verify", tmp_path / "in", tmp_path / "out") < 64
    assert peak_of_cli(tmp_path, "--split", tmp_path / "out", tmp_path / "back") < 64
    back = tmp_path / "back" / "rgb_to_depth" / "rgb" / "pytorch_lora_weights.safetensors"
    assert read(back)[1] == read(tmp_path / "in" / "rgb_to_depth_rgb.safetensors")[1]


def test_memory_does_not_grow_with_the_rank(tmp_path: Path) -> None:
    """One double block of rank 1024 in float32: factors of 50 MB each."""
    write(tmp_path / "a.safetensors", adapter(hidden=3072, rank=1024, dtype="F32", double=1, single=1))
    assert peak_of_cli(tmp_path, tmp_path / "a.safetensors", tmp_path / "b.safetensors") < 64


def test_a_changed_factor_is_found_without_torch(tree: Path, tmp_path: Path) -> None:
    source, result = tree / "loose.safetensors", tmp_path / "b.safetensors"
    cli(tmp_path, source, result)
    metadata, tensors = read(result)
    key = "diffusion_model.double_blocks.0.img_mlp.0.lora_A.weight"
    raw = tensors[key]
    write(result, tensors | {key: raw._replace(data=bytes([raw.data[0] ^ 1]) + raw.data[1:])}, metadata)
    done = cli(tmp_path, "--verify", source, result)
    assert done.returncode == 1 and done.stderr == (
        f"error: {result}: double_blocks.0.img_mlp.0: expected the source's transformer.transformer_blocks.0"
        ".ff.net.0.proj.lora_A.weight, bit for bit, got other bytes; convert it again.\n"
    )


def test_who_reads_may_stop(tree: Path, tmp_path: Path) -> None:
    """As `| head` does: no traceback, and no word of the source."""
    out = tmp_path / "out"
    code = f"{sys.executable} -m converters {tree} {out} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\n", "") or (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_full_output_is_distinguished_from_a_full_disk(options: tuple[str, ...], tree: Path, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "converters", *options, str(tree), str(tmp_path / "out")]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        *(1, "omnix-convert: the output: No space left on device; free some disk space.\n"),
    )


def test_inspect_lists_alphas(tmp_path: Path) -> None:
    key = "transformer.transformer_blocks.0.attn.to_q"
    source = write(tmp_path / "a.safetensors", adapter() | {f"{key}.alpha": alpha(2)})
    done = cli(tmp_path, "--inspect", "--keys", source)
    assert (
        f"  {key}.lora_A.weight, {key}.lora_B.weight, {key}.alpha -> double_blocks.0.img_attn.qkv rows" in done.stdout
    )


def test_names_with_escapes_reach_no_terminal(tmp_path: Path) -> None:
    source = write(tmp_path / "b\x1b[31mred.safetensors", adapter())
    for command in ((source, tmp_path / "r.safetensors"), ("--verify", source, tmp_path / "r.safetensors")):
        done = cli(tmp_path, *command)
        assert done.returncode == 0 and "\x1b" not in done.stdout + done.stderr


def test_left_out_tensors_are_counted(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter() | {"other.weight": next(iter(adapter().values()))})
    done = cli(tmp_path, "--allow-unused", source, tmp_path / "b.safetensors")
    assert "; left out 1 tensor in " in done.stdout
    done = cli(tmp_path, "--split", tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert ", its tensors bit for bit in " in done.stdout


@pytest.mark.parametrize("name", ["bf16", "BF16", "bfloat16"])
def test_dtypes_have_short_names(name: str, tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter())
    assert cli(tmp_path, "--dtype", name, source, tmp_path / "b.safetensors").returncode == 0
    assert convert(source, tmp_path / "c.safetensors", dtype=name).dtypes == ("BF16",)
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()


def test_inspect_is_a_summary_unless_keys_are_asked_for(tree: Path, tmp_path: Path) -> None:
    short, long = cli(tmp_path, "--inspect", tree).stdout, cli(tmp_path, "--inspect", tree, "--keys").stdout
    assert " -> " not in short and "layers: 5" in short and len(short.splitlines()) < 80
    assert long.count(" -> ") == 9 * short.count("layers: 5")


@pytest.mark.parametrize("width", [72, 100])
@pytest.mark.parametrize("command", ["convert", "--inspect", "--layout", "--help", "error"])
def test_lines_fit_the_terminal(command: str, width: int, tree: Path, tmp_path: Path) -> None:
    arguments = {
        "convert": [tree, tmp_path / "out"],
        "--inspect": ["--inspect", "--keys", tree],
        "error": [tree, tmp_path / "depth.txt"],
    }.get(command, [command])
    master, slave = pty.openpty()
    words = [sys.executable, "-m", "converters", *map(str, arguments)]
    env = prepared(tmp_path / "site") | {"COLUMNS": str(width)}
    with subprocess.Popen(words, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave) as process:
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal is gone once the process has ended
            while part := os.read(master, 1 << 16):
                shown += part
        process.wait()
    os.close(master)
    lines = shown.replace(b"\r\x1b[K", b"\n").decode().splitlines()  # what erases the bar begins a line
    assert lines and max(map(len, lines)) <= width


def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    for arguments in ((tmp_path / "a.safetensors", tmp_path / "out"), ("--inspect", tmp_path / "a.safetensors")):
        done = cli(tmp_path, *arguments)
        assert done.returncode == 1 and "expected an ordinary file, got a pipe or device" in done.stderr


@pytest.mark.parametrize("command", [(), ("--split",), ("--verify",)])
def test_a_name_of_another_file_is_no_destination(command: tuple[str, ...], tree: Path, tmp_path: Path) -> None:
    for source in (tree, tree / "loose.safetensors"):
        done = cli(tmp_path, *command, source, tmp_path / "depth.txt")
        assert done.returncode == 1 and "depth.txt: expected a folder" in done.stderr
    assert not (tmp_path / "depth.txt").exists()
    done = cli(tmp_path, tree, tmp_path / "x.safetensors")
    assert done.returncode == 1 and not (tmp_path / "x.safetensors").exists()


def test_verify_counts_and_names_what_was_left_out(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter() | {"foreign.layer.weight": alpha(1)})
    result = tmp_path / "b.safetensors"
    assert cli(tmp_path, source, result).returncode == 1
    assert cli(tmp_path, source, result, "--allow-unused").returncode == 0
    done = cli(tmp_path, "--verify", source, result)
    assert done.stdout.endswith("; 1 tensor of the source left out (foreign.layer.weight)\n")
    assert json.loads(cli(tmp_path, "--verify", "--json", source, result).stdout)["files"][0]["unused"] == [
        "foreign.layer.weight"
    ]


def test_a_width_that_no_model_has_is_reported(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter())
    done = cli(tmp_path, source, tmp_path / "b.safetensors")
    assert done.stdout.splitlines()[1].startswith("note: no known model has layers 16 wide (FLUX.1: 3072)")
