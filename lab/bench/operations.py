"""Count what one denoising step does at FLUX.1-dev's real size: arithmetic and launches, of ours and of other ways.

    python lab/bench/operations.py [--streams 2 3] [--batches 1 2] [--height 512] [--weights bfloat16]

Nothing is computed: torch's fake tensors have shapes and dtypes alone, so the 12B architecture runs anywhere.
Attention is torch's own, as on CUDA. A launch is an operator that has something to do: views and allocations are none.
Prints a Markdown table; see lab/bench/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import runpy
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ways import Bench

ROOT = Path(__file__).resolve().parents[2]
WAYS = {"a": "ours", "b": "floor", "c": "reference", "d": "dense", "e": "no adapters"}
COLUMNS = ("streams", "batch", "way", "TFLOP", "over b", "products", "casts", "other launches")
FREE = ("_unsafe_view", "detach", "empty", "empty_like", "empty_strided")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "baddbmm_")


def main() -> None:
    """Print a row for each way, number of streams and batch."""
    options = arguments()
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("lab/bench/operations.py", cpu=True)
    import comfy.ldm.flux.math
    import comfy.ldm.modules.attention
    import torch
    import ways
    from comfyui_omnix.lab.host import tiny
    from torch._subclasses import FakeTensorMode

    comfy.ldm.flux.math.optimized_attention = comfy.ldm.modules.attention.attention_pytorch
    dtype = getattr(torch, options.weights)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for streams in options.streams:
        adapters = ways.make_adapters(tiny.FULL, streams, torch.bfloat16, torch.device("cpu"))
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            flux = ways.make_flux(tiny.FULL, dtype, torch.device("cpu"))
            bench = ways.make_bench(flux, adapters, tiny.FULL, options.height, torch.bfloat16)
            for batch in options.batches:
                for row in rows(batched(bench, batch)):
                    print("| " + " | ".join((str(streams), str(batch), *row)) + " |", flush=True)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--height", type=int, default=512, help="pixels; the width is twice it")
    parser.add_argument("--weights", default="bfloat16", help="dtype of FLUX's weights; it computes in bfloat16")
    return parser.parse_args()


def batched(bench: Bench, batch: int) -> Bench:
    """Return the same step of so many panoramas."""
    inputs = {name: tensor.expand(batch, *tensor.shape[1:]) for name, tensor in bench.inputs.items()}
    x, *conditions = (latent.expand(batch, -1, -1, -1) for latent in (bench.x, *bench.conditions))
    return dataclasses.replace(bench, x=x, conditions=tuple(conditions), inputs=inputs)


def rows(bench: Bench) -> list[list[str]]:
    """Count every way; return the cells of its row."""
    import ways

    counted = {name: count(lambda way=ways.WAYS[name]: way(bench)) for name in WAYS}
    floor = counted["b"][0]
    return [
        [
            *(f"{name} {WAYS[name]}", f"{flop / 1e12:.2f}", f"{flop / floor:.3f}"),
            *(str(launches[kind]) for kind in ("products", "casts", "other")),
        ]
        for name, (flop, launches) in counted.items()
    ]


def kind(func: Any, args: Any, out: Any) -> str:
    """Return what an operator is: products, casts, other, or nothing that is launched."""
    name = func.overloadpacket.__name__
    if func.is_view or func.namespace == "prim" or name in FREE:
        return "none"
    if name in PRODUCTS or "attention" in name:
        return "products"
    return "casts" if name == "_to_copy" and out.dtype != args[0].dtype else "other"


def count(work: Any) -> tuple[int, Counter[str]]:
    """Return the floating point operations of the products, and the launches by kind."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    launches: Counter[str] = Counter()

    class Launches(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            launches[kind(func, args, out)] += 1
            return out

    def attended(q: Any, k: Any, v: Any, *_args: Any, **_kwargs: Any) -> int:
        return sdpa_flop_count(q, k, v)

    # The one attention of torch that its own table lacks.
    more = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attended}
    with FlopCounterMode(display=False, custom_mapping=more) as flop, Launches():
        work()
    return flop.get_total_flops(), launches


if __name__ == "__main__":
    main()
