"""Conversion of files and state dicts, against dense products made without the converter."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from adapters import HIDDEN, RANK, Raw, adapter, alpha, read, write
from comfyui_omnix.converters import (
    AdapterError,
    Geometry,
    convert,
    convert_state_dict,
    convert_tree,
    inspect,
    open_adapter,
)
from comfyui_omnix.lab.host import tiny
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

# Written by hand, not computed from the table: what each fused layer is made of.
QKV = ("double_blocks.0.img_attn.qkv", [f"transformer_blocks.0.attn.to_{name}" for name in "qkv"])
LINEAR1 = (
    "single_blocks.1.linear1",
    [f"single_transformer_blocks.1.{name}" for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")],
)
EVERY = [name for name in tiny.linears() if "context" not in name or "embedder" not in name]


def delta(state: dict[str, Tensor], layer: str, scale: float = 1.0, prefix: str = "transformer.") -> Tensor:
    down, up = (state[f"{prefix}{layer}.lora_{letter}.weight"].double() for letter in "AB")
    return up @ down * scale


def fused_delta(state: dict[str, Tensor], layer: str) -> Tensor:
    return delta(state, layer, prefix="diffusion_model.")


@pytest.mark.parametrize(("layer", "parts"), [QKV, LINEAR1])
def test_fused_delta_is_the_deltas_one_below_the_other(layer: str, parts: list[str], tmp_path: Path) -> None:
    ranks = {name: 1 + i % 5 for i, name in enumerate(tiny.linears())}
    state = tiny.adapter(rank=ranks, modules=list(tiny.linears()))
    convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    result = load_file(tmp_path / "b.safetensors")
    assert torch.equal(fused_delta(result, layer), torch.cat([delta(state, part) for part in parts]))


def test_an_absent_part_is_zero_rows(tmp_path: Path) -> None:
    state = tiny.adapter(modules=["single_transformer_blocks.1.attn.to_k"])
    convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    result = load_file(tmp_path / "b.safetensors")
    h = tiny.TINY.hidden
    assert set(result) == {f"diffusion_model.single_blocks.1.linear1.lora_{letter}.weight" for letter in "AB"}
    got = fused_delta(result, "single_blocks.1.linear1")
    assert got.shape == (7 * h, h) and torch.equal(got[h : 2 * h], delta(state, LINEAR1[1][1]))
    assert not got[:h].any() and not got[2 * h :].any()


def test_norm_out_has_its_halves_swapped(tmp_path: Path) -> None:
    state = tiny.adapter(modules=["norm_out.linear"])
    convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    first, second = delta(state, "norm_out.linear").chunk(2)
    got = fused_delta(load_file(tmp_path / "b.safetensors"), "final_layer.adaLN_modulation.1")
    assert torch.equal(got, torch.cat([second, first]))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_bytes_are_moved_whatever_they_mean(dtype: str, tmp_path: Path) -> None:
    tensors = adapter(dtype=dtype)  # random bytes: NaN with payloads, subnormal numbers, minus zero
    report = convert(write(tmp_path / "a.safetensors", tensors), tmp_path / "b.safetensors")
    _, result = read(tmp_path / "b.safetensors")
    size = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}.get(dtype, 1)
    parts = [tensors[f"transformer.transformer_blocks.0.attn.to_{name}.lora_B.weight"] for name in "qkv"]
    row, own = 3 * RANK * size, RANK * size
    up = result["diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight"]
    want = bytearray(row * 3 * HIDDEN)
    for number, part in enumerate(parts):
        for line in range(HIDDEN):
            start = (number * HIDDEN + line) * row + number * own
            want[start : start + own] = part.data[line * own : (line + 1) * own]
    assert up == Raw(dtype, (3 * HIDDEN, 3 * RANK), bytes(want))
    down = result["diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight"]
    assert down.data == b"".join(
        tensors[f"transformer.transformer_blocks.0.attn.to_{name}.lora_A.weight"].data for name in "qkv"
    )
    assert (report.moved, report.computed, report.dtypes, report.exact) == (9, 0, (dtype,), True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scale_is_folded_in_float32_and_rounded_once(dtype: torch.dtype, tmp_path: Path) -> None:
    state = tiny.adapter(dtype=dtype, alpha=3.0, modules=QKV[1])
    report = convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    up = load_file(tmp_path / "b.safetensors")["diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight"]
    h = tiny.TINY.hidden
    for number, part in enumerate(QKV[1]):
        want = (state[f"transformer.{part}.lora_B.weight"].float() * (3.0 / 8)).to(dtype)
        got = up[number * h : (number + 1) * h, number * 8 : (number + 1) * 8]
        assert up.dtype == dtype and torch.equal(got.float(), want.float())
    assert (report.moved, report.computed) == (0, 3)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_dtype_is_changed_on_demand(dtype: str, tmp_path: Path) -> None:
    state = tiny.adapter()
    convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors", dtype=dtype)
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    kind = kinds.get(dtype) or {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}[dtype]
    result = load_file(tmp_path / "b.safetensors")
    assert {tensor.dtype for tensor in result.values()} == {kind}
    down = result["diffusion_model.double_blocks.1.img_mlp.2.lora_A.weight"]
    want = state["transformer.transformer_blocks.1.ff.net.2.lora_A.weight"].to(kind)
    assert torch.equal(down.float(), want.float())


def test_numbers_too_large_for_the_dtype_are_refused(tmp_path: Path) -> None:
    state = {name: tensor * 1e6 for name, tensor in tiny.adapter().items()}
    source = tiny.save(state, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match=r"lora_A.weight: expected numbers that F16 can hold, got larger ones"):
        convert(source, tmp_path / "b.safetensors", dtype="F16")
    assert not (tmp_path / "b.safetensors").exists()


def test_an_unknown_dtype_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected a dtype of F64, F32"):
        convert(write(tmp_path / "a.safetensors", adapter()), tmp_path / "b.safetensors", dtype="int8")


def test_mixed_dtypes_in_a_layer_are_widened_exactly_and_aligned(tmp_path: Path) -> None:
    state = tiny.adapter(modules=QKV[1], dtype=torch.float16)
    key = f"transformer.{QKV[1][1]}.lora_B.weight"
    state[key] = state[key].to(torch.bfloat16)
    odd = tiny.adapter(modules=["x_embedder"], rank=3, dtype=torch.float8_e4m3fn)
    convert(tiny.save(state | odd, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    result = load_file(tmp_path / "b.safetensors")
    assert result["diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight"].dtype == torch.float32
    assert result["diffusion_model.img_in.lora_A.weight"].dtype == torch.float8_e4m3fn
    want = torch.cat([delta(state, part) for part in QKV[1]])
    assert torch.equal(fused_delta(result, QKV[0]), want)


@pytest.mark.parametrize("spelling", tiny.SPELLINGS)
def test_all_spellings_give_the_same_file(spelling: str, tmp_path: Path) -> None:
    state = tiny.adapter(spelling=spelling, modules=EVERY)
    convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    convert(tiny.save(tiny.adapter(modules=EVERY), tmp_path / "c.safetensors"), tmp_path / "d.safetensors")
    first, second = read(tmp_path / "b.safetensors")[1], read(tmp_path / "d.safetensors")[1]
    assert first == second


@pytest.mark.parametrize("geometry", [tiny.Geometry(128, 1, 0), tiny.Geometry(384, 3, 5), tiny.Geometry(128, 0, 40)])
def test_other_geometries(geometry: tiny.Geometry, tmp_path: Path) -> None:
    state = tiny.adapter(geometry, rank=2)
    report = convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert report.geometry == Geometry(geometry.hidden, 4 * geometry.hidden, geometry.double, geometry.single)
    assert len(report.layers) == 4 * geometry.double + geometry.single


def test_metadata_is_kept_and_added(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", adapter(), {"format": "pt", "mine": 'größe "1"', "omnix_blocks": "old"})
    convert(source, tmp_path / "b.safetensors", slot=("rgb_to_depth", "depth"))
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["mine"]) == ("pt", 'größe "1"')
    assert (metadata["omnix_task"], metadata["omnix_stream"]) == ("rgb_to_depth", "depth")
    assert metadata["omnix_source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert metadata["omnix_converter"]
    assert json.loads(metadata["omnix_blocks"])["single_blocks.0.linear1"] == [
        [f"single_transformer_blocks.0.attn.to_{name}", HIDDEN * i, HIDDEN, RANK] for i, name in enumerate("qkv")
    ]


def test_the_runtime_reads_the_same_blocks_from_both_files(tmp_path: Path) -> None:
    convert(write(tmp_path / "a.safetensors", adapter()), tmp_path / "b.safetensors")
    contents = [
        (path := tmp_path / name).read_bytes() and (open_adapter(path), path.read_bytes())
        for name in ("a.safetensors", "b.safetensors")
    ]
    for layer, fused in contents[0][0].layers.items():
        for first, second in zip(fused.blocks, contents[1][0].layers[layer].blocks, strict=True):
            assert first[:5] == second[:5]
            for slabs in ((first.down, second.down), (first.up[0], second.up[0])):
                bytes_of = [
                    b"".join(
                        data[at : at + slab.columns * 2]
                        for at in range(slab.offset, slab.offset + slab.rows * slab.stride, slab.stride)
                    )
                    for slab, (_, data) in zip(slabs, contents)
                ]
                assert bytes_of[0] == bytes_of[1]


def test_source_is_untouched_and_dry_run_writes_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "in" / "a.safetensors", adapter())
    before = (source.read_bytes(), source.stat().st_mtime_ns)
    report = convert(source, tmp_path / "out" / "b.safetensors", dry_run=True)
    assert not (tmp_path / "out").exists() and len(report.layers) == 5
    convert(source, tmp_path / "out" / "b.safetensors")
    assert (source.read_bytes(), source.stat().st_mtime_ns) == before


def test_zeros_are_holes(tmp_path: Path) -> None:
    convert(write(tmp_path / "a.safetensors", adapter(hidden=1024, double=0)), tmp_path / "b.safetensors")
    found = (tmp_path / "b.safetensors").stat()
    used = found.st_blocks * 512
    assert found.st_size - used > 0.3 * found.st_size


def test_rank_zero_and_empty_up(tmp_path: Path) -> None:
    convert(write(tmp_path / "a.safetensors", adapter(rank=0)), tmp_path / "b.safetensors")
    result = load_file(tmp_path / "b.safetensors")
    assert result["diffusion_model.single_blocks.0.linear1.lora_B.weight"].shape == (7 * HIDDEN, 0)


def test_state_dicts_give_what_files_give(tmp_path: Path) -> None:
    state = tiny.adapter(alpha=3.0, modules=EVERY)
    before = {name: tensor.clone() for name, tensor in state.items()}
    converted, metadata, _ = convert_state_dict(state, {"mine": "1"})
    convert(tiny.save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    result = load_file(tmp_path / "b.safetensors")
    assert set(result) == set(converted) and all(torch.equal(result[name], converted[name]) for name in result)
    assert metadata["mine"] == "1" and "omnix_blocks" in metadata
    assert all(torch.equal(state[name], before[name]) for name in before) and set(state) == set(before)


def test_state_dicts_are_checked(tmp_path: Path) -> None:
    state = tiny.adapter()
    with pytest.raises(
        AdapterError, match=r"state dict: norm.weight: expected every tensor to belong to a FLUX.1 layer"
    ):
        convert_state_dict(state | {"norm.weight": torch.ones(3)})
    fused = convert_state_dict(state)
    with pytest.raises(AdapterError, match="already converted"):
        convert_state_dict(fused.state, fused.metadata)
    again = convert_state_dict(fused.state).state
    assert all(torch.equal(again[name], tensor) for name, tensor in fused.state.items()) and set(again) == set(
        fused.state
    )


def test_trees_keep_task_and_stream(tmp_path: Path) -> None:
    names = {
        "rgb_to_depth/rgb/pytorch_lora_weights.safetensors": "rgb_to_depth/rgb.safetensors",
        "rgb_to_depth_depth.safetensors": "rgb_to_depth/depth.safetensors",
        "sub/rgb_to_pbr/pbr.safetensors": "sub/rgb_to_pbr/pbr.safetensors",
        "style.safetensors": "style.safetensors",
        "flux/style/soft.safetensors": "flux/style/soft.safetensors",
        "other/style/soft/adapter_model.safetensors": "other/style/soft.safetensors",
    }
    for seed, name in enumerate(names):
        write(tmp_path / "in" / name, adapter(seed))
    outcomes = convert_tree(tmp_path / "in", tmp_path / "out")
    assert [outcome.error for outcome in outcomes] == [None] * len(names)
    found = {
        outcome.job.source.relative_to(tmp_path / "in").as_posix(): outcome.job.destination for outcome in outcomes
    }
    assert {name: path.relative_to(tmp_path / "out").as_posix() for name, path in found.items()} == names
    assert open_adapter(tmp_path / "out/rgb_to_depth/depth.safetensors").stream == "depth"


def test_inspect_reports_all_of_an_original(tmp_path: Path) -> None:
    source = write(
        tmp_path / "rgb_to_depth_rgb.safetensors",
        adapter() | {"transformer.transformer_blocks.0.attn.to_q.alpha": alpha(1)},
    )
    found = inspect(source)
    assert found["format"] == "a FLUX.1 LoRA in Diffusers layout" and found["tensors"] == 19
    assert (found["task"], found["stream"]) == ("rgb_to_depth", "rgb")
    assert found["geometry"] == {"hidden": HIDDEN, "mlp": 4 * HIDDEN, "double": 1, "single": 1}
    assert (found["ranks"], found["alphas"], found["scales"], found["dtypes"]) == ([RANK], [1.0], [0.5, 1.0], ["BF16"])
    part = found["layers"]["double_blocks.0.img_attn.qkv"]["parts"][1]
    assert part["down"] == "transformer.transformer_blocks.0.attn.to_k.lora_A.weight"
    assert part["rows"] == [HIDDEN, 2 * HIDDEN]
    convert(source, tmp_path / "b.safetensors")
    assert inspect(tmp_path / "b.safetensors")["format"] == "converted by omnix-convert"
