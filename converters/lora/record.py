"""The record of the source in a converted file, from which splitting restores exactly the same tensors.

It is JSON under `omnix_source`: for every layer of the source, the names of its tensors, their dtypes, its scale and
its alpha tensor. The value that most layers share is stored once, under "*". `kept` lists the source's other tensors,
by their names in the result.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import AdapterError
from ..files.header import DTYPE_BYTES, FLOATS
from ..files.strict_json import parsed
from . import names
from .dialects import parse
from .layout import place
from .plan import AdapterFile, Alpha, Block, Kept
from .scales import FLAT, PEFT_HEADER

SOURCE_KEY = "omnix_source"
EXACT_KEY = "omnix_exact"
"""Metadata: "1" if the source's tensors can be restored bit for bit, "0" if rounding lost some."""


class SourceLayer(NamedTuple):
    """The source's form of one layer: its names, its dtypes (None: unchanged), its alpha tensor.

    `scale` is what multiplied its up factor, `lift` what multiplied its down factor.
    """

    down: str
    up: str
    dtypes: tuple[str, str] | None = None
    scale: float = 1.0
    alpha: tuple[str, str, tuple[int, ...], bytes] | None = None
    lift: float = 1.0
    factor_scales: tuple[tuple[str, str, tuple[int, ...], bytes], ...] = ()
    ones: tuple[int, int] = (0, 0)
    """The number of extra axes of length 1 of its down and up factor."""


class SourceTensor(NamedTuple):
    """A kept tensor of the source: its first row in the result, its dtype, its multiplier."""

    key: str
    shape: tuple[int, ...]
    row: int
    dtype: str
    scale: float = 1.0
    swapped: bool = False


class Record(NamedTuple):
    """The names of a source by its layers; other layers have the names that OmniX publishes."""

    layers: Mapping[str, SourceLayer]
    kept: Mapping[str, tuple[SourceTensor, ...]] = MappingProxyType({})
    exact: bool = True

    def of(self, part: str) -> SourceLayer:
        """Return the source's form of a layer."""
        return self.layers.get(part) or SourceLayer(*names.original_keys(part))


def write_record(adapter: AdapterFile, scales: Mapping[str, float], lifts: Mapping[str, float]) -> str:
    """Describe an original adapter's tensors as JSON; with the multipliers of each part's up and down factor."""
    blocks = {block.part: block for fused in adapter.layers.values() for block in fused.blocks}
    alphas = {part: _alpha_of(adapter, part, block) for part, block in blocks.items()}
    factor_scales = {part: adapter.factor_scales.get(part, ()) for part in blocks}
    tables: dict[str, Mapping[str, Any]] = {
        "names": {
            part: [_short(block.down.key, part), _short(block.up[0].key, part)] for part, block in blocks.items()
        },
        "dtypes": {part: [block.down.dtype, block.up[0].dtype] for part, block in blocks.items()},
        "scales": scales,
        "alphas": {part: alpha and _written(alpha, part) for part, alpha in alphas.items()},
    }
    if any(lift != 1.0 for lift in lifts.values()):
        tables["lifts"] = lifts
    if any(factor_scales.values()):
        tables["factors"] = {part: [_written(own, part) for own in scales] for part, scales in factor_scales.items()}
    if adapter.ones:
        tables["ones"] = {part: list(adapter.ones.get(part, (0, 0))) for part in blocks}
    shared = {name: _shared(table) for name, table in tables.items()}
    kept = {name: _kept_tensors(tensor) for name, tensor in adapter.kept.items() if tensor.pieces}
    own = {**shared, "kept": kept} if kept else shared
    return json.dumps(own, separators=(",", ":"), ensure_ascii=False)


def _written(number: Alpha, part: str) -> list[Any]:
    return [_short(number.key, part), number.dtype, list(number.shape), number.data.hex()]


def _kept_tensors(tensor: Kept) -> list[list[Any]]:
    return [
        [piece.key, list(piece.shape), piece.row, piece.slabs[0].dtype, piece.scale, len(piece.slabs) > 1]
        for piece in tensor.pieces
    ]


def _alpha_of(adapter: AdapterFile, part: str, block: Block) -> Alpha | None:
    """Return a layer's alpha tensor; if only a file next to the source gave the scale, an equivalent one."""
    scale = block.scale / (math.prod(number.value for number in adapter.factor_scales.get(part, ())) or 1.0)
    if part in adapter.alphas or scale == 1.0 or adapter.scaling in (PEFT_HEADER, FLAT, ""):
        return adapter.alphas.get(part)
    value = scale * block.rank
    return Alpha(names.alpha_key(part), "F64", (), struct.pack("<d", value), value)


