"""The settings of a training run, each with its default and the reason for it.

Each field of `Config` is a line of the TOML or YAML file and a flag of the command line. Nothing here needs torch or
numpy, so that `omnix-train --help` works before they are installed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from ..converters.lora.layout import LAYOUT
from ..converters.tasks import is_plain
from ..omnix.runtime.tasks import SEAM_COLUMNS, STREAMS, Task

MODULES = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2")
"""The six kinds of layers that OmniX adapts: 228 modules of FLUX.1-dev."""
KNOWN_MODULES = tuple(dict.fromkeys(part.name for fused in LAYOUT if fused.block for part in fused.parts))
OPTIMIZERS = ("adamw", "adamw8bit", "prodigy", "muon")
TIMES = ("logit_normal", "uniform")
PRECISIONS = ("auto", "bfloat16", "float32")
PIXELS_PER_TOKEN = 16


_PATHS = ("data", "output", "model", "vae", "clip_l", "t5", "conditioning", "comfyui", "init")
"""Fields that may begin with ~, the home folder. A shell replaces ~ in flags, but not in a file."""


def note(words: str) -> None:
    """Report something that the user may not expect; the run continues."""
    logging.getLogger(__name__).warning("omnix-train: %s", words)


class TrainingError(ValueError):
    """A run that can't start or continue: one sentence that says what is wrong, where, and what to do."""


def _option(default: Any, words: str) -> Any:
    return field(default=default, metadata={"help": words})


