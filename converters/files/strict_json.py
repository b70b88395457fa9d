"""Parse JSON out of files that may be damaged or hostile: bounded in depth and in the number of values.

A value costs up to 200 bytes of memory and three of text; the text itself, in strings, no more than a few times its
length. So a long text of few values is read, and a short one of many is not.
"""

from __future__ import annotations

import json
from json.decoder import scanstring  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any

_MOST_VALUES = 200_000
_MOST_DIGITS = 20  # as many as an offset in a file can have


def parsed(text: bytes | str) -> Any:
    """Return what a JSON text says.  Raises ValueError, also for a name that stands twice and for an endless number."""
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    values = _values(text)
    if values > _MOST_VALUES:
        raise ValueError(f"{values} values, more than {_MOST_VALUES}")
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_int=_integer)
    except RecursionError:
        raise ValueError("brackets in brackets without end") from None


def _values(text: str) -> int:
    """Count the values of a JSON text, or at least one more than are allowed; commas within strings are none."""
    values = sum(map(text.count, ",[{"))
    if values <= _MOST_VALUES:
        return values
    values = end = start = strings = 0
    while values <= _MOST_VALUES and strings <= 2 * _MOST_VALUES and (start := text.find('"', end)) >= 0:
        values += sum(text.count(mark, end, start) for mark in ",[{")
        _, end = scanstring(text, start + 1)
        strings += 1
    return values + sum(text.count(mark, end) for mark in ",[{") if start < 0 else max(values, _MOST_VALUES + 1)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name stands there twice")
    return fields


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
