"""Compare all pairs of two sides, a few at a time: what is kept of a pair are its figures, so memory stays flat."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import semantic, slope
from .compare import Comparison, Options, check_sizes, compare
from .errors import MapError, MissingPackage
from .nothing import FAR_PLANE, without_far_plane
from .pictures import Array
from .resize import to_one_size
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
    """Give the maps of the one predicted room the stem of the one true room, since files are named as people like."""
    ours, true = ({stem for files in side.maps.values() for stem in files} for side in (predicted, truth))
    if len(ours) == len(true) == 1:
        stem = next(iter(true))
        return predicted._replace(
            maps={kind: dict(zip([stem], files.values())) for kind, files in predicted.maps.items()}
        )
    return predicted


class Read(NamedTuple):
    """A prediction and its truth, semantic maps as codes, and what was done to them, in words."""

    prediction: Array
    truth: Array
    notes: tuple[str, ...] = ()


class Maps(NamedTuple):
    """Reads a pair as `compare` wants it; `known` are the colours of all true semantic maps."""

    predicted: Side
    truth: Side
    known: Array
    resize: bool = False

    def read(self, pair: Pair) -> Read:
        """Read a pair: semantic maps as codes, painted ones with the nearest known ones; with `resize` in one size."""
        ours, true = self.predicted.read(pair.predicted, pair.kind), self.truth.read(pair.true, pair.kind)
        notes = []
        if pair.kind == "semantic":
            labels = semantic.codes(ours)
            painted = semantic.is_painted(labels, self.known)
            ours, true = semantic.nearest(labels, self.known) if painted else labels, semantic.codes(true)
        if pair.kind == "depth":
            true, far = without_far_plane(true)
            notes += [FAR_PLANE] if far else []
        if self.resize:
            ours, true, words = to_one_size(pair.kind, ours, true)
            notes += [words] if words else []
        return Read(ours, true, tuple(notes))


def maps(predicted: Side, truth: Side, pairs: Iterable[Pair], resize: bool = False) -> Maps:
    """Look through the true semantic maps for their colours."""
    paths = [pair.true for pair in pairs if pair.kind == "semantic"]
    with ThreadPoolExecutor(workers()) as pool:
        found = list(pool.map(lambda path: _colours(truth, path), paths))
    return Maps(predicted, truth, np.unique(np.concatenate(found)) if found else _NO_COLOURS, resize)


_NO_COLOURS = np.empty(0, dtype=np.int32)


def _colours(side: Side, path: Path) -> Array:
    """Return the codes of a semantic map; none of one that can't be read, which is said when its pair is compared."""
    try:
        return semantic.distinct(semantic.codes(side.read(path, "semantic")))
    except MissingPackage:
        raise
    except MapError:
        return _NO_COLOURS


class Failed(NamedTuple):
    """A pair that can't be judged, and why."""

    pair: Pair
    reason: str


class Found(NamedTuple):
    """Kind -> the comparison of each pair that could be judged, in order; those pairs; and the others."""

    comparisons: dict[str, list[Comparison]]
    pairs: tuple[Pair, ...]
    failed: tuple[Failed, ...]


def evaluate(
    reading: Maps, pairs: Sequence[Pair], options: Options, done: Callable[[int], None] = lambda _count: None
) -> Found:
    """Compare every pair; `done` hears how many are ready."""

    def one(pair: Pair) -> Comparison | Failed:
        try:
            prediction, truth, notes = reading.read(pair)
            check_sizes(prediction, truth, ", or use --resize")
            comparison = compare(pair.kind, prediction, truth, options)
        except MissingPackage:
            raise
        except MapError as error:
            # What is said of one file names it already.
            named = str(error).startswith((str(pair.predicted), str(pair.true)))
            return Failed(pair, str(error) if named else f"{pair.predicted}: {error}")
        return comparison._replace(doubts=(*notes, *comparison.doubts))

    pool = ThreadPoolExecutor(workers())
    results: list[Comparison | Failed] = []
    try:
        for result in pool.map(one, pairs):
            results.append(result)
            done(len(results))
    finally:
        pool.shutdown(cancel_futures=True)
    judged = [(pair, result) for pair, result in zip(pairs, results) if isinstance(result, Comparison)]
    comparisons: dict[str, list[Comparison]] = {pair.kind: [] for pair, _ in judged}
    for pair, comparison in judged:
        comparisons[pair.kind].append(comparison)
    failed = tuple(result for result in results if isinstance(result, Failed))
    return Found(comparisons, tuple(pair for pair, _ in judged), failed)


ROOMS_CHECKED = 3


def wrong_axes(predicted: Side, truth: Side, pairs: Sequence[Pair]) -> list[str]:
    """Say which side's normals contradict its own depth, of the first rooms that have both.

    A relative depth is bent by an unknown offset, so of predictions this is said only if other axes fit.
    """
    stems = [pair.stem for pair in pairs if pair.kind == "normal"]
    said = []
    for side, name in ((predicted, "prediction"), (truth, "truth")):
        both = [stem for stem in stems if stem in side.maps.get("depth", {})][:ROOMS_CHECKED]
        for stem in both:
            found = _verdict(side, stem)
            if found and found.contradicts and (found.has_better or side is truth):
                said.append(f"normal of {stem}, {name}: {slope.sentence(found)}")
                break
    return said


def _verdict(side: Side, stem: str) -> slope.Verdict | None:
    """Compare normals with their depth; None where a map can't be read, which is said elsewhere, or sizes differ."""
    try:
        normals, depth = (side.read(side.maps[kind][stem], kind) for kind in ("normal", "depth"))
    except MapError:
        return None
    return slope.verdict(normals, without_far_plane(depth)[0]) if normals.shape[:2] == depth.shape else None


def workers() -> int:
    """Return how many pairs are looked at at once: one for each processor this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return usable or 1
