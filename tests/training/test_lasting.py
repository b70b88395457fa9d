"""Long runs: settings that may change on resume, errors that don't end a run, and the saves that are kept."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_omnix.training import engine, host, record, saving
from comfyui_omnix.training.config import TrainingError
from comfyui_omnix.training.engine import train
from comfyui_omnix.training.run import run
from folders import small_run
from made_up import SMALL, TASK, base, config, latents
from torch import Tensor


def go(output: Path, **changes: Any) -> engine.Result:
    named = ("resume", "held_out", "sampled", "ranking")
    options = {name: changes.pop(name) for name in named if name in changes}
    return train(config(**changes), TASK, base(), latents(), output, show=False, **options)


def rates(output: Path) -> list[float]:
    return [row["learning_rate"] for row in record.read(output / engine.CURVE)]


def test_a_changed_learning_rate_is_reported_and_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    go(tmp_path, steps=2)
    go(tmp_path, steps=3, learning_rate=5e-5, resume=True)
    assert rates(tmp_path) == [1e-4, 1e-4, 5e-5]
    assert any("learning_rate was 0.0001 in" in text and "now it is 5e-05" in text for text in caplog.messages)


def test_a_changed_number_of_steps_keeps_the_schedule(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half a cosine from 0 to 4; longer, the rate stays 0 and the run says so; --decay-steps gives another end."""
    stopped = {"sample_every": 2, "sample_steps": 1, "held_out": latents(count=1), "sampled": ctrl_c_after(2)}
    assert go(tmp_path, steps=4, decay=True, **stopped).step == 2
    go(tmp_path, steps=6, decay=True, resume=True)
    assert rates(tmp_path) == pytest.approx([half_cosine(min(1, step / 4)) for step in range(6)], abs=1e-12)
    assert any("reaches 0 at step 4" in text and "--decay-steps 6" in text for text in caplog.messages)
    go(tmp_path, steps=8, decay=True, decay_steps=8, resume=True)
    assert rates(tmp_path)[6:] == pytest.approx([half_cosine(step / 8) for step in (6, 7)])


def half_cosine(done: float) -> float:
    return 1e-4 * (0.5 + 0.5 * math.cos(math.pi * done))


def ctrl_c_after(last: int) -> engine.Sampled:
    def sampled(step: int, _latents: Tensor) -> None:
        if step == last:
            os.kill(os.getpid(), signal.SIGINT)

    return sampled


