"""The training loop: any FLUX.1, any task, latents that are already encoded."""

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
from torch import Tensor
from tqdm.auto import tqdm

from ..omnix.pictures.panorama import widen
from ..omnix.runtime.tasks import Task
from . import record
from .adapters import check_fit, exchanged, initial, streams_of
from .config import Config, TrainingError, check, note, precision_on
from .flow import Prompt, latitude_weights, loss_of, noisy, predict, recording, sample
from .optimizers import learning_rate, optimizer
from .samples import Base, Batch, Draw, Samples, draw, fixed_noise, may_roll
from .saving import State, folder_of, prune, restore_state, save, saves

CURVE = "loss.csv"


class Result(NamedTuple):
    """The result of a run: its last save, the number of steps done, the last loss, and whether it was interrupted."""

    folder: Path
    step: int
    loss: float
    stopped: bool


Sampled = Callable[[int, Tensor], None]
"""Gets the step, and the latents [n, 16, h, w] that were sampled for the held-out pictures."""


class Watching(NamedTuple):
    """Held-out samples, the function that gets their sampled latents, and the steps in order of their figures."""

    held_out: Samples | None = None
    sampled: Sampled | None = None
    ranking: Callable[[], Sequence[int]] = tuple


def train(
    config: Config,
    task: Task,
    base: Base,
    samples: Samples,
    output: Path,
    *,
    resume: bool = False,
    held_out: Samples | None = None,
    sampled: Sampled | None = None,
    ranking: Callable[[], Sequence[int]] = tuple,
    show: bool = True,
) -> Result:
    """Train a task's adapters on `samples`, whose latents are in the order of its streams; saves go to `output`.

    `resume` continues from the newest save there; without it a folder that has saves is refused. Maps of directions are
    never rolled (`may_roll`). `held_out` are sampled now and then, and `sampled` gets the result; `ranking` returns the
    steps from the best held-out figures to the worst, so that the best save is kept. Ctrl-C ends the run after the
    current step, with a save. Raises TrainingError, AdapterError, OSError; saves in `output` are complete even then.
    """
    check(config)
    config = replace(config, roll=config.roll and may_roll(samples.maps or task.streams))
    if saves(output) and not resume:
        raise TrainingError(f"{output}: there are saves already; continue them with --resume, or use another --output.")
    run = _Run(config, task, base, samples, output, Watching(held_out, sampled, ranking))
    run.restore()
    with base.differentiable(), recording(run.flux, run.streams), _interruptible() as interrupted:
        return run.to_the_end(interrupted, show)


class _Run:
    """The state of a run, and its loop."""

    def __init__(
        self,
        config: Config,
        task: Task,
        base: Base,
        samples: Samples,
        output: Path,
        watching: Watching = Watching(),  # noqa: B008 (it can't be changed)
    ) -> None:
        self.config, self.task, self.samples, self.output, self.watching = config, task, samples, output, watching
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
        """Return the contents of a save."""
        return State(self.step, self.adapters, self.averages, self.optimizer)

    def restore(self) -> None:
        """Continue from the newest save, if there is one, with the schedule that the run began with."""
        begun = self.config.steps
        if found := saves(self.output):
            self.step, begun = restore_state(found[-1], self.state(), self.task, self.config, self.identity)
        self.config = replace(self.config, decay_steps=self.config.decay_steps or begun)
        if self.config.decay and self.config.steps > self.config.decay_steps:
            note(
                f"The learning rate reaches 0 at step {self.config.decay_steps} and stays there up to step "
                f"{self.config.steps}; set --decay-steps {self.config.steps} to spread it over all steps."
            )

    def to_the_end(self, interrupted: threading.Event, show: bool) -> Result:
        """Run the remaining steps."""
        config = self.config
        board = record.board(self.output, self.step) if config.tensorboard else None
        curve = record.Curve(self.output / CURVE, ("loss", "gradient", "learning_rate", "seconds"), self.step, board)
        bar = tqdm(total=config.steps, initial=self.step, disable=not show, unit="step", dynamic_ncols=True)
        saved = self.step
        with bar:
            if self.step == 0 and config.sample_every:
                self.watch()
            while self.step < config.steps and not interrupted.is_set():
                figures = self.one_step()
                curve.add(self.step, figures)
                bar.set_postfix(loss=f"{self.loss:.4f}")
                bar.update()
                if self.step % config.save_every == 0:
                    saved = self.save()
                if _due(self.step, config.sample_every, config.steps):
                    self.watch()
                if saved == self.step:
                    self.prune()
        if saved != self.step or not saves(self.output):
            self.save()
            self.prune()
        return Result(folder_of(self.output, self.step), self.step, self.loss, self.step < config.steps)

    def save(self) -> int:
        """Write a save and the curve's picture; return the step."""
        save(self.output, self.state(), self.task, self.config, self.identity)
        with record.reported(f"the curve of step {self.step}"):
            points = record.points(self.output / CURVE, "loss")
            record.draw(self.output / "loss.svg", [(f"{self.task.name}: loss", points)])
        return self.step

    def watch(self) -> None:
        """Sample the held-out pictures and show the result."""
        if self.watching.held_out is not None and self.watching.sampled is not None:
            with record.reported(f"the sheet of step {self.step}"):
                self.watching.sampled(self.step, self.samples_of(self.watching.held_out))

    def prune(self) -> None:
        """Remove older saves, but not the best one."""
        with record.reported("removing older saves"):
            prune(self.output, self.config.keep, self.watching.ranking())

    def one_step(self) -> dict[str, float]:
        """Do one optimiser step; return its figures for the curve."""
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
        check_fit(self.flux, batch)
        *conditions, clean = (self.placed(latent, chance) for latent in batch.latents)
        noise = widen(chance.noise.to(self.device), config.seam_columns)
        t = chance.t.to(self.device)
        prompt = self.prompt(batch.text, batch.pooled, len(chance.indices))
        with self.autocast:
            inputs = [*conditions, noisy(clean, noise, t)]
            velocity = predict(self.flux, self.streams, inputs, t, prompt, config.checkpointing)
            loss = loss_of(velocity, clean, noise, self.weights(batch, chance))
        (loss / config.accumulate).backward()
        return loss.item()

    def weights(self, batch: Batch, chance: Draw) -> Tensor | None:
        """Return the weights of a batch in the loss: those of its samples, and the latitude's."""
        given = batch.weights
        if self.config.latitude_weight:
            rows = latitude_weights(self.samples.size[0]).expand(len(chance.indices), 1, *self.samples.size)
            given = rows if given is None else given * rows
        return None if given is None else self.placed(given, chance)

    def placed(self, latent: Tensor, chance: Draw) -> Tensor:
        """Roll each sample, continue it past the seam, and move it to the device."""
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
        with exchanged(self.adapters, self.averages):
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
        """Return the error for a NaN or infinite loss or gradient; the weights are still those before that step."""
        found = saves(self.output)
        kept = f"the last good save is {found[-1]}" if found else "there is no save yet"
        return TrainingError(
            f"Step {self.step + 1}: the loss is {self.loss}, its gradient {norm}; {kept}. Lower --learning-rate "
            "or raise --warmup, and look for broken pictures, then continue with --resume."
        )


def _due(step: int, every: int, last: int) -> bool:
    return every > 0 and (step % every == 0 or step == last)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event; the second one interrupts. Only the main thread can do this."""
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
