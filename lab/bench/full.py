"""Run FLUX.1-dev at its own size, 12 billion parameters in float8, on this machine: a step of KSampler, two streams.

    python lab/bench/full.py [--folder FOLDER] [--height 128] [--text 512]

with the python and, as COMFYUI_PATH, the comfyui of `python dev.py setup --json`. It needs 12 GB of disk and 16 GB of
memory. The weights are random, in a file that is written once to FOLDER and kept there (without one, a temporary
folder). Prints what lab/bench/README.md shows: that the result is finite, how many modules of each adapter were added,
the time beside plain FLUX on as many tokens, and the memory beside the host's own estimate.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import runpy
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
TASK = "rgb_to_depth"
FILE = "flux1-dev-random-float8.safetensors"
POOL = 999_983
"""Numbers that are drawn for each width of layers and repeated; a prime, so that no two rows of a layer are equal."""
GB = 1e9


def main() -> None:
    """Make the file if it is not there, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the 12 GB of weights are kept (a temporary folder)")
    parser.add_argument("--height", type=int, default=128, help="of the panorama, in pixels (128)")
    parser.add_argument("--text", type=int, default=512, help="text tokens (512)")
    options = parser.parse_args()
    if not Path("/proc/self/status").is_file():
        sys.exit("lab/bench/full.py: memory is read from /proc/self/status, which this system lacks; run it on Linux.")
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("lab/bench/full.py")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / FILE).is_file():
            write_flux(folder / FILE)
        report(folder / FILE, Path(temporary), options.height, options.text)