@dataclass(frozen=True)
class Config:
    """One run.  Sizes are in pixels, counts of steps are optimiser steps."""

    data: str = _option("", "folder with one folder of pictures for each stream; the same file names in each")
    output: str = _option("", "folder for saves, sheets, curves and cached latents")
    conditions: tuple[str, ...] = _option(("rgb",), "condition streams in order, each NAME or NAME=FOLDER")
    target: tuple[str, ...] = _option(
        (), "the map to learn: NAME, NAME=FOLDER, or NAME=A+B for maps A and B as channels of one picture"
    )
    task: str = _option("", "name of the task; default CONDITIONS_to_TARGET, as OmniX names its tasks")
    range: tuple[str, ...] = _option(
        (), "FOLDER=LOW:HIGH: the values that become black and white; FOLDER=max: white is the farthest"
    )
    mask: str = _option("", "folder of masks: white areas are learned, black areas are not")
    learn_holes: bool = _option(
        False,
        "also learn pixels without a value: as the farthest depth, or as grey normals; default: they are left out",
    )
    latitude_weight: bool = _option(
        False, "weight the loss by the cosine of the latitude: the poles fill many pixels and little of the sphere"
    )
    split: bool = _option(
        True, "obey the split in the data's manifest.jsonl: never train on validation or test pictures"
    )
    mirror: bool = _option(False, "also train on mirrored panoramas; normals are mirrored correctly")
    turns: int = _option(
        1, "train on each panorama turned in this many equal steps, its normals too; for tasks that can't be rolled"
    )
    size: str = _option("1024x512", "width x height of the panoramas; larger pictures are reduced to it")
    model: str = _option("", "FLUX.1-dev: a path, or a name in ComfyUI's models/diffusion_models (or unet)")
    vae: str = _option("", "FLUX.1's VAE: a path, or a name in models/vae")
    clip_l: str = _option("", "CLIP-L: a path, or a name in models/text_encoders")
    t5: str = _option("", "T5: a path, or a name in models/text_encoders")
    conditioning: str = _option("", "a file of Save OmniX Conditioning, which replaces the two text encoders")
    weight_dtype: str = _option("default", "store the base as default, bfloat16, float8_e4m3fn or float8_e5m2")
    comfyui: str = _option("", "ComfyUI's folder; default COMFYUI_PATH, or the ComfyUI that this pack is installed in")
    device: str = _option("auto", "auto: the device that ComfyUI chooses; cpu")
    prompt: str = _option("", "words after the tag [EQUIRECTANGULAR], for pictures without a caption")
    caption_dropout: float = _option(
        0.1, "share of samples that use the tag alone instead of their caption, as in common trainers"
    )
    rank: int = _option(64, "rank of every layer (published)")
    alpha: float = _option(64.0, "scale = alpha / rank (published)")
    modules: tuple[str, ...] = _option(MODULES, "kinds of layers that are adapted (published: these six, 228 layers)")
    init: str = _option("", "folder of a task's adapters to start from; they set rank, alpha and modules")
    steps: int = _option(3000, "optimiser steps; the paper gives no number, 3000 is usual for adapters of this size")
    batch: int = _option(1, "samples in a batch (published: 1 on each of 4 accelerators)")
    accumulate: int = _option(1, "batches whose gradients are added up for one step; 4 equals the published total")
    optimizer: str = _option(
        "adamw", "adamw (published), adamw8bit (needs bitsandbytes), prodigy (needs prodigyopt), muon (half the state)"
    )
    learning_rate: float = _option(1e-4, "learning rate (published); set 1 for prodigy, which finds its own")
    warmup: int = _option(0, "steps over which the learning rate rises from 0")
    decay: bool = _option(False, "let the learning rate fall to 0 along a cosine")
    decay_steps: int = _option(0, "the step at which the cosine reaches 0; 0: the number of steps when the run began")
    weight_decay: float = _option(0.01, "AdamW's weight decay; the paper gives none, 0.01 is torch's default")
    clip: float = _option(1.0, "largest norm of the gradient; larger gradients are scaled down, 0 turns this off")
    ema: float = _option(0.0, "decay of a moving average of the weights, which is saved; 0 is off, 0.999 is usual")
    times: str = _option(
        "logit_normal", "t before the shift: sigmoid of a normal (as in Stable Diffusion 3), or uniform"
    )
    time_mean: float = _option(0.0, "mean of that normal; above 0 trains on more noise")
    time_deviation: float = _option(1.0, "standard deviation of that normal")
    shift: bool = _option(True, "shift t for the panorama's size as sampling does, so that both see the same noise")
    guidance: float = _option(
        3.5, "value of the guidance embedding; the workflows sample at 3.5, so training uses the same"
    )
    seam_columns: int = _option(SEAM_COLUMNS, "latent columns past the seam, as in sampling")
    roll: bool = _option(
        True,
        "roll all streams of a sample by the same random number of latent columns, since a panorama has no front; "
        "always off for normals without camray, because their directions would not turn with them",
    )
    precision: str = _option(
        "auto", "bfloat16 (autocast; factors and optimiser stay float32) or float32; auto: float32 on a CPU"
    )
    checkpointing: bool = _option(
        True, "keep only the input of each block and recompute the rest: less memory, more time"
    )
    seed: int = _option(0, "seed of the adapters, the order of the data and all random draws")
    save_every: int = _option(500, "steps between saves")
    keep: int = _option(
        3, "how many of the newest saves to keep, besides the one with the best held-out figure; 0: all"
    )
    save_dtype: str = _option("bfloat16", "dtype of the adapter files: bfloat16 (published) or float32")
    held_out: int = _option(4, "pictures that are sampled and measured, and not trained on")
    sample_every: int = _option(500, "steps between samples of the held-out pictures, from step 0; 0: never")
    sample_steps: int = _option(8, "Euler steps of those samples")
    tensorboard: bool = _option(True, "also write the curves for TensorBoard, if the package tensorboard is installed")

    def __post_init__(self) -> None:
        for name in _PATHS:
            object.__setattr__(self, name, str(Path(getattr(self, name)).expanduser()) if getattr(self, name) else "")


def precision_on(config: Config, device: str) -> str:
    """Return the precision of a run on a kind of device: most CPUs are slow in bfloat16."""
    return config.precision if config.precision != "auto" else "float32" if device == "cpu" else "bfloat16"


class Stream(NamedTuple):
    """A stream's name, and the folders that its picture is made of."""

    name: str
    folders: tuple[str, ...]


class Plan(NamedTuple):
    """One task to be trained: its name and streams, the target last."""

    task: Task
    streams: tuple[Stream, ...]


def plans(config: Config) -> tuple[Plan, ...]:
    """Return the tasks of a run, one for each target; each has its own adapters.  Raises TrainingError."""
    if not config.target or not config.conditions:
        raise TrainingError(
            "Nothing to learn: name at least one condition and one target, such as --conditions rgb --target shading."
        )
    if config.task and len(config.target) > 1:
        raise TrainingError(
            "--task names one task, but there are several targets; leave out --task, or train one target."
        )
    conditions = [_stream(text) for text in config.conditions]
    return tuple(_plan(config.task, conditions, _stream(text)) for text in config.target)


