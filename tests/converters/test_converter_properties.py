"""Properties of every possible adapter (hypothesis draws them)."""

import math
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from adapters import Raw, Tensors, read, write
from comfyui_omnix.converters import convert, convert_state_dict, open_adapter, split, split_state_dict, verify
from comfyui_omnix.converters.files.slab import Slab
from comfyui_omnix.converters.fusing.outputs import common_dtype
from comfyui_omnix.lab.host import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

GEOMETRY = tiny.Geometry(hidden=128, double=2, single=2, text=32, pooled=16)
SIZES = tiny.linears(GEOMETRY)
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
# By hand, independent of the table: the fused layer of each part and its parts in row order.
FUSED = {
    "double_blocks.{}.img_attn.qkv": [f"transformer_blocks.{{}}.attn.to_{name}" for name in "qkv"],
    "double_blocks.{}.txt_attn.qkv": [f"transformer_blocks.{{}}.attn.add_{name}_proj" for name in "qkv"],
    "double_blocks.{}.img_attn.proj": ["transformer_blocks.{}.attn.to_out.0"],
    "double_blocks.{}.img_mlp.2": ["transformer_blocks.{}.ff.net.2"],
    "single_blocks.{}.linear1": [
        *(f"single_transformer_blocks.{{}}.attn.to_{name}" for name in "qkv"),
        "single_transformer_blocks.{}.proj_mlp",
    ],
    "single_blocks.{}.linear2": ["single_transformer_blocks.{}.proj_out"],
}
LAYERS = {
    layer.format(i): [part.format(i) for part in parts]
    for layer, parts in FUSED.items()
    for i in range(GEOMETRY.double)
}
PARTS = [part for parts in LAYERS.values() for part in parts]

# The size of the examples is the size of the model; drawing them takes longer than checking them.
checked = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True)


class Drawn(NamedTuple):
    """An adapter: tensors by name, and per part its rank and alpha."""

    state: dict[str, torch.Tensor]
    parts: Mapping[str, tuple[int, float | None, str]]


@st.composite
def adapters(draw: st.DrawFn) -> Drawn:
    """Draw which layers are adapted, each one's rank, alpha, dtype and spelling, and the numbers by a seed."""
    spelling = draw(st.sampled_from(sorted(tiny.SPELLINGS)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    kinds = draw(st.lists(st.sampled_from(sorted(DTYPES)), min_size=1, max_size=2))
    prefix, down, up = tiny.SPELLINGS[spelling]
    state, parts = {}, {}
    for part in draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=8, unique=True)):
        rank = draw(st.integers(0, 9))
        value = draw(st.none() | st.floats(-64, 64, width=32).filter(lambda number: abs(number) > 2**-10))
        dtype = draw(st.sampled_from(kinds))
        columns, rows = SIZES[part]
        state[f"{prefix}{part}{down}"] = torch.randn(rank, columns, generator=generator).to(DTYPES[dtype])
        state[f"{prefix}{part}{up}"] = torch.randn(rows, rank, generator=generator).to(DTYPES[dtype])
        if value is not None:
            state[f"{prefix}{part}.alpha"] = torch.tensor(value)
        parts[part] = (rank, value, dtype)
    return Drawn(state, parts)


def expected(drawn: Drawn, layer: str) -> torch.Tensor:
    """Return a layer's delta in float64, its scales folded and rounded as promised."""
    rows = []
    for part in LAYERS[layer]:
        columns, height = SIZES[part]
        if part not in drawn.parts:
            rows.append(torch.zeros(height, columns, dtype=torch.float64))
            continue
        rank, value, _ = drawn.parts[part]
        down, up = (tensor for name, tensor in drawn.state.items() if f".{part}.lora" in f".{name}")
        scale = 1.0 if value is None or rank == 0 else value / rank
        rows.append(folded(up, scale) @ down.double())
    return torch.cat(rows)


def unfolded(drawn: Drawn, layer: str) -> torch.Tensor:
    """Return a layer's delta in float64, its scales never rounded."""
    wide = {name: tensor.double() for name, tensor in drawn.state.items()}
    return expected(Drawn(wide, drawn.parts), layer)


def folded(up: torch.Tensor, scale: float) -> torch.Tensor:
    """Fold a scale as the design says: in float32 (float64 of a float64), rounded once to the dtype."""
    if scale == 1.0:
        return up.double()
    wide = up.double() if up.dtype == torch.float64 else up.float()
    return (wide * scale).to(up.dtype).double()


@given(adapters())
@checked
def test_fused_delta_is_the_concatenated_deltas(drawn: Drawn) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = tiny.save(drawn.state, Path(folder) / "a.safetensors")
        convert(source, Path(folder) / "b.safetensors")
        result = load_file(Path(folder) / "b.safetensors")
        found = verify(source, Path(folder) / "b.safetensors")
    factors = [name for name in result if not name.endswith(".alpha")]
    assert {layer.layer for layer in found} == {name.split(".", 1)[1].split(".lora")[0] for name in factors}
    mixed = {layer for layer in LAYERS if len({drawn.parts[p][2] for p in LAYERS[layer] if p in drawn.parts}) > 1}
    for layer in (layer for layer in LAYERS if f"diffusion_model.{layer}.lora_A.weight" in result):
        down, up = (result[f"diffusion_model.{layer}.lora_{letter}.weight"].double() for letter in "AB")
        want, alpha = expected(drawn, layer), result.get(f"diffusion_model.{layer}.alpha")
        few = any(drawn.parts[part][2].startswith("F8") for part in LAYERS[layer] if part in drawn.parts)
        if layer in mixed:  # folded in a wider dtype, so rounded less
            assert torch.linalg.vector_norm(up @ down - want) <= 0.2 * torch.linalg.vector_norm(want)
        elif alpha is not None or few:  # too few bits to fold into: beside the factors, or in a wider dtype
            want, scale = unfolded(drawn, layer), 1.0 if alpha is None else float(alpha) / len(down)
            assert torch.linalg.vector_norm(scale * (up @ down) - want) <= 2**-8 * torch.linalg.vector_norm(want)
        else:
            torch.testing.assert_close(up @ down, want, rtol=1e-12, atol=1e-12)
    adapted = {layer for layer, parts in LAYERS.items() if set(parts) & set(drawn.parts)}
    assert {name.split(".", 1)[1].split(".lora")[0] for name in factors} == adapted


