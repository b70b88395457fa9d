"""The one error of the trainer."""

from __future__ import annotations


class TrainingError(ValueError):
    """What can't be trained, or not further: one sentence that says where it stands and what to do."""
