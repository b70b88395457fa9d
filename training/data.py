"""From folders of pictures to latents on the disk, in the layout of `mapfiles.layout`.

Each picture is encoded once. A latent lies under a name that is the checksum of all that it depends on: the bytes of
its sources, how they are read, the size and the VAE. So a latent is never stale, and runs can share them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from einops import rearrange
from safetensors import SafetensorError
from torch import Tensor
from tqdm.auto import tqdm

from ..mapfiles import layout
from ..omnix.tasks import WRAP_COLUMNS, tagged_prompt
from .config import Config, Plan, Stream, TrainingError
from .pictures import picture, ranges
from .samples import RAYS, Batch, Pictures
from .saving import write_tensors

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".exr")
PIXELS_PER_LATENT = 8
READING = 2
"""Part of a latent's name: raise it when pictures are read in another way, so that older latents are made again."""


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


def encoded(
    config: Config, plan: Plan, sources: Sources, stems: Sequence[str], cache: Cache, base: Any, show: bool
) -> Cached:
    """Encode what is not in the cache yet, pictures first, then prompts, so that the VAE and T5 never meet."""
    sums: dict[Path, str] = {}
    latents, kept = [], []
    for stem in tqdm(stems, desc="encoding pictures", disable=not show, dynamic_ncols=True):
        row = [sources.files[stem, stream.name] for stream in plan.streams]
        sums |= {path: _sum(path) for files in row for path in files if path not in sums}
        latents.append(
            [cache.latent(config, s, files, [sums[path] for path in files]) for s, files in zip(plan.streams, row)]
        )
        kept.append([stem, [path.name for path in latents[-1]], sources.captions[stem]])
    base.release()
    captions = sources.captions if config.caption_dropout < 1 else dict.fromkeys(stems, "")
    words = [tagged_prompt(captions[stem] or config.prompt) for stem in stems]
    bare = cache.prompt(tagged_prompt("" if any(captions.values()) else config.prompt), base.text_identity)
    prompts = [
        cache.prompt(text, base.text_identity) for text in tqdm(words, desc="encoding prompts", disable=not show)
    ]
    base.release()
    identity = hashlib.sha256(json.dumps([kept, bare.name]).encode()).hexdigest()
    return Cached(latents, prompts, bare, identity, maps(plan))


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
