"""A scale in the header is multiplied into the result, and no loader can read it from the result's header again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_files import SMALL, cli, metadata_of, small
from comfyui_omnix.converters import AdapterError, convert, convert_state_dict, inspect, split, verify
from comfyui_omnix.lab.host import tiny
from host_deltas import furthest, host_deltas
from safetensors.torch import load_file
from torch import Tensor

RANK = 4
CLIP_KEY = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
T5_KEY = "text_encoder_2.encoder.block.2.layer.1.DenseReluDense.wo"


def scaled(state: dict[str, Tensor], scale: float, folder: Path) -> dict[str, Tensor]:
    """Return the deltas of a file whose up factors are multiplied beforehand."""
    wide = {key: tensor.float() * (scale if "lora_B" in key else 1.0) for key, tensor in state.items()}
    convert(tiny.save(wide, folder / "w.safetensors"), folder / "x.safetensors")
    return host_deltas(folder / "x.safetensors")


TOLD: dict[str, tuple[dict[str, str], float]] = {
    "Diffusers": ({"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8, "transformer.r": RANK})}, 2.0),
    "Diffusers, odd": ({"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 3.3})}, 3.3 / RANK),
    "Diffusers, scale 1": ({"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": RANK})}, 1.0),
    "plain": ({"lora_alpha": "8"}, 2.0),
    "plain, of the transformer": ({"transformer.lora_alpha": "2"}, 0.5),
    "plain, rank-stabilised": ({"lora_alpha": "8", "use_rslora": "True"}, 4.0),
}


@pytest.mark.parametrize("name", TOLD)
def test_no_loader_finds_the_scale_a_second_time(name: str, tmp_path: Path) -> None:
    reported, scale = TOLD[name]
    metadata = {"format": "pt", **reported, "mine": "kept"}
    source = tiny.save(small(), tmp_path / "a.safetensors", metadata)
    convert(source, tmp_path / "b.safetensors", header_alpha="apply")
    assert furthest(host_deltas(tmp_path / "b.safetensors"), scaled(small(), scale, tmp_path)) < 2**-7
    left = metadata_of(tmp_path / "b.safetensors")
    assert not any("lora_alpha" in key.partition(":")[0] or key == "lora_adapter_metadata" for key in left)
    assert left["mine"] == "kept"
    verify(source, tmp_path / "b.safetensors")
    report = split(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    if report.exact:
        assert (tmp_path / "c.safetensors").read_bytes() == source.read_bytes()
    else:
        assert metadata_of(tmp_path / "c.safetensors") == {"format": "pt", "mine": "kept"}
    _, found, _ = convert_state_dict(load_file(source), metadata, header_alpha="apply")
    assert not any("lora_alpha" in key.partition(":")[0] or key == "lora_adapter_metadata" for key in found)


def test_a_plain_alpha_is_asked_about(root: Path, tmp_path: Path) -> None:
    source = tiny.save(small(), tmp_path / "a.safetensors", {"lora_alpha": "8"})
    with pytest.raises(AdapterError) as caught:
        convert(source, tmp_path / "b.safetensors")
    assert str(caught.value) == (
        f"{source}: lora_alpha: expected the scale in alpha tensors, got alpha 8 in the header (scale 2), which "
        "ComfyUI ignores and newer loaders apply; use --header-alpha apply or --header-alpha ignore."
    )
    assert any("--header-alpha" in note for note in inspect(source)["notes"])
    for answer, scale in (("ignore", 1.0), ("apply", 2.0)):
        result = tmp_path / f"{answer}.safetensors"
        assert cli(root, "--header-alpha", answer, source, result).returncode == 0
        assert cli(root, "--verify", source, result).returncode == 0
        assert furthest(host_deltas(result), scaled(small(), scale, tmp_path)) < 2**-7
        split(result, tmp_path / "c.safetensors", force=True)
        assert (tmp_path / "c.safetensors").read_bytes() == source.read_bytes()
        for name in ("w", "x"):
            (tmp_path / f"{name}.safetensors").unlink()


@pytest.mark.parametrize(
    ("state", "metadata"),
    [
        (small(), {"lora_alpha": "4"}),
        (small(alpha=4.0), {"lora_alpha": "16"}),
        (small(), {"lora_alpha": "not known"}),
        (small(), {"text_encoder.lora_alpha": "16"}),
        (small(), {"lora_alpha": "16", "lora_adapter_metadata": '{"lora_alpha": 4}'}),
    ],
    ids=["scale 1", "alpha tensors", "no number", "a text encoder's", "a configuration"],
)
def test_nothing_is_asked_if_nothing_depends_on_it(
    state: dict[str, Tensor], metadata: dict[str, str], tmp_path: Path
) -> None:
    convert(tiny.save(state, tmp_path / "a.safetensors", metadata), tmp_path / "b.safetensors")
    assert furthest(host_deltas(tmp_path / "b.safetensors"), scaled(small(), 1.0, tmp_path)) == 0


LARGE = [1e39, 1e300, 10**19 * 10.0**25]


@pytest.mark.parametrize("alpha", LARGE)
@pytest.mark.parametrize("where", ["header", "plain", "beside", "tensor", "pattern", "text"])
def test_an_alpha_above_float32_stops_its_own_file_alone(where: str, alpha: float, root: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "bad").mkdir(parents=True)
    state, metadata = small(), {}
    config = {"alpha_pattern": {"to_q": alpha}} if where == "pattern" else {"lora_alpha": alpha}
    if where in ("header", "pattern"):
        metadata = {"lora_adapter_metadata": json.dumps(config)}
    elif where == "plain":
        metadata = {"lora_alpha": str(alpha)}
    elif where == "text":
        state |= {f"{CLIP_KEY}.lora_A.weight": torch.ones(2, 8), f"{CLIP_KEY}.lora_B.weight": torch.ones(8, 2)}
        metadata = {"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": alpha})}
    elif where == "tensor":
        state["transformer.transformer_blocks.0.attn.to_q.alpha"] = torch.tensor(alpha, dtype=torch.float64)
    else:
        (tmp_path / "in" / "bad" / "adapter_config.json").write_text(json.dumps(config))
    tiny.save(state, tmp_path / "in" / "bad" / "adapter_model.safetensors", metadata)
    tiny.save(small(), tmp_path / "in" / "good.safetensors")
    done = cli(root, "--header-alpha=apply", tmp_path / "in", tmp_path / "out")
    assert done.returncode == 1 and "1 of 2 files done, 1 failed" in done.stdout
    assert "expected an alpha that float32 can hold" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "out" / "good.safetensors").is_file()


def test_a_fault_of_the_converter_stops_its_own_file_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from comfyui_omnix.converters import tree

    for name in ("a", "b"):
        tiny.save(small(), tmp_path / "in" / f"{name}.safetensors")
    work = tree.jobs(tmp_path / "in", tmp_path / "out")

    def action(job: Any) -> str:
        if job.source.name.startswith("a"):
            raise RuntimeError("numbers beyond numbers")
        return "done"

    bad, good = tree.run(work, action)
    assert good.result == "done" and "RuntimeError (numbers beyond numbers)" in str(bad.error)


# --- text encoders ----------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Tensor, str]] = {
    "empty": (torch.ones(0), r"expected one number as alpha, got F32 \[0\]"),
    "two": (torch.ones(2), r"expected one number as alpha, got F32 \[2\]"),
    "NaN": (torch.tensor(torch.nan), "expected a finite number as alpha, got nan"),
    "infinite": (torch.tensor(torch.inf, dtype=torch.bfloat16), "expected a finite number as alpha, got inf"),
    "a truth": (torch.tensor(True), r"expected one number as alpha, got (BOOL|torch.bool)"),
    "too large": (torch.tensor(1e200, dtype=torch.float64), "expected an alpha that float32 can hold"),
}


def with_text(key: str, alpha: Tensor | None = None) -> dict[str, Tensor]:
    state = {**small(), f"{key}.lora_A.weight": torch.ones(2, 8), f"{key}.lora_B.weight": torch.ones(8, 2)}
    return state if alpha is None else {**state, f"{key}.alpha": alpha}


@pytest.mark.parametrize("key", [CLIP_KEY, T5_KEY, "lora_te1_text_model_encoder_layers_0_mlp_fc1"])
@pytest.mark.parametrize("name", WRONG)
def test_text_encoders_alphas_are_checked_like_the_transformers(name: str, key: str, tmp_path: Path) -> None:
    alpha, words = WRONG[name]
    with pytest.raises(AdapterError, match=words):
        convert(tiny.save(with_text(key, alpha), tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    with pytest.raises(AdapterError, match=words):
        convert_state_dict(with_text(key, alpha))


@pytest.mark.parametrize(("key", "component"), [(CLIP_KEY, "text_encoder"), (T5_KEY, "text_encoder_2")])
def test_each_text_encoder_has_its_own_alpha_in_the_header(key: str, component: str, tmp_path: Path) -> None:
    header = {"lora_adapter_metadata": json.dumps({f"{component}.lora_alpha": 5})}
    convert(tiny.save(with_text(key), tmp_path / "a.safetensors", header), tmp_path / "b.safetensors")
    (found,) = (float(tensor) for name, tensor in load_file(tmp_path / "b.safetensors").items() if "alpha" in name)
    assert found == 5
    with pytest.raises(AdapterError, match=r"expected one scale, got 4.* from its alpha tensor and 2\.5 from"):
        convert(
            tiny.save(with_text(key, torch.tensor(8.0)), tmp_path / "c.safetensors", header), tmp_path / "d.safetensors"
        )


def test_a_text_encoders_alpha_outlives_a_split_of_rounded_numbers(tmp_path: Path) -> None:
    header = {"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": 5, "transformer.lora_alpha": 3})}
    convert(tiny.save(with_text(CLIP_KEY), tmp_path / "a.safetensors", header), tmp_path / "b.safetensors")
    report = split(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert report.exact is False
    convert(tmp_path / "c.safetensors", tmp_path / "d.safetensors")
    before, after = (load_file(tmp_path / f"{name}.safetensors") for name in "bd")
    assert set(before) == set(after) and all(torch.equal(before[key], after[key]) for key in before)


def test_whole_numbers_are_no_factors_of_a_text_encoder(tmp_path: Path) -> None:
    state = with_text(CLIP_KEY) | {f"{CLIP_KEY}.lora_A.weight": torch.ones(2, 8, dtype=torch.int8)}
    with pytest.raises(AdapterError, match="expected floating point down"):
        convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")


# --- alpha 0 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_alpha_0_is_not_called_rounding_and_can_be_split(bias: bool, root: Path, tmp_path: Path) -> None:
    state = tiny.adapter(SMALL, rank=RANK, alpha=0.0, modules=["transformer_blocks.0.attn.to_out.0"])
    if bias:
        state["transformer.transformer_blocks.0.attn.to_out.0.lora_B.bias"] = torch.ones(8)
    tiny.save(state, tmp_path / "a.safetensors")
    done = cli(root, tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert done.returncode == 0 and "rounded" not in done.stdout
    lora = load_file(tmp_path / "b.safetensors")
    assert not bias or not bool(lora["diffusion_model.double_blocks.0.img_attn.proj.diff_b"].any())
    if not bias:
        assert not any(bool(delta.any()) for delta in host_deltas(tmp_path / "b.safetensors").values())
    verify(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    report = split(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert report.exact is not bias
    back = load_file(tmp_path / "c.safetensors")
    for key in ("lora_A.weight", "lora_B.weight", "alpha"):
        name = f"transformer.transformer_blocks.0.attn.to_out.0.{key}"
        assert torch.equal(back[name], state[name])


def test_alpha_0_of_one_part_of_a_layer(root: Path, tmp_path: Path) -> None:
    modules = [f"transformer_blocks.0.attn.to_{name}" for name in "qkv"]
    state = tiny.adapter(SMALL, rank=RANK, modules=modules, alpha={modules[1]: 0.0})
    tiny.save(state, tmp_path / "a.safetensors")
    done = cli(root, tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert done.returncode == 0 and "rounded" not in done.stdout and "an alpha of 0" in done.stdout
    delta = host_deltas(tmp_path / "b.safetensors")["double_blocks.0.img_attn.qkv"]
    assert not bool(delta[8:16].any()) and bool(delta[:8].any()) and bool(delta[16:].any())
    verify(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert split(tmp_path / "b.safetensors", tmp_path / "c.safetensors").exact is False