def write_flux(path: Path) -> None:
    """Write random weights under FLUX.1-dev's own names, layer by layer."""
    import torch
    import ways
    from comfyui_omnix.lab.host import tiny

    state = ways.empty_flux(tiny.FULL, torch.float8_e4m3fn, torch.device("meta")).state_dict()
    shapes = {name.replace("_norm.weight", "_norm.scale"): tuple(tensor.shape) for name, tensor in state.items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape)
        header[name] = {"dtype": "F8_E4M3", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    partial = path.with_suffix(".part")
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number, (name, shape) in enumerate(shapes.items()):
            file.write(numbers(name, shape, number))
    partial.replace(path)


def numbers(name: str, shape: tuple[int, ...], number: int) -> bytes:
    """Return a tensor's bytes: W ~ N(0, 1/in), biases 0 and norms 1."""
    import numpy as np
    import torch

    if len(shape) == 1:
        return (
            torch.full(shape, float(name.endswith("scale"))).to(torch.float8_e4m3fn).view(torch.uint8).numpy().tobytes()
        )
    return np.resize(np.roll(pool(shape[1]), 7919 * number), math.prod(shape)).tobytes()


@functools.cache
def pool(columns: int) -> Any:
    """Return numbers for layers of this width, uint8."""
    import torch

    return float8(torch.randn(POOL, generator=torch.Generator().manual_seed(columns)) * columns**-0.5)


def float8(values: Tensor) -> Any:
    """Return values as the bytes of float8_e4m3fn, uint8."""
    import torch

    return values.to(torch.float8_e4m3fn).view(torch.uint8).numpy()


class Outcome(NamedTuple):
    """What a run came to: its latent, seconds, and the most anonymous memory in bytes beyond what there was before."""

    latent: Tensor
    seconds: float
    memory: int


def report(flux: Path, folder: Path, height: int, text: int) -> None:
    """Load, run plain FLUX and ours, and print the table."""
    import comfy.sd
    import torch

    before = anonymous()
    model = comfy.sd.load_diffusion_model(str(flux), model_options={"dtype": torch.float8_e4m3fn})
    loaded = adapters(folder)
    inputs = Inputs(height, text)
    from comfyui_omnix.omnix.runtime import patch
    from comfyui_omnix.omnix.runtime.schedule import flow_shift

    shifted = patch.with_flow_shift(model, flow_shift(height // 8, height // 4, 0))
    ours = patch.attach(shifted, loaded, 1.0, 1.0, 0)
    Inputs(64, 16).sample(shifted, batch=1)  # reads every weight once
    with estimates() as estimated:
        plain = measured(lambda: inputs.sample(shifted, batch=2), before)
        with counted() as hits:
            result = measured(lambda: inputs.sample(ours, reference=True), before)
    streams = loaded.adapters.stream_layers()
    modules = [sum(len(layer.rows) for layer in layers.values() if hits[id(layer)]) for layers in streams]
    weights = model.model_size() + loaded.patcher.model_size()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {height}x{2 * height}, {text} text tokens\n")
    print("| | plain FLUX, batch 2 | ours, 2 streams | ours / plain |\n|---|---|---|---|")
    print(f"| one step, s | {plain.seconds:.1f} | {result.seconds:.1f} | {result.seconds / plain.seconds:.3f} |")
    print(f"| memory at most, GB | {plain.memory / GB:.2f} | {result.memory / GB:.2f} | |")
    told = [(weights if number else model.model_size()) + need for number, need in enumerate(estimated)]
    print("| the host's estimate, GB | " + " | ".join(f"{each / GB:.2f}" for each in told) + " | |")
    print(f"\nfinite: {bool(torch.isfinite(result.latent).all())}; modules added: {modules}")


def adapters(folder: Path) -> Any:
    """Write a task's adapters of the real size and load them as Load OmniX Adapters does."""
    from comfyui_omnix.lab.host import tiny
    from comfyui_omnix.omnix.runtime import patch
    from comfyui_omnix.omnix.runtime.tasks import TASKS

    task = TASKS[TASK]
    states = ((stream, tiny.full_adapter(seed)) for seed, stream in enumerate(task.streams))
    return patch.load_adapters([tiny.save(state, folder / f"{name}.safetensors") for name, state in states], task)


class Inputs:
    """Made-up latents and text."""

    def __init__(self, height: int, text: int) -> None:
        import torch

        draw = torch.Generator().manual_seed(0)
        self.noise, self.condition = torch.randn(2, 1, 16, height // 8, height // 4, generator=draw)
        self.text, self.pooled = torch.randn(1, text, 4096, generator=draw), torch.randn(1, 768, generator=draw)

    def sample(self, model: Any, batch: int = 1, reference: bool = False) -> Tensor:
        """Run one step of KSampler."""
        import comfy.sample
        import torch

        told: dict[str, Any] = {"pooled_output": self.pooled, "guidance": 3.5}
        if reference:
            told["reference_latents"] = [model.model.latent_format.process_out(self.condition)]
        noise = self.noise.expand(batch, -1, -1, -1).contiguous()
        given = ("euler", "simple", [[self.text, told]], [[self.text, told]], torch.zeros_like(noise))
        with torch.inference_mode():
            return comfy.sample.sample(model, noise, 1, 1.0, *given, denoise=1.0, disable_pbar=True, seed=0)


def measured(run: Callable[[], Tensor], before: int) -> Outcome:
    """Run once; the memory counts from `before`."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        latent = run()
    finally:
        seconds = time.perf_counter() - started
        done.set()
        watcher.join()
    return Outcome(latent, seconds, peak[0] - before)


def anonymous() -> int:
    """Return the bytes of this process that lie in memory and in no file."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


@contextmanager
def estimates() -> Iterator[list[float]]:
    """Note what memory the host asks for beside the weights, each time it loads models to sample."""
    import comfy.model_management as management

    noted: list[float] = []
    host = management.load_models_gpu

    def load(models: Any, memory_required: float = 0, *rest: Any, **options: Any) -> Any:
        noted.append(memory_required)
        return host(models, memory_required, *rest, **options)

    with mock.patch.object(management, "load_models_gpu", load):
        yield noted


@contextmanager
def counted() -> Iterator[Mapping[int, int]]:
    """Count how often each delta is added, by its id()."""
    from comfyui_omnix.omnix.runtime.low_rank import LowRank

    hits: Counter[int] = Counter()
    own = LowRank.add_to

    def add_to(delta: LowRank, *given: Any) -> None:
        hits[id(delta)] += 1
        own(delta, *given)

    with mock.patch.object(LowRank, "add_to", add_to):
        yield hits


if __name__ == "__main__":
    main()
