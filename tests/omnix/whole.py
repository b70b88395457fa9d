"""Picture files at their own size, as the pack decodes them."""

from pathlib import Path

import torch
from comfyui_omnix.omnix.pictures.decode import decoded
from comfyui_omnix.omnix.pictures.header import read_header
from comfyui_omnix.omnix.pictures.picture import Picture


def read_picture(path: Path) -> Picture:
    """Read the first frame of a picture file.  Raises ValueError if it is incomplete, OSError if it is missing."""
    source = decoded(path, read_header(path))
    values = source.rows(0, source.height)
    clear = values[..., 3] if values.shape[-1] == 4 else torch.ones(values.shape[:2])
    return Picture(values[..., :3], clear)
