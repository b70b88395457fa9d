"""Trees that are converted again, headers that name another model, and folders without the name of a task."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from adapters import Tensors, adapter, alpha, cli, read, write
from comfyui_omnix.converters import AdapterError, convert, convert_tree, inspect, open_adapter


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write(tmp_path / "in" / "rgb_to_depth" / "rgb" / "pytorch_lora_weights.safetensors", adapter())
    write(tmp_path / "in" / "rgb_to_depth_depth.safetensors", adapter(1))
    write(tmp_path / "in" / "style.safetensors", adapter(2))
    return tmp_path / "in"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_is_done_and_unchanged_is_skipped_and_counted(tree: Path, tmp_path: Path) -> None:
    assert cli(tmp_path, tree, tmp_path / "out").returncode == 0
    before = contents(tmp_path / "out")
    done = cli(tmp_path, tree, tmp_path / "out")
    assert done.returncode == 0 and done.stderr == ""
    assert "3 of 3 files done (3 of them skipped, because they are unchanged), 0 failed" in done.stdout.splitlines()[-1]
    assert contents(tmp_path / "out") == before
    assert json.loads(cli(tmp_path, "--json", tree, tmp_path / "out").stdout)["summary"] == {
        "files": 3,
        "done": 3,
        "failed": 0,
        "skipped": 3,
    }
    assert all(outcome.result.skipped for outcome in convert_tree(tree, tmp_path / "out"))
    (tmp_path / "out" / "style.safetensors").unlink()
    done = cli(tmp_path, tree, tmp_path / "out")
    assert "3 of 3 files done (2 of them skipped, because they are unchanged), 0 failed" in done.stdout
    done = cli(tmp_path, "--force", tree, tmp_path / "out")
    assert done.returncode == 0 and "skipped" not in done.stdout


@pytest.mark.parametrize("change", ["source", "result", "cut", "dtype", "other file", "neighbour"])
def test_what_has_changed_is_not_skipped(change: str, tree: Path, tmp_path: Path) -> None:
    assert cli(tmp_path, tree, tmp_path / "out").returncode == 0
    result, options = tmp_path / "out" / "style.safetensors", ()
    if change == "source":
        write(tree / "style.safetensors", adapter(7))
    elif change == "result":
        metadata, tensors = read(result)
        write(result, tensors, metadata | {"omnix_converter": "0"})
    elif change == "cut":
        result.write_bytes(result.read_bytes()[:-1])
    elif change == "dtype":
        options = ("--dtype", "fp32")
    elif change == "neighbour":
        peft = {key.replace("transformer.", "base_model.model.", 1): raw for key, raw in adapter().items()}
        write(tree / "style" / "adapter_model.safetensors", peft)
        assert cli(tmp_path, tree, tmp_path / "out").returncode == 0
        (tree / "style" / "adapter_config.json").write_text('{"lora_alpha": 8, "r": 2}')
    else:
        shutil.copy(tmp_path / "out" / "rgb_to_depth" / "rgb.safetensors", result)
    done = cli(tmp_path, *options, tree, tmp_path / "out", blocked=())
    assert done.returncode == 1 and "expected no file of that name, got one; use --force" in done.stderr


def test_a_split_tree_again(tree: Path, tmp_path: Path) -> None:
    cli(tmp_path, tree, tmp_path / "out")
    assert cli(tmp_path, "--split", tmp_path / "out", tmp_path / "back").returncode == 0
    done = cli(tmp_path, "--split", tmp_path / "out", tmp_path / "back")
    assert done.returncode == 0 and "3 of them skipped" in done.stdout


def test_a_single_file_is_never_skipped(tree: Path, tmp_path: Path) -> None:
    for status in (0, 1):
        assert cli(tmp_path, tree / "style.safetensors", tmp_path / "b.safetensors").returncode == status


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_file_where_a_folder_should_be(dry: tuple[str, ...], tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rgb_to_depth").write_text("a file")
    done = cli(tmp_path, *dry, tree, tmp_path / "out")
    assert done.returncode == 1 and "1 of 3 files done, 2 failed" in done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and all("a file is where a folder should be" in line for line in lines)
    assert "try again" not in done.stderr


def test_a_dry_run_needs_torch_where_the_run_would(tmp_path: Path) -> None:
    scaled = adapter() | {"transformer.transformer_blocks.0.attn.to_q.alpha": alpha(3)}
    source = write(tmp_path / "a.safetensors", scaled)
    done = cli(tmp_path, "--dry-run", source, tmp_path / "b.safetensors")
    assert done.returncode == 1 and "expected torch for the arithmetic" in done.stderr


# --- whose model ------------------------------------------------------------------------------------------------------


def wide(hidden: int, blocks: int, parts: tuple[str, ...] = ("to_q", "to_k")) -> Tensors:
    tensors: Tensors = {}
    for i in range(blocks):
        for part in parts:
            key = f"transformer.transformer_blocks.{i}.attn.{part}"
            tensors |= {
                f"{key}.lora_{letter}.weight": adapter()[
                    "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
                ]._replace(shape=shape, data=bytes(2 * hidden))
                for letter, shape in (("A", (1, hidden)), ("B", (hidden, 1)))
            }
    return tensors


HEADERS = {
    "ai-toolkit": ({"ss_base_model_version": "flux2_klein_9b"}, wide(4096, 2), "a FLUX.2 klein 9B LoRA"),
    "modelspec": ({"modelspec.architecture": "flux-2-dev/lora"}, wide(6144, 2), "a FLUX.2 LoRA"),
    "as wide as FLUX.1": ({"base_model": "black-forest-labs/FLUX.2-klein-4B"}, wide(3072, 3), "a FLUX.2 klein 4B LoRA"),
    "PEFT's": (
        {"lora_adapter_metadata": '{"transformer.base_model_name_or_path": "black-forest-labs/FLUX.2-dev"}'},
        wide(3072, 2),
        "a FLUX.2 LoRA",
    ),
    "Krea": ({"ss_base_model_version": "krea2"}, wide(3072, 2), "a Krea 2 LoRA"),
    "Krea, of other names": ({"modelspec.architecture": "krea-2/lora"}, wide(2560, 2), "a Krea 2 LoRA"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_names_another_model_is_believed(name: str, tmp_path: Path) -> None:
    metadata, tensors, words = HEADERS[name]
    source = write(tmp_path / "a.safetensors", tensors, metadata)
    with pytest.raises(AdapterError, match=f"expected a FLUX.1 LoRA, got {words}, as its header says"):
        open_adapter(source)
    assert inspect(source)["format"].startswith(words)


OWN = {
    "FLUX.1": ({"modelspec.architecture": "flux-1-dev/lora"}, wide(3072, 2)),
    "FLUX.1 Krea": ({"base_model": "black-forest-labs/FLUX.1-Krea-dev"}, wide(3072, 2)),
    "more blocks than FLUX.2 klein has": ({"ss_base_model_version": "flux2"}, wide(3072, 12)),
    "a title": ({"modelspec.title": "Krea style for flux2 fans"}, wide(3072, 2)),
}


@pytest.mark.parametrize("name", OWN)
def test_a_header_does_not_make_flux_1_another_model(name: str, tmp_path: Path) -> None:
    metadata, tensors = OWN[name]
    convert(write(tmp_path / "a.safetensors", tensors, metadata), tmp_path / "b.safetensors")


# --- which task -------------------------------------------------------------------------------------------------------

PLACES = {
    "styles/anime.safetensors": None,
    "styles/anime/pytorch_lora_weights.safetensors": None,
    "flux/people/face.safetensors": None,
    "rgb_to_depth/rgb.safetensors": "rgb_to_depth",
    "rgb_to_depth/other.safetensors": None,
    "OmniX/rgb_to_shading/rgb/pytorch_lora_weights.safetensors": "rgb_to_shading",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_that_names_nothing_of_omnix_gives_no_task(place: str, tmp_path: Path) -> None:
    write(tmp_path / "in" / place, adapter())
    assert cli(tmp_path, tmp_path / "in", tmp_path / "out").returncode == 0
    (result,) = (tmp_path / "out").rglob("*.safetensors")
    assert read(result)[0].get("omnix_task") == PLACES[place]
    assert inspect(tmp_path / "in" / place, tmp_path / "in")["task"] == PLACES[place]


def test_torchs_own_dtypes_are_taken(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter(dtype="BF16"))
    convert(source, tmp_path / "b.safetensors", dtype=torch.bfloat16)
    convert(source, tmp_path / "c.safetensors", dtype="BF16")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()
    with pytest.raises(ValueError, match="Expected a dtype of"):
        convert(source, tmp_path / "d.safetensors", dtype=torch.int8)
