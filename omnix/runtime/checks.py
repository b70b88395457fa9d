"""Check a graph for things that OmniX can't run. Each mistake gets one message that says what to change."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .schedule import ENTRIES, flow_shift, sigmas
from .tasks import APPLY, SEAM_COLUMNS, Task

PIXELS_PER_LATENT = 8
CHANNELS = 16
"""Channels of FLUX.1's latents."""
MOST_SEAM_COLUMNS, MOST_ROWS = 64, 2048
"""The widest seam and the highest panorama that `check_not_a_tile` considers, in latent cells."""

Conds = Mapping[str, Sequence[Mapping[str, Any]]]
"""The host's conditionings by name ("positive", "negative"), each with its options."""


def check_fit(flux: nn.Module, file: str, layers: dict[str, Any]) -> None:
    """Raise ValueError if an adapter names a layer that the model lacks or that has other sizes."""
    modules = {path.replace("_orig_mod.", ""): module for path, module in flux.named_modules()}
    for name, layer in layers.items():
        module = modules.get(name)
        if module is None:
            raise ValueError(f"{file}: {name}: the model has no such layer; connect a FLUX.1-dev with all its blocks.")
        rows = max((part.start + part.size for part in layer.rows), default=0)
        want = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        if want[0] not in (None, layer.down.shape[1]) or (want[1] is not None and rows > want[1]):
            got = f"[{rows}, {layer.down.shape[1]}]"
            raise ValueError(
                f"{file}: {name}: expected at most [{want[1]}, {want[0]}] as in the model, got {got}; "
                "these adapters were made for another model."
            )


def check_extras(control: object, attention_mask: object) -> None:
    """Raise ValueError for other things on a conditioning that would receive the stack of streams."""
    if control is not None:
        raise ValueError("OmniX can't run with a ControlNet; remove the Apply ControlNet node from the conditioning.")
    if attention_mask is not None:
        raise ValueError("OmniX can't run with an attention mask (Redux); remove that node from the conditioning.")


_INPUTS = {"middle": "cond2", "empty_negative_prompt": "empty_conditioning"}
"""The guider's name of a conditioning -> the node's name of that input, for DualCFGGuider and PerpNegGuider."""


def check_count(
    task: Task,
    got: int,
    asked: Collection[str | None] = (),
    guided_by: Collection[str] = (),
    cfg: float | None = None,
) -> None:
    """Raise ValueError unless there is one reference latent for each condition stream.

    `asked` are the guider's names of the conditionings in this call, a subset of all that it is `guided_by`; None is a
    conditioning that the guider does not know. `cfg` is None if the negative is evaluated at any cfg.
    """
    want, names = len(task.conditions), ", ".join(task.conditions)
    lacking = sorted(_INPUTS.get(name, name) for name in asked if name is not None)
    if got == 0 and lacking and not {"positive", None} & set(asked):
        raise ValueError(
            f"The {' and the '.join(lacking)} lack{'s' if len(lacking) == 1 else ''} the conditions of {task.name} "
            f"({names}): put the same Set Reference Latent nodes {_way_out(guided_by, cfg)}"
        )
    if got != want:
        plural = "s" if want > 1 else ""
        raise ValueError(
            f"The task {task.name} needs {want} reference latent{plural} ({names}, in this order), "
            f"got {got}; chain {want} Set Reference Latent node{plural} on the conditioning."
        )


def _way_out(guided_by: Collection[str], cfg: float | None) -> str:
    """Say where to put the conditions of a negative; guiders with more than two conditionings need it at cfg 1 too."""
    if not set(guided_by) <= {"positive", "negative"}:
        return "on it too."
    if cfg in (None, 1.0):
        return "on it too; this sampler, or a guidance node on the model, asks for the negative at any cfg."
    return "on the negative conditioning, or set cfg to 1."


def doubt_of_cfg(task: Task, cfg: float) -> str:
    """Return the warning for a perception at cfg above 1, or "" if cfg is right; shown before sampling starts."""
    if not task.perceives or cfg <= 1.0:
        return ""
    return (
        f"cfg is {cfg:g}, but {task.name} needs cfg 1. A higher cfg makes the map less accurate (with a test model, "
        "the error of depth at 3.5 was four times as large), and each step takes twice as long. Set cfg to 1."
    )


PERCEIVED_ROWS = 720
"""The largest height, in pixels, at which OmniX's authors run perception."""


