"""OmniX's tasks: which adapters each task needs, on which streams, and the tag of the prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ...converters.tasks import is_plain

PROMPT_TAG = "[EQUIRECTANGULAR]"
TEXT_ROWS = 512
"""Rows of T5's text that OmniX was trained with. FLUX attends to the padding, so another number changes the result."""
SEAM_COLUMNS = 6
"""Latent columns that wrap around the seam during sampling (the reference pipeline's default)."""
WRAP_COLUMNS = 2
"""Latent columns that wrap around the seam during decoding (the reference pipeline's default)."""
APPLY, SEAMLESS = "Apply OmniX Adapters", "Seamless Panorama"
"""The nodes that close a seam. The message of a check that both make names its node."""


STREAMS = MappingProxyType(
    {
        "image_to_pano": ("masked_rgb", "filled_rgb"),
        "rgb_to_depth": ("rgb", "depth"),
        "rgb_to_normal": ("rgb", "normal"),
        "rgb_to_albedo": ("rgb", "albedo"),
        "rgb_to_pbr": ("rgb", "pbr"),
        "rgb_to_semantic": ("rgb", "semantic"),
        "rgb_camray_to_normal": ("rgb", "camray", "normal"),
    }
)
"""Task -> its streams in stacking order: first the conditions, then the target."""


@dataclass(frozen=True)
class Task:
    """One task: its streams in stacking order, the conditions (clean latents) first, the target last."""

    name: str
    streams: tuple[str, ...]
    perceives: bool = True
    """Whether the target is a map of the conditions; if not, it is a new picture."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """The condition streams, in the order of their ReferenceLatent nodes."""
        return self.streams[:-1]

    @property
    def target(self) -> str:
        """The stream that is denoised."""
        return self.streams[-1]


TASKS = {name: Task(name, streams, name != "image_to_pano") for name, streams in STREAMS.items()}
"""The tasks of OmniX. The headers of adapter files describe other tasks."""

TASK_HEADER = "omnix_streams"


def task_header(task: Task, stream: str) -> dict[str, str]:
    """Return the metadata that describes an adapter's task and stream, independent of the file's name and folder."""
    return {TASK_HEADER: json.dumps({"task": task.name, "streams": task.streams, "stream": stream})}


def task_from_header(metadata: Mapping[str, str]) -> tuple[Task, str] | None:
    """Return the task and the stream in a file's metadata; None if they are missing or invalid."""
    try:
        header = json.loads(metadata[TASK_HEADER])
        name, streams, stream = header["task"], header["streams"], header["stream"]
    except (KeyError, TypeError, ValueError):
        return None
    words = [name, stream, *streams] if isinstance(streams, list) else []
    if not words or not all(isinstance(word, str) and is_plain(word) for word in words):
        return None
    if not 2 <= len(streams) == len(set(streams)) or stream not in streams:
        return None
    return Task(name, tuple(streams)), stream


def tagged_prompt(prompt: str) -> str:
    """Return the prompt as OmniX was trained on it: the tag (once), then a space and the user's words, if any."""
    words = prompt.strip().removeprefix(PROMPT_TAG).strip()
    return f"{PROMPT_TAG} {words}" if words else PROMPT_TAG
