"""What OmniX can do: which adapters a task needs, on which streams, and what the prompt says."""

from __future__ import annotations

from dataclasses import dataclass

from ..converters import STREAMS

PROMPT_TAG = "[EQUIRECTANGULAR]"
SEAM_COLUMNS = 6
"""Latent columns that wrap round the seam while sampling (the reference pipeline's default)."""
WRAP_COLUMNS = 2
"""Latent columns that wrap round the seam while decoding (the reference pipeline's default)."""


@dataclass(frozen=True)
class Task:
    """One task: its streams in stacking order, the conditions (clean latents) first, the target last."""

    name: str
    streams: tuple[str, ...]

    @property
    def conditions(self) -> tuple[str, ...]:
        """The condition streams, in the order of their ReferenceLatent nodes."""
        return self.streams[:-1]

    @property
    def target(self) -> str:
        """The stream that is denoised."""
        return self.streams[-1]


TASKS = {name: Task(name, tuple(streams)) for name, streams in STREAMS.items()}


def tagged_prompt(prompt: str) -> str:
    """Return the prompt as OmniX was trained on it: the tag (once), then a space and the user's words, if any."""
    words = prompt.strip().removeprefix(PROMPT_TAG).strip()
    return f"{PROMPT_TAG} {words}" if words else PROMPT_TAG
