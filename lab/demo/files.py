"""Pictures that the demo writes, and paths in a form for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def save_picture(path: Path, pixels: NDArray[Any]) -> None:
    """Write [H, W, 3] in [0, 1] as PNG."""
    Image.fromarray((pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8)).save(path)


def short(path: Path) -> Path:
    """Return the path relative to the current folder if it is inside, else unchanged."""
    full = path.resolve()
    return full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else path
