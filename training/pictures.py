"""Read a map of a folder as the picture of a stream."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate

from ..mapfiles import layout
from ..mapfiles.errors import package
from ..mapfiles.nothing import nothing_there, without_far_plane
from ..mapfiles.pictures import Array, pixels
from ..omnix.pictures.panorama import camera_rays
from .config import Config, Stream, TrainingError, size_of
from .samples import DIRECTIONS, RAYS

PIXELS_PER_LATENT = 8
_FARTHEST = "max"
_DEFAULT_RANGES = {"depth": _FARTHEST}


def ranges(config: Config) -> dict[str, str]:
    """Return how the values of a folder become [0, 1]: "LOW:HIGH" or "max".  Raises TrainingError."""
    found = dict(_DEFAULT_RANGES)
    for text in config.range:
        folder, _, span = text.partition("=")
        if span != _FARTHEST:
            try:
                low, high = map(float, span.split(":"))
            except ValueError:
                low = high = 0.0
            if not low < high < float("inf"):
                raise TrainingError(f"--range {text}: expected FOLDER=LOW:HIGH or FOLDER=max, such as thermal=-20:120.")
        found[folder] = span
    return found


class View(NamedTuple):
    """How a panorama is turned: to the right by some columns of its width, then mirrored."""

    columns: int = 0
    mirrored: bool = False


FRONT = View()


class Seen(NamedTuple):
    """A stream's picture [H, W, 3] in [0, 1], and the weight [H / 8, W / 8] of each latent cell in the loss."""

    image: Tensor
    weight: Tensor


class Map(NamedTuple):
    """One map at the size of its file: values [h, w, 1 or 3] in [0, 1], and where they are known [h, w]."""

    values: Tensor
    known: Tensor


def picture(config: Config, stream: Stream, files: Sequence[Path]) -> Tensor:
    """Return a stream's picture [H, W, 3] in [0, 1] at the run's size.  Raises TrainingError, MapError."""
    return seen(config, stream, files).image


def learned(config: Config, stream: Stream, files: Sequence[Path], mask: Path | None, view: View = FRONT) -> Seen:
    """Return the target's picture and weights.  Raises TrainingError, also if no part of the picture can be learned."""
    found = seen(config, stream, files, mask, view)
    if not found.weight.any():
        raise TrainingError(
            f"{files[0]}: no part of the picture can be learned; remove the picture, or correct its mask."
        )
    return found


