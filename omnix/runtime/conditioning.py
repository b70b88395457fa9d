"""Encode a prompt as OmniX was trained, and save the CONDITIONING in a safetensors file, so that T5 is loaded once.

A CONDITIONING is a list of (text embedding [b, tokens, channels], options). Tensors, lists of tensors and plain values
(numbers, text, booleans) are saved exactly. Options that can't be saved (hooks, ControlNets) are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ...converters import AdapterError, remove_stale, write_bytes
from .tasks import TEXT_ROWS

CLIP_TOKENS = 77
"""The number of tokens that CLIP-L reads for its pooled vector."""
HOST_ROWS, T5_CHANNELS = 256, 4096
"""The least number of rows to which ComfyUI pads T5's text, and T5-XXL's channels."""
_SYNTAX = re.compile(r"\([^()]*:\s*[\d.]+\s*\)|\bembedding:")
"""Matches text that ComfyUI's own text encoding reads as a weight or as the name of an embedding."""
_FORMAT_KEY = "omnix_conditioning"
_ROWS_KEY = "omnix_text_rows"
_PLAIN = (bool, int, float, str, type(None))
# The file's tensors: {entry}.embedding, {entry}.option.{name}, {entry}.list.{number}.{name}
_EMBEDDING, _OPTION, _LIST = "embedding", "option", "list"

Conditioning = Sequence[tuple[Tensor, Mapping[str, Any]]]


def encode_prompt(clip: Any, words: str, guidance: float, warn: Callable[[str], None]) -> list[list[Any]]:
    """Encode words as the reference pipeline does: T5 padded and cut to 512 tokens, CLIP-L's pooled vector of 77.

    `clip` is a CLIP of the host with FLUX.1's text encoders; it is not changed. As in the reference pipeline, weights
    and embedding names in the prompt are plain words. `warn` gets the warnings. Raises ValueError for other text
    encoders.
    """
    tokenizer: Any = getattr(clip, "tokenizer", None)
    if not (hasattr(tokenizer, "clip_l") and hasattr(tokenizer, "t5xxl")) or hasattr(tokenizer, "clip_g"):
        raise ValueError(
            f"OmniX needs FLUX.1's text encoders, got {type(clip if tokenizer is None else tokenizer).__name__}; "
            "connect Load CLIP (Dual) with clip_l, t5xxl and the type flux."
        )
    short, long = _ids(tokenizer.clip_l, words), _ids(tokenizer.t5xxl, words)
    if notes := [*_notes(words, len(long))]:
        warn(" ".join(notes))
    tokens = {
        "l": _fitted(short, CLIP_TOKENS, tokenizer.clip_l.pad_token),
        "t5xxl": _fitted(long, TEXT_ROWS, tokenizer.t5xxl.pad_token),
    }
    return clip.encode_from_tokens_scheduled(tokens, add_dict={"guidance": guidance})


def _ids(tokenizer: Any, words: str) -> list[int]:
    """Return the tokens of all words, with the end token."""
    return tokenizer.tokenizer(words, verbose=False)["input_ids"]  # no warning for long prompts: they are cut here


def _fitted(ids: Sequence[int], length: int, pad: int) -> list[list[tuple[int, float]]]:
    """Cut tokens to a length, keeping the end token, or pad them; return one row of tokens with weight 1 each."""
    kept = [*ids[: length - 1], ids[-1]] if len(ids) > length else [*ids]
    return [[(token, 1.0) for token in kept + [pad] * (length - len(kept))]]


def _notes(words: str, tokens: int) -> Iterator[str]:
    if _SYNTAX.search(words):
        yield (
            "Weights as in (word:1.2) and embeddings have no effect here: OmniX reads them as plain words. Remove them."
        )
    if tokens > TEXT_ROWS:
        yield (
            f"The prompt has {tokens} tokens, and T5 reads {TEXT_ROWS} of them: the end of the prompt is cut. "
            "Shorten the prompt."
        )


def note_on_rows(text: Tensor) -> str | None:
    """Return a warning if a text [b, rows, channels] has another length than OmniX was trained with, else None.

    A short text with other channels than T5-XXL's is made for other models (lab/micro), so there is no warning.
    """
    rows, channels = text.shape[-2:]
    if rows == TEXT_ROWS or (rows < HOST_ROWS and channels != T5_CHANNELS):
        return None
    return (
        f"The text has {rows} rows, and OmniX was trained with {TEXT_ROWS}: the result differs from OmniX's. Replace "
        "CLIP Text Encode with OmniX Encode Prompt. Save the conditioning again if it comes from a file."
    )


def save_conditioning(conditioning: Conditioning, path: Path) -> None:
    """Write a conditioning.  Raises ValueError for options that can't be saved, OSError if the disk is full.

    The file is written completely or not at all, and no existing file is replaced.
    """
    tensors: dict[str, Tensor] = {}
    entries = [_flattened(index, *entry, tensors) for index, entry in enumerate(conditioning)]
    rows = json.dumps([embedding.shape[-2] for embedding, _ in conditioning])
    data = safetensors.torch.save(tensors, {"format": "pt", _FORMAT_KEY: json.dumps(entries), _ROWS_KEY: rows})
    remove_stale(path.parent)
    write_bytes(path, data, force=False)


def _flattened(index: int, embedding: Tensor, options: Mapping[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Move one entry's tensors into `tensors`; return its plain values and the lengths of its lists of tensors."""
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
                f"The conditioning's {name} is a {type(value).__name__}, which can't be saved in a file; "
                "save the conditioning before the node that adds it."
            )
    return plain


def _own(tensor: Tensor) -> Tensor:
    """Return a tensor with its own memory: entries may share memory, which safetensors refuses to write."""
    return tensor.clone(memory_format=torch.contiguous_format)


def load_conditioning(path: Path) -> list[list[Any]]:
    """Read a saved conditioning.  Raises AdapterError for another kind of file, OSError if it can't be read."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            entries = _entries((file.metadata() or {})[_FORMAT_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return [_entry(index, plain, tensors) for index, plain in enumerate(entries)]
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{path}: {_FORMAT_KEY}: expected a file from Save OmniX Conditioning, got {error}; save it again."
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
