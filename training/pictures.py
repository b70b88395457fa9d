"""Read a map of a folder as the picture that a stream is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import interpolate

from ..mapfiles import layout
from ..mapfiles.nothing import nothing_there, without_far_plane
from ..mapfiles.pictures import Array, pixels
from ..omnix.panorama import camera_rays
from .config import Config, Stream, TrainingError, size_of

_FARTHEST = "max"
_DEFAULT_RANGES = {"depth": _FARTHEST}


def ranges(config: Config) -> dict[str, str]:
    """Return how the values of a folder become [0, 1]: "LOW:HIGH" or "max".  Raises TrainingError."""
    told = dict(_DEFAULT_RANGES)
    for text in config.range:
        folder, _, span = text.partition("=")
        if span != _FARTHEST:
            try:
                low, high = map(float, span.split(":"))
            except ValueError:
                low = high = 0.0
            if not low < high < float("inf"):
                raise TrainingError(f"--range {text}: expected FOLDER=LOW:HIGH or FOLDER=max, as thermal=-20:120.")
        told[folder] = span
    return told


def picture(config: Config, stream: Stream, files: Sequence[Path]) -> Tensor:
    """Return a stream's picture [H, W, 3] in [0, 1] at the run's size.  Raises TrainingError, MapError."""
    height, width = size_of(config)
    if not files:
        return camera_rays(height, width) * 0.5 + 0.5
    spans = ranges(config)
    maps = [_resized(_values(path, path.parent.name, spans), path, height, width) for path in files]
    if len(maps) == 1:
        return maps[0] if maps[0].shape[-1] == 3 else repeat(maps[0], "h w 1 -> h w c", c=3)
    for one, path in zip(maps, files):
        if one.shape[-1] != 1:
            raise TrainingError(f"{path}: expected one channel for a part of {stream.name}, got three; make it grey.")
    empty = torch.zeros(height, width, 3 - len(maps))
    return torch.cat([*maps, empty], dim=-1)


def _values(path: Path, folder: str, spans: Mapping[str, str]) -> Tensor:
    """Read a map as [h, w, 1 or 3] in [0, 1]."""
    if folder in layout.KINDS:
        values = layout.read(path, folder)
        if folder == "normal":
            values = np.nan_to_num(values, nan=0.0) * 0.5 + 0.5
    else:
        values = pixels(path, folder)
    values, span = values if values.ndim == 3 else values[..., None], spans.get(folder)
    nowhere = nothing_there(values) if folder == "depth" or span == _FARTHEST else None
    if values.dtype.kind == "u":
        values = values / np.float32(np.iinfo(values.dtype.name).max)
    tensor = _channels(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)), path)
    return _ranged(tensor if nowhere is None else _endless(tensor, nowhere), path, folder, span)


def _endless(depth: Tensor, nowhere: Array) -> Tensor:
    """Return a depth that is infinite where it means that nothing is there: see `mapfiles.nothing`."""
    known = np.where(nowhere[..., : depth.shape[-1]], np.float32(np.nan), depth.numpy())
    return torch.from_numpy(np.nan_to_num(without_far_plane(known)[0], nan=np.inf, posinf=np.inf))


def _channels(values: Tensor, path: Path) -> Tensor:
    """Drop an alpha that hides nothing, and two of three equal channels stay as they are."""
    count = values.shape[-1]
    if count in (2, 4) and not (values[..., -1] == 1).all():
        raise TrainingError(f"{path}: some pixels are transparent; save the picture without alpha.")
    return values[..., : 3 if count >= 3 else 1]


def _ranged(values: Tensor, path: Path, folder: str, span: str | None) -> Tensor:
    """Bring values to [0, 1]; depth that is none counts as farthest."""
    if span == _FARTHEST:
        known = values[values.isfinite() & (values > 0)]
        if not known.numel():
            raise TrainingError(f"{path}: expected distances above 0, got none; remove the picture.")
        return (values / known.max()).nan_to_num(1.0, posinf=1.0).clamp(0.0, 1.0)
    if span is not None:
        low, high = map(float, span.split(":"))
        values = ((values - low) / (high - low)).clamp(0.0, 1.0)
    if not values.isfinite().all():
        raise TrainingError(f"{path}: some values are no numbers; repair or remove the picture.")
    if values.min() < 0 or values.max() > 1:
        raise TrainingError(
            f"{path}: values from {values.min():g} to {values.max():g}; say with --range {folder}=LOW:HIGH which "
            "become black and white."
        )
    return values


def _resized(values: Tensor, path: Path, height: int, width: int) -> Tensor:
    h, w, _ = values.shape
    if w != 2 * h:
        raise TrainingError(
            f"{path}: expected a panorama twice as wide as high, got {w}x{h}; remove it, or make it one."
        )
    if (h, w) == (height, width):
        return values
    planes = rearrange(values, "h w c -> 1 c h w")
    if path.parent.name == "semantic":  # between two classes lies none
        planes = interpolate(planes, (height, width), mode="nearest-exact")
    else:
        planes = interpolate(planes, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return rearrange(planes, "1 c h w -> h w c").clamp(0.0, 1.0)
