"""Close the seam of a panorama while any model of the host samples it; all nodes with a seam use this.

`attach_seam` adds it to a MODEL, in wrappers that live and die with a clone: Apply OmniX Adapters adds its streams,
Seamless Panorama (`close_seam`) only checks. Positions simply continue: a model sees a picture that is wider by the
columns past the seam, and whatever goes with the picture is widened in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher as Patcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from .checks import Conds, check_area, check_narrower, check_place, each_cond, references
from .memory import KEY, as_result
from .sampling import Around, Check, alone, is_picture, predict_between_steps, run_of, sample_widened
from .stages import sample_in_stages
from .tasks import SEAMLESS
from .watch import unwrapped

TRIED = frozenset(
    ("Flux", "Flux2", "QwenImage", "Lumina2", "Chroma", "SD3", "HiDream", "SDXL", "WAN21", "WAN22", "Krea2")
)
"""The host's classes of models whose seam a test closes."""
REFUSED = {
    "HiDreamO1": "its positions are counted before the columns past the seam are added",
    "MiniMaxH3": "its positions are counted before the columns past the seam are added",
    "StableCascade_B": "its prior is a picture of another size, which would be stretched over the wider one",
    "PiD": "it reads a picture of another size, which would be stretched over the wider one",
}
"""The host's classes of models that can't be sampled wider than their latent, and why."""
KEPT = (
    "Apply OmniX Adapters already closes the seam of this model, with its own seam_columns: Seamless Panorama changes "
    "nothing. Remove it."
)
REPLACED = (
    "Apply OmniX Adapters closes the seam with its own seam_columns, and replaces the seam of Seamless Panorama before "
    "it. Remove Seamless Panorama."
)
"""The message if a model has both nodes: there can be only one seam."""
_OF_OTHER_SIZES = frozenset(("ref_latents", "context_latents", "encoder_hidden_states_llama3", "siglip_feats"))
"""Conditions whose size differs from the latent's: reference pictures, and texts."""
_HINTS = ("image", "render_video")
"""Where the host's ControlNets that are patches of the model keep their picture."""


def attach_seam(
    model: Patcher,
    seam: int,
    node: str,
    own: Mapping[str, Callable[..., Any]],
    check: Check,
    around: Around = alone,
    by_the_model: Collection[str] = (),
) -> Patcher:
    """Return a clone of `model` that samples `seam` latent columns twice, with the wrappers `own` beside the seam's.

    An earlier seam is replaced. Messages name the `node`, `check` raises ValueError before a run, `around` lasts as
    long as one, and `by_the_model` names conditions that a wrapper of `own` widens.
    """
    patched = without_seam(model)
    wrappers = {
        WrappersMP.SAMPLER_SAMPLE: sample_widened(seam, node, check, around, by_the_model),
        WrappersMP.OUTER_SAMPLE: sample_in_stages(seam, as_result),
        WrappersMP.PREDICT_NOISE: predict_between_steps,
        **own,
    }
    for kind, wrapper in wrappers.items():
        patched.add_wrapper_with_key(kind, KEY, wrapper)
    return patched


def without_seam(model: Patcher) -> Patcher:
    """Return a clone of `model` without the seam and everything attached with it."""
    plain = model.clone()
    for kind in list(plain.wrappers):
        plain.remove_wrappers_with_key(kind, KEY)
    return plain


def has_seam(model: Patcher) -> bool:
    """Return whether a node has attached a seam."""
    return bool(model.wrappers.get(WrappersMP.SAMPLER_SAMPLE, {}).get(KEY))


def close_seam(model: Patcher, seam: int, warn: Callable[[str], None]) -> Patcher:
    """Return a clone of `model`, of any kind, that samples panoramas whose edges meet; 0 columns: the model unchanged.

    A model with OmniX's adapters has a seam already, which stays. `warn` gets the warnings. Raises
    ValueError if the model can't be sampled with a seam.
    """
    if model.get_additional_models_with_key(KEY):
        warn(KEPT)
        return model.clone()
    if not seam:
        return without_seam(model)
    name, patch = type(model.model).__name__, columns_at_once(model)
    if name in REFUSED:
        raise ValueError(f"Seamless Panorama can't close the seam of {name}: {REFUSED[name]}. Remove this node.")
    if seam < 0 or seam % patch:
        raise ValueError(
            f"seam_columns is {seam}, expected a multiple of {patch} such as {-(-max(seam, 1) // patch) * patch}, or 0 "
            f"for no seam; {name} sees {patch} latent columns at a time."
        )
    if name not in TRIED:
        warn(f"Seamless Panorama was never tried with {name}: look at the seam of the result.")
    own = {WrappersMP.APPLY_MODEL: see_whole(seam), WrappersMP.PREPARE_SAMPLING: prepare_seam(seam)}
    return attach_seam(model, seam, SEAMLESS, own, check_run(seam))


def columns_at_once(model: Patcher) -> int:
    """Return how many latent columns a model treats as one: a patch, or one column at a U-Net's lowest level."""
    network: Any = unwrapped(model.get_model_object("diffusion_model"))
    if levels := getattr(network, "channel_mult", None):
        return 2 ** (len(levels) - 1)
    sizes = (getattr(network, name, None) for name in ("patch_size", "patch_spatial", "patch"))
    size = next((size for size in sizes if isinstance(size, (int, list, tuple))), 1)
    return size if isinstance(size, int) else int(size[-1])


