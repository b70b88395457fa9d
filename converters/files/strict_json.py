"""Parse JSON from files that may be damaged or malicious, with limits on the depth and the number of values.

A value needs up to 200 bytes of memory for three bytes of text; the text in strings needs only a few times its length.
So a long text with few values is accepted, and a short text with too many values is not.
"""

from __future__ import annotations

import json
from json.decoder import scanstring  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any

_MOST_VALUES = 200_000
_MOST_DIGITS = 20  # as many as an offset in a file can have


def parsed(text: bytes | str) -> Any:
    """Parse a JSON text.  Raises ValueError, also for a name that occurs twice and for a number that is too long."""
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    values = _values(text)
    if values > _MOST_VALUES:
        raise ValueError(f"{values} values, more than {_MOST_VALUES}")
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_int=_integer)
    except RecursionError:
        raise ValueError("too many nested brackets") from None


def _values(text: str) -> int:
    """Count the values of a JSON text, up to one more than the limit; commas inside strings don't count."""
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
        raise ValueError("a name that occurs twice")
    return fields


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
