"""The training loop: it continues exactly, it stops when it must, and its saves are complete."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime.tasks import Task
from comfyui_omnix.training import engine, saving
from comfyui_omnix.training.config import TrainingError
from comfyui_omnix.training.engine import train
from comfyui_omnix.training.host import LoadedBase
from comfyui_omnix.training.record import read
from comfyui_omnix.training.samples import Latents
from made_up import SMALL, TASK, base, config, latents
from measure import relative_error
from rig import load_flux
from safetensors.torch import load_file

VARIANTS = {
    "plain": {},
    "all": {"ema": 0.9, "accumulate": 2, "warmup": 2, "decay": True, "checkpointing": False, "times": "uniform"},
    "prodigy": {"optimizer": "prodigy", "learning_rate": 1.0},
    "muon": {"optimizer": "muon", "learning_rate": 1e-3},
    "bfloat16": {"precision": "bfloat16"},
    "adamw8bit": {"optimizer": "adamw8bit", "rank": 16, "alpha": 16.0},
}
NEEDS = {"adamw8bit": "bitsandbytes"}
"""Variants that are tried only where a package is installed that the tests do not bring."""


CLOSE = 1e-4
"""Adam divides by the size of gradients, so rounding in small ones grows."""
UNASKED = "factor.0.single_blocks/1/linear1.up_0"
"""In the last block only the target asks, so a condition's query there does nothing and never learns."""


def run(output: Path, **changes: Any) -> engine.Result:
    resume = changes.pop("resume", False)
    samples = changes.pop("samples", None) or latents()
    return train(config(**changes), TASK, base(), samples, output, resume=resume, show=False)


def state(result: engine.Result) -> dict[str, torch.Tensor]:
    return load_file(result.folder / saving.STATE)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("variant", VARIANTS)
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, variant: str) -> None:
    if variant in NEEDS:
        pytest.importorskip(NEEDS[variant])
    options = VARIANTS[variant]
    whole = run(tmp_path / "whole", **options)
    # The learning rate's decay needs the number of steps, so the run gets the whole number and is interrupted.
    first = interrupted(tmp_path / "parts", 2, **options)
    assert first.stopped and first.step == 2
    second = run(tmp_path / "parts", resume=True, **options)
    assert not second.stopped and second.step == whole.step == 6
    assert same(state(whole), state(second))
    for file in ("rgb.safetensors", "shading/pytorch_lora_weights.safetensors"):
        assert (whole.folder / TASK.name / file).read_bytes() == (second.folder / TASK.name / file).read_bytes()
    curves = [[row["loss"] for row in read(tmp_path / name / engine.CURVE)] for name in ("whole", "parts")]
    assert curves[0] == curves[1] and len(curves[0]) == 6
    eight_bit = any(tensor.dtype == torch.uint8 for tensor in state(whole).values())
    assert eight_bit == (variant == "adamw8bit")


def interrupted(output: Path, after: int, **options: Any) -> engine.Result:
    """Press Ctrl-C during the step after `after`."""

    class Pressed(Latents):
        calls = 0

        def batch(self, indices: Any, bare: Any) -> Any:
            self.calls += 1
            if self.calls == after * options.get("accumulate", 1):
                os.kill(os.getpid(), signal.SIGINT)
            return super().batch(indices, bare)

    plain = latents()
    return run(output, samples=Pressed(plain.latents, plain.text, plain.pooled, plain.identity), **options)


def test_latents_in_memory_that_are_directions_are_not_rolled(tmp_path: Path) -> None:
    """The engine alone does this too: with `roll` on, the run equals the one with `roll` off."""
    normals = Task("rgb_to_normal", ("rgb", "normal"))
    for task, alike in ((normals, True), (TASK, False)):
        on, off = (
            train(config(roll=roll, steps=2), task, base(), latents(), tmp_path / f"{task.name}-{roll}", show=False)
            for roll in (True, False)
        )
        assert same(state(on), state(off)) == alike


def test_ctrl_c_is_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupted(tmp_path, 1)
    assert signal.getsignal(signal.SIGINT) is before


def test_two_seeds_differ_and_one_does_not(tmp_path: Path) -> None:
    results = [run(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    a, b, c = (state(result) for result in results)
    assert same(a, b)
    assert all(not torch.equal(a[name], c[name]) for name in a if name.startswith("factor.") and name != UNASKED)


def test_every_factor_learns(tmp_path: Path) -> None:
    before = engine.initial(config(), TASK, base().flux(), torch.device("cpu"))
    after = state(run(tmp_path))
    for number, adapter in enumerate(before):
        for name, factor in adapter.named_parameters():
            unchanged = torch.equal(after[f"factor.{number}.{name}"], factor)
            assert unchanged == (f"factor.{number}.{name}" == UNASKED), name


def test_the_base_is_not_changed(tmp_path: Path) -> None:
    frozen = base()
    weights = {name: tensor.clone() for name, tensor in frozen.flux().state_dict().items()}
    train(config(), TASK, frozen, latents(), tmp_path, show=False)
    flux = frozen.flux()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in flux.state_dict().items())
    assert not sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in flux.modules())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16], ids=str)
