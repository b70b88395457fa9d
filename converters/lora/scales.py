"""How strongly a LoRA pair acts: scale = alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA, else 1.

alpha comes from the `{layer}.alpha` tensor, from PEFT's adapter_config.json beside the file, or from the JSON that
Diffusers keeps in the safetensors header under `lora_adapter_metadata`, whichever is found first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import AdapterError
from ..files.strict_json import LONGEST, parsed
from .names import dora, without_prefix

HEADER_KEY = "lora_adapter_metadata"


class Scaling(NamedTuple):
    """The alphas of one adapter by layer, and the rule for layers that have none."""

    alphas: Mapping[str, float]
    config: Mapping[str, Any] = MappingProxyType({})
    source: str = ""
    """Where the configuration stands: `adapter_config.json`, `lora_adapter_metadata`, or nowhere."""

    def scale(self, module: str, rank: int) -> float:
        """Return the scale of a layer of the given rank; 1 where nothing is said, and for rank 0."""
        if rank == 0:
            return 1.0
        if module in self.alphas:
            return self.alphas[module] / rank
        alpha = self._pattern("alpha_pattern", module, self.config.get("lora_alpha"))
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _pattern(self, name: str, module: str, default: Any) -> float | None:
        """Look a layer up in a PEFT pattern table: a key is the end of a layer's name, or a regular expression."""
        for pattern, value in (self.config.get(name) or {}).items():
            if _matches(without_prefix(pattern), module) or _matches(pattern, module):
                return float(value)
        return None if default is None else float(default)


def _matches(pattern: str, module: str) -> bool:
    if module == pattern or module.endswith(f".{pattern}"):
        return True
    compiled = _compiled(pattern)
    return compiled is not None and compiled.fullmatch(module) is not None


@lru_cache(maxsize=1 << 13)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """Compile a key as PEFT does, which takes it for a regular expression; None for one that can only be a name."""
    try:
        return re.compile(rf"(?:.*\.)?(?:{pattern})")
    except (re.error, RecursionError, OverflowError):
        return None


# One pattern with three repetitions fits; a configuration at this limit takes 2 s for all layers of FLUX.1.
_MOST_STEPS = 250_000


def _are_quick(patterns: Iterable[str]) -> bool:
    """Tell whether regular expressions from a file can't run for ages: few repetitions and choices, none of a group.

    A name has about 60 letters, so a repetition tries up to 60 ways, a choice two.
    """
    steps = 0
    for pattern in patterns:
        if re.search(r"\)[*+{]", pattern) or len(pattern) > 300:
            return False
        repeated, chosen = len(re.findall(r"[*+{]", pattern)), len(re.findall(r"[?|]", pattern))
        steps += 60 ** min(repeated, 4) * 2 ** min(chosen, 18)
    return steps <= _MOST_STEPS


def read_scaling(path: Path, metadata: Mapping[str, str], alphas: Mapping[str, float]) -> Scaling:
    """Collect what an adapter file, its neighbour and its header say about alpha.  Raises AdapterError."""
    neighbour = path.parent / "adapter_config.json"
    if neighbour.is_file():
        with open(neighbour, "rb") as file:
            text = file.read(LONGEST + 1)
        return Scaling(alphas, _parsed(path, neighbour.name, text), neighbour.name)
    return header_scaling(path, metadata, alphas)


def header_scaling(path: Path | str, metadata: Mapping[str, str], alphas: Mapping[str, float]) -> Scaling:
    """Collect what the metadata of a file or state dict says about alpha.  Raises AdapterError."""
    if HEADER_KEY not in metadata:
        return Scaling(alphas)
    config = _parsed(path, HEADER_KEY, metadata[HEADER_KEY])
    # Diffusers flattens the configuration of each component: "transformer.lora_alpha".
    own = {key.removeprefix("transformer."): value for key, value in config.items()}
    return Scaling(alphas, _checked(path, HEADER_KEY, own), HEADER_KEY)


def _parsed(path: Path | str, key: str, text: str | bytes) -> dict[str, Any]:
    try:
        config = parsed(text)
    except ValueError as error:
        raise AdapterError(f"{path}: {key}: expected JSON, got {error}; repair or remove it.") from error
    return _checked(path, key, config)


def _checked(path: Path | str, key: str, config: Any) -> dict[str, Any]:
    """Return a configuration whose alphas are numbers and whose patterns are tables of them."""
    if not isinstance(config, dict):
        raise AdapterError(f"{path}: {key}: expected a JSON object, got {type(config).__name__}; repair or remove it.")
    if config.get("use_dora"):
        raise dora(path, key)
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not _are_quick(patterns):
        got = str(list(patterns)[:5] if isinstance(patterns, dict) else patterns)
        raise AdapterError(
            f"{path}: {key}: expected layer names or short expressions in alpha_pattern, got {got}; repair it."
        )
    alpha = config.get("lora_alpha")
    for value in (*(() if alpha is None else (alpha,)), *patterns.values()):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise AdapterError(f"{path}: {key}: expected a finite number as alpha, got {value!r}; repair it.")
    return config
