"""The training loop: any FLUX.1, any task, latents that are there already."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..omnix.panorama import widen
from ..omnix.tasks import Task
from . import record
from .adapters import initial, streams_of
from .config import Config, TrainingError, check, precision_on
from .flow import Prompt, loss_of, noisy, predict, recording, sample
from .optimizers import learning_rate, optimizer
from .samples import Base, Draw, Samples, draw, fixed_noise, turns
from .saving import State, folder_of, resume, save, saves

CURVE = "loss.csv"


class Result(NamedTuple):
    """What a run came to: its last save, the steps that are done, and whether it was stopped before its end."""

    folder: Path
    step: int
    loss: float
    stopped: bool


Sampled = Callable[[int, Tensor], None]
"""Is given the step, and the latents [n, 16, h, w] that were sampled for the held-out pictures."""


def train(
    config: Config,
    task: Task,
    base: Base,
    samples: Samples,
    output: Path,
    *,
    go_on: bool = False,
    held_out: Samples | None = None,
    sampled: Sampled | None = None,
    show: bool = True,
) -> Result:
    """Train a task's adapters on `samples`, whose latents are in the order of its streams; saves go to `output`.

    `go_on` continues from the newest save there; without it a folder that has saves is refused. Maps of directions are
    never rolled (`turns`). Ctrl-C ends the run after the step that is under way, with a save. Raises TrainingError,
    AdapterError, OSError; then the saves that are there are whole.
    """
    check(config)
    config = replace(config, roll=config.roll and turns(samples.maps or task.streams))
    if saves(output) and not go_on:
        raise TrainingError(
            f"{output}: there are saves already; go on from them with --resume, or use another --output."
        )
    run = _Run(config, task, base, samples, output)
    run.restore()
    with base.differentiable(), recording(run.flux, run.streams), _interruptible() as interrupted:
        return run.to_the_end(interrupted, held_out, sampled, show)


class _Run:
    """One run while it lasts."""

    def __init__(self, config: Config, task: Task, base: Base, samples: Samples, output: Path) -> None:
        self.config, self.task, self.samples, self.output = config, task, samples, output
        self.flux, self.dtype = base.flux(), base.dtype()
        self.device = base.device()
        self.identity = f"{base.identity} {samples.identity}"
        self.adapters = initial(config, task, self.flux, self.device)
        self.averages = copy.deepcopy(self.adapters) if config.ema else None
        self.streams = streams_of(self.adapters)
        self.factors = [factor for adapter in self.adapters for factor in adapter.parameters()]
        self.optimizer = optimizer(config, self.factors)
        self.step = 0
        self.loss = math.nan
        reduced = precision_on(config, self.device.type) == "bfloat16"
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=reduced)

    def state(self) -> State:
        """Return what a save is made of."""
        return State(self.step, self.adapters, self.averages, self.optimizer)

    def restore(self) -> None:
        """Go on from the newest save, if there is one."""
        if found := saves(self.output):
            self.step = resume(found[-1], self.state(), self.task, self.config, self.identity)

    def to_the_end(
        self, interrupted: threading.Event, held_out: Samples | None, sampled: Sampled | None, show: bool
    ) -> Result:
        """Run the steps that are left."""
        config = self.config
        curve = record.Curve(self.output / CURVE, ("loss", "gradient", "learning_rate", "seconds"), self.step)
        bar = tqdm(total=config.steps, initial=self.step, disable=not show, unit="step", dynamic_ncols=True)
        saved = self.step
        with bar:
            while self.step < config.steps and not interrupted.is_set():
                told = self.one_step()
                curve.add(self.step, told)
                bar.set_postfix(loss=f"{self.loss:.4f}")
                bar.update()
                if self.step % config.save_every == 0:
                    saved = self.save()
                if held_out is not None and sampled is not None and _due(self.step, config.sample_every, config.steps):
                    sampled(self.step, self.samples_of(held_out))
        if saved != self.step or not saves(self.output):
            self.save()
        return Result(folder_of(self.output, self.step), self.step, self.loss, self.step < config.steps)

    def save(self) -> int:
        """Write a save and the curve's picture; return the step."""
        save(self.output, self.state(), self.task, self.config, self.identity)
        rows = record.read(self.output / CURVE)
        record.draw(
            self.output / "loss.svg", [(f"{self.task.name}: loss", [(row["step"], row["loss"]) for row in rows])]
        )
        return self.step

    def one_step(self) -> dict[str, float]:
        """Do one optimiser step; return what the curve is told."""
        config, started = self.config, time.perf_counter()
        losses = [self.one_batch(self.step * config.accumulate + part) for part in range(config.accumulate)]
        self.loss = math.fsum(losses) / config.accumulate
        norm = float(torch.nn.utils.clip_grad_norm_(self.factors, config.clip or math.inf))
        if not (math.isfinite(self.loss) and math.isfinite(norm)):
            raise self.diverged(norm)
        rate = learning_rate(config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.average()
        seconds = time.perf_counter() - started
        return {"loss": self.loss, "gradient": norm, "learning_rate": rate, "seconds": seconds}

    def one_batch(self, number: int) -> float:
        """Add the gradients of one batch; return its loss."""
        config = self.config
        chance = draw(config, number, len(self.samples), self.samples.size)
        batch = self.samples.batch(chance.indices, chance.bare)
        *conditions, clean = (self.placed(latent, chance) for latent in batch.latents)
        noise = widen(chance.noise.to(self.device), config.seam_columns)
        t = chance.t.to(self.device)
        prompt = self.prompt(batch.text, batch.pooled, len(chance.indices))
        with self.autocast:
            inputs = [*conditions, noisy(clean, noise, t)]
            velocity = predict(self.flux, self.streams, inputs, t, prompt, config.checkpointing)
            loss = loss_of(velocity, clean, noise)
        (loss / config.accumulate).backward()
        return loss.item()

    def placed(self, latent: Tensor, chance: Draw) -> Tensor:
        """Roll each sample, go on past the seam, and move it to the device."""
        rolled = torch.stack([torch.roll(one, columns, -1) for one, columns in zip(latent, chance.rolls)])
        return widen(rolled.to(self.device), self.config.seam_columns)

    def prompt(self, text: Tensor, pooled: Tensor, count: int) -> Prompt:
        """Bring a batch's prompts to the device, one for each sample."""
        text, pooled = (part.to(self.device, self.dtype) for part in (text, pooled))
        return Prompt(text.expand(count, -1, -1), pooled.expand(count, -1), self.config.guidance)

    def average(self) -> None:
        """Let the moving average follow the weights."""
        for adapter, followed in zip(self.averages or (), self.adapters):
            with torch.no_grad():
                for mean, factor in zip(adapter.parameters(), followed.parameters()):
                    mean.lerp_(factor, 1 - self.config.ema)

    def samples_of(self, held_out: Samples) -> Tensor:
        """Sample the held-out pictures, always from the same noise, with the weights that are saved."""
        config, results = self.config, []
        with _exchanged(self.adapters, self.averages):
            for number in range(len(held_out)):
                batch = held_out.batch([number], [False])
                conditions = [latent.to(self.device) for latent in batch.latents[:-1]]
                noise = fixed_noise(config.seed, number, held_out.size).to(self.device)
                prompt = self.prompt(batch.text, batch.pooled, 1)
                with self.autocast:
                    steps, seam = config.sample_steps, config.seam_columns
                    results.append(sample(self.flux, self.streams, conditions, noise, prompt, steps, seam).cpu())
        return torch.cat(results)

    def diverged(self, norm: float) -> TrainingError:
        """Return the error of a loss or gradient that is no number any more; the weights are those before it."""
        found = saves(self.output)
        kept = f"the last good save is {found[-1]}" if found else "there is no save yet"
        return TrainingError(
            f"Step {self.step + 1}: the loss is {self.loss}, its gradient {norm}; {kept}. Use a lower --learning-rate "
            "or --warmup, and look for broken pictures, then go on with --resume."
        )


def _due(step: int, every: int, last: int) -> bool:
    return every > 0 and (step % every == 0 or step == last)


@contextmanager
def _exchanged(adapters: Sequence[nn.Module], averages: Sequence[nn.Module] | None) -> Iterator[None]:
    """Let the adapters have the values of their averages, if there are any, while this lasts."""
    pairs = [pair for ours, mean in zip(adapters, averages or ()) for pair in zip(ours.parameters(), mean.parameters())]

    def exchange() -> None:
        for ours, mean in pairs:
            ours.data, mean.data = mean.data, ours.data

    exchange()
    try:
        yield
    finally:
        exchange()


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event; the second interrupts as ever. Another thread than the main one has none."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def remember(_number: int, _frame: Any) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, remember)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
