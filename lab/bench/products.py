"""Time the deltas of one layer: each stream's products by themselves, as omnix/streams.py, or all streams' in one.

    python lab/bench/products.py [--hidden 768 3072] [--tokens 512] [--rounds 9] [--device cpu] [--threads 1]

A qkv layer, three blocks of rows, both ways in turn on the same numbers, checked to agree. The factors of all streams
are stacked beforehand, once for each sequence of the batch, which is not counted: the host would have to hold them so.
"""

from __future__ import annotations

import argparse
import runpy
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from step import CLOCKS, timed

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
BLOCKS, RANK_SHARE = 3, 48
"""q, k and v; hidden size over rank, as OmniX's 64 of 3072."""


class Layer(NamedTuple):
    """Inputs [(b s), n, in], outputs [(b s), n, rows], and factors: downs [s, sum r, in], ups [blocks, s, in, r]."""

    x: Tensor
    y: Tensor
    downs: Tensor
    ups: Tensor


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", nargs="+", type=int, default=[768, 3072])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("lab/bench/products.py")
    import torch

    torch.set_num_threads(options.threads)
    print("| hidden | streams | batch | each by itself, s | together, s | together / each |\n|---|---|---|---|---|---|")
    for hidden in options.hidden:
        for streams in (2, 3):
            for batch in (1, 2):
                layer = made(hidden, streams, batch, options.tokens, options.device)
                each, together = measured(layer, streams, options.rounds)
                cells = (hidden, streams, batch, f"{each:.4f}", f"{together:.4f}", f"{together / each:.2f}")
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def made(hidden: int, streams: int, batch: int, tokens: int, device: str) -> Layer:
    """Make up a layer's inputs and factors."""
    import torch

    rank, many = hidden // RANK_SHARE, batch * streams
    shapes = (many, tokens, hidden), (streams, BLOCKS * rank, hidden), (BLOCKS, streams, hidden, rank)
    x, downs, ups = (torch.randn(shape, device=device) / shape[-1] ** 0.5 for shape in shapes)
    return Layer(x, torch.zeros(many, tokens, BLOCKS * hidden, device=device), downs, ups)


def measured(layer: Layer, streams: int, rounds: int) -> tuple[float, float]:
    """Return the seconds of both ways; medians of rounds in turn."""
    import torch

    ways = by_themselves(layer, streams), together(layer)
    clock = CLOCKS["wall" if layer.x.is_cuda else "process"]
    results = []
    for way in ways:
        layer.y.zero_()
        way(layer)
        results.append(layer.y.clone())
    torch.testing.assert_close(*results)
    seconds = [[timed(way, layer, clock) for way in ways] for _ in range(rounds)]
    each, all_at_once = (statistics.median(column) for column in zip(*seconds))
    return each, all_at_once


def by_themselves(prepared: Layer, streams: int) -> Callable[[Layer], None]:
    """Return the pack's way: rows of one stream after those of another."""
    from comfyui_omnix.omnix.low_rank import LowRank, Rows

    hidden = prepared.x.shape[-1]
    rows = [Rows(number * hidden, hidden, 1.0) for number in range(BLOCKS)]
    low_ranks = [LowRank(prepared.downs[stream], list(prepared.ups[:, stream]), rows) for stream in range(streams)]

    def run(layer: Layer) -> None:
        for stream, low_rank in enumerate(low_ranks):
            low_rank.add_to(layer.y[stream::streams], layer.x[stream::streams], 1.0)

    return run


def together(prepared: Layer) -> Callable[[Layer], None]:
    """Return one product for the down factors of all streams, and one for each block of their up factors."""
    import torch

    batch = len(prepared.x) // len(prepared.downs)
    downs, ups = prepared.downs.mT.repeat(batch, 1, 1), prepared.ups.mT.repeat(1, batch, 1, 1)

    def run(layer: Layer) -> None:
        inner = torch.bmm(layer.x, downs)
        for target, part, up in zip(layer.y.chunk(BLOCKS, dim=2), inner.chunk(BLOCKS, dim=2), ups):
            target.baddbmm_(part, up)

    return run


if __name__ == "__main__":
    main()