def seen(config: Config, stream: Stream, files: Sequence[Path], mask: Path | None = None, view: View = FRONT) -> Seen:
    """Return a stream's picture and its weights in the loss; `mask` is white where the loss counts.

    Raises TrainingError, MapError.
    """
    height, width = size_of(config)
    cells = (height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
    if not files:  # camera rays belong to the pixels, so they don't turn with the panorama
        return Seen(camera_rays(height, width) * 0.5 + 0.5, torch.ones(cells))
    maps = [_map(path, ranges(config)) for path in files]
    resized = [
        turned(_resized(one.values, path, height, width), view, path.parent.name) for one, path in zip(maps, files)
    ]
    weight = torch.ones(cells) if mask is None else _in_cells(_mask(mask), cells)
    for one in () if config.learn_holes else maps:
        weight = weight * _in_cells(one.known.float(), cells)
    return Seen(_packed(resized, stream, files), turned(weight[..., None], in_cells(view), "")[..., 0])


def in_cells(view: View) -> View:
    """Return a view of latents."""
    return View(view.columns // PIXELS_PER_LATENT, view.mirrored)


def _in_cells(weight: Tensor, cells: tuple[int, int]) -> Tensor:
    """Return the smallest weight of the pixels of each latent cell: a cell with a hole must not be learned."""
    return -adaptive_max_pool2d(-weight[None], cells)[0]


def turned(values: Tensor, view: View, folder: str) -> Tensor:
    """Return a map [h, w, c] turned and mirrored by a view, directions too.

    Turned by an angle a to the right, a direction (x, y, z) becomes (x cos a + z sin a, y, z cos a - x sin a); axes
    front +X, up +Y, left +Z.
    """
    if view == FRONT:
        return values
    moved = values.roll(view.columns, 1)
    if folder in (*DIRECTIONS, RAYS):
        angle = 2 * math.pi * view.columns / values.shape[1]
        x, y, z = (moved * 2 - 1).unbind(-1)
        x, z = x * math.cos(angle) + z * math.sin(angle), z * math.cos(angle) - x * math.sin(angle)
        moved = torch.stack([x, y, -z if view.mirrored else z], dim=-1) * 0.5 + 0.5
    return moved.flip(1) if view.mirrored else moved


def _packed(maps: Sequence[Tensor], stream: Stream, files: Sequence[Path]) -> Tensor:
    """Return one map in three channels, or several as the channels of one picture."""
    if len(maps) == 1:
        return maps[0] if maps[0].shape[-1] == 3 else repeat(maps[0], "h w 1 -> h w c", c=3)
    for one, path in zip(maps, files):
        if one.shape[-1] != 1:
            raise TrainingError(f"{path}: expected one channel for a part of {stream.name}, got three; make it grey.")
    empty = torch.zeros(*maps[0].shape[:2], 3 - len(maps))
    return torch.cat([*maps, empty], dim=-1)


def rows(path: Path) -> int:
    """Return the height of a picture from its header; 0 for a file that can't be read: reading it reports the error."""
    oiio = package("OpenImageIO")
    source = oiio.ImageInput.open(str(path))
    if source is None:
        oiio.geterror()
        return 0
    height = source.spec().height
    source.close()
    return height


def _map(path: Path, spans: Mapping[str, str]) -> Map:
    """Read a map."""
    folder = path.parent.name
    span = spans.get(folder)
    stored = layout.read(path, folder, nan_is_missing=True) if folder in layout.KINDS else pixels(path, folder)
    stored = stored if stored.ndim == 3 else stored[..., None]
    nowhere = nothing_there(stored) if folder == "depth" or span == _FARTHEST else None
    values = _channels(_numbers(stored), path)
    known = torch.ones(values.shape[:2], dtype=torch.bool)
    if nowhere is not None:
        values = _endless(values, nowhere)
        known = values.isfinite().all(-1)
    elif folder == "normal":
        known = values.isfinite().all(-1)
        values = values.nan_to_num(nan=0.0) * 0.5 + 0.5
    return Map(_ranged(values, path, folder, span), known)


def _numbers(stored: Array) -> Tensor:
    """Return stored numbers as float32; those of integers in [0, 1]."""
    most = np.float32(np.iinfo(stored.dtype.name).max) if stored.dtype.kind == "u" else np.float32(1)
    return torch.from_numpy(np.ascontiguousarray(stored / most, dtype=np.float32))


def _mask(path: Path) -> Tensor:
    """Read a mask as the weights [h, w] of its pixels."""
    values = _ranged(_channels(_numbers(pixels(path, path.parent.name)), path), path, path.parent.name, None)
    _check_panorama(path, *values.shape[:2])
    if (values != values[..., :1]).any():
        raise TrainingError(f"{path}: expected a grey mask, got colours; save it in one channel.")
    return values[..., 0]


def _endless(depth: Tensor, nowhere: Array) -> Tensor:
    """Return a depth that is infinite in pixels without a surface: see `mapfiles.nothing`."""
    known = np.where(nowhere[..., : depth.shape[-1]], np.float32(np.nan), depth.numpy())
    return torch.from_numpy(np.nan_to_num(without_far_plane(known)[0], nan=np.inf, posinf=np.inf))


def _channels(values: Tensor, path: Path) -> Tensor:
    """Remove an opaque alpha channel.  Raises TrainingError for one that is not opaque."""
    count = values.shape[-1]
    if count in (2, 4) and not (values[..., -1] == 1).all():
        raise TrainingError(f"{path}: some pixels are transparent; save the picture without alpha.")
    return values[..., : 3 if count >= 3 else 1]


def _ranged(values: Tensor, path: Path, folder: str, span: str | None) -> Tensor:
    """Bring values to [0, 1]; a pixel without depth becomes the farthest."""
    if span == _FARTHEST:
        known = values[values.isfinite() & (values > 0)]
        if not known.numel():
            raise TrainingError(f"{path}: expected distances above 0, got none; remove the picture.")
        return (values / known.max()).nan_to_num(1.0, posinf=1.0).clamp(0.0, 1.0)
    if span is not None:
        low, high = map(float, span.split(":"))
        values = ((values - low) / (high - low)).clamp(0.0, 1.0)
    if not values.isfinite().all():
        raise TrainingError(f"{path}: the file contains NaN or infinite values; correct or remove it.")
    if values.min() < 0 or values.max() > 1:
        raise TrainingError(
            f"{path}: values from {values.min():g} to {values.max():g}; set with --range {folder}=LOW:HIGH which "
            "values become black and white."
        )
    return values


def unranged(values: Array, config: Config, folder: str) -> Array:
    """Return values of a picture in the unit of its file; with "max" they stay shares of the farthest."""
    span = ranges(config).get(folder, _FARTHEST)
    low, high = map(float, span.split(":")) if span != _FARTHEST else (0.0, 1.0)
    return low + (high - low) * values


def _check_panorama(path: Path, height: int, width: int) -> None:
    if width != 2 * height:
        raise TrainingError(
            f"{path}: expected a panorama twice as wide as high, got {width}x{height}; remove or replace it."
        )


def _resized(values: Tensor, path: Path, height: int, width: int) -> Tensor:
    _check_panorama(path, *values.shape[:2])
    if values.shape[:2] == (height, width):
        return values
    planes = rearrange(values, "h w c -> 1 c h w")
    if path.parent.name == "semantic":  # a mean of two classes is not a class
        planes = interpolate(planes, (height, width), mode="nearest-exact")
    else:
        planes = interpolate(planes, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return rearrange(planes, "1 c h w -> h w c").clamp(0.0, 1.0)
