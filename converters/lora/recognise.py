"""Tell what a file is by its header: what each key is, which layers are adapted, and whose model's they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..files.header import Entry
from . import dialects
from .dialects import Dialect
from .formats import Format, architecture, foreign_format, model_weights
from .layout import DOUBLE, MLP, SINGLE, Geometry, Place, Size, place
from .names import ALPHA, DOWN, UP, Name


class Recognised(NamedTuple):
    """What the keys of a file are: names by key, places by layer, and the model whose layers these are."""

    names: Mapping[str, Name | None]
    places: Mapping[str, Place]
    geometry: Geometry | None
    dialect: Dialect | None
    foreign: Format | None
    """What the file is, if it is not to be converted."""
    note: str | None

    @property
    def fused(self) -> bool:
        """All layers of the transformer are named as ComfyUI's."""
        return bool(self.places) and all(found.module == found.layer for found in self.places.values())


def recognised(entries: Mapping[str, Entry]) -> Recognised:
    """Tell what each key of a file is.  The shapes are read, no data."""
    names = {key: dialects.parse(key) for key in entries}
    modules = dict.fromkeys(name.module for name in names.values() if name)
    places = {module: found for module in modules if (found := place(module))}
    geometry = voted(_sizes(entries, names, places), ((found.fused.block, found.number) for found in places.values()))
    foreign, note = foreign_format(entries, bool(places)), None
    if foreign is None and geometry is not None:
        foreign, note = architecture(geometry, _blocks(places.values()))
    if foreign is None and not any(name and name.role != ALPHA for name in names.values()):
        foreign = model_weights(entries)
    return Recognised(names, places, geometry, dialects.dialect_of(entries), foreign, note)


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
    hidden = _most(number / units for units, number in sizes if not units.mlp)
    if hidden is None:
        return None
    rests = ((number - (units - MLP * units.mlp) * hidden) / units.mlp for units, number in sizes if units.mlp)
    mlp = _most(rests) or MLP * hidden
    last = {kind: max((i for block, i in blocks if block == kind and i is not None), default=-1) for kind in _KINDS}
    return Geometry(hidden, mlp, last[DOUBLE] + 1, last[SINGLE] + 1)


_KINDS = (DOUBLE, SINGLE)


def _most(numbers: Iterable[float]) -> int | None:
    counted = Counter(int(number) for number in numbers if number >= 1 and number == int(number))
    return max(counted, key=counted.__getitem__) if counted else None
