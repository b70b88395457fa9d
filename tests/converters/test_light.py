"""The arithmetic with NumPy only gives torch's bits, and a scale is multiplied in without torch."""

import io
import sys
from pathlib import Path

import pytest
import torch
from adapters import adapter, alpha, cli, peak_of_cli, read, write
from comfyui_omnix.converters import AdapterError, console, convert
from comfyui_omnix.converters.fusing import arithmetic, light
from comfyui_omnix.converters.fusing.change import Change, changed

TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def patterns(dtype: torch.dtype) -> bytes:
    """Return numbers of every exponent, NaN, infinities, zeros and subnormal ones among them."""
    size = torch.empty(0, dtype=dtype).element_size()
    noise = torch.randint(0, 256, (20_000 * size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
    return noise.numpy().tobytes()


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.75, 2.0**-20, 1e30, -3.3, 0.0])
@pytest.mark.parametrize("target", TORCH_DTYPES)
@pytest.mark.parametrize("source", TORCH_DTYPES)
def test_both_give_the_same_bits(source: str, target: str, scale: float, inverse: bool) -> None:
    if inverse and not scale:
        return
    data = patterns(TORCH_DTYPES[source])
    change = Change(target, scale, inverse)
    one, other = (changed(numbers, "a", data, source, change) for numbers in (light, arithmetic))
    ours, theirs = (arithmetic.as_tensor(result.data, target) for result in (one, other))
    assert torch.equal(ours.isnan(), theirs.isnan()) and one.exact == other.exact
    assert torch.equal(
        ours.nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0), theirs.nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0)
    )


def test_too_large_numbers_are_refused_alike() -> None:
    data = torch.full((4,), 1e6).numpy().tobytes()
    for numbers in (light, arithmetic):
        with pytest.raises(
            AdapterError, match="expected numbers that F16 can hold, got larger ones after scaling by 1;"
        ):
            changed(numbers, "a", data, "F32", Change("F16", 1.0))


def scaled(tmp_path: Path, rank: int = 2, hidden: int = 16) -> Path:
    tensors = adapter(rank=rank, hidden=hidden, dtype="BF16")
    finite = {
        key: raw._replace(data=bytes(b & 0xBF if i % 2 else b for i, b in enumerate(raw.data)))
        for key, raw in tensors.items()
    }
    alphas = {key.replace("lora_A.weight", "alpha"): alpha(0.75 * rank) for key in finite if "lora_A" in key}
    return write(tmp_path / "a.safetensors", finite | alphas)


def test_a_scale_needs_no_torch(tmp_path: Path) -> None:
    source = scaled(tmp_path)
    done = cli(tmp_path, source, tmp_path / "b.safetensors", blocked=("torch",))
    assert done.returncode == 0, done.stderr
    convert(source, tmp_path / "c.safetensors")
    assert "torch" in sys.modules and read(tmp_path / "b.safetensors") == read(tmp_path / "c.safetensors")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_scale_takes_little_memory(tmp_path: Path) -> None:
    source = scaled(tmp_path, rank=64, hidden=512)
    done = cli(tmp_path, source, tmp_path / "b.safetensors", blocked=())
    assert done.returncode == 0
    assert peak_of_cli(tmp_path, "--force", source, tmp_path / "b.safetensors", blocked=()) < 150


def test_progress_within_a_file(tmp_path: Path) -> None:
    source, calls = scaled(tmp_path, rank=64, hidden=512), []
    convert(source, tmp_path / "b.safetensors", progress=lambda done, whole: calls.append((done, whole)))
    size = source.stat().st_size
    done = [number for number, _ in calls]
    assert (
        len(calls) > 10 and done == sorted(done) and done[-1] > 0.9 * size and {whole for _, whole in calls} == {size}
    )


def test_progress_is_shown_of_what_takes_its_time() -> None:
    stream = io.StringIO()
    show = console.within_file(stream, after=0.0, every=0.0)
    show(50_000_000, 100_000_000)
    assert stream.getvalue() == "\r\x1b[K[###############...............] 50.0 of 100.0 MB"
    quick = io.StringIO()
    console.within_file(quick)(1, 2)
    assert quick.getvalue() == ""


@pytest.mark.parametrize("scale", [1.0, 0.3, 1e-4, 1e9])
@pytest.mark.parametrize("target", TORCH_DTYPES)
@pytest.mark.parametrize("source", TORCH_DTYPES)
def test_both_measure_the_same_loss(source: str, target: str, scale: float) -> None:
    numbers = torch.randn(5000, generator=torch.Generator().manual_seed(1)) * 0.01
    data = arithmetic.as_bytes(numbers.to(TORCH_DTYPES[source]))
    one, other = (each.measured([(data, source)] * 2, Change(target, scale)) for each in (light, arithmetic))
    assert one.largest == pytest.approx(other.largest, rel=1e-12) and one.lost == pytest.approx(other.lost, rel=1e-9)
