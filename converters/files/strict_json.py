"""Parse JSON out of files that may be damaged or hostile: bounded in length, in depth and in the number of values.

A value costs up to 200 bytes of memory and three of text; with these bounds a process stays below 64 MB.
"""

from __future__ import annotations

import json
from typing import Any

LONGEST = 4_000_000
"""Longest text that is parsed, in bytes. The header of a LoRA has some 100 kB."""
_MOST_VALUES = 200_000
_MOST_DIGITS = 20  # as many as an offset in a file can have


def parsed(text: bytes | str) -> Any:
    """Return what a JSON text says.  Raises ValueError, also for a name that stands twice and for an endless number."""
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} bytes, more than {LONGEST}")
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    values = sum(map(text.count, ",[{"))
    if values > _MOST_VALUES:
        raise ValueError(f"{values} values, more than {_MOST_VALUES}")
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_int=_integer)
    except RecursionError:
        raise ValueError("brackets in brackets without end") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name stands there twice")
    return fields


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
