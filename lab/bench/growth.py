"""Time a step for growing panoramas and stream counts, beside the floor; print the table and draw lab/bench/growth.png.

python lab/bench/growth.py [--heights 64 96 128 192 256] [--rounds 5] [--clock process] [--threads 1]
"""

from __future__ import annotations

import argparse
import math
import runpy
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from step import CLOCKS, Clock, machine, timed

SIZE, MARGIN = (1000, 640), 90
ROOT = Path(__file__).resolve().parents[2]
COLOURS = {2: (31, 119, 180), 3: (214, 96, 20)}
PICTURE = Path(__file__).with_suffix(".png")


class Point(NamedTuple):
    """Seconds of one step with `tokens` image tokens in each of `streams` streams."""

    streams: int
    tokens: int
    ours: float
    floor: float
    ratio: float


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heights", nargs="+", type=int, default=[64, 96, 128, 192, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("lab/bench/growth.py")
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    title = f"{machine('cpu')}, hidden 768, 2+4 blocks, median of {options.rounds}, {options.clock} time"
    print(f"{title}\n\n| streams | tokens of a stream | ours, s | floor, s | ours / floor |\n|---|---|---|---|---|")
    points = list(measured(options.heights, options.rounds, CLOCKS[options.clock]))
    draw(points, title).save(PICTURE, optimize=True)


def measured(heights: Sequence[int], rounds: int, clock: Clock) -> Iterable[Point]:
    """Yield a point for every size, and print its row."""
    import torch
    import ways

    flux = ways.make_flux(ways.SMALL, torch.float32, torch.device("cpu"))
    for streams in ways.TASK_OF_STREAMS:
        adapters = ways.make_adapters(ways.SMALL, streams, torch.float32, torch.device("cpu"))
        for height in heights:
            bench = ways.make_bench(flux, adapters, ways.SMALL, height, torch.float32)
            with torch.inference_mode():
                pairs = [[timed(way, bench, clock) for way in (ways.ours, ways.floor)] for _ in range(rounds + 1)][1:]
            ours, floor = (statistics.median(times) for times in zip(*pairs))
            point = Point(streams, bench.tokens, ours, floor, statistics.median(x / y for x, y in pairs))
            print(f"| {streams} | {point.tokens} | {ours:.3f} | {floor:.3f} | {point.ratio:.3f} |", flush=True)
            yield point


def draw(points: Sequence[Point], title: str):
    """Return the picture: seconds over tokens, both axes logarithmic; ours as a line, the floor as rings."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", SIZE, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(18)
    across = axis([point.tokens for point in points], MARGIN, SIZE[0] - 30)
    up = axis([value for point in points for value in (point.ours, point.floor)], SIZE[1] - MARGIN, 70)
    pen.rectangle((MARGIN, 70, SIZE[0] - 30, SIZE[1] - MARGIN), outline=(160, 160, 160))
    pen.text((MARGIN, 15), "Seconds of one step", "black", font)
    pen.text((MARGIN, 40), title, (90, 90, 90), ImageFont.load_default(14))
    pen.text((SIZE[0] // 2 - 140, SIZE[1] - 40), "image tokens of one stream (logarithmic)", "black", font)
    for tokens in sorted({point.tokens for point in points}):
        pen.text((across(tokens), SIZE[1] - MARGIN + 8), str(tokens), "black", font, anchor="ma")
    for seconds in ticks([value for point in points for value in (point.ours, point.floor)]):
        pen.line((MARGIN, up(seconds), SIZE[0] - 30, up(seconds)), (230, 230, 230))
        pen.text((MARGIN - 8, up(seconds)), f"{seconds:g}", "black", font, anchor="rm")
    for row, (streams, colour) in enumerate(COLOURS.items()):
        own = [point for point in points if point.streams == streams]
        pen.line([(across(point.tokens), up(point.ours)) for point in own], colour, 3)
        for point in own:
            x, y = across(point.tokens), up(point.floor)
            pen.ellipse((x - 6, y - 6, x + 6, y + 6), outline=colour, width=2)
        label = f"{streams} streams: line ours, rings the floor without adapters"
        pen.text((MARGIN + 15, 85 + 26 * row), label, colour, font)
    return picture


def axis(values: Sequence[float], start: float, end: float):
    """Return the place of a value on a logarithmic axis that holds all of `values`."""
    low, high = math.log(min(values)) - 0.1, math.log(max(values)) + 0.1
    return lambda value: start + (end - start) * (math.log(value) - low) / (high - low)


def ticks(values: Sequence[float]) -> list[float]:
    """Return the round numbers 1, 2, 5 times a power of ten within the range of `values`."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    marks = (digit * 10.0**power for power in powers for digit in (1, 2, 5))
    return [mark for mark in marks if min(values) <= mark <= max(values)]


if __name__ == "__main__":
    main()
