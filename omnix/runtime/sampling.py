"""Sample a panorama: widen the inputs by the seam, close the seam in the result, and check each call in between.

These functions wrap the host's sampling and depend only on the arguments that they pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ..pictures.panorama import blend_seam, blend_seam_, crop, widen
from .checks import Conds, check_sampled
from .noise import PeriodicNoise

RUN, STAGE = "omnix", "omnix_stage"
"""Keys in the host's options for one run: the run itself, and its connection to the runs before and after it."""


@dataclass
class Run:
    """One sampling run: the panorama's size in latent cells, the noise, and what has happened so far."""

    height: int
    width: int
    noise: PeriodicNoise
    node: str
    """The node that closes the seam, for messages."""
    x: Tensor | None = None
    """The conditionings that the sampler currently evaluates."""
    cards: Mapping[nn.Module, nn.Module | None] = field(default_factory=dict)
    """The models that run, one on each card, and the adapters there; they are watched as long as the run lasts."""
    calls: int = 0
    """Of FLUX."""
    blocks: int = 0
    """The number of blocks that ran with the streams joined."""
    cause: str | None = None
    """The function that prevents the join, if FLUX ran without one of its blocks."""
    names: Mapping[Any, str] = field(default_factory=dict)
    """The guider's name of each conditioning, by the id that the host gives to it."""
    cfg: float | None = None
    """None if the negative is evaluated at any cfg."""
    blended: bool = False
    """Whether the seam is already blended in the x of the next call of the model."""
    compile: Mapping[str, Any] | None = None
    """The arguments of the user's compile node for torch.compile; None if the model can't be compiled."""
    warned: set[str] = field(default_factory=set)
    """The warnings that the user has already seen."""

    @property
    def seam(self) -> int:
        """The latent columns that are sampled twice."""
        return self.noise.columns

    def asked(self, options: Mapping[str, Any]) -> frozenset[str | None]:
        """Return the guider's names of the conditionings in one call; None is a conditioning of another node."""
        return frozenset(map(self.names.get, options.get("uuids") or ()))

    def called(self) -> None:
        """Count a call of FLUX."""
        self.calls += 1

    def warn_once(self, notes: Iterable[str | None], warn: Callable[[str], None]) -> None:
        """Warn of everything that is not exact in a call; each warning appears once."""
        for note in notes:
            if note and note not in self.warned:
                self.warned.add(note)
                warn(note)

    def ran(self, blocks: int, cause: Callable[[], str | None]) -> None:
        """Count the blocks of one call; for a call without any, find the possible cause at once."""
        self.blocks += blocks
        if not blocks and self.cause is None:
            self.cause = cause()


@dataclass
class Stage:
    """One of several runs that make a picture together (SplitSigmas, KSampler Advanced), and what the next run gets.

    The first sigmas may leave noise. The columns past the seam belong to what they leave, as much as the others.
    """

    given: Tensor | None = None
    """The latent with its columns past the seam, from the previous run."""
    left: Tensor | None = None
    """The same, for the next run."""


def run_of(options: Mapping[str, Any]) -> Run | None:
    """Return the run that the host's transformer options belong to; None outside of sampling."""
    run = options.get(RUN)
    return run if isinstance(run, Run) else None


Around = Callable[[Any, Run], AbstractContextManager[None]]
"""Makes a context for the length of one run, given the host's guider."""


def alone(_guider: Any, _run: Run) -> AbstractContextManager[None]:
    """Return an empty context."""
    return nullcontext()


Check = Callable[[Any, Tensor], None]
"""Raises ValueError before a run that can't work, given the host's guider and the noise."""


