"""The curves of a run: a CSV that grows line by line, and an SVG drawn from it."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ..converters import write_bytes
from .errors import TrainingError


class Curve:
    """A table of one row a step, kept as a CSV file; a run that goes on drops the rows after its save."""

    def __init__(self, path: Path, columns: Sequence[str], step: int = 0) -> None:
        self.path, self.columns = path, ("step", *columns)
        rows = [row for row in read(path) if row["step"] <= step] if path.is_file() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows([_number(row[name]) for name in self.columns] for row in rows)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row."""
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([step, *(_number(values[name]) for name in self.columns[1:])])


def _number(value: float) -> str:
    return f"{value:.8g}"


def read(path: Path) -> list[dict[str, float]]:
    """Read a curve's rows.  Raises TrainingError for a file that is none."""
    with open(path, newline="", encoding="utf-8") as file:
        try:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        except (TypeError, ValueError) as error:
            raise TrainingError(f"{path}: expected a table of numbers, got {error}; move the file away.") from error


WIDTH, HEIGHT, MARGIN = 720, 260, 52

Points = Sequence[tuple[float, float]]


def draw(path: Path, panels: Sequence[tuple[str, Points]]) -> None:
    """Write an SVG with one panel for each (title, [(step, value), ..]), and a mean over a twentieth of it on top."""
    drawn = [_panel(title, points, number * HEIGHT) for number, (title, points) in enumerate(panels)]
    size = f"{WIDTH} {HEIGHT * len(drawn)}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" font-size="12">'
    text = "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *drawn, "</svg>"])
    write_bytes(path, text.encode(), force=True)


def _panel(title: str, points: Points, top: int) -> str:
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    low, high = _limits([y for _, y in finite])
    last = max([1.0, *(x for x, _ in finite)])

    def place(x: float, y: float) -> str:
        across, down = x / last, (high - y) / (high - low)
        return f"{MARGIN + across * (WIDTH - 2 * MARGIN):.1f},{top + MARGIN + down * (HEIGHT - 2 * MARGIN):.1f}"

    lines = [
        f'<text x="{MARGIN}" y="{top + 28}">{escape(title)}</text>',
        *(_level(value, place(0, value), place(last, value)) for value in (low, (low + high) / 2, high)),
        _line([place(x, y) for x, y in finite], "#b9cbe0", 1),
        _line([place(x, y) for x, y in smoothed(finite)], "#1f5fa8", 2),
        f'<text x="{WIDTH - MARGIN}" y="{top + HEIGHT - 24}" text-anchor="end">step {last:.0f}</text>',
    ]
    return "\n".join(lines)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _level(value: float, left: str, right: str) -> str:
    (x, y), end = left.split(","), right.split(",")[0]
    return (
        f'<path d="M{x} {y}H{end}" stroke="#ddd"/>'
        f'<text x="{float(x) - 6}" y="{y}" text-anchor="end" dominant-baseline="middle">{value:.3g}</text>'
    )


def _line(points: Sequence[str], colour: str, width: int) -> str:
    return f'<polyline fill="none" stroke="{colour}" stroke-width="{width}" points="{" ".join(points)}"/>'


def smoothed(points: Points) -> list[tuple[float, float]]:
    """Return the mean of every value and those before it, over a twentieth of all."""
    window = max(1, len(points) // 20)
    total, means = 0.0, []
    for number, (x, y) in enumerate(points):
        total += y - (points[number - window][1] if number >= window else 0.0)
        means.append((x, total / min(number + 1, window)))
    return means
