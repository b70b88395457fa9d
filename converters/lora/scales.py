"""The strength of a LoRA pair: scale = alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA, else 1.

alpha comes from the `{layer}.alpha` tensor, from the JSON that Diffusers keeps in the safetensors header under
`lora_adapter_metadata`, or from PEFT's adapter_config.json next to the file, if it belongs to this file. If two of them
differ, it is impossible to know which one is right, so that is an error. One alpha as a plain entry of the header
(`lora_alpha`) is ignored by ComfyUI up to 0.30 and applied by newer loaders: it is used only if the user chooses so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import AdapterError
from ..files.strict_json import parsed
from .names import without_prefix
from .settings import check_settings, targets

PEFT_HEADER = "lora_adapter_metadata"
FLAT_KEYS = ("lora_alpha", "network_alpha", "alpha")
"""Keys of a header, alone or behind a component's name, under which trainers put one alpha for all layers."""
NEIGHBOUR = "adapter_config.json"
_NEIGHBOUR_OF = "adapter_model"
_LONGEST = 4_000_000
"""The largest configuration next to a file that is read, in bytes."""
# Diffusers flattens the configuration of each component: "transformer.lora_alpha".
_COMPONENTS = ("transformer", "text_encoder", "text_encoder_2")


class Claim(NamedTuple):
    """A configuration with alphas, and its place."""

    source: str
    config: Mapping[str, Any]

    def scale(self, module: str, rank: int) -> float | None:
        """Return its scale for a layer of the given rank; None if it has none."""
        alpha = self._pattern("alpha_pattern", module, self.config.get("lora_alpha"))
        return None if alpha is None else alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _pattern(self, name: str, module: str, default: Any) -> float | None:
        """Look a layer up in a PEFT pattern table: a key is the end of a layer's name, or a regular expression."""
        for pattern, value in (self.config.get(name) or {}).items():
            if _matches(without_prefix(pattern), module) or _matches(pattern, module):
                return float(value)
        return None if default is None else float(default)


class Scaling(NamedTuple):
    """The alphas of one adapter by layer, and what configurations state about them."""

    path: Path | str
    alphas: Mapping[str, float]
    claims: tuple[Claim, ...] = ()
    flat: Claim | None = None
    """The one alpha that is a plain entry of the header."""
    applies_flat: bool = False

    @property
    def source(self) -> str:
        """The place of the first configuration: `lora_adapter_metadata`, `adapter_config.json`, FLAT, or none."""
        return self.claims[0].source if self.claims else FLAT if self.flat and self.applies_flat else ""

    def scale(self, module: str, rank: int) -> float:
        """Return the scale of a layer; 1 if none is given, and for rank 0.  Raises AdapterError if two differ."""
        if rank == 0:
            return 1.0
        stated = self._stated(module, rank)
        if not stated and self.flat and self.applies_flat:
            stated = [(self.flat.source, self.flat.scale(module, rank) or 0.0)]
        for source, other in stated[1:]:
            if not math.isclose(other, stated[0][1], rel_tol=_AGREE):
                raise AdapterError(
                    f"{self.path}: {module}: expected one scale, got {stated[0][1]:g} from {stated[0][0]} and "
                    f"{other:g} from {source}; remove the wrong one."
                )
        if stated and not abs(stated[0][1]) * rank <= LARGEST:
            raise AdapterError(
                f"{self.path}: {module}: expected an alpha that float32 can hold, got {stated[0][1] * rank:g} from "
                f"{stated[0][0]}; repair the alpha."
            )
        return stated[0][1] if stated else 1.0

    def _stated(self, module: str, rank: int) -> list[tuple[str, float]]:
        stated = [("its alpha tensor", self.alphas[module] / rank)] if module in self.alphas else []
        return stated + [(c.source, scale) for c in self.claims if (scale := c.scale(module, rank)) is not None]

    def question(self, ranks: Mapping[str, int]) -> str:
        """Return a question if the header's plain alpha would change a layer without any other alpha, else ""."""
        if self.flat is None or self.applies_flat:
            return ""
        scales = [self.flat.scale(m, r) for m, r in ranks.items() if r and not self._stated(m, r)]
        other = next((scale for scale in scales if scale is not None and scale != 1.0), None)
        if other is None:
            return ""
        return (
            f"{self.flat.source}: expected the scale in alpha tensors, got alpha {self.flat.config['lora_alpha']:g} in "
            f"the header (scale {other:g}), which ComfyUI ignores and newer loaders apply; use --header-alpha apply or "
            "--header-alpha ignore"
        )


FLAT = "the header's plain alpha"
APPLY, IGNORE = "apply", "ignore"
LARGEST = 2.0**128 * (1 - 2.0**-24)
"""float32's largest number."""


def flat_claim(metadata: Mapping[str, str]) -> Claim | None:
    """Return the alpha for all layers that is a plain entry of the header, if there is one."""
    for key, text in metadata.items():
        component, _, name = key.rpartition(".")
        if name in FLAT_KEYS and component in ("", "transformer"):
            try:
                value = float(text)
            except ValueError:
                continue
            if math.isfinite(value):
                rooted = metadata.get("use_rslora", "").lower() in ("true", "1")
                return Claim(key, {"lora_alpha": value, "use_rslora": rooted})
    return None


