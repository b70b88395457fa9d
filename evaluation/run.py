"""Compare all pairs of two sides, a few at a time. Only the figures of a pair are kept, so memory does not grow.

With --resize the larger map of a pair gets the size of the smaller one, by the filter that its kind needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..mapfiles.errors import MapError, MissingPackage
from ..mapfiles.layout import marked
from ..mapfiles.nothing import FAR_PLANE, without_far_plane
from ..mapfiles.pictures import Array
from ..mapfiles.trees import MEASURED, Side
from . import semantic
from .compare import Comparison, Options, check_sizes, compare

Size = tuple[int, int]
"""(height, width)."""


def nearest(values: Array, size: Size) -> Array:
    """Return the pixel under the centre of each new pixel: this invents no distance and no class between two."""
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(size, values.shape))
    return values[rows[:, None], columns]


def area(values: Array, size: Size) -> Array:
    """Return the mean of the pixels that each new pixel covers."""
    return _means(_means(values.astype(np.float64), size[0]).swapaxes(0, 1), size[1]).swapaxes(0, 1).astype(np.float32)


def _means(values: Array, new: int) -> Array:
    """Return the means over the first axis: differences of its running sum at the new borders."""
    old = values.shape[0]
    total = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    borders = np.arange(new + 1) * old / new
    below = np.minimum(borders.astype(np.intp), old - 1)
    share = (borders - below).reshape(-1, *[1] * (values.ndim - 1))
    at = total[below] + share * (total[below + 1] - total[below])
    return np.diff(at, axis=0) * (new / old)


def _of_normals(values: Array, size: Size) -> Array:
    """Return the directions of the means; missing normals do not count."""
    return marked(area(np.nan_to_num(values, nan=0.0), size), "normal")


class Filter(NamedTuple):
    """How maps are made smaller, and the name of this filter in the report."""

    name: str
    apply: Callable[[Array, Size], Array]


_AREA = Filter("area mean", area)
FILTERS = {
    "depth": Filter("nearest pixel", nearest),
    "normal": Filter("area mean, unit length", _of_normals),
    "albedo": _AREA,
    "roughness": _AREA,
    "metallic": _AREA,
    "semantic": Filter("nearest pixel", nearest),
}


def to_one_size(kind: str, prediction: Array, truth: Array) -> tuple[Array, Array, str]:
    """Return both maps in the smaller size, and a sentence about the resizing ("" if there was none).

    Maps of different shapes (2:1 and 4:3) stay as they are, because they do not show the same scene.
    """
    ours, true = prediction.shape[:2], truth.shape[:2]
    if ours == true or ours[0] * true[1] != ours[1] * true[0]:
        return prediction, truth, ""
    way, size = FILTERS[kind], min(ours, true)
    shrunk = "prediction" if ours != size else "truth"
    before = max(ours, true)
    words = f"the {shrunk} was resized from {before[1]}x{before[0]} to {size[1]}x{size[0]} ({way.name})"
    if shrunk == "truth":
        return prediction, way.apply(truth, size), words
    return way.apply(prediction, size), truth, words


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
    """The pairs to compare, the missing stems, and the kinds that only one side has."""

    pairs: tuple[Pair, ...]
    missing: tuple[Missing, ...]
    alone: tuple[str, ...]


def plan(predicted: Side, truth: Side) -> Plan:
    """Pair the stems of each kind that both sides have. MapError if there is no pair."""
    ours, true = ({kind: side.maps[kind] for kind in MEASURED if kind in side.maps} for side in (predicted, truth))
    kinds = [kind for kind in MEASURED if kind in ours and kind in true]
    alone = tuple(kind for kind in MEASURED if (kind in ours) != (kind in true))
    if not kinds:
        raise MapError(
            f"nothing to compare: the predictions are {', '.join(ours)}, but the truth is {', '.join(true)}; "
            "use two folders with maps of one kind."
        )
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
    """Return a sentence about missing stems: how many, and the first five."""
    plural = "s" if len(gap.stems) > 1 else ""
    return f"{gap.kind}: {len(gap.stems)} stem{plural} without a {gap.side} ({_named(gap.stems)})"


def _named(stems: Sequence[str]) -> str:
    return ", ".join(stems[:5]) + (", ..." if len(stems) > 5 else "")


def doubts(pairs: Sequence[Pair], found: Mapping[str, Sequence[Comparison]]) -> list[str]:
    """Return one sentence for each kind and reason: which stems have doubtful figures, and why."""
    stems: dict[tuple[str, str], list[str]] = {}
    for kind, comparisons in found.items():
        for pair, comparison in zip((pair for pair in pairs if pair.kind == kind), comparisons):
            for doubt in comparison.doubts:
                stems.setdefault((kind, doubt), []).append(pair.stem)
    return [f"{kind} of {_named(named)}: {doubt}" for (kind, doubt), named in stems.items()]


def alike(predicted: Side, truth: Side) -> Side:
    """If each side has one room, give the predicted maps the stem of the true ones: their names may differ."""
    ours, true = ({stem for files in side.maps.values() for stem in files} for side in (predicted, truth))
    if len(ours) == len(true) == 1:
        stem = next(iter(true))
        return predicted._replace(
            maps={kind: dict(zip([stem], files.values())) for kind, files in predicted.maps.items()}
        )
    return predicted


class Read(NamedTuple):
    """A prediction and its truth, semantic maps as codes, and remarks about reading them."""

    prediction: Array
    truth: Array
    notes: tuple[str, ...] = ()


class Maps(NamedTuple):
    """Reads a pair for `compare`; `known` are the colours of all true semantic maps."""

    predicted: Side
    truth: Side
    known: Array
    resize: bool = False

    def read(self, pair: Pair) -> Read:
        """Read a pair: semantic maps as codes, painted ones as the nearest known codes; with `resize` in one size."""
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
    """Collect the colours of the true semantic maps."""
    paths = [pair.true for pair in pairs if pair.kind == "semantic"]
    with ThreadPoolExecutor(workers()) as pool:
        found = list(pool.map(lambda path: _colours(truth, path), paths))
    return Maps(predicted, truth, np.unique(np.concatenate(found)) if found else _NO_COLOURS, resize)


_NO_COLOURS = np.empty(0, dtype=np.int32)


def _colours(side: Side, path: Path) -> Array:
    """Return the codes of a semantic map; no code if the file can't be read (comparing its pair reports that)."""
    try:
        return semantic.distinct(semantic.codes(side.read(path, "semantic")))
    except MissingPackage:
        raise
    except MapError:
        return _NO_COLOURS


class Failed(NamedTuple):
    """A pair that can't be measured, and the reason."""

    pair: Pair
    reason: str


class Found(NamedTuple):
    """Kind -> the comparison of each measured pair, in order; those pairs; and the pairs that failed."""

    comparisons: dict[str, list[Comparison]]
    pairs: tuple[Pair, ...]
    failed: tuple[Failed, ...]


def evaluate(
    reading: Maps, pairs: Sequence[Pair], options: Options, done: Callable[[int], None] = lambda _count: None
) -> Found:
    """Compare every pair; `done` is called with the number of finished pairs."""

    def one(pair: Pair) -> Comparison | Failed:
        try:
            prediction, truth, notes = reading.read(pair)
            check_sizes(prediction, truth, ", or use --resize")
            comparison = compare(pair.kind, prediction, truth, options)
        except MissingPackage:
            raise
        except MapError as error:
            # An error about one file already names that file.
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


def workers() -> int:
    """Return how many pairs are compared at a time: one for each processor that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return usable or 1
