"""What OmniX can't run: each mistake in a graph gets one sentence for the person who made it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .panorama import check_panorama
from .tasks import Task

PIXELS_PER_LATENT = 8
CHANNELS = 16
"""Of FLUX.1's latents."""

Conds = Mapping[str, Sequence[Mapping[str, Any]]]
"""The host's conditionings by name ("positive", "negative"), each with its options."""


def check_fit(flux: nn.Module, file: str, layers: dict[str, Any]) -> None:
    """Raise ValueError if an adapter names a layer that the model lacks or that has other sizes."""
    modules = {path.replace("_orig_mod.", ""): module for path, module in flux.named_modules()}
    for name, layer in layers.items():
        module = modules.get(name)
        if module is None:
            raise ValueError(f"{file}: {name}: the model has no such layer; is it a FLUX.1-dev with all its blocks?")
        rows = max((part.start + part.size for part in layer.rows), default=0)
        want = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        if want[0] not in (None, layer.down.shape[1]) or (want[1] is not None and rows > want[1]):
            got = f"[{rows}, {layer.down.shape[1]}]"
            raise ValueError(
                f"{file}: {name}: expected at most [{want[1]}, {want[0]}] as in the model, got {got}; "
                "these adapters were made for another model."
            )


def check_extras(control: object, attention_mask: object) -> None:
    """Raise ValueError for what else can stand on a conditioning and would see the stack of streams."""
    if control is not None:
        raise ValueError("OmniX can't run with a ControlNet; remove the Apply ControlNet node from the conditioning.")
    if attention_mask is not None:
        raise ValueError("OmniX can't run with an attention mask (Redux); remove that node from the conditioning.")


def check_count(task: Task, got: int, negative_alone: bool, at_cfg_1_alone: bool = True) -> None:
    """Raise ValueError unless there is one reference latent for each condition stream.

    `negative_alone`: the conditioning is the negative; `at_cfg_1_alone`: at cfg 1 nobody would ask for it.
    """
    want, names = len(task.conditions), ", ".join(task.conditions)
    if got == 0 and negative_alone:
        way_out = (
            "on the negative conditioning, or set cfg to 1."
            if at_cfg_1_alone
            else "on it too; this sampler, or a guidance node on the model, asks for the negative at any cfg."
        )
        raise ValueError(
            f"The negative lacks the conditions of {task.name} ({names}): put the same Set Reference Latent nodes "
            f"{way_out}"
        )
    if got != want:
        plural = "s" if want > 1 else ""
        raise ValueError(
            f"The task {task.name} needs {want} reference latent{plural} ({names}, in this order), "
            f"got {got}; chain {want} Set Reference Latent node{plural} on the conditioning."
        )


def check_latents(task: Task, height: int, width: int, conditions: Sequence[Tensor]) -> None:
    """Raise ValueError unless the sampled latent is a panorama's, and the conditions [b, c, h, w] are of its size."""
    check_panorama(height * PIXELS_PER_LATENT, width * PIXELS_PER_LATENT)
    for name, latent in zip(task.conditions, conditions, strict=True):
        if latent.ndim != 4 or latent.shape[1] != CHANNELS:
            raise ValueError(
                f"The reference latent {name} is {list(latent.shape)}, expected [batch, {CHANNELS}, height, width]; "
                "encode the picture with the VAE of FLUX.1 (ae.safetensors)."
            )
        if latent.shape[-2:] != (height, width):
            raise ValueError(
                f"The reference latent {name} is {_in_pixels(*latent.shape[-2:])}, the sampled latent is "
                f"{_in_pixels(height, width)}; resize the picture before VAE Encode, or set the empty latent to its "
                "size."
            )


def check_whole(got: Sequence[int], whole: Sequence[int]) -> None:
    """Raise ValueError if FLUX is given a part of the picture (height and width in latent cells) that is sampled."""
    if tuple(got) != tuple(whole):
        raise ValueError(
            f"OmniX was given {_in_pixels(*got)} of a picture of {_in_pixels(*whole)}, and can't run on tiles or "
            "windows: each stream must see the whole panorama. Remove the node that cuts it (Tiled Diffusion, Context "
            "Windows)."
        )


def _in_pixels(height: int, width: int) -> str:
    return f"{width * PIXELS_PER_LATENT}x{height * PIXELS_PER_LATENT}"


def check_noise(noise: Tensor, seam: int) -> None:
    """Raise ValueError for a latent that is not FLUX.1's [b, 16, h, w], or narrower than the seam."""
    if noise.ndim != 4 or noise.shape[1] != CHANNELS:
        raise ValueError(
            f"OmniX samples latents of FLUX.1, [batch, {CHANNELS}, height, width], got {list(noise.shape)}; "
            "connect Empty SD3 Latent Image, or encode with the VAE of FLUX.1 (ae.safetensors)."
        )
    if seam > noise.shape[-1]:
        raise ValueError(f"The seam is {seam} latent columns, the latent has {noise.shape[-1]}; lower seam_columns.")


def check_cards(models: Sequence[nn.Module], compiled: bool) -> None:
    """Raise ValueError unless each card has a FLUX of its own: threads that run one FLUX get in each other's way.

    The host's compile nodes let every card run the first card's graph.
    """
    modules = [module for model in models for module in model.modules()]
    if len(models) > 1 and (compiled or len(set(modules)) < len(modules)):
        raise ValueError(
            "A compile node on the model makes every card run the FLUX of the first card; remove the compile node "
            "(TorchCompileModel), or remove MultiGPU CFG Split."
        )


def check_conds(conds: Conds, batch: int) -> None:
    """Raise ValueError for conditionings of a part of the picture, and for batches that do not go together."""
    if any("area" in cond for cond in each_cond(conds)):
        raise ValueError(
            "OmniX can't run on a part of the picture; remove Conditioning (Set Area), or use Conditioning (Set Mask) "
            "without bounds."
        )
    for size in {latent.shape[0] for cond in each_cond(conds) for latent in references(cond)} - {1, batch}:
        raise ValueError(
            f"The reference latents are a batch of {size}, the sampled latent is one of {batch}; set batch_size of the "
            f"empty latent to {size}, or choose one picture of the batch."
        )


def each_cond(conds: Conds) -> Iterator[Mapping[str, Any]]:
    """Yield every conditioning, positive and negative."""
    for each in conds.values():
        yield from each


def references(cond: Mapping[str, Any]) -> Sequence[Tensor]:
    """Return a conditioning's reference latents."""
    return cond.get("reference_latents") or ()
