"""Every kind of adapter has the same meaning after conversion, and splitting restores it bit for bit."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from adapter_files import DTYPES, expected_deltas, fused_deltas, read_raw, small, write_raw
from comfyui_omnix.converters import AdapterError, convert, split, verify
from comfyui_omnix.lab.host import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor


def save(state: dict[str, Tensor], path: Path, **metadata: str) -> Path:
    return tiny.save(state, path, metadata)


ROUNDING = {"F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7, "F8_E4M3": 2.0**-3, "F8_E5M2": 2.0**-2}


ODD_SPELLING = ("transformer.", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")


class Case(NamedTuple):
    """A made-up adapter: its tensors, and what they mean: (down, up, scale) by Diffusers layer."""

    state: dict[str, Tensor]
    pairs: dict[str, tuple[Tensor, Tensor, float]]


@st.composite
def cases(draw: st.DrawFn, alphas: tuple[float | None, ...], dtypes: tuple[str, ...] = tuple(DTYPES)) -> Case:
    """Draw layers, ranks, spellings, dtypes and alphas; factors are small multiples of 1/4, so every sum is exact."""
    geometry = tiny.Geometry(draw(st.sampled_from([4, 8, 12])), 2, 2, 8, 4)
    sizes = tiny.linears(geometry)
    modules = draw(st.lists(st.sampled_from(sorted(sizes)), min_size=1, max_size=12, unique=True))
    prefix, down_end, up_end = draw(st.sampled_from([*tiny.SPELLINGS.values(), ODD_SPELLING]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    state, pairs = {}, {}
    for module in modules:
        (columns, rows), rank = sizes[module], draw(st.integers(0, 4))
        shapes = {down_end: (rank, columns), up_end: (rows, rank)}
        for end, shape in shapes.items():
            numbers = torch.randint(-8, 9, shape, generator=generator) / 4
            state[f"{prefix}{module}{end}"] = numbers.to(DTYPES[draw(st.sampled_from(dtypes))])
        alpha = draw(st.sampled_from(alphas))
        if alpha is not None:
            kind = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
            state[f"{prefix}{module}.alpha"] = torch.tensor(alpha, dtype=kind)
            alpha = float(state[f"{prefix}{module}.alpha"])
        down, up = (state[f"{prefix}{module}{end}"] for end in shapes)
        pairs[module] = (down, up, 1.0 if alpha is None or not rank else alpha / rank)
    return Case(state, pairs)


def geometry_of(case: Case) -> tiny.Geometry:
    """Return sizes that are large enough for the host's map."""
    hidden = [
        geometry for geometry in (4, 8, 12) if all(_fits(module, pair, geometry) for module, pair in case.pairs.items())
    ]
    assert len(hidden) == 1
    return tiny.Geometry(hidden[0], 2, 2, 8, 4)


def _fits(module: str, pair: tuple[Tensor, Tensor, float], hidden: int) -> bool:
    columns, rows = tiny.linears(tiny.Geometry(hidden, 2, 2, 8, 4))[module]
    return (pair[0].shape[1], pair[1].shape[0]) == (columns, rows)


def check_deltas(case: Case, state: dict[str, Tensor], tolerance: float) -> None:
    """Compare a converted file with the sums of its source, computed by the host's own map; the rest is zero."""
    fused = fused_deltas(state)
    wanted = expected_deltas(case.pairs, geometry_of(case))
    assert set(fused) == set(wanted)
    for layer, parts in wanted.items():
        whole = torch.zeros_like(fused[layer])
        for rows, delta in parts:
            whole[rows] = delta
        assert float((fused[layer] - whole).norm()) <= tolerance * float(whole.norm())