def doubt_of_size(task: Task, height: int) -> str:
    """Return the warning for a panorama larger than OmniX perceives at, or "". `height` is in latent cells."""
    rows = height * PIXELS_PER_LATENT
    if not task.perceives or rows <= PERCEIVED_ROWS:
        return ""
    return (
        f"The panorama is sampled at {2 * rows}x{rows}, but {task.name} is meant for up to "
        f"{2 * PERCEIVED_ROWS}x{PERCEIVED_ROWS}: each step has {(rows / PERCEIVED_ROWS) ** 2:.1f} times as many "
        f"pixels. Set height to {PERCEIVED_ROWS} in the box or in Load Panorama; put Fit Panorama after another loader."
    )


def doubt_of_shift(got: float, table: Tensor, ours: bool, height: int, width: int, seam: int) -> str:
    """Return what is wrong with a model's flow shift or its table of noise levels; "" where both are a panorama's.

    `ours` says that OmniX Flow Shift has set them. Raises ValueError if it has set them for a larger panorama.
    """
    want = flow_shift(height, width, seam)
    if not math.isclose(want, got, rel_tol=1e-6):
        if ours:
            check_not_a_tile(got, height, width, seam)
        found = "OmniX Flow Shift was set for another size or seam" if ours else "The model has no OmniX Flow Shift"
        found = f"{found}: the shift is {got:.4f}, this panorama needs {want:.4f}"
    elif table.shape != (ENTRIES,) or not torch.allclose(table, sigmas(want), rtol=1e-5, atol=0):
        found = f"The shift {got:.4f} is right, but the model's table of noise levels is not that of OmniX Flow Shift"
    else:
        return ""
    return (
        f"{found}. Give OmniX Flow Shift the latent that is sampled and the seam_columns of Apply OmniX Adapters "
        f"({seam}), and connect it to the sampler."
    )


def check_latents(task: Task, height: int, width: int, conditions: Sequence[Tensor]) -> None:
    """Raise ValueError unless the sampled latent is a panorama and the conditions [b, c, h, w] have its size."""
    if width != 2 * height:
        raise ValueError(
            f"OmniX samples whole panoramas, twice as wide as high, got a latent of {_in_pixels(height, width)}. "
            f"{_NO_TILES} Otherwise connect a latent that is twice as wide as high."
        )
    for name, latent in zip(task.conditions, conditions, strict=True):
        if latent.ndim != 4 or latent.shape[1] != CHANNELS:
            raise ValueError(
                f"The reference latent {name} is {list(latent.shape)}, expected [batch, {CHANNELS}, height, width]; "
                "encode the picture with the VAE of FLUX.1 (ae.safetensors)."
            )
        if latent.shape[-2:] != (height, width):
            larger = latent.shape[-2] > height or latent.shape[-1] > width
            raise ValueError(
                f"The reference latent {name} is {_in_pixels(*latent.shape[-2:])}, but the sampled latent is "
                f"{_in_pixels(height, width)}; resize the picture before VAE Encode, or set the empty latent to its "
                f"size.{f' {_NO_TILES}' if larger else ''}"
            )


_NO_TILES = (
    "If another node cuts the panorama into tiles (Ultimate SD Upscale, ComfyUI-Distributed), remove that node: each "
    "stream must see the whole panorama."
)


def check_whole(got: Sequence[int], height: int, width: int, seam: int) -> None:
    """Raise ValueError if FLUX gets only a part [h, w] of the sampled picture; all sizes are in latent cells."""
    if tuple(got) != (height, width + seam):
        raise ValueError(
            f"OmniX got only {_in_pixels(*got)} of a picture of {_in_pixels(height, width)}. It can't run on tiles or "
            "windows: each stream must see the whole panorama. Remove the node that cuts it (Tiled Diffusion, "
            "Context Windows)."
        )


def check_sampled(got: Sequence[int], height: int, width: int, seam: int, node: str) -> None:
    """Raise ValueError if the sampler has resized the picture: [h, w] is not the picture's size plus the seam."""
    if tuple(got) != (height, width + seam):
        raise ValueError(
            f"The sampler resizes the panorama of {_in_pixels(height, width)} during sampling (SamplerLCMUpscale does "
            f"this), but {node} samples at one size. Choose another sampler, and resize the picture before or after."
        )


def check_not_a_tile(shift: float, height: int, width: int, seam: int) -> None:
    """Raise ValueError if OmniX Flow Shift was set for a larger panorama than the one that is sampled.

    A shift for another seam can't be distinguished from this if both sizes have the same number of tokens.
    """
    whole = (flow_shift(rows, 2 * rows, seam) for rows in range(height + 1, MOST_ROWS + 1))
    other_seam = (flow_shift(height, width, columns) for columns in range(MOST_SEAM_COLUMNS + 1))
    same = functools.partial(math.isclose, shift, rel_tol=1e-6)
    if any(map(same, whole)) or (shift > flow_shift(height, width, seam) and not any(map(same, other_seam))):
        raise ValueError(
            f"OmniX Flow Shift was set for a larger panorama than the {_in_pixels(height, width)} that is sampled. "
            f"{_NO_TILES} Otherwise connect the sampled latent to OmniX Flow Shift and set its seam_columns to the "
            f"value in Apply OmniX Adapters ({seam})."
        )


