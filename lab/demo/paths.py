"""Paths as people read them."""

from __future__ import annotations

from pathlib import Path


def short(path: Path) -> Path:
    """Return the path from the current folder if it lies below that, else as it is."""
    full = path.resolve()
    return full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else path