slow = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@slow
@given(case=cases(alphas=(None, 1.0, 2.0, 4.0, 8.0, -2.0)), dtype=st.sampled_from([None, "F32", "F64"]))
def test_exact_conversions_mean_the_same_and_are_undone_bit_for_bit(
    case: Case, dtype: str | None, tmp_path: Path
) -> None:
    """Scales by powers of two and wider dtypes lose nothing; rank 3 makes other scales, which float32 takes back."""
    save_file(case.state, tmp_path / "a.safetensors", metadata={"format": "pt"})
    report = convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype=dtype, force=True)
    powers = all(math.log2(abs(scale)) % 1 == 0 for _, _, scale in case.pairs.values())
    check_deltas(case, load_file(tmp_path / "b.safetensors"), 0.0 if powers else 2.0**-2)
    verify(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert report.exact or not powers
    if report.exact:
        back = split(tmp_path / "b.safetensors", tmp_path / "c.safetensors", force=True)
        assert back.exact and back.identical
        assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


NARROW = tuple(name for name in DTYPES if name.startswith("F8") or name == "F16")
"""Too few bits for a scale: it stays separate from the factors, or a wider dtype is written (test_narrow.py)."""
WIDE = tuple(name for name in DTYPES if name not in NARROW)


@slow
@given(case=cases(alphas=(0.3, 1.7, 5.0, None), dtypes=("F32", "BF16")), dtype=st.sampled_from([None, *WIDE]))
def test_rounded_conversions_are_within_one_rounding_of_each_factor(
    case: Case, dtype: str | None, tmp_path: Path
) -> None:
    """A rounded file splits into factors that mean, with scale 1, exactly what the converted file means."""
    save_file(case.state, tmp_path / "a.safetensors")
    report = convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype=dtype, force=True)
    kinds = (
        {dtype} if dtype else {name for name, kind in DTYPES.items() for t in case.state.values() if t.dtype == kind}
    )
    tolerance = max(ROUNDING[name] for name in kinds)
    check_deltas(case, load_file(tmp_path / "b.safetensors"), tolerance)
    verify(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    split(tmp_path / "b.safetensors", tmp_path / "c.safetensors", force=True)
    if report.exact:
        assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    else:
        assert not any(key.endswith(".alpha") for key in read_raw(tmp_path / "c.safetensors")[0])
        convert(tmp_path / "c.safetensors", tmp_path / "d.safetensors", force=True)
        first, second = (load_file(tmp_path / name) for name in ("b.safetensors", "d.safetensors"))
        assert all(torch.equal(first[name], second[name]) for name in first)


@slow
@given(case=cases(alphas=(0.3, 1.7, 5.0, None), dtypes=("F32", "F16", "BF16")), dtype=st.sampled_from(NARROW))
def test_conversions_to_few_bits_are_within_their_rounding(case: Case, dtype: str, tmp_path: Path) -> None:
    """`verify` may refuse a delta whose parts cancel each other, above its stated error; the factors are right."""
    save_file(case.state, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype=dtype, force=True)
    check_deltas(case, load_file(tmp_path / "b.safetensors"), ROUNDING[dtype])
    try:
        verify(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    except AdapterError as error:
        assert dtype != "F16" and "expected a delta within" in str(error)


def test_damaged_memories_of_the_source_are_refused_by_split(tmp_path: Path) -> None:
    convert(save(small(), tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    header, data = read_raw(tmp_path / "b.safetensors")
    good = json.loads(header["__metadata__"]["omnix_source"])
    for table, value in (
        ("names", ["x", "x"]),
        ("names", [1, 2]),
        ("dtypes", ["I8", "I8"]),
        ("scales", "nan"),
        ("scales", 0),
    ):
        header["__metadata__"]["omnix_source"] = json.dumps({**good, table: {"*": value}})
        write_raw(tmp_path / "d.safetensors", header, data)
        with pytest.raises(AdapterError, match="damaged, so convert the original again"):
            split(tmp_path / "d.safetensors", tmp_path / "e.safetensors")
    header["__metadata__"]["omnix_source"] = "["
    with pytest.raises(AdapterError, match=r"omnix_source: expected the source's names"):
        split(write_raw(tmp_path / "d.safetensors", header, data), tmp_path / "e.safetensors")


def test_every_bit_pattern_is_moved(tmp_path: Path) -> None:
    """Also NaNs with a payload, infinities and negative zeros: bytes are moved, not numbers."""
    state = {
        name: torch.randint(-(1 << 15), 1 << 15, tensor.shape, dtype=torch.int16).view(torch.bfloat16)
        for name, tensor in small().items()
    }
    source = save(state, tmp_path / "a.safetensors")
    report = convert(source, tmp_path / "b.safetensors")
    assert (report.moved, report.computed) == (18, 0)
    assert split(tmp_path / "b.safetensors", tmp_path / "c.safetensors").identical
    assert all(layer.exact for layer in verify(source, tmp_path / "b.safetensors"))


def test_parts_of_different_dtypes_are_widened_exactly(tmp_path: Path) -> None:
    kinds = (torch.bfloat16, torch.float16, torch.float8_e4m3fn)
    state = small(dtype=torch.float32)
    for i, name in enumerate(state):
        state[name] = state[name].to(kinds[i // 2 % 3])
    report = convert(save(state, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    found = load_file(tmp_path / "b.safetensors")
    assert found["diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight"].dtype == torch.float32
    assert found["diffusion_model.double_blocks.0.img_attn.proj.lora_B.weight"].dtype == torch.bfloat16
    assert report.exact and split(tmp_path / "b.safetensors", tmp_path / "c.safetensors").identical


def test_numbers_too_large_for_the_dtype_are_refused(tmp_path: Path) -> None:
    source = save(
        {name: tensor * 1000 for name, tensor in small(dtype=torch.float32).items()}, tmp_path / "a.safetensors"
    )
    with pytest.raises(AdapterError, match=r"lora_A\.weight: expected numbers that F8_E4M3 can hold.*--dtype"):
        convert(source, tmp_path / "b.safetensors", dtype="F8_E4M3")
    assert not (tmp_path / "b.safetensors").exists()