@given(adapters())
@checked
def test_state_dicts_and_files_agree(drawn: Drawn) -> None:
    with tempfile.TemporaryDirectory() as folder:
        convert(tiny.save(drawn.state, Path(folder) / "a.safetensors"), Path(folder) / "b.safetensors")
        result = load_file(Path(folder) / "b.safetensors")
    converted, metadata, _ = convert_state_dict(drawn.state)
    assert set(result) == set(converted)
    for name, tensor in result.items():
        assert tensor.dtype == converted[name].dtype and tensor.shape == converted[name].shape
        assert tensor.flatten().view(torch.uint8).equal(converted[name].flatten().view(torch.uint8))
    if metadata["omnix_exact"] == "1":
        back = split_state_dict(converted, metadata).state
        assert set(back) == set(drawn.state)
        assert all(torch.equal(back[name].double(), drawn.state[name].double()) for name in back)


SCALARS = {"F64": "<d", "F32": "<f", "F16": "<e"}


@st.composite
def raw_adapters(draw: st.DrawFn) -> Tensors:
    """Draw an adapter of random bytes (NaN, infinities and all) with scale 1: alphas, if any, equal the rank."""
    prefix, down, up = tiny.SPELLINGS[draw(st.sampled_from(sorted(tiny.SPELLINGS)))]
    noise = draw(st.randoms(use_true_random=False))
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    tensors: Tensors = {}
    for part in draw(st.lists(st.sampled_from(sorted(SIZES)), min_size=1, max_size=8, unique=True)):
        rank = draw(st.integers(0, 9))
        columns, rows = SIZES[part]
        for suffix, shape in ((down, (rank, columns)), (up, (rows, rank))):
            size = math.prod(shape) * torch.empty(0, dtype=DTYPES[dtype]).element_size()
            tensors[f"{prefix}{part}{suffix}"] = Raw(dtype, shape, noise.randbytes(size))
        if rank and draw(st.booleans()):
            kind = draw(st.sampled_from(sorted(SCALARS)))
            tensors[f"{prefix}{part}.alpha"] = Raw(kind, (), struct.pack(SCALARS[kind], rank))
    names = draw(st.permutations(sorted(tensors)))
    return {name: tensors[name] for name in names}


@given(raw_adapters(), st.dictionaries(st.text(max_size=9), st.text(max_size=30), max_size=3))
@checked
def test_splitting_gives_the_very_same_back(tensors: Tensors, metadata: dict[str, str]) -> None:
    metadata = {name: text for name, text in metadata.items() if not name.startswith("omnix_")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write(folder / "a.safetensors", tensors, metadata)
        convert(source, folder / "b.safetensors")
        split(folder / "b.safetensors", folder / "c.safetensors")
        assert read(folder / "c.safetensors") == (metadata, tensors)
        assert all(layer.exact for layer in verify(source, folder / "b.safetensors"))
        first, second = open_adapter(source), open_adapter(folder / "b.safetensors")
    assert {layer: fused.blocks[0][:5] for layer, fused in first.layers.items()} == {
        layer: fused.blocks[0][:5] for layer, fused in second.layers.items()
    }


@given(st.sampled_from([4.0, 2.0, 0.5, 2.0**-7]), adapters())
@checked
def test_scales_that_are_powers_of_two_come_back(scale: float, drawn: Drawn) -> None:
    """Halving and doubling lose nothing in float32, so alpha and numbers are there again."""
    state = {name: tensor.float() for name, tensor in drawn.state.items() if not name.endswith(".alpha")}
    for name in [name for name in state if "lora_A" in name or "down" in name]:
        if rank := state[name].shape[0]:
            state[name.split(".lora")[0] + ".alpha"] = torch.tensor(scale * rank)
    with tempfile.TemporaryDirectory() as folder:
        source = tiny.save(state, Path(folder) / "a.safetensors")
        convert(source, Path(folder) / "b.safetensors")
        report = split(Path(folder) / "b.safetensors", Path(folder) / "c.safetensors")
        assert report.exact and source.read_bytes() == (Path(folder) / "c.safetensors").read_bytes()


@given(st.lists(st.sampled_from(sorted(DTYPES)), min_size=1))
def test_the_common_dtype_holds_every_number(kinds: list[str]) -> None:
    wide = DTYPES[common_dtype([Slab(kind, 1, 1, 0, 1, "") for kind in kinds])]
    for kind in kinds:
        info = torch.finfo(DTYPES[kind])
        numbers = torch.tensor([info.max, info.tiny, 1 + info.eps, info.min], dtype=torch.float64).to(DTYPES[kind])
        assert np.array_equal(numbers.to(wide).double().numpy(), numbers.double().numpy())
