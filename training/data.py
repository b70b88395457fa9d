"""From folders of pictures to latents on the disk, in the layout of `mapfiles.layout`.

Each picture is encoded once. A latent lies under a name that is the checksum of all that it depends on: the bytes of
its sources, how they are read, the size and the VAE. So a latent is never stale, and runs can share them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import torch
from einops import rearrange, repeat
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import interpolate

from ..mapfiles import layout
from ..mapfiles.nothing import nothing_there, without_far_plane
from ..mapfiles.pictures import Array, pixels
from ..omnix.panorama import camera_rays
from ..omnix.tasks import WRAP_COLUMNS
from .base import Pictures
from .config import Config, Plan, Stream, size_of
from .errors import TrainingError
from .files import write_tensors
from .samples import RAYS, Batch

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".exr")
PIXELS_PER_LATENT = 8
READING = 2
"""Part of a latent's name: raise it when pictures are read in another way, so that older latents are made again."""
_FARTHEST = "max"
_DEFAULT_RANGES = {"depth": _FARTHEST}


class Sources(NamedTuple):
    """The pictures of a task: for every stem and stream the files that its picture is made of, and its caption."""

    stems: tuple[str, ...]
    files: Mapping[tuple[str, str], tuple[Path, ...]]
    captions: Mapping[str, str]


def find(config: Config, plan: Plan) -> Sources:
    """Look a task's pictures up.  Raises TrainingError for folders or pictures that are missing."""
    root = Path(config.data)
    if not config.data or not root.is_dir():
        raise TrainingError(
            f"--data {config.data or '(not given)'}: expected a folder with a folder of pictures for each stream."
        )
    folders = {
        folder: _listed(root, folder)
        for stream in plan.streams
        for folder in stream.folders
        if not _is_rays(root, folder)
    }
    if not folders:
        raise TrainingError(f"{root}: camera rays alone are no data; name a folder of pictures too.")
    every = sorted(set().union(*folders.values()))
    for folder, found in folders.items():
        if missing := [stem for stem in every if stem not in found]:
            raise TrainingError(
                f"{root / folder}: expected a picture for each of {len(every)} names, got none for {len(missing)} "
                f"({', '.join(missing[:5])}); add them, or remove those names from the other folders."
            )
    files = {
        (stem, stream.name): tuple(folders[folder][stem] for folder in stream.folders if folder in folders)
        for stem in every
        for stream in plan.streams
    }
    return Sources(tuple(every), files, {stem: layout.caption(root, stem) for stem in every})


def _is_rays(root: Path, folder: str) -> bool:
    return folder == RAYS and not (root / folder).is_dir()


def maps(plan: Plan) -> tuple[str, ...]:
    """Return the folders of a task: what its streams show, whatever they are called."""
    return tuple(folder for stream in plan.streams for folder in stream.folders)


def _listed(root: Path, folder: str) -> dict[str, Path]:
    """Map the stems of a folder to its pictures; a map that the layout does not know may be any picture."""
    if not (root / folder).is_dir():
        there = sorted(path.name for path in root.iterdir() if path.is_dir())
        raise TrainingError(
            f"{root}: there is no folder {folder}, only {', '.join(there) or 'none'}; correct --conditions or --target."
        )
    if folder in layout.KINDS:
        found = layout.files(root / folder, folder)
    else:
        paths = [
            path
            for path in sorted((root / folder).iterdir())
            if path.suffix.lower() in SUFFIXES and path.name[0] != "."
        ]
        found = {path.stem: path for path in paths}
        if len(found) < len(paths):
            twice = next(path for path in paths if found[path.stem] != path)
            raise TrainingError(f"{twice}: there is also {found[twice.stem].name}; keep one file of a name.")
    if not found:
        raise TrainingError(f"{root / folder}: expected pictures ({', '.join(SUFFIXES)}), got none; check the path.")
    return found


