"""Compare all pairs of two sides, a few at a time: what is kept of a pair are its figures, so memory stays flat."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import semantic
from .compare import Comparison, Options, compare
from .errors import MapError
from .pictures import Array
from .trees import MEASURED, Side


class Pair(NamedTuple):
    """A map on both sides."""

    kind: str
    stem: str
    predicted: Path
    true: Path


class Missing(NamedTuple):
    """Stems of a kind that one side lacks."""

    kind: str
    side: str
    stems: tuple[str, ...]


class Plan(NamedTuple):
    """What there is to compare, what is missing, and the kinds that only one side has."""

    pairs: tuple[Pair, ...]
    missing: tuple[Missing, ...]
    alone: tuple[str, ...]


def plan(predicted: Side, truth: Side) -> Plan:
    """Pair the stems of each kind that both sides have. MapError where not a single pair is left."""
    ours, true = ({kind: side.maps[kind] for kind in MEASURED if kind in side.maps} for side in (predicted, truth))
    kinds = [kind for kind in MEASURED if kind in ours and kind in true]
    alone = tuple(kind for kind in MEASURED if (kind in ours) != (kind in true))
    if not kinds:
        raise MapError(f"nothing to compare: predicted are {', '.join(ours)}, but true are {', '.join(true)}.")
    pairs = [pair for kind in kinds for pair in _pairs(kind, ours[kind], true[kind])]
    missing = [gap for kind in kinds for gap in _missing(kind, ours[kind], true[kind])]
    if not pairs:
        raise MapError("no stem is on both sides: " + "; ".join(map(sentence, missing)) + ".")
    return Plan(tuple(pairs), tuple(missing), alone)


def _pairs(kind: str, ours: Mapping[str, Path], true: Mapping[str, Path]) -> list[Pair]:
    return [Pair(kind, stem, ours[stem], true[stem]) for stem in sorted(ours.keys() & true.keys())]


def _missing(kind: str, ours: Mapping[str, Path], true: Mapping[str, Path]) -> list[Missing]:
    gaps = (("prediction", true.keys() - ours.keys()), ("truth", ours.keys() - true.keys()))
    return [Missing(kind, side, tuple(sorted(stems))) for side, stems in gaps if stems]


def sentence(gap: Missing) -> str:
    """Say which stems are missing: how many, and the first five."""
    plural = "s" if len(gap.stems) > 1 else ""
    return f"{gap.kind}: {len(gap.stems)} stem{plural} without a {gap.side} ({_named(gap.stems)})"


def _named(stems: Sequence[str]) -> str:
    return ", ".join(stems[:5]) + (", ..." if len(stems) > 5 else "")


def doubts(pairs: Sequence[Pair], found: Mapping[str, Sequence[Comparison]]) -> list[str]:
    """Say once for each kind and reason which stems' figures are doubtful, and why."""
    stems: dict[tuple[str, str], list[str]] = {}
    for kind, comparisons in found.items():
        for pair, comparison in zip((pair for pair in pairs if pair.kind == kind), comparisons):
            for doubt in comparison.doubts:
                stems.setdefault((kind, doubt), []).append(pair.stem)
    return [f"{kind} of {_named(named)}: {doubt}" for (kind, doubt), named in stems.items()]


def alike(predicted: Side, truth: Side) -> Side:
    """Give the one map of a predicted file the stem of the one true file, since files are named as people like."""
    ours, true = (list(side.maps.items()) for side in (predicted, truth))
    if len(ours) == len(true) == 1 and len(ours[0][1]) == len(true[0][1]) == 1:
        return predicted._replace(maps={ours[0][0]: dict(zip(true[0][1], ours[0][1].values()))})
    return predicted


class Maps(NamedTuple):
    """Reads a pair as `compare` wants it; `known` are the colours of all true semantic maps."""

    predicted: Side
    truth: Side
    known: Array

    def read(self, pair: Pair) -> tuple[Array, Array]:
        """Return (prediction, truth); semantic maps as codes, painted ones with the nearest known ones."""
        ours, true = self.predicted.read(pair.predicted, pair.kind), self.truth.read(pair.true, pair.kind)
        if pair.kind != "semantic":
            return ours, true
        labels = semantic.codes(ours)
        painted = semantic.is_painted(labels, self.known)
        return semantic.nearest(labels, self.known) if painted else labels, semantic.codes(true)


def maps(predicted: Side, truth: Side, pairs: Iterable[Pair]) -> Maps:
    """Look through the true semantic maps for their colours."""
    paths = [pair.true for pair in pairs if pair.kind == "semantic"]
    with ThreadPoolExecutor(workers()) as pool:
        found = list(pool.map(lambda path: semantic.distinct(semantic.codes(truth.read(path, "semantic"))), paths))
    return Maps(predicted, truth, np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int32))


def evaluate(
    reading: Maps, pairs: Sequence[Pair], options: Options, done: Callable[[int], None] = lambda _count: None
) -> dict[str, list[Comparison]]:
    """Return kind -> the comparison of each pair, in order; `done` hears how many pairs are ready."""

    def one(pair: Pair) -> Comparison:
        try:
            return compare(pair.kind, *reading.read(pair), options)
        except MapError as error:
            # What is said of one file names it already.
            raise (
                error
                if str(error).startswith((str(pair.predicted), str(pair.true)))
                else MapError(f"{pair.predicted}: {error}")
            ) from error

    pool = ThreadPoolExecutor(workers())
    result: dict[str, list[Comparison]] = {pair.kind: [] for pair in pairs}
    try:
        for count, (pair, comparison) in enumerate(zip(pairs, pool.map(one, pairs)), start=1):
            result[pair.kind].append(comparison)
            done(count)
    finally:
        pool.shutdown(cancel_futures=True)
    return result


def workers() -> int:
    """Return how many pairs are looked at at once: one for each processor this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return usable or 1
