"""The error class of this package; its messages are always safe to print."""

from __future__ import annotations

_LONGEST = 1200


class AdapterError(ValueError):
    """An adapter file can't be used. The message names file, key, what was expected, what was found and what to do."""

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def printable(text: str) -> str:
    """Return text from a file as one line of limited length, without control characters for the terminal."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
