"""Recognise a file by its header: the meaning of each key, the adapted layers, and the model that they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ..files.header import Entry
from . import dialects
from .dialects import Dialect
from .formats import Format, architecture, by_header, foreign_format, model_weights, named_by
from .layout import DOUBLE, MLP, SINGLE, Geometry, Place, Size, place
from .names import ALPHA, DIFF, DOWN, UP, Name
from .plan import BLOCKS_KEY


class Recognised(NamedTuple):
    """The meaning of a file's keys: names by key, places by layer, and the model with these layers."""

    names: Mapping[str, Name | None]
    places: Mapping[str, Place]
    geometry: Geometry | None
    dialect: Dialect | None
    foreign: Format | None
    """The format of the file, if it can't be converted."""
    note: str | None

    @property
    def fused(self) -> bool:
        """Whether all layers of the transformer have ComfyUI's names."""
        return bool(self.places) and all(found.module == found.layer for found in self.places.values())


def recognised(entries: Mapping[str, Entry], metadata: Mapping[str, str] = MappingProxyType({})) -> Recognised:
    """Return the meaning of each key of a file, and the model.  Only shapes are read, no data."""
    names = {key: dialects.parse(key) for key in entries}
    entries = as_matrices(entries, names)
    whole = {key: extra for key, name in names.items() if name is None and (extra := _whole(key))}
    modules = dict.fromkeys(name.module for name in (*names.values(), *whole.values()) if name)
    places = {module: found for module in modules if (found := place(module))}
    sizes = _sizes(entries, names, places) or _whole_sizes(entries, whole, places)
    geometry = voted(sizes, ((found.fused.block, found.number) for found in places.values()))
    has_t5 = any(name and name.module.startswith(dialects.T5) for name in names.values())
    foreign, note = foreign_format(entries, bool(places) or has_t5), None
    if foreign is None and geometry is not None:
        foreign, note = architecture(geometry, _blocks(places.values()))
    if foreign is None and not any(name and name.role != ALPHA for name in names.values()):
        foreign = model_weights(entries)
    if BLOCKS_KEY not in metadata and (named := named_by(metadata)):
        foreign = by_header(named, foreign, geometry, _blocks(places.values()), any(size.mlp for size, _ in sizes))
    return Recognised(names, places, geometry, dialects.dialect_of(entries), foreign, note)


def as_matrices(entries: Mapping[str, Entry], names: Mapping[str, Name | None]) -> dict[str, Entry]:
    """Return the entries; factors lose the extra axes of length 1 of a 1 x 1 convolution."""
    return {
        key: entry._replace(shape=entry.shape[:2])
        if len(entry.shape) > 2 and set(entry.shape[2:]) == {1} and (name := names.get(key)) and name.role in (DOWN, UP)
        else entry
        for key, entry in entries.items()
    }


def _whole(key: str) -> Name | None:
    """Return the layer whose whole weight a tensor changes; None for other tensors."""
    name = dialects.parse_extra(key)
    return name if name and name.role == DIFF and dialects.is_comfy(name.module) else None


def _whole_sizes(
    entries: Mapping[str, Entry], whole: Mapping[str, Name], places: Mapping[str, Place]
) -> list[tuple[Size, int]]:
    """List the (size in the table, size in the file) of differences of whole layers, of a file without factors."""
    sizes = []
    for key, name in whole.items():
        fused, shape = places[name.module], entries[key].shape
        known = (fused.part.rows, fused.fused.columns)
        sizes += [(size, number) for size, number in zip(known, shape) if size is not None and len(shape) == 2]
    return sizes


def _blocks(places: Iterable[Place]) -> dict[str, frozenset[int]]:
    numbers: dict[str, set[int]] = {}
    for found in places:
        if found.number is not None:
            numbers.setdefault(found.fused.block, set()).add(found.number)
    return {kind: frozenset(found) for kind, found in numbers.items()}


def _sizes(
    entries: Mapping[str, Entry], names: Mapping[str, Name | None], places: Mapping[str, Place]
) -> list[tuple[Size, int]]:
    """List the (size in the table, size in the file) of all factors that are matrices."""
    sizes = []
    for key, name in names.items():
        found = places.get(name.module) if name else None
        if name is None or found is None or len(entries[key].shape) != 2:
            continue
        rows, columns = entries[key].shape
        if name.role == DOWN and found.fused.columns is not None:
            sizes.append((found.fused.columns, columns))
        if name.role == UP and found.part.rows is not None:
            sizes.append((found.part.rows, rows))
    return sizes


def voted(sizes: Iterable[tuple[Size, int]], blocks: Iterable[tuple[str, int | None]]) -> Geometry | None:
    """Return the geometry that most of the (size in the table, size in the file) agree on; None without any.

    A majority, so that one wrong tensor is named as such and not all the others. Without an MLP layer it is 4 H wide.
    """
    sizes, blocks = list(sizes), list(blocks)
    hidden = _most(number / units.hidden for units, number in sizes if not units.mlp)
    if hidden is None:
        return None
    rests = ((number - units.hidden * hidden) / units.mlp for units, number in sizes if units.mlp)
    mlp = _most(rests) or MLP * hidden
    last = {kind: max((i for block, i in blocks if block == kind and i is not None), default=-1) for kind in _BLOCKS_OF}
    return Geometry(hidden, mlp, last[DOUBLE] + 1, last[SINGLE] + 1)


_BLOCKS_OF = (DOUBLE, SINGLE)


def _most(numbers: Iterable[float]) -> int | None:
    counted = Counter(int(number) for number in numbers if number >= 1 and number == int(number))
    return max(counted, key=counted.__getitem__) if counted else None
