"""The reports of a run: curves (a growing CSV, and an SVG), and sheets and figures of held-out pictures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from einops import repeat
from PIL import Image
from torch import Tensor

from ..converters import write_bytes
from ..evaluation import semantic
from ..evaluation.compare import compare
from ..evaluation.run import nearest
from ..mapfiles import layout
from ..mapfiles.pictures import Array
from ..omnix.pictures.panorama import decode_panorama
from ..omnix.pictures.sheet import contact_sheet
from .config import Config, Plan, Stream, note
from .data import Sources
from .pictures import PIXELS_PER_LATENT, picture, seen, unranged
from .samples import Pictures


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Report an error in a curve or sheet; such an error must not end a run of several hours."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (every kind is reported)
        note(f"{what} failed ({type(error).__name__}: {' '.join(str(error).split())[:200]}); the run continues.")


def board(output: Path, step: int) -> Any:
    """Return a writer for TensorBoard that replaces older points after a step; None if tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # not a requirement: it may be missing
    except ImportError:
        return None
    return SummaryWriter(str(output / "tensorboard"), purge_step=step + 1)


class Curve:
    """A table with one row for each step, kept as a CSV file. A resumed run drops the rows after its save.

    Columns of an older file stay. `board` gets the same figures for TensorBoard.
    """

    def __init__(self, path: Path, columns: Sequence[str], step: int = 0, board: Any = None) -> None:
        self.path, self.board = path, board
        found = read(path)
        rows = [row for row in found if row["step"] <= step]
        kept = [name for row in rows[:1] for name in row]
        self.columns = tuple(dict.fromkeys(("step", *columns, *kept)))
        self.waiting: list[list[str]] = []
        if path.is_file() and path.stat().st_size and not found:
            old = path.replace(path.with_suffix(".old.csv"))
            note(f"{path}: expected rows with the column step, got none; the file is now {old.name}.")
        table = io.StringIO()
        csv.writer(table).writerows([self.columns, *(self._line(row) for row in rows)])
        write_bytes(path, table.getvalue().encode(), force=True)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row. While another program locks the file, rows wait for the next step."""
        self.waiting.append(self._line({"step": step, **values}))
        try:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(self.waiting)
            self.waiting = []
        except OSError as error:
            if len(self.waiting) == 1:
                note(f"{self.path}: can't be written ({error}); its rows wait for the next step.")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{self.path.stem}/{name}", value, step)
            self.board.flush()

    def _line(self, row: Mapping[str, float]) -> list[str]:
        return [f"{row.get(name, math.nan):.8g}" for name in self.columns]


def read(path: Path) -> list[dict[str, float]]:
    """Read a curve's rows, without incomplete lines, which a crash may leave."""
    text = path.read_bytes().decode("utf-8-sig", "replace").replace("\0", "") if path.is_file() else ""
    whole = text[: text.rfind("\n") + 1]  # the last line may be cut within a number
    names, *lines = [line.split(",") for line in whole.splitlines()] or [[]]
    rows = [_numbers(names, fields) for fields in lines]
    return [row for row in rows if math.isfinite(row.get("step", math.nan))]


def _numbers(names: Sequence[str], fields: Sequence[str]) -> dict[str, float]:
    """Return a row's numbers by name; {} if there are too few or too many fields, or other text."""
    try:
        return dict(zip(names, (float(field or "nan") for field in fields), strict=True))
    except ValueError:
        return {}


def points(path: Path, column: str) -> list[tuple[float, float]]:
    """Return the points (step, value) of one column that have a value."""
    found = ((row["step"], row.get(column, math.nan)) for row in read(path))
    return [(step, value) for step, value in found if math.isfinite(value)]


WIDTH, HEIGHT, MARGIN = 720, 260, 52

Points = Sequence[tuple[float, float]]


