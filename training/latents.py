"""Latents and prompts on the disk: every picture is encoded once.

The name of a latent's file is a checksum of everything that the latent depends on: the bytes of its sources, how they
are read, the size and the VAE. So a latent is never out of date, and several runs can share it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import torch
from einops import rearrange
from safetensors import SafetensorError
from torch import Tensor
from tqdm.auto import tqdm

from ..converters.files.reading import sha256_of
from ..omnix.runtime.tasks import WRAP_COLUMNS, tagged_prompt
from .config import Config, Plan, Stream
from .data import Sources, maps
from .pictures import FRONT, PIXELS_PER_LATENT, View, learned, ranges, seen
from .samples import Batch, Pictures
from .saving import write_tensors

READING = 2
"""Part of a latent's name: raise it when pictures are read in another way, so that they are encoded again."""


class Cache:
    """Latents and prompts on the disk, by the checksum of their sources."""

    def __init__(self, folder: Path, pictures: Pictures, encoder: str) -> None:
        self.folder, self.pictures, self.encoder = folder, pictures, encoder
        self.sums: dict[Path, str] = {}

    def latent(self, config: Config, stream: Stream, files: Sequence[Path], view: View) -> Path:
        """Return the file of a condition's latent; encode the picture if the file is missing."""
        path = self._picture_path(config, files, view)
        if not _is_whole(path):
            self._write(path, {"latent": self._encoded(seen(config, stream, files, None, view).image)})
        return path

    def target(self, config: Config, stream: Stream, files: Sequence[Path], mask: Path | None, view: View) -> Path:
        """Return the file of a target's latent and its weights in the loss; encode the picture if it is missing."""
        masked = self.checksum(mask) if mask else ""
        path = self._picture_path(config, files, view, "weight", masked, config.learn_holes)
        if not _is_whole(path):
            found = learned(config, stream, files, mask, view)
            self._write(path, {"latent": self._encoded(found.image), "weight": found.weight})
        return path

    def _picture_path(self, config: Config, files: Sequence[Path], view: View, *more: object) -> Path:
        spans = {file.parent.name: ranges(config).get(file.parent.name) for file in files}
        sums = [self.checksum(file) for file in files]
        turned = () if view == FRONT else view
        return self._path(
            "latent", READING, sums, spans, config.size, WRAP_COLUMNS, self.encoder, len(files), *turned, *more
        )

    def checksum(self, path: Path) -> str:
        """Return the checksum of a file, read once."""
        if path not in self.sums:
            self.sums[path] = sha256_of(path)
        return self.sums[path]

    def prompt(self, words: str, encoders: str) -> Path:
        """Return the file of a prompt's embedding, which is made if it is missing."""
        path = self._path("prompt", words, encoders)
        if _is_whole(path):
            return path
        text, pooled = self.pictures.prompt(words)
        return self._write(path, {"text": text, "pooled": pooled})

    def _encoded(self, image: Tensor) -> Tensor:
        """Encode a picture that continues past both edges, so that a rolled latent does not show where its edge was."""
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
    """Samples whose latents are read from the cache when a batch needs them."""

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

    def deviation(self, most: int = 16) -> float:
        """Return the standard deviation of the first pictures' latents, those of the first condition."""
        return float(torch.stack([_tensor(row[0], "latent") for row in self.latents[:most]]).std())

    def batch(self, indices: Sequence[int], bare: Sequence[bool]) -> Batch:
        """Return samples by number; a caption that is longer than the tag's embedding is cut to its length."""
        rows = [self.latents[index] for index in indices]
        streams = tuple(torch.stack([_tensor(path, "latent") for path in stream]) for stream in zip(*rows))
        prompts = [self.bare if alone else self.prompts[index] for index, alone in zip(indices, bare)]
        weights = torch.stack([_tensor(row[-1], "weight")[None] for row in rows])
        if len(set(prompts)) == 1:
            return Batch(streams, _tensor(prompts[0], "text"), _tensor(prompts[0], "pooled"), weights)
        tokens = _tensor(self.bare, "text").shape[1]
        text = torch.cat([_tensor(path, "text")[:, :tokens] for path in prompts])
        return Batch(streams, text, torch.cat([_tensor(path, "pooled") for path in prompts]), weights)


def _tensor(path: Path, name: str) -> Tensor:
    with safetensors.safe_open(path, "pt") as file:
        return file.get_tensor(name)


def encoded(
    cache: Cache, config: Config, plan: Plan, sources: Sources, pairs: Sequence[tuple[str, View]], show: bool
) -> Cached:
    """Encode the panoramas of `pairs`, each turned as its view says: first all pictures, then all prompts.

    So the VAE and T5 are never in memory together.
    """
    latents, kept = [], []
    *conditions, target = plan.streams
    for stem, view in tqdm(pairs, desc="encoding pictures", disable=not show, dynamic_ncols=True):
        row = [cache.latent(config, stream, sources.files[stem, stream.name], view) for stream in conditions]
        files, mask = sources.files[stem, target.name], sources.masks.get(stem)
        latents.append([*row, cache.target(config, target, files, mask, view)])
        kept.append([stem, [path.name for path in latents[-1]], sources.captions[stem]])
    base = cache.pictures
    base.release()
    captions = sources.captions if config.caption_dropout < 1 else dict.fromkeys(sources.captions, "")
    words = [tagged_prompt(captions[stem] or config.prompt) for stem, _view in pairs]
    bare = cache.prompt(tagged_prompt("" if any(captions.values()) else config.prompt), base.text_identity)
    prompts = [
        cache.prompt(text, base.text_identity) for text in tqdm(words, desc="encoding prompts", disable=not show)
    ]
    base.release()
    identity = hashlib.sha256(json.dumps([kept, bare.name]).encode()).hexdigest()
    return Cached(latents, prompts, bare, identity, maps(plan))


_END = 1 << 20


def checksum(path: Path) -> str:
    """Return a checksum of a large file's size and of a megabyte at either end, or of a folder's files."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else (path,):
        if file.is_file():
            size = file.stat().st_size
            with open(file, "rb") as data:
                digest.update(f"{file.name if path.is_dir() else ''} {size} ".encode() + data.read(_END))
                data.seek(max(0, size - _END))
                digest.update(data.read())
    return digest.hexdigest()
