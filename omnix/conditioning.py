"""Keep a CONDITIONING in a safetensors file, so that a constant prompt is encoded once and T5 is never loaded again.

A CONDITIONING is a list of (text embedding [b, tokens, channels], options). Tensors, lists of tensors and plain values
(numbers, text, truth values) are kept exactly; what can't be (hooks, ControlNets, areas bound to a model) is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..converters import AdapterError, remove_stale, write_bytes

_FORMAT_KEY = "omnix_conditioning"
_PLAIN = (bool, int, float, str, type(None))
# The file's tensors: {entry}.embedding, {entry}.option.{name}, {entry}.list.{number}.{name}
_EMBEDDING, _OPTION, _LIST = "embedding", "option", "list"

Conditioning = Sequence[tuple[Tensor, Mapping[str, Any]]]


def save_conditioning(conditioning: Conditioning, path: Path) -> None:
    """Write a conditioning.  Raises ValueError for options that can't be kept, OSError if the disk is full.

    The file is there whole or not at all, and no other file is replaced.
    """
    tensors: dict[str, Tensor] = {}
    entries = [_flattened(index, *entry, tensors) for index, entry in enumerate(conditioning)]
    data = safetensors.torch.save(tensors, {"format": "pt", _FORMAT_KEY: json.dumps(entries)})
    remove_stale(path.parent)
    write_bytes(path, data, force=False)


def _flattened(index: int, embedding: Tensor, options: Mapping[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Move one entry's tensors into `tensors`; return its plain values, and how long its lists of tensors are."""
    plain: dict[str, Any] = {"values": {}, "lists": {}}
    tensors[f"{index}.{_EMBEDDING}"] = _own(embedding)
    for name, value in options.items():
        if isinstance(value, Tensor):
            tensors[f"{index}.{_OPTION}.{name}"] = _own(value)
        elif isinstance(value, list) and value and all(isinstance(item, Tensor) for item in value):
            tensors.update({f"{index}.{_LIST}.{number}.{name}": _own(item) for number, item in enumerate(value)})
            plain["lists"][name] = len(value)
        elif isinstance(value, _PLAIN):
            plain["values"][name] = value
        else:
            raise ValueError(
                f"The conditioning's {name} is a {type(value).__name__}, which can't be kept in a file; "
                "save the conditioning before the node that adds it."
            )
    return plain


def _own(tensor: Tensor) -> Tensor:
    """Return a tensor with memory of its own: entries may share theirs, which safetensors refuses to write."""
    return tensor.clone(memory_format=torch.contiguous_format)


def load_conditioning(path: Path) -> list[list[Any]]:
    """Read a conditioning back.  Raises AdapterError if the file is none, OSError if it can't be read."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            entries = _entries((file.metadata() or {})[_FORMAT_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return [_entry(index, plain, tensors) for index, plain in enumerate(entries)]
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{path}: {_FORMAT_KEY}: expected what Save OmniX Conditioning writes, got {error}; save it again."
        ) from error


def _entries(text: str) -> list[Any]:
    """Read the entries' plain values.  Raises ValueError or TypeError."""
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise TypeError(f"a {type(entries).__name__}")
    return entries


def _entry(index: int, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[Any]:
    kept = f"{index}.{_OPTION}."
    single = {name.removeprefix(kept): tensor for name, tensor in tensors.items() if name.startswith(kept)}
    lists = {
        name: [tensors[f"{index}.{_LIST}.{number}.{name}"] for number in range(n)] for name, n in plain["lists"].items()
    }
    return [tensors[f"{index}.{_EMBEDDING}"], {**plain["values"], **lists, **single}]