def draw(path: Path, panels: Sequence[tuple[str, Points]]) -> None:
    """Write an SVG with one panel for each (title, [(step, value), ..]), and over each curve its moving average."""
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
    """Return the moving average: each value is the mean of itself and earlier ones, over a twentieth of all points."""
    window = max(1, len(points) // 20)
    total, means = 0.0, []
    for number, (x, y) in enumerate(points):
        total += y - (points[number - window][1] if number >= window else 0.0)
        means.append((x, total / min(number + 1, window)))
    return means


MAIN = {
    "depth": ("scale_by_median", "abs_rel"),
    "normal": ("", "mean"),
    "semantic": ("", "accuracy"),
}
"""Kind -> the alignment and the main figure, which the curve shows; the main figure of other kinds is PSNR."""
LOWER = {"abs_rel", "mean"}
"""Main figures for which lower is better."""
FIGURES = "figures.csv"
OTHER = "albedo"
"""Maps that are not in the table of `evaluation` are measured as this kind: colours in [0, 1]."""
TILE = 384


class Watch:
    """Gets the sampled latents; writes sheets to `samples/`, the table `figures.csv` and its curves."""

    def __init__(
        self, config: Config, plan: Plan, sources: Sources, stems: Sequence[str], pictures: Pictures, output: Path
    ) -> None:
        self.config, self.plan, self.sources, self.stems = config, plan, sources, tuple(stems)
        self.pictures, self.output = pictures, output
        self.board: Any = None

    def __call__(self, step: int, latents: Tensor) -> None:
        """Decode, draw and measure the latents [n, 16, h, w] of the held-out pictures."""
        images = [decode_panorama(self.pictures.decode, latent[None])[0].clamp(0, 1) for latent in latents]
        self.pictures.release()
        self.draw_sheet(step, images)
        figures = self.measure(images)
        if self.board is None and self.config.tensorboard:
            self.board = board(self.output, step)
        Curve(self.output / FIGURES, tuple(figures), step - 1, self.board).add(step, figures)
        draw(self.output / "figures.svg", [*self.panels()])

    def draw_sheet(self, step: int, images: Sequence[Tensor]) -> None:
        """Write one picture: a row for each stem."""
        tiles = []
        for stem, image in zip(self.stems, images):
            shown = {s.name: picture(self.config, s, self.sources.files[stem, s.name]) for s in self.plan.streams}
            *conditions, truth = shown.items()
            tiles += [(f"{stem}: {name}", one[None]) for name, one in conditions]
            tiles += [(f"sampled {truth[0]}, step {step}", image[None]), (f"true {truth[0]}", truth[1][None])]
        sheet = contact_sheet(tiles, len(self.plan.streams) + 1, TILE)[0]
        data = io.BytesIO()
        Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().numpy()).save(data, "PNG")
        write_bytes(self.output / "samples" / f"step-{step:06d}.png", data.getvalue(), force=True)

    def measure(self, images: Sequence[Tensor]) -> dict[str, float]:
        """Return the mean of every figure over the learned parts of held-out pictures, by `map alignment figure`."""
        target, sums = self.plan.streams[-1], dict[str, list[float]]()
        for stem, image in zip(self.stems, images):
            files = self.sources.files[stem, target.name]
            weight = seen(self.config, target, files, self.sources.masks.get(stem)).weight
            learned = repeat(weight > 0, "h w -> (h p) (w q)", p=PIXELS_PER_LATENT, q=PIXELS_PER_LATENT).numpy()
            for channel, path in enumerate(files):
                part = image if len(target.folders) == 1 else image[..., channel : channel + 1]
                for name, value in _figures(path, self.config, part, learned):
                    sums.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in sums.items()}

    def panels(self) -> Iterator[tuple[str, Points]]:
        """Yield the curve of each map's main figure: its title and its points (step, value)."""
        for name, _figure in self._main():
            yield f"{name}, held out", points(self.output / FIGURES, name)

    def ranking(self) -> list[int]:
        """Return the steps from the best main figure to the worst; with several maps by the sum of their ranks."""
        ranks: dict[int, int] = {}
        for name, figure in self._main():
            values = sorted(points(self.output / FIGURES, name), key=lambda at: at[1], reverse=figure not in LOWER)
            for rank, (step, _value) in enumerate(values):
                ranks[int(step)] = ranks.get(int(step), 0) + rank
        return sorted(ranks, key=lambda step: ranks[step])

    def _main(self) -> Iterator[tuple[str, str]]:
        for folder in dict.fromkeys(self.plan.streams[-1].folders):
            alignment, figure = MAIN.get(folder, ("", "psnr"))
            yield _name(folder, alignment, figure), figure


def _name(folder: str, alignment: str, figure: str) -> str:
    return " ".join(part for part in (folder, alignment, figure) if part)


def _figures(path: Path, config: Config, image: Tensor, learned: Array) -> Iterator[tuple[str, float]]:
    """Yield the figures of one map where it is learned; equal maps, whose PSNR is infinite, count as 100 dB."""
    folder = path.parent.name
    kind = folder if folder in layout.KINDS and folder != "rgb" else OTHER
    prediction, truth = _pair(kind, folder, path, config, image)
    unknown = semantic.NO_CLASS if kind == "semantic" else np.nan
    truth = np.where(learned if truth.ndim == 2 else learned[..., None], truth, unknown)
    for alignment, scores in compare(kind, prediction, truth).scores.items():
        for figure, (value, _weighted) in scores.figures.items():
            yield _name(folder, alignment, figure), 100.0 if math.isinf(value) else value


def _pair(kind: str, folder: str, path: Path, config: Config, image: Tensor) -> tuple[Array, Array]:
    """Return (prediction, truth) as `evaluation` expects a kind, at the size of the run."""
    colours = image.numpy()
    if kind == OTHER or folder not in layout.KINDS:
        truth = picture(config, Stream(folder, (folder,)), [path]).numpy()
        return colours if colours.shape[-1] == 3 else np.repeat(colours, 3, axis=-1), truth
    # Resized to the nearest pixel: the mean of two distances, normals or classes would be wrong.
    truth = nearest(layout.read(path, kind), (colours.shape[0], colours.shape[1]))
    if kind == "semantic":
        labels = semantic.codes(truth)
        return semantic.nearest(
            semantic.codes((colours * 255).round().astype(np.uint8)), semantic.distinct(labels)
        ), labels
    if kind == "normal":
        vectors = colours * 2 - 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6), truth
    return layout.marked(unranged(colours.mean(axis=-1), config, folder), kind), truth