def _plan(name: str, conditions: Sequence[Stream], target: Stream) -> Plan:
    streams = (*conditions, target)
    names = tuple(stream.name for stream in streams)
    task = name or "_".join((*names[:-1], "to", names[-1]))
    for word in (task, *names):
        if not is_plain(word):
            raise TrainingError(
                f"{word!r} is not a valid folder name on every system; choose another name for the task or stream."
            )
    if len(set(names)) < len(names):
        raise TrainingError(
            f"The streams {', '.join(names)} must have different names; write NAME=FOLDER to rename one."
        )
    if STREAMS.get(task, names) != names:
        raise TrainingError(
            f"OmniX has a task {task} with the streams {', '.join(STREAMS[task])}; choose another --task."
        )
    return Plan(Task(task, names), streams)


def _stream(text: str) -> Stream:
    name, _, folders = text.partition("=")
    parts = tuple((folders or name).split("+"))
    if not all(parts) or len(parts) > 3:
        raise TrainingError(
            f"{text}: expected NAME, NAME=FOLDER or up to three folders NAME=A+B+C; correct --conditions or --target."
        )
    return Stream(name, parts)


def size_of(config: Config) -> tuple[int, int]:
    """Return (height, width).  Raises TrainingError unless the size is a panorama's and a whole number of tokens."""
    width, _, height = config.size.partition("x")
    if (
        not (width.isdecimal() and height.isdecimal())
        or int(width) != 2 * int(height)
        or int(height) < PIXELS_PER_TOKEN
    ):
        raise TrainingError(
            f"--size {config.size}: expected a panorama's width x height, twice as wide as high, such as 1024x512."
        )
    if int(height) % PIXELS_PER_TOKEN:
        raise TrainingError(
            f"--size {config.size}: the height must be a multiple of {PIXELS_PER_TOKEN} pixels, FLUX's token."
        )
    return int(height), int(width)


# field -> its allowed values in words, and their test
_LIMITS: tuple[tuple[str, str, Any], ...] = (
    *(
        (name, "at least 1", lambda value: value >= 1)
        for name in ("rank", "steps", "batch", "accumulate", "save_every", "sample_steps", "turns")
    ),
    *(
        (name, "0 or more", lambda value: value >= 0)
        for name in ("held_out", "sample_every", "warmup", "decay_steps", "weight_decay", "clip", "keep")
    ),
    *((name, "above 0", lambda value: value > 0) for name in ("learning_rate", "alpha", "time_deviation")),
    ("caption_dropout", "between 0 and 1", lambda value: 0 <= value <= 1),
    ("ema", "from 0 to below 1", lambda value: 0 <= value < 1),
    ("seam_columns", "an even number of 0 to 64", lambda value: 0 <= value <= 64 and value % 2 == 0),
    ("optimizer", f"one of {', '.join(OPTIMIZERS)}", OPTIMIZERS.__contains__),
    ("times", f"one of {', '.join(TIMES)}", TIMES.__contains__),
    ("precision", f"one of {', '.join(PRECISIONS)}", PRECISIONS.__contains__),
    ("save_dtype", "bfloat16 or float32", PRECISIONS[1:].__contains__),
    (
        "weight_dtype",
        "default, bfloat16, float8_e4m3fn or float8_e5m2",
        ("default", "bfloat16", "float8_e4m3fn", "float8_e5m2").__contains__,
    ),
    ("device", "auto or cpu", ("auto", "cpu").__contains__),
    ("modules", f"some of {', '.join(KNOWN_MODULES)}", lambda value: bool(value) and set(value) <= set(KNOWN_MODULES)),
)


def check(config: Config) -> None:
    """Raise TrainingError for a value that no run can use."""
    for entry in fields(config):
        value = getattr(config, entry.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise TrainingError(f"{entry.name} is {value}; set it to a finite number.")
    for name, wanted, allowed in _LIMITS:
        if not allowed(value := getattr(config, name)):
            raise TrainingError(f"{name} is {value}; it must be {wanted}.")
    _height, width = size_of(config)
    if config.seam_columns > width // 8:
        raise TrainingError(
            f"seam_columns is {config.seam_columns}; a panorama of {config.size} has {width // 8} latent columns."
        )
    _check_ranges(config)


def _check_ranges(config: Config) -> None:
    folders = {folder for plan in plans(config) for stream in plan.streams for folder in stream.folders}
    names = [text.partition("=")[0] for text in config.range]
    for name, text in zip(names, config.range):
        if name not in folders:
            raise TrainingError(
                f"--range {text}: no stream reads a folder of this name; the folders are {', '.join(sorted(folders))}."
            )
        if names.count(name) > 1:
            raise TrainingError(f"--range {text}: {name} has two ranges; keep one of them.")
