"""The trained micro model in this process: rooms that it never saw, what it perceives, and how far that is off."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import comfy.sd
import comfy.utils
import numpy as np
import torch
from comfyui_omnix.evaluation.compare import Scores
from comfyui_omnix.lab.micro import graphs
from comfyui_omnix.lab.micro.evaluating import scores
from comfyui_omnix.lab.micro.judged import JudgedRoom, own_room
from comfyui_omnix.lab.micro.limits import READ
from comfyui_omnix.lab.micro.recipe import HEIGHT, JUDGED_SEED, SEAM_COLUMNS
from comfyui_omnix.lab.rooms.lighting import FAST
from comfyui_omnix.omnix.pictures.panorama import decode_panorama
from comfyui_omnix.omnix.runtime import patch
from comfyui_omnix.omnix.runtime.conditioning import load_conditioning
from comfyui_omnix.omnix.runtime.schedule import flow_shift
from comfyui_omnix.omnix.runtime.tasks import TASKS, WRAP_COLUMNS
from comfyui_omnix.training.saving import PUBLISHED
from rig import Case, ksample
from safetensors.torch import load_file
from torch import Tensor

Model = Any
COUNT = 16


class Judged(NamedTuple):
    """A task's kind of map, and the figure that measures its error."""

    kind: str
    figure: str
    error: Callable[[float], float] = lambda figure: figure


def _root_mean_square(psnr: float) -> float:
    return 10 ** (-psnr / 20)


JUDGED = {
    "rgb_to_depth": Judged("depth", "abs_rel"),
    "rgb_to_normal": Judged("normal", "mean"),
    "rgb_to_albedo": Judged("albedo", "psnr", _root_mean_square),
    "rgb_to_pbr": Judged("roughness", "psnr", _root_mean_square),
    "rgb_to_semantic": Judged("semantic", "accuracy", lambda accuracy: 1 - accuracy),
}


class Rooms(NamedTuple):
    """Rooms nobody trained on: pictures [n, H, W, 3] in [0, 1] and what is true of them."""

    images: Tensor
    truth: list[JudgedRoom]


def rooms(count: int = COUNT) -> Rooms:
    """Render rooms of the judged seeds, as `python -m lab.micro evaluate` does."""
    seeds = range(JUDGED_SEED, JUDGED_SEED + count)
    made = [own_room(seed, FAST) for seed in seeds]
    return Rooms(torch.from_numpy(np.stack([room.maps["rgb"] for room in made])).float(), made)


class Micro:
    """The micro model's files, loaded through the host."""

    def __init__(self, weights: Path = graphs.WEIGHTS) -> None:
        self.weights = weights
        self.flux = load_file(weights / graphs.BASE)
        self.vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(weights / graphs.VAE)))
        self.text, options = load_conditioning(weights / graphs.PROMPT)[0]
        self.pooled = options["pooled_output"]

    @cached_property
    def model(self) -> Model:
        """FLUX, in float32."""
        return self.loaded(torch.float32)

    def loaded(self, dtype: torch.dtype) -> Model:
        """Load FLUX in a dtype of its own."""
        own = {name: tensor.clone() for name, tensor in self.flux.items()}
        return comfy.sd.load_diffusion_model_state_dict(own, model_options={"dtype": dtype})

    def files(self, task: str) -> list[Path]:
        """Return a task's adapters, conditions first."""
        folder = self.weights / graphs.ADAPTERS / task
        return [folder / stream / PUBLISHED for stream in TASKS[task].streams]

    @torch.inference_mode()
    def case(self, task: str, images: Tensor) -> Case:
        """Return a task's inputs; the noise is always the same."""
        process_in = self.model.model.latent_format.process_in
        latent = process_in(self.vae.encode(images))
        noise = torch.randn(latent[:1].shape, generator=torch.Generator().manual_seed(5)).expand_as(latent)
        return Case(TASKS[task], self.flux, [], self.weights, [latent], noise.contiguous(), self.text, self.pooled)

    def attached(
        self,
        task: str,
        files: list[Path] | None = None,
        strengths: tuple[float, float] = (1.0, 1.0),
        seam: int = SEAM_COLUMNS,
        model: Model | None = None,
    ) -> Model:
        """Do what OmniX Flow Shift and Apply OmniX Adapters do."""
        shifted = patch.with_flow_shift(model or self.model, flow_shift(HEIGHT // 8, HEIGHT // 4, seam))
        return patch.attach(shifted, patch.load_adapters(files or self.files(task), TASKS[task]), *strengths, seam)

    @torch.inference_mode()
    def picture(
        self, model: Model, case: Case, steps: int = graphs.STEPS, wrap: int = WRAP_COLUMNS, **changes: Any
    ) -> Tensor:
        """Sample, and do what OmniX Decode Panorama does, [n, H, W, 3]."""
        latent = ksample(model, case, steps, **changes)
        return decode_panorama(self.vae.decode, model.model.latent_format.process_out(latent), wrap).cpu()


def scored(task: str, picture: Tensor, truth: Rooms) -> list[Scores]:
    """Compare a task's decoded pictures with the true maps."""
    judged = JUDGED[task]
    pairs = zip(READ[judged.kind](picture).numpy(), truth.truth, strict=True)
    return [scores(judged.kind, ours, room.maps[judged.kind]) for ours, room in pairs]


def error(task: str, picture: Tensor, truth: Rooms) -> float:
    """Return the mean error of all rooms, less is better; a depth is aligned by its median."""
    judged = JUDGED[task]
    figures = (found.figures[judged.figure][0] for found in scored(task, picture, truth))
    return float(np.mean([judged.error(figure) for figure in figures]))


def seam(task: str, picture: Tensor, truth: Rooms) -> float:
    """Return the difference of the first and last column over that of other neighbours, all rooms together."""
    found = [each.seam for each in scored(task, picture, truth)]
    return float(np.mean([at for at, _ in found]) / np.mean([beside for _, beside in found]))