SPOILT = {
    "a cut last line": lambda text: text[:-9],
    "a line cut to nothing": lambda text: text + "7,",
    "zeros of a lost block": lambda text: text + "\0" * 100,
    "another column": lambda text: text.replace("gradient", "norm"),
    "one column more": lambda text: "\n".join(f"{line},9" for line in text.replace("seconds", "seconds,mine").split()),
    "a mark of bytes and a quote": lambda text: "\ufeff" + text + '"7,1,1,1,1\n',
    "no table": lambda text: "nothing",
    "an empty file": lambda text: "",
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_curve_does_not_end_a_run(tmp_path: Path, name: str) -> None:
    go(tmp_path, steps=4)
    path = tmp_path / engine.CURVE
    path.write_bytes(SPOILT[name](path.read_text().replace("\r\n", "\n")).encode())
    assert go(tmp_path, steps=6, resume=True).step == 6
    rows = record.read(path)
    assert [row["step"] for row in rows][-2:] == [5, 6] and all(math.isfinite(row["loss"]) for row in rows[-2:])
    assert "<svg" in (tmp_path / "loss.svg").read_text()
    if name == "another column":
        assert math.isfinite(rows[0]["norm"]) and math.isnan(rows[0]["gradient"]) and math.isnan(rows[-1]["norm"])
    if name == "no table":
        assert (tmp_path / "loss.old.csv").read_text() == "nothing"


def test_rows_wait_while_another_program_locks_the_curve(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    curve = record.Curve(tmp_path / "loss.csv", ("loss",))
    (tmp_path / "loss.csv").rename(tmp_path / "kept.csv")
    (tmp_path / "loss.csv").mkdir()  # can't be opened to write, whoever runs the tests
    for step in (1, 2):
        curve.add(step, {"loss": step / 2})
    (tmp_path / "loss.csv").rmdir()
    (tmp_path / "kept.csv").rename(tmp_path / "loss.csv")
    curve.add(3, {"loss": 1.5})
    assert record.points(tmp_path / "loss.csv", "loss") == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert sum("its rows wait for the next step" in text for text in caplog.messages) == 1


@pytest.mark.parametrize("error", [OSError("disk"), KeyError("psnr"), torch.OutOfMemoryError("CUDA out of memory")])
def test_an_error_in_a_sheet_does_not_end_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fails(step: int, _latents: Tensor) -> None:
        raise error

    done = go(tmp_path, steps=2, sample_every=1, sample_steps=1, held_out=latents(count=1), sampled=fails)
    assert done.step == 2 and not done.stopped
    failed = [text for text in caplog.messages if "the run continues" in text]
    assert len(failed) == 3 and "the sheet of step 0 failed" in failed[0] and type(error).__name__ in failed[0]


def test_held_out_pictures_are_sampled_at_step_0_and_not_again(tmp_path: Path) -> None:
    seen: list[tuple[int, Tensor]] = []
    given = {"held_out": latents(count=1), "sampled": lambda *given: seen.append(given), "sample_steps": 2}
    go(tmp_path, steps=2, sample_every=2, **given)
    go(tmp_path, steps=4, sample_every=2, resume=True, **given)
    assert [step for step, _ in seen] == [0, 2, 4]
    fresh = engine._Run(config(sample_steps=2), TASK, base(), latents(), tmp_path / "new")
    with engine.recording(fresh.flux, fresh.streams):
        assert torch.equal(fresh.samples_of(latents(count=1)), seen[0][1])


@pytest.mark.parametrize(
    ("keep", "ranking", "left"),
    [
        (0, (), [1, 2, 3, 4, 5]),
        (2, (), [4, 5]),
        (2, (0, 2, 5, 1), [2, 4, 5]),  # step 0 has no save
        (2, (5, 2), [4, 5]),
        (9, (2,), [1, 2, 3, 4, 5]),
    ],
)
def test_saves_are_pruned_to_the_last_and_the_best(
    tmp_path: Path, keep: int, ranking: Sequence[int], left: list[int]
) -> None:
    go(tmp_path, steps=5, save_every=1, keep=keep, ranking=lambda: ranking)
    assert [path.name for path in saving.saves(tmp_path)] == [f"step-{step:06d}" for step in left]
    assert not list(tmp_path.glob(".step*"))
    assert go(tmp_path, steps=6, save_every=1, keep=keep, resume=True).step == 6


def test_the_best_save_is_that_of_the_held_out_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of depth a lower error is better, of other maps a higher PSNR; the figures outlive an interruption."""
    figures = iter([0.9, 0.5, 0.2, 0.6, 0.7, 0.8])
    watched = "depth scale_by_median abs_rel"
    monkeypatch.setattr(record.Watch, "measure", lambda *_: {watched: next(figures)})
    often = {"save_every": 1, "sample_every": 1, "sample_steps": 1, "held_out": 1, "keep": 1, "batch": 1}
    given = small_run(tmp_path, target=("depth",), steps=3, **often)
    run(given, show=False)
    run(replace(given, steps=5), resume=True, show=False)
    assert [path.name for path in saving.saves(Path(given.output))] == ["step-000002", "step-000005"]


def test_two_targets_share_one_flux_that_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And both are encoded before it is loaded."""
    events: list[str] = []
    load, encode = host.load_model, host.HostBase.encode
    monkeypatch.setattr(host, "load_model", lambda *given: events.append("flux") or load(*given))
    monkeypatch.setattr(host.HostBase, "encode", lambda *given: events.append("vae") or encode(*given))
    given = small_run(tmp_path, target=("shading", "depth"), steps=1, held_out=0, batch=1)
    results = run(given, show=False)
    assert [result.folder.parent.name for result in results] == ["rgb_to_shading", "rgb_to_depth"]
    assert events == ["vae"] * 12 + ["flux"]


def test_adapters_of_another_rank_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = go(tmp_path / "first", steps=1)
    start = {"init": str(first.folder / TASK.name), "steps": 1}
    go(tmp_path / "same", **start)
    assert not caplog.messages
    go(tmp_path / "other", rank=8, alpha=8.0, modules=("attn.to_q",), **start)
    assert any("have rank 4; --rank 8 has no effect" in text for text in caplog.messages)
    assert any("--modules has no effect" in text for text in caplog.messages)


def test_latents_and_prompts_of_other_encoders(tmp_path: Path) -> None:
    plain = latents()
    wrong = {
        "--t5 or --conditioning": {"text": torch.zeros(1, 12, SMALL.text + 1)},
        "--clip-l or --conditioning": {"pooled": torch.zeros(1, 7)},
        "--vae": {"latents": tuple(stream[:, :4] for stream in plain.latents)},
    }
    for words, parts in wrong.items():
        samples = latents()
        samples.__dict__.update(parts)
        with pytest.raises(TrainingError, match=f"expected FLUX.1's own encoders; correct {words}"):
            train(config(), TASK, base(), samples, tmp_path, show=False)


def test_curves_go_to_tensorboard_if_it_is_installed(tmp_path: Path) -> None:
    """The steps that a run repeats after a save replace the earlier ones; --no-tensorboard writes none."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    go(tmp_path, steps=3)
    go(tmp_path, steps=5, resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in ("loss", "gradient", "learning_rate"):
        found = [(event.step, event.value) for event in events.Scalars(f"loss/{name}")]
        want = record.points(tmp_path / engine.CURVE, name)
        assert [step for step, _ in found] == [1, 2, 3, 4, 5] == [step for step, _ in want]
        assert [value for _, value in found] == pytest.approx([value for _, value in want], rel=1e-6)
    go(tmp_path / "without", steps=1, tensorboard=False)
    assert not (tmp_path / "without" / "tensorboard").exists()
