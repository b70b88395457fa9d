"""First half of the demo: convert a tree of full-size adapters, verify it, and load it with the host's own loaders."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import torch

from ...converters import find_adapters
from ...omnix.runtime.tasks import STREAMS
from ..host import tiny
from ..host.pack import ROOT
from .files import short

TASKS = ("rgb_to_depth", "rgb_to_normal")


def show(output: Path) -> None:
    """Make, convert, verify and load the adapters of two tasks, and print what was done."""
    source, result = output / "adapters" / "original", output / "adapters" / "converted"
    print("== 1. Full-size adapters, random numbers (456 tensors each, rank 64, bfloat16)")
    make_tree(source)
    print("\n== 2. omnix-convert: Diffusers layout -> ComfyUI's fused layers")
    cli(source, result, "--force")
    print("\n== 3. omnix-convert --verify: the deltas of source and result")
    cli("--verify", source, result)
    print("\n== 4. Into a full-size FLUX.1 (11.9 billion parameters, meta device) by the host's own loaders")
    load_all(result)


def make_tree(folder: Path) -> None:
    """Write the adapters in OmniX's published layout."""
    slots = [(task, stream) for task in TASKS for stream in STREAMS[task]]
    for seed, (task, stream) in enumerate(slots):
        path = folder / task / stream / "pytorch_lora_weights.safetensors"
        if not path.is_file():
            tiny.save(tiny.full_adapter(seed), path)
        print(f"{short(path)}: {path.stat().st_size / 1e6:.1f} MB")


def cli(*arguments: str | Path) -> None:
    """Run the command line in the clone, like a user.  Raises SystemExit if it fails."""
    paths = [one.resolve() if isinstance(one, Path) else one for one in arguments]
    shown = [short(one) if isinstance(one, Path) and Path.cwd() == ROOT else one for one in paths]
    if subprocess.call([sys.executable, "-m", "converters", *map(str, shown)], cwd=ROOT):
        sys.exit("demo: the conversion failed; see the message above.")


def load_all(folder: Path) -> None:
    """Load each converted file merged and bypassed, and count layers and warnings."""
    model = full_flux()
    for path in find_adapters(folder).values():
        state = comfy.utils.load_torch_file(str(path))
        for name, load in (
            ("merged", comfy.sd.load_lora_for_models),
            ("bypassed", comfy.sd.load_bypass_lora_for_models),
        ):
            started = time.perf_counter()
            with counted_warnings() as warnings:
                patched = load(model, None, state, 1.0, 0.0)[0]
            layers = len(patched.patches) if name == "merged" else bypassed_layers(patched)
            seconds = time.perf_counter() - started
            counts = f"{layers} of {len(state) // 2} layers, {len(warnings)} warnings, {seconds:.2f} s"
            print(f"{short(path)}: {name}: {counts}")


def full_flux() -> Any:
    """Return a FLUX.1-dev of real size with weights that have shapes but no numbers."""
    with torch.device("meta"):
        state = {f"{name}.weight": torch.empty(tiny.HEAD) for name in tiny.norms(tiny.FULL)}
        for name, (columns, rows) in tiny.linears(tiny.FULL).items():
            state |= {f"{name}.weight": torch.empty(rows, columns), f"{name}.bias": torch.empty(rows)}
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}
    return comfy.sd.load_diffusion_model_state_dict(halves, {"offload_device": torch.device("meta")})


def bypassed_layers(patched: Any) -> int:
    """Count the layers whose forward the host's bypass replaces."""
    modules = list(patched.model.diffusion_model.modules())
    for injection in patched.injections["bypass_lora"]:
        injection.inject(patched)
    count = sum(getattr(module.forward, "__self__", module) is not module for module in modules)
    for injection in patched.injections["bypass_lora"]:
        injection.eject(patched)
    return count


@contextmanager
def counted_warnings() -> Iterator[list[logging.LogRecord]]:
    """Collect the host's warnings inside this context."""
    handler = MemoryHandler(0)  # without a target, it keeps every record
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield handler.buffer
    finally:
        logging.getLogger().removeHandler(handler)