def split(stems: Sequence[str], held_out: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (trained on, held out): the latter evenly spread over the names.  Raises TrainingError."""
    if held_out >= len(stems):
        raise TrainingError(f"--held-out {held_out} of {len(stems)} pictures leaves nothing to train on; use fewer.")
    apart = {stems[number * len(stems) // held_out] for number in range(held_out)} if held_out else set()
    return tuple(s for s in stems if s not in apart), tuple(s for s in stems if s in apart)


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


class Cache:
    """Latents and prompts on the disk, by the checksum of what they were made from."""

    def __init__(self, folder: Path, pictures: Pictures, encoder: str) -> None:
        self.folder, self.pictures, self.encoder = folder, pictures, encoder

    def latent(self, config: Config, stream: Stream, files: Sequence[Path], sums: Sequence[str]) -> Path:
        """Return the file of a picture's latent, which is made if it is not there."""
        spans = {file.parent.name: ranges(config).get(file.parent.name) for file in files}
        path = self._path("latent", READING, sums, spans, config.size, WRAP_COLUMNS, self.encoder, len(files))
        return path if _is_whole(path) else self._write(path, {"latent": self._encoded(picture(config, stream, files))})

    def prompt(self, words: str, encoders: str) -> Path:
        """Return the file of a prompt's embedding, which is made if it is not there."""
        path = self._path("prompt", words, encoders)
        if _is_whole(path):
            return path
        text, pooled = self.pictures.prompt(words)
        return self._write(path, {"text": text, "pooled": pooled})

    def _encoded(self, image: Tensor) -> Tensor:
        """Encode a picture that goes on past both edges: latents are rolled, so none may know where its edge was."""
        beyond = WRAP_COLUMNS * PIXELS_PER_LATENT
        wide = torch.cat([image[:, -beyond:], image, image[:, :beyond]], dim=1)
        return self.pictures.encode(rearrange(wide, "h w c -> 1 h w c"))[0, :, :, WRAP_COLUMNS:-WRAP_COLUMNS]

    def _path(self, *parts: object) -> Path:
        return self.folder / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]}.safetensors"

    def _write(self, path: Path, tensors: Mapping[str, Tensor]) -> Path:
        write_tensors(path, {name: tensor.float() for name, tensor in tensors.items()}, {}, force=True)
        return path


def _is_whole(path: Path) -> bool:
    try:
        with safetensors.safe_open(path, "pt") as file:
            return bool(file.keys())
    except (SafetensorError, OSError):
        return False


class Cached:
    """Samples whose latents are read from the cache as they come."""

    def __init__(
        self,
        latents: Sequence[Sequence[Path]],
        prompts: Sequence[Path],
        bare: Path,
        identity: str,
        maps: tuple[str, ...] = (),
    ) -> None:
        self.latents, self.prompts, self.bare, self.identity, self.maps = latents, prompts, bare, identity, maps
        first = _tensor(latents[0][0], "latent")
        self.size = (first.shape[-2], first.shape[-1])

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: Sequence[int], bare: Sequence[bool]) -> Batch:
        """Return samples by number; a caption that is longer than the tag's embedding is cut to its length."""
        rows = [self.latents[index] for index in indices]
        streams = tuple(torch.stack([_tensor(path, "latent") for path in stream]) for stream in zip(*rows))
        prompts = [self.bare if alone else self.prompts[index] for index, alone in zip(indices, bare)]
        if len(set(prompts)) == 1:
            return Batch(streams, _tensor(prompts[0], "text"), _tensor(prompts[0], "pooled"))
        tokens = _tensor(self.bare, "text").shape[1]
        text = torch.cat([_tensor(path, "text")[:, :tokens] for path in prompts])
        return Batch(streams, text, torch.cat([_tensor(path, "pooled") for path in prompts]))


def _tensor(path: Path, name: str) -> Tensor:
    with safetensors.safe_open(path, "pt") as file:
        return file.get_tensor(name)