def check_run(seam: int) -> Check:
    """Return a check that raises ValueError before a run that can't be sampled with a seam."""

    def check(guider: Any, noise: Tensor) -> None:
        patcher, conds = guider.model_patcher, guider.conds
        check_latent(noise, seam, columns_at_once(patcher), patcher.model)
        check_area(conds, SEAMLESS)
        for cond in each_cond(conds):
            check_cond(cond, (noise.shape[-2], noise.shape[-1]))
        check_patches(guider.model_options.get("transformer_options", {}))

    return check


def check_latent(noise: Tensor, seam: int, patch: int, model: nn.Module) -> None:
    """Raise ValueError unless a latent is a picture or a video with a width that fits the seam."""
    if noise.ndim not in (4, 5):
        raise ValueError(
            f"Seamless Panorama samples pictures [batch, channels, height, width] and videos, got {list(noise.shape)}; "
            "remove it from this model (sound, and video with sound, have no seam)."
        )
    width, name = noise.shape[-1], type(model).__name__
    pixels = getattr(getattr(model, "latent_format", None), "spacial_downscale_ratio", 8)
    check_narrower(seam, width)
    if width % patch:
        raise ValueError(
            f"The latent is {width} columns wide, and {name} sees {patch} at a time, so the edges can't meet: make the "
            f"panorama {-(-width // patch) * patch * pixels} pixels wide, or another multiple of {patch * pixels}."
        )
    network: Any = unwrapped(getattr(model, "diffusion_model", None))
    most = getattr(network, "pos_embed_max_size", None)
    if most is not None and getattr(network, "pos_embed", None) is not None and width + seam > most * patch:
        raise ValueError(
            f"{name} knows positions for {most * patch} latent columns, the panorama has {width} and {seam} past the "
            f"seam: make it at most {(most * patch - seam) * pixels} pixels wide."
        )
    if width != 2 * noise.shape[-2]:
        raise ValueError(
            f"Seamless Panorama samples panoramas, twice as wide as high, got a latent of {width} by "
            f"{noise.shape[-2]}. If another node cuts the panorama into tiles (Ultimate SD Upscale, "
            "ComfyUI-Distributed), remove that node. Otherwise connect a latent that is twice as wide as high."
        )


def check_cond(cond: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Raise ValueError for parts of a conditioning that can't be continued past the seam of a picture [h, W]."""
    given = cond.get("model_conds", {})
    if cond.get("control") is not None:
        raise ValueError(_NO_CONTROL)
    mask = getattr(given.get("attention_mask"), "cond", None)
    if isinstance(mask, Tensor) and mask.ndim > 2:
        raise ValueError(
            "Seamless Panorama can't run with an attention mask of the picture (Redux); remove that node from the "
            "conditioning."
        )
    for name in (name for name in given if name not in _OF_OTHER_SIZES):
        value = getattr(given[name], "cond", None)
        for each in value if isinstance(value, list) else [value]:
            if is_picture(each) and tuple(each.shape[-2:]) != size:
                raise ValueError(
                    f"The conditioning has {name} of {list(each.shape)}, which Seamless Panorama can't widen with a "
                    f"latent of {size[0]} by {size[1]}; remove the node that adds it, or set seam_columns to 0."
                )


_NO_CONTROL = (
    "Seamless Panorama can't run with a ControlNet, which would stretch its picture over the columns past the seam; "
    "remove the ControlNet, or set seam_columns to 0."
)


def check_patches(options: Mapping[str, Any]) -> None:
    """Raise ValueError for a ControlNet that is a patch of the model (Qwen-Image's, Z-Image's, Wan's)."""
    patches = (patch for each in options.get("patches", {}).values() for patch in each)
    if any(is_picture(getattr(patch, name, None)) for patch in patches for name in _HINTS):
        raise ValueError(_NO_CONTROL)


def see_whole(seam: int) -> Callable[..., Tensor]:
    """Return the APPLY_MODEL wrapper: raise ValueError unless the model sees the whole picture, as it is sampled."""

    def apply(
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: object = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        options = transformer_options or {}
        run = run_of(options)
        if run is not None:
            if x.shape[-2:] != (run.height, run.width + seam):
                raise ValueError(
                    f"Another node cuts the panorama ({run.width} by {run.height} in the latent, {seam} columns past "
                    f"the seam) into parts of {x.shape[-1]} by {x.shape[-2]}; Seamless Panorama needs the whole "
                    "picture. Remove that node (Tiled Diffusion, Context Windows), or set seam_columns to 0."
                )
            check_place(x, run.x, run.node)
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    return apply


def prepare_seam(seam: int) -> Callable[..., Any]:
    """Return the PREPARE_SAMPLING wrapper: let the memory estimate count the columns past the seam."""

    def prepare(
        executor: Any, model: Patcher, noise_shape: Sequence[int], conds: Conds, *args: Any, **kwargs: Any
    ) -> Any:
        height, width = noise_shape[-2:]
        size = (height, width)
        counted = {name: [{**cond, **_sizes(cond, size, seam)} for cond in each] for name, each in conds.items()}
        loaded, _, models = executor(model, [*noise_shape[:-1], width + seam], counted, *args, **kwargs)
        return loaded, conds, models

    return prepare


def _sizes(cond: Mapping[str, Any], size: tuple[int, int], seam: int) -> dict[str, Any]:
    """Return stand-ins for the references that will be widened, which have their size and no memory."""
    if not references(cond):
        return {}
    return {"reference_latents": [*_stand_ins(references(cond), size, seam)]}


def _stand_ins(latents: Sequence[Tensor], size: tuple[int, int], seam: int) -> Iterator[Tensor]:
    for latent in latents:
        wide = (*latent.shape[:-1], latent.shape[-1] + seam * (tuple(latent.shape[-2:]) == size))
        yield torch.empty(wide, device="meta")
