"""Blend between the steps of any sampler, and continue exactly if sampling is split into two runs.

This uses the host's OUTER_SAMPLE wrapper. It gets the sampler before it runs, the latent that comes from another node,
and the latent that goes to the next node.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .sampling import STAGE, Stage, blended, closed

LEFT = "omnix_left"
"""The attribute of a latent that stores the rest of the run that made it."""


class Left(NamedTuple):
    """The rest of a run that ended before the last noise level: its latent with the columns past the seam."""

    wide: Tensor
    sigma: float


def sample_in_stages(seam: int, as_result: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return the OUTER_SAMPLE wrapper: blend in the sampler, and continue if another run has left noise.

    The result is cropped to the panorama's size for all other nodes. The columns past the seam are kept with the latent
    and used if the next run starts with that latent at that noise level. `as_result` puts a latent where the host puts
    results, so that the host returns it unchanged.
    """

    def sample(
        executor: Any, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        guider = executor.class_obj
        model, wide = guider.model_patcher.model, going_on(latent_image, sigmas, seam)
        stage = Stage(None if wide is None else model.process_latent_in(wide))
        guider.model_options.setdefault("transformer_options", {})[STAGE] = stage  # the host's copy for this run
        out = executor(noise, latent_image, blending(sampler), sigmas, *args, **kwargs)
        if seam and stage.left is not None and float(sigmas[-1]) > 0:
            out = as_result(out)
            wide = model.process_latent_out(stage.left.float()).to(out.device)
            setattr(out, LEFT, Left(wide, float(sigmas[-1])))
        return out

    return sample


def going_on(latent: Tensor, sigmas: Tensor, seam: int) -> Tensor | None:
    """Return the rest of the previous run, wider by the seam, if it made exactly this latent at this noise level."""
    left: Left | None = getattr(latent, LEFT, None)
    if left is None or not math.isclose(left.sigma, float(sigmas[0]), rel_tol=1e-6):
        return None
    if left.wide.shape != (*latent.shape[:-1], latent.shape[-1] + seam):
        return None
    near = 16 * torch.finfo(latent.dtype).eps * float(latent.abs().max())
    return left.wide if torch.allclose(closed(left.wide, seam), latent.to(left.wide), rtol=0, atol=near) else None


class BetweenSteps:
    """The model as a sampler sees it, which blends the seam of the sampler's x before a noise mask makes a copy of it.

    Samplers read and set the model's attributes, so these are passed to the model itself.
    """

    def __init__(self, model: Any) -> None:
        vars(self)["_model"] = model

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_model"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_model"], name, value)

    def __call__(self, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the denoised picture."""
        with blended(x, kwargs) as ready:
            return vars(self)["_model"](ready, sigma, *args, **kwargs)


def blending(sampler: Any) -> Any:
    """Return a sampler that passes `BetweenSteps` to its function; samplers without a function stay unchanged."""
    function = getattr(sampler, "sampler_function", None)
    if function is None:
        return sampler

    @functools.wraps(function)
    def sample(model: Any, *args: Any, **kwargs: Any) -> Any:
        return function(BetweenSteps(model), *args, **kwargs)

    ours = copy.copy(sampler)
    ours.sampler_function = sample
    return ours