def sample_widened(
    seam: int,
    node: str,
    check: Check,
    around: Around = alone,
    by_the_model: Collection[str] = (),
) -> Callable[..., Tensor]:
    """Return the SAMPLER_SAMPLE wrapper: sample with the seam columns, then blend them into the first and crop.

    Messages name the `node` that does this. `by_the_model` names conditions that the model's own wrapper widens.
    """

    def sample(
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[..., None] | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        check(guider, noise)
        height, width = noise.shape[-2:]
        guider.conds = with_wide_conds(guider.conds, (height, width), seam, by_the_model)  # a copy of this run alone
        names = {cond.get("uuid"): name for name, each in guider.conds.items() for cond in each}
        run = Run(height, width, PeriodicNoise(height, width, seam), node, names=names)
        stage = options_of(extra_args).get(STAGE) or Stage()
        wide = [None if part is None else widen(part, seam) for part in (noise, latent_image, denoise_mask)]
        if stage.given is not None:
            wide[1] = stage.given.to(noise)
        arguments = (guider, sigmas, with_run(extra_args, run), closing(callback, run), *wide, disable_pbar)
        with around(guider, run), of_one_width(run), run.noise:
            stage.left = executor(*arguments)
            return closed(stage.left, seam)

    return sample


def options_of(extra_args: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the host's transformer options among a sampler's extra arguments."""
    return extra_args.get("model_options", {}).get("transformer_options", {})


def with_run(extra_args: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Return a sampler's extra arguments, with the run in their model options."""
    options = extra_args.get("model_options", {})
    transformer_options = {**options_of(extra_args), RUN: run}
    return {**extra_args, "model_options": {**options, "transformer_options": transformer_options}}


@contextmanager
def of_one_width(run: Run) -> Iterator[None]:
    """Raise ValueError if another node's tensor of the panorama's own width meets the widened one."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if run.seam and _two_widths(str(error), run):
            raise ValueError(
                f"Another node or the sampler holds a picture of the panorama's own width ({run.width} latent columns) "
                f"and can't combine it with the one that {run.node} has widened by {run.seam}: set seam_columns to 0, "
                f"on {run.node} and on OmniX Flow Shift, if there is one."
            ) from error
        raise


def _two_widths(message: str, run: Run) -> bool:
    """Return whether a message names both widths, in latent columns, pixels, tokens or tokens of the whole picture."""
    numbers = {int(number) for number in re.findall(r"\d+", message)}
    own, wide = run.width, run.width + run.seam
    pixels = ((own * each, wide * each) for each in (1, 8, 16, 32))
    across = [(-(-own // patch), -(-wide // patch), -(-run.height // patch)) for patch in (1, 2)]
    tokens = ((a * rows, b * rows) for a, b, height in across for rows in (1, height))
    return any({*pair} <= numbers for pair in (*pixels, *tokens))


def with_wide_conds(conds: Conds, size: tuple[int, int], seam: int, by_the_model: Collection[str] = ()) -> Conds:
    """Return conditionings that continue past the seam: their masks [b, h, W], which say where each one acts, and the
    pictures of the panorama's size that the model is given (reference latents, an inpainting model's own channels).
    """

    def wide(cond: Mapping[str, Any]) -> Mapping[str, Any]:
        given = {
            name: each if name in by_the_model else wide_given(each, size, seam)
            for name, each in cond.get("model_conds", {}).items()
        }
        mask = {"mask": widen(cond["mask"], seam)} if "mask" in cond else {}
        return {**cond, **({"model_conds": given} if given else {}), **mask}

    return {name: [wide(cond) for cond in each] for name, each in conds.items()}


def wide_given(given: Any, size: tuple[int, int], seam: int) -> Any:
    """Return one of the host's inputs for the model (CONDs); pictures of size [h, W] are widened."""
    value = getattr(given, "cond", None)
    before = value if isinstance(value, list) else [value]
    after = [widen(each, seam) if is_picture(each) and each.shape[-2:] == size else each for each in before]
    if all(old is new for old, new in zip(before, after)):
        return given
    return given._copy_with(after if isinstance(value, list) else after[0])


def is_picture(value: object) -> TypeGuard[Tensor]:
    """Return whether a model's condition can be a picture [b, c, h, w] or a video; texts have fewer axes."""
    return isinstance(value, Tensor) and value.ndim >= 4


def closed(x: Tensor, seam: int) -> Tensor:
    """Blend the seam columns into the first and crop: once as after every step, and once more as the reference does."""
    return crop(blend_seam(blend_seam(x, seam), seam), seam)


def closing(callback: Callable[..., None] | None, run: Run) -> Callable[..., None] | None:
    """Return a sampler callback that gets pictures like the result: of its width, with the seam closed."""
    if callback is None:
        return None

    def show(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        with run.noise.suspended():
            callback(step, closed(denoised, run.seam), closed(x, run.seam), total)

    return show


def between_steps(x: Tensor, run: Run) -> Tensor:
    """Return the sampler's x for the model with its seam blended, in place if possible.

    Before the first step this changes nothing, for there the columns are equal.
    """
    check_sampled(x.shape[-2:], run.height, run.width, run.seam, run.node)
    try:
        return blend_seam_(x, run.seam)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # x is differentiated (torch.func, a gradient), shared or expanded, and can't be written to
        return blend_seam(x, run.seam)


@contextmanager
def blended(x: Tensor, extra_args: Mapping[str, Any]) -> Iterator[Tensor]:
    """Blend the seam of a sampler's x for one call of the model; `predict_between_steps` then skips it.

    `extra_args` are what the sampler gives to the model besides.
    """
    run = run_of(options_of(extra_args))
    if run is None:
        yield x
        return
    x, run.blended = between_steps(x, run), True
    try:
        yield x
    finally:
        run.blended = False  # a cache may have replaced the model's call


def predict_between_steps(executor: Any, x: Tensor, timestep: Tensor, *given: Any, **named: Any) -> Any:
    """The PREDICT_NOISE wrapper: blend the seam before the model is called, unless it is already blended.

    The host calls it with x, timestep, model_options and seed.
    """
    model_options = named.get("model_options", given[0] if given else None) or {}
    run = run_of(model_options.get("transformer_options", {}))
    if run is None:
        return executor(x, timestep, *given, **named)
    x, run.blended = x if run.blended else between_steps(x, run), False
    run.x = x
    asked_anyway = model_options.get("disable_cfg1_optimization", False)
    run.cfg = None if asked_anyway else getattr(executor.class_obj, "cfg", None)
    with run.noise.suspended():
        return executor(x, timestep, *given, **named)