def test_a_base_of_fewer_bytes_trains_as_its_rounded_numbers_do(tmp_path: Path, dtype: torch.dtype) -> None:
    rounded = {name: tensor.to(dtype).float() for name, tensor in tiny.flux(SMALL).items()}
    stored, exact = base(dtype=dtype), LoadedBase(load_flux(rounded))
    assert {weight.dtype for weight in stored.flux().state_dict().values()} == {dtype}
    results = [
        train(config(steps=3), TASK, one, latents(), tmp_path / name, show=False)
        for name, one in (("stored", stored), ("exact", exact))
    ]
    found, want = (state(result) for result in results)
    for name in (name for name in want if name.startswith("factor.") and name != UNASKED):
        assert relative_error(found[name], want[name]) <= CLOSE, name


def test_the_moving_average_is_what_is_saved(tmp_path: Path) -> None:
    result = run(tmp_path, ema=0.5, save_dtype="float32")
    tensors = state(result)
    saved = load_file(result.folder / TASK.name / "rgb" / saving.PUBLISHED)
    key = "transformer.transformer_blocks.0.attn.to_out.0.lora_A.weight"
    assert torch.equal(saved[key], tensors["average.0.double_blocks/0/img_attn/proj.down"])
    assert not torch.equal(saved[key], tensors["factor.0.double_blocks/0/img_attn/proj.down"])


def test_only_the_newest_save_keeps_its_state(tmp_path: Path) -> None:
    run(tmp_path, steps=7)
    assert [path.name for path in saving.saves(tmp_path)] == ["step-000003", "step-000006", "step-000007"]
    assert [(path / saving.STATE).is_file() for path in saving.saves(tmp_path)] == [False, False, True]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_save(tmp_path: Path) -> None:
    class Broken(Latents):
        calls = 0

        def batch(self, indices: Any, bare: Any) -> Any:
            self.calls += 1
            found = super().batch(indices, bare)
            return found if self.calls < 5 else found._replace(latents=tuple(x * float("nan") for x in found.latents))

    plain = latents()
    with pytest.raises(TrainingError, match=r"Step 5: the loss is nan.*step-000003.*--resume"):
        run(tmp_path, samples=Broken(plain.latents, plain.text, plain.pooled, plain.identity))
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "step-000003" / saving.STATE).values())
    assert run(tmp_path, resume=True).step == 6
    assert len(read(tmp_path / engine.CURVE)) == 6


def test_a_full_disk_keeps_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, steps=3)
    before = {path: path.read_bytes() for path in tmp_path.rglob("step-*/**/*") if path.is_file()}

    def full(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    for name in ("write_tensors", "convert"):
        with monkeypatch.context() as patched:
            patched.setattr(saving, name, full)
            with pytest.raises(OSError, match="No space left"):
                run(tmp_path, resume=True)
        after = {path: path.read_bytes() for path in tmp_path.rglob("step-*/**/*") if path.is_file()}
        assert after == before
        assert not list(tmp_path.glob(".step*"))
    assert run(tmp_path, resume=True).step == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 8, "alpha": 8.0}, "rank was 4, now it is 8"),
        ({"seed": 1}, "seed was 0, now it is 1"),
        ({"samples": latents(seed=1)}, "have changed since this save"),
    ],
)
def test_another_run_is_not_gone_on_with(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    run(tmp_path, steps=3)
    with pytest.raises(TrainingError, match=words):
        run(tmp_path, resume=True, **changes)


def test_saves_are_not_overwritten_by_a_new_run(tmp_path: Path) -> None:
    run(tmp_path, steps=3)
    with pytest.raises(TrainingError, match="--resume"):
        run(tmp_path)


def test_a_damaged_save_is_reported(tmp_path: Path) -> None:
    result = run(tmp_path, steps=3)
    path = result.folder / saving.STATE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TrainingError, match="damaged"):
        run(tmp_path, resume=True)


def test_starting_from_a_trained_adapter(tmp_path: Path) -> None:
    first = run(tmp_path / "first", save_dtype="float32")
    start = engine.initial(config(init=str(first.folder / TASK.name)), TASK, base().flux(), torch.device("cpu"))
    tensors = state(first)
    assert all(
        torch.equal(factor, tensors[f"factor.{number}.{name}"])
        for number, adapter in enumerate(start)
        for name, factor in adapter.named_parameters()
    )
    with pytest.raises(TrainingError, match="correct --init"):
        run(tmp_path / "second", init=str(tmp_path))