def _short(key: str, part: str) -> str:
    return key.replace(part, "{}", 1).replace(part.replace(".", "_"), "{_}", 1)


def _shared(table: Mapping[str, Any]) -> dict[str, Any]:
    """Store the value that most layers share only once."""
    written = {part: json.dumps(value) for part, value in table.items()}
    counted = Counter(written.values())
    common = max(counted, key=counted.__getitem__, default="null")  # text encoders alone have no layers
    return {"*": json.loads(common)} | {part: table[part] for part, text in written.items() if text != common}


def read_record(path: Path, metadata: Mapping[str, str], parts: list[str]) -> Record:
    """Read the record of `write_record`; for an inexact file only the names.  Raises AdapterError for a damaged one."""
    if SOURCE_KEY not in metadata:
        return Record({})
    exact = metadata.get(EXACT_KEY) == "1"
    try:
        tables = parsed(metadata[SOURCE_KEY])
        layers = {part: _source_layer(tables, part, exact) for part in parts}
        kept = {name: _source_tensors(rows, exact) for name, rows in tables.get("kept", {}).items()}
        return Record(layers, kept, exact)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise AdapterError(
            f"{path}: {SOURCE_KEY}: expected the source's names, dtypes and alphas, got {error!r}; "
            "the metadata is damaged, so convert the original again."
        ) from error


def _source_layer(tables: Mapping[str, Any], part: str, exact: bool) -> SourceLayer:
    def stored(table: str) -> Any:
        return tables[table].get(part, tables[table]["*"])

    down, up = (_long(name, part, role) for name, role in zip(stored("names"), (names.DOWN, names.UP), strict=True))
    ones = tuple(stored("ones")) if "ones" in tables else (0, 0)
    if len(ones) != 2 or not all(type(number) is int and 0 <= number <= _MOST_ONES for number in ones):
        raise ValueError(f"{ones} axes of length 1 for {part}")
    if not exact:
        return SourceLayer(down, up, ones=(ones[0], ones[1]))
    dtypes, scale, alpha = stored("dtypes"), float(stored("scales")), stored("alphas")
    lift = float(stored("lifts")) if "lifts" in tables else 1.0
    if len(dtypes) != 2 or not set(dtypes) <= set(FLOATS) or not all(map(_is_factor, (scale, lift))):
        raise ValueError(f"{dtypes}, {scale}, {lift} for {part}")
    own = stored("factors") if "factors" in tables else []
    roles = (names.DOWN_SCALE, names.UP_SCALE)
    return SourceLayer(
        down,
        up,
        (dtypes[0], dtypes[1]),
        scale,
        None if alpha is None else _alpha(alpha, part, names.ALPHA),
        lift,
        tuple(_alpha(fields, part, *roles) for fields in own),
        (ones[0], ones[1]),
    )


_MOST_ONES = 8


def _is_factor(number: float) -> bool:
    return math.isfinite(number) and number != 0


def _source_tensors(rows: list[Any], exact: bool) -> tuple[SourceTensor, ...]:
    found = []
    for key, shape, row, dtype, scale, swapped in rows:
        lengths = (*shape, row)
        if not isinstance(key, str) or not all(type(length) is int and 0 <= length < 1 << 40 for length in lengths):
            raise ValueError(f"{shape} from row {row} for {key}")
        scale = float(scale) if exact else 1.0
        if dtype not in DTYPE_BYTES or not isinstance(swapped, bool) or not _is_factor(scale):
            raise ValueError(f"{dtype}, {scale} for {key}")
        found.append(SourceTensor(key, tuple(shape), row, dtype, scale, swapped))
    return tuple(found)


def _alpha(fields: list[Any], part: str, *roles: str) -> tuple[str, str, tuple[int, ...], bytes]:
    name, dtype, shape, text = fields
    data = bytes.fromhex(text)
    if len(data) != DTYPE_BYTES[dtype] or not all(type(length) is int and length == 1 for length in shape):
        raise ValueError(f"an alpha of {len(data)} bytes")
    return _long(name, part, *roles), dtype, tuple(shape), data


def _long(short: str, part: str, *roles: str) -> str:
    """Return the name of a part's tensor.  Raises ValueError for a name that is not the part's."""
    name = short.replace("{}", part, 1).replace("{_}", part.replace(".", "_"), 1)
    found = parse(name)
    where = place(found.module) if found else None
    if found is None or where is None or found.role not in roles or where.module != part:
        raise ValueError(f"{name} for the {roles[0]} of {part}")
    return name
