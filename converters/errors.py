"""The one error of this package, and how its sentences stay fit to be shown."""

from __future__ import annotations

_LONGEST = 1200


class AdapterError(ValueError):
    """An adapter file can't be used: one sentence with file, key, what was expected, what was got, what to do."""

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def printable(text: str) -> str:
    """Return text from a file as one line of bounded length that a terminal shows and does not obey."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
