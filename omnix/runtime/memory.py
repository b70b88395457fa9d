"""Objects that ComfyUI keeps in memory for OmniX: adapters, FLUX.1 from a Diffusers snapshot, the noise level table.

ComfyUI moves models between memories at any time, and copies them for other cards. All these objects support that:
ComfyUI uses `cached_patcher_init` to create a model again, and the table is kept where it can't be moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher as Patcher
from torch import Tensor, nn

from .adapter import TaskAdapters, load_task, streams_of
from .checks import Conds, each_cond, references
from .compiled import Graphs
from .schedule import sigmas
from .streams import Stream
from .tasks import Task

KEY = "omnix"
"""The key under which the host stores OmniX's objects on a model."""


class LoadedAdapters(NamedTuple):
    """A task's adapters, and the patcher through which the host counts, moves and offloads them."""

    adapters: TaskAdapters
    patcher: Patcher


def load_adapters(files: Sequence[Path], task: Task) -> LoadedAdapters:
    """Read a task's adapters and pass them to the host's memory management."""
    adapters = load_task(files, task)
    return LoadedAdapters(adapters, managed(adapters, comfy.model_management.get_torch_device()))


def managed(adapters: TaskAdapters, device: torch.device, disable_dynamic: bool = False) -> Patcher:
    """Return the patcher through which the host moves adapters to `device` for a run, and offloads them."""
    kind = Patcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(adapters.weights, device, comfy.model_management.unet_offload_device())
    patcher.cached_patcher_init = (copied, (adapters, device))
    return patcher


def copied(adapters: TaskAdapters, device: torch.device, disable_dynamic: bool = False) -> Patcher:
    """Return a patcher of the same adapters with their own modules, which may be on another card."""
    return managed(adapters.copied(), device, disable_dynamic)


def for_each_card(strengths: Sequence[float]) -> Callable[[nn.Module], tuple[list[Stream], Graphs]]:
    """Return a function that makes the streams and graphs of one card's copy of the adapters, once per copy."""
    made: WeakKeyDictionary[nn.Module, tuple[list[Stream], Graphs]] = WeakKeyDictionary()

    def on_card(weights: nn.Module) -> tuple[list[Stream], Graphs]:
        if weights not in made:
            streams = [Stream(each.by_name(), strength) for each, strength in zip(streams_of(weights), strengths)]
            made[weights] = streams, Graphs(streams)
        return made[weights]

    return on_card


def load_diffusers_flux(files: Sequence[str], disable_dynamic: bool = False) -> Patcher:
    """Load FLUX.1-dev from the shards of a Diffusers snapshot, through the host's own key conversion."""
    state: dict[str, Tensor] = {}
    for file in files:
        state.update(comfy.utils.load_torch_file(file))
    # Hosts without a dynamic patcher don't accept this argument.
    model = comfy.sd.load_diffusion_model_state_dict(state, **({"disable_dynamic": True} if disable_dynamic else {}))
    if model is None:
        raise ValueError(f"{files[0]}: ComfyUI doesn't recognise this model; choose the snapshot of FLUX.1-dev.")
    model.cached_patcher_init = (load_diffusers_flux, (tuple(files),))
    return model


class PanoramaSampling(comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.CONST):
    """FLUX's sampling with the shift `mu`, on a table of noise levels on which the scheduler `simple` is exact.

    The table is no buffer. DynamicVRAM keeps each buffer by its path and puts it back by that path, into whichever
    sampling the model has by then: with a buffer, the user's FLUX would keep our table, and we could get another's.
    """

    def __init__(self, config: Any, mu: float) -> None:
        super().__init__(config)
        self.set_parameters(shift=mu)
        self._table = sigmas(mu)

    @property
    def sigmas(self) -> Tensor:
        """The table, always on the CPU."""
        return self._table

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Refuse other tables: the host's own, and one that DynamicVRAM puts back."""
        if name != "sigmas":
            super().register_buffer(name, tensor, persistent)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Leave the names in the model's state unchanged."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}sigmas"] = self._table


def prepare_widened(adapters: TaskAdapters, seam: int) -> Callable[..., Any]:
    """Return the PREPARE_SAMPLING wrapper: let the memory estimate see the seam and every stream of every sequence.

    The adapters follow FLUX to the device that a node has chosen for it, before the host moves both there.
    The host counts one sequence of each reference latent, but each reference runs with every sequence of a batch.
    """

    def prepare(
        executor: Any, model: Patcher, noise_shape: Sequence[int], conds: Conds, *args: Any, **kwargs: Any
    ) -> Any:
        if any(ours.load_device != model.load_device for ours in model.get_additional_models_with_key(KEY)):
            model.set_additional_models(KEY, [copied(adapters, model.load_device)])
        batch = noise_shape[0]
        repeated = [(batch - 1) * len(references(cond)) for cond in each_cond(conds)]
        shape = [batch + max(0, *repeated), *noise_shape[1:-1], noise_shape[-1] + seam]
        return executor(model, shape, conds, *args, **kwargs)

    return prepare


def as_result(latent: Tensor) -> Tensor:
    """Return a latent on the host's device for results and in its dtype, so that the host returns this same tensor."""
    dtype = getattr(comfy.model_management, "intermediate_dtype", lambda: latent.dtype)()
    return latent.to(device=comfy.model_management.intermediate_device(), dtype=dtype)
