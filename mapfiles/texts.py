"""Text files that people write: captions, lists of pictures, settings."""

from __future__ import annotations

from pathlib import Path

from .errors import MapError


def text_of(path: Path) -> str:
    """Return the text of a UTF-8 file, without the mark (BOM) that Windows puts first.  Raises MapError, OSError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MapError(f"{path}: expected text in UTF-8, got another encoding; save it as UTF-8.") from error
