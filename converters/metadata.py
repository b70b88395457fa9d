"""The metadata in a converted file's header: its own, and what it keeps of the source's metadata."""

from __future__ import annotations

from collections.abc import Mapping

from .fusing.folding import Folds, multipliers
from .lora.fused import write_structure
from .lora.plan import BLOCKS_KEY, HEADER_ALPHA_KEY, STREAM_KEY, TASK_KEY, AdapterFile
from .lora.record import EXACT_KEY, SOURCE_KEY, write_record
from .lora.scales import PEFT_HEADER, states_scale
from .version import VERSION

DIGEST_KEY = "omnix_source_sha256"
VERSION_KEY = "omnix_converter"
_OWN_KEYS = (BLOCKS_KEY, TASK_KEY, STREAM_KEY, SOURCE_KEY, EXACT_KEY, DIGEST_KEY, VERSION_KEY, HEADER_ALPHA_KEY)
_HIDDEN = "omnix_source:"
"""Prefix for keys of the source's header that give a scale. In the result the scale is already multiplied in."""
_NO_DIGEST = "0" * 64


def fused_metadata(
    adapter: AdapterFile, slot: tuple[str, str] | None, folds: Folds, header_alpha: str | None
) -> dict[str, str]:
    """Return the metadata of a converted file; the hash of its source and `exact` are known only at the end."""
    own = {
        BLOCKS_KEY: write_structure(adapter.layers),
        SOURCE_KEY: write_record(adapter, *multipliers(adapter, folds)),
        EXACT_KEY: "1",
        DIGEST_KEY: _NO_DIGEST,
        VERSION_KEY: VERSION,
    }
    noted = {HEADER_ALPHA_KEY: header_alpha} if header_alpha else {}
    return own | noted | (dict(zip((TASK_KEY, STREAM_KEY), slot, strict=True)) if slot else {})


def hidden_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return a source's metadata for its result: entries that give a scale get names that no loader reads."""
    foreign = ((key, value) for key, value in metadata.items() if key not in _OWN_KEYS)
    return {(_HIDDEN + key if states_scale(key, value) else key): value for key, value in foreign}


def split_metadata(adapter: AdapterFile) -> dict[str, str]:
    """Return the source's own metadata, without an alpha that can't be separated from the numbers again."""
    foreign = {key: value for key, value in adapter.metadata.items() if key not in _OWN_KEYS}
    if adapter.metadata.get(EXACT_KEY) == "1":
        return {key.removeprefix(_HIDDEN): value for key, value in foreign.items()}
    return {key: value for key, value in foreign.items() if not key.startswith(_HIDDEN) and key != PEFT_HEADER}