def check_seam(columns: int) -> None:
    """Raise ValueError unless the seam is an even number of latent columns, because FLUX works in 2x2 patches."""
    if columns < 0 or columns % 2:
        raise ValueError(
            f"seam_columns is {columns}, expected an even number of latent columns such as {SEAM_COLUMNS}, or 0 for no "
            "seam; FLUX sees two columns at a time."
        )


def check_place(got: Tensor, sampled: Tensor | None, node: str) -> None:
    """Raise ValueError if a model is given the sampled picture [b, c, .., h, w], once or more, with its cells moved."""
    if sampled is None or got.shape[0] % sampled.shape[0]:
        return
    want = torch.cat([sampled.to(got)] * (got.shape[0] // sampled.shape[0]))
    if torch.equal(got, want):
        return
    if torch.equal(*(x.flatten(2).sort(dim=-1).values for x in (got, want))):
        raise ValueError(
            "A node on the model rolls or mirrors the picture before the model sees it, and the conditions don't fit "
            f"it then. Remove that node (Seamless Tiling); the seam_columns of {node} close the seam."
        )


_SPARSE = ("spars", "radial")
"""Parts of the names of attention functions that leave out keys."""


def note_on(attention: object) -> str | None:
    """Return the warning for another node's attention if it is known not to be exact, else None."""
    name = f"{getattr(attention, '__module__', '')}.{getattr(attention, '__qualname__', '')}".lower()
    if any(word in name for word in _SPARSE):
        return (
            "A node adds sparse attention to the model, which may leave out parts of any stream. The effect on OmniX's "
            "results was never measured. For exact results remove the node (Model Sparse Attention)."
        )
    return None


def _in_pixels(height: int, width: int) -> str:
    return f"{width * PIXELS_PER_LATENT}x{height * PIXELS_PER_LATENT}"


def check_noise(noise: Tensor, seam: int) -> None:
    """Raise ValueError for a latent that is not FLUX.1's [b, 16, h, w], or narrower than the seam."""
    if noise.ndim != 4 or noise.shape[1] != CHANNELS:
        raise ValueError(
            f"OmniX samples latents of FLUX.1, [batch, {CHANNELS}, height, width], got {list(noise.shape)}; "
            "connect Empty SD3 Latent Image, or encode with the VAE of FLUX.1 (ae.safetensors)."
        )
    check_narrower(seam, noise.shape[-1])


def check_narrower(seam: int, width: int) -> None:
    """Raise ValueError for a seam wider than the latent."""
    if seam > width:
        raise ValueError(f"The seam is {seam} latent columns, the latent has {width}; lower seam_columns.")


def check_cards(models: Sequence[nn.Module], compiled: bool) -> None:
    """Raise ValueError unless each card has its own FLUX, because threads that share one FLUX interfere.

    The host's compile nodes make every card run the first card's graph.
    """
    modules = [module for model in models for module in model.modules()]
    if len(models) > 1 and (compiled or len(set(modules)) < len(modules)):
        raise ValueError(
            "A compile node on the model makes every card run the FLUX of the first card; remove the compile node "
            "(TorchCompileModel), or remove MultiGPU CFG Split."
        )


def check_conds(conds: Conds, batch: int) -> None:
    """Raise ValueError for conditionings of a part of the picture, and for batch sizes that don't match."""
    check_area(conds, APPLY)
    for size in {latent.shape[0] for cond in each_cond(conds) for latent in references(cond)} - {1, batch}:
        raise ValueError(
            f"The reference latents are a batch of {size}, but the sampled latent is a batch of {batch}; set "
            f"batch_size of the empty latent to {size}, or choose one picture of the batch."
        )


def check_area(conds: Conds, node: str) -> None:
    """Raise ValueError for conditionings of a part of the picture."""
    if any("area" in cond for cond in each_cond(conds)):
        raise ValueError(
            f"{node} can't run on a part of the picture; remove Conditioning (Set Area), or use Conditioning (Set "
            "Mask) without bounds."
        )


def each_cond(conds: Conds) -> Iterator[Mapping[str, Any]]:
    """Yield every conditioning, positive and negative."""
    for each in conds.values():
        yield from each


def references(cond: Mapping[str, Any]) -> Sequence[Tensor]:
    """Return a conditioning's reference latents."""
    return cond.get("reference_latents") or ()