def states_scale(key: str, value: str) -> bool:
    """Return whether an entry of a header's metadata gives the strength of the factors."""
    return (
        key == PEFT_HEADER
        or key.rpartition(".")[2] in FLAT_KEYS
        or ('lora_alpha"' in value and value.lstrip()[:1] == "{")
    )


_AGREE = 2**-8
"""Two scales are equal within this relative tolerance, because alphas are also stored in bfloat16."""


def _matches(pattern: str, module: str) -> bool:
    if module == pattern or module.endswith(f".{pattern}"):
        return True
    compiled = _compiled(pattern)
    return compiled is not None and compiled.fullmatch(module) is not None


@lru_cache(maxsize=1 << 13)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """Compile a key as a regular expression, as PEFT does; None if it can only be a name."""
    try:
        return re.compile(rf"(?:.*\.)?(?:{pattern})")
    except (re.error, RecursionError, OverflowError):
        return None


_MOST_WAYS = 250_000
_LONGEST_NAME, _LONGEST_TABLE = 300, 100_000
_LETTER = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


def _are_quick(patterns: Iterable[str]) -> bool:
    """Return whether regular expressions from a file certainly match all layers of FLUX.1 within 2 s."""
    patterns = tuple(patterns)
    if sum(map(len, patterns)) > _LONGEST_TABLE:
        return False
    names = (name for pattern in patterns for name in pattern.split("|"))
    return all(len(name) <= _LONGEST_NAME for name in names) and sum(map(_ways, patterns)) <= _MOST_WAYS


def _ways(pattern: str) -> int:
    """Return an upper bound of the ways in which an expression can match a name of 60 letters.

    A repetition counts as 60 ways, a group as 4. A repeated group can match in endless ways, and so can a group whose
    repetition is hidden behind a comment (#).
    """
    if _compiled(pattern) is None:  # only a name
        return 1
    plain = "".join(_LETTER.sub("x", pattern).split())
    if re.search(r"\)[*+{]|#", plain):
        return _MOST_WAYS + 1
    return min(60 ** len(re.findall(r"[*+{]", plain)) * 4 ** plain.count("(") * 2 ** plain.count("?"), _MOST_WAYS + 1)


class Adapted(NamedTuple):
    """The tensors' names, layers and ranks of an adapter; they decide whether a configuration belongs to it."""

    keys: tuple[str, ...]
    ranks: Mapping[str, int]


def read_scaling(path: Path, metadata: Mapping[str, str], alphas: Mapping[str, float], adapted: Adapted) -> Scaling:
    """Collect the alphas in an adapter file, its header and the configuration next to it.  Raises AdapterError."""
    scaling = header_scaling(path, metadata, alphas, adapted)
    neighbour = path.parent / NEIGHBOUR
    named = path.stem == _NEIGHBOUR_OF
    if not neighbour.is_file() or not (named or _spelled_by_peft(adapted.keys)):
        return scaling
    with open(neighbour, "rb") as file:
        text = file.read(_LONGEST + 1)
    if not named and not _is_for(text, adapted):
        return scaling
    config = _checked(path, NEIGHBOUR, _parsed(path, NEIGHBOUR, text), adapted.keys)
    return scaling._replace(claims=(*scaling.claims, Claim(NEIGHBOUR, config)))


def _spelled_by_peft(keys: Iterable[str]) -> bool:
    return all(key.startswith("base_model.model.") for key in keys)


def _is_for(text: bytes, adapted: Adapted) -> bool:
    """Return whether a configuration belongs to an adapter whose file does not have PEFT's name."""
    try:
        config = parsed(text) if len(text) <= _LONGEST else None
    except ValueError:
        return False
    return isinstance(config, dict) and targets(config, adapted.ranks)


def header_scaling(
    path: Path | str,
    metadata: Mapping[str, str],
    alphas: Mapping[str, float],
    adapted: Adapted,
    component: str = "transformer",
) -> Scaling:
    """Collect the alphas of a component in the metadata of a file or state dict.  Raises AdapterError."""
    flat = flat_claim(metadata) if component == "transformer" else None
    if PEFT_HEADER not in metadata:
        return Scaling(path, alphas, flat=flat)
    config = _parsed(path, PEFT_HEADER, metadata[PEFT_HEADER])
    own = {}
    for key, value in config.items():
        named, _, setting = key.partition(".")
        if named not in _COMPONENTS and component == "transformer":
            own[key] = value
        elif named == component:
            own[setting] = value
    return Scaling(path, alphas, (Claim(PEFT_HEADER, _checked(path, PEFT_HEADER, own, adapted.keys)),), flat)


def _parsed(path: Path | str, key: str, text: str | bytes) -> dict[str, Any]:
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"{len(text)} bytes, more than {_LONGEST}")
        config = parsed(text)
    except ValueError as error:
        raise AdapterError(f"{path}: {key}: expected JSON, got {error}; repair or remove it.") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path}: {key}: expected a JSON object, got {type(config).__name__}; repair or remove it.")
    return config


def _checked(path: Path | str, key: str, config: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return a configuration of plain LoRA, whose alphas are numbers and whose patterns are tables of them."""
    check_settings(path, key, config, keys)
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
