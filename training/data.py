"""Find the pictures of a task in a folder (layout: `mapfiles.layout`), and split them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..mapfiles import layout
from ..mapfiles.texts import text_of
from .config import Config, Plan, TrainingError, note, size_of
from .pictures import PIXELS_PER_LATENT, View, rows
from .samples import RAYS, may_be_directions, may_roll

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".exr")
MANIFEST = "manifest.jsonl"
PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""The parts of a data set's own split, and their names in data sets."""


class Sources(NamedTuple):
    """The pictures of a task: for every stem and stream the files that its picture is made of, and its caption."""

    stems: tuple[str, ...]
    files: Mapping[tuple[str, str], tuple[Path, ...]]
    captions: Mapping[str, str]
    masks: Mapping[str, Path]
    """The masks of the loss by stem; empty without --mask."""
    parts: Mapping[str, str]
    """The part ("train", "validation" or "test") of each stem in the data's own split; stems it omits are "train"."""


class Split(NamedTuple):
    """The stems that are trained on, those that are sampled and measured, and those that the data's split reserves."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...]
    unused: tuple[str, ...]


def find(config: Config, plan: Plan) -> Sources:
    """Find a task's pictures.  Raises TrainingError for folders or pictures that are missing."""
    root = Path(config.data)
    if not config.data or not root.is_dir():
        raise TrainingError(
            f"--data {config.data or '(not given)'}: expected a folder with a folder of pictures for each stream."
        )
    named = sorted({*maps(plan), config.mask} - {""})
    folders = {folder: _listed(root, folder) for folder in named if not _is_rays(root, folder)}
    if all(_is_rays(root, folder) for folder in maps(plan)):
        raise TrainingError(f"{root}: camera rays alone are not enough; name a folder of pictures too.")
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
    captions = {stem: layout.caption(root, stem) for stem in every}
    return Sources(tuple(every), files, captions, folders.get(config.mask, {}), parts(root) if config.split else {})


def _is_rays(root: Path, folder: str) -> bool:
    return folder == RAYS and not (root / folder).is_dir()


def maps(plan: Plan) -> tuple[str, ...]:
    """Return the folders of a task's streams; a stream may have another name than its folder."""
    return tuple(folder for stream in plan.streams for folder in stream.folders)


def _listed(root: Path, folder: str) -> dict[str, Path]:
    """Map the stems of a folder to its pictures; a map that is not in the layout may be any picture."""
    if not (root / folder).is_dir():
        there = sorted(path.name for path in root.iterdir() if path.is_dir())
        raise TrainingError(
            f"{root}: there is no folder {folder}, only {', '.join(there) or 'none'}; correct --conditions, --target "
            "or --mask."
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


def parts(root: Path) -> dict[str, str]:
    """Read the data's own split from its manifest: lines {"stem": .., "split": ..}.  Raises TrainingError."""
    path = root / MANIFEST
    lines = text_of(path).splitlines() if path.is_file() else []
    found = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # an interrupted program leaves half a line, and writes the line again later
            note(f"{path}: line {number} is not JSON and is ignored.")
            continue
        if isinstance(record, dict) and {"stem", "split"} <= record.keys():
            found[str(record["stem"])] = _part(path, str(record["split"]))
    return found


def _part(path: Path, name: str) -> str:
    for part, names in PARTS.items():
        if name.lower() in names:
            return part
    known = ", ".join(name for names in PARTS.values() for name in names)
    raise TrainingError(f"{path}: there is no split {name!r}; the splits are {known}. Correct it, or use --no-split.")


def split(sources: Sources, held_out: int) -> Split:
    """Split the stems as the manifest does; hold out some of the validation part, or of all stems if there is none.

    The held-out stems are evenly spread over the names. Raises TrainingError if no stem is left to train on.
    """
    by_part = {part: [s for s in sources.stems if sources.parts.get(s, "train") == part] for part in PARTS}
    pool = by_part["validation"] or by_part["train"]
    count = min(held_out, len(pool)) if by_part["validation"] else held_out
    if not by_part["train"] or (pool is by_part["train"] and held_out >= len(pool)):
        raise TrainingError(
            f"--held-out {held_out} of {len(pool)} pictures leaves nothing to train on; use fewer, or add pictures."
            + (f" {MANIFEST} has {len(by_part['train'])} for training." if sources.parts else "")
        )
    apart = {pool[number * len(pool) // count] for number in range(count)}
    trained = tuple(stem for stem in by_part["train"] if stem not in apart)
    unused = tuple(s for s in sources.stems if s not in apart and sources.parts.get(s, "train") != "train")
    return Split(trained, tuple(sorted(apart)), unused)


def views(config: Config, plan: Plan) -> tuple[View, ...]:
    """Return the views of each panorama that are trained on.  Raises TrainingError for turns that change nothing."""
    _height, width = size_of(config)
    unknown = next(filter(may_be_directions, maps(plan)), None)
    if unknown and (config.turns > 1 or config.mirror):
        raise TrainingError(
            f"--turns and --mirror turn the directions of the folder normal alone, not those of {unknown}; rename it "
            "to normal if it holds normals as this project stores them (front, up, left), or leave these options out."
        )
    if config.turns > 1 and config.roll and may_roll(maps(plan)):
        raise TrainingError(
            "--turns is for maps of directions, which can't be rolled. The maps of this task are rolled at every step; "
            "leave out --turns."
        )
    if width // PIXELS_PER_LATENT % config.turns:
        raise TrainingError(
            f"--turns {config.turns}: expected a divisor of the {width // PIXELS_PER_LATENT} latent columns; use 4."
        )
    columns = [number * width // config.turns for number in range(config.turns)]
    return tuple(View(column, mirrored) for column in columns for mirrored in (False, True)[: 1 + config.mirror])


def enlarged(config: Config, sources: Sources) -> list[Path]:
    """Return the pictures that are smaller than the run's size."""
    height, _width = size_of(config)
    return [
        path
        for path in dict.fromkeys(path for row in sources.files.values() for path in row)
        if 0 < rows(path) < height
    ]
