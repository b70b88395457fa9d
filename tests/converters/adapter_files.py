"""Adapter files for the converter's tests, whole and broken, and a slow independent computation of their meaning."""

import json
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.utils
import torch
from comfyui_omnix.lab.host import tiny
from torch import Tensor

SMALL = tiny.Geometry(hidden=8, double=2, single=2, text=8, pooled=8)
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
TREE = "rgb_to_depth/rgb/pytorch_lora_weights.safetensors"


def small(seed: int = 0, **options: Any) -> dict[str, Tensor]:
    """Make a tiny adapter with OmniX's layers, hidden size 8, rank 4, bfloat16."""
    return tiny.adapter(SMALL, seed, **{"rank": 4, "dtype": torch.bfloat16, **options})


def write_raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """Write a safetensors file from its parts, right or wrong: `header` is JSON's matter or bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def read_raw(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read a safetensors file's header and data with nothing but json and struct."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def metadata_of(path: Path) -> dict[str, str]:
    """Return a file's own words."""
    return read_raw(path)[0].get("__metadata__", {})


def host_map(geometry: tiny.Geometry) -> dict[str, Any]:
    """Return the host's own map of Diffusers layers, without `.weight`."""
    config = {
        "depth": geometry.double,
        "depth_single_blocks": geometry.single,
        "hidden_size": geometry.hidden,
    }
    found = comfy.utils.flux_to_diffusers(config)
    return {name.removesuffix(".weight"): target for name, target in found.items() if name.endswith(".weight")}


def expected_deltas(
    pairs: Mapping[str, tuple[Tensor, Tensor, float]], geometry: tiny.Geometry
) -> dict[str, list[tuple[slice, Tensor]]]:
    """Compute {fused layer: [(rows, delta)]} in float64 from (down, up, scale) by Diffusers name, by the host's map."""
    places = host_map(geometry)
    deltas: dict[str, list[tuple[slice, Tensor]]] = {}
    for module, (down, up, scale) in pairs.items():
        target, delta = places[module], scale * (up.double() @ down.double())
        name, offset = (target, None) if isinstance(target, str) else target[:2]
        if not isinstance(target, str) and len(target) > 2:
            delta = target[2](delta)
        rows = slice(None) if offset is None else slice(offset[1], offset[1] + offset[2])
        deltas.setdefault(name.removesuffix(".weight"), []).append((rows, delta))
    return deltas


def fused_deltas(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply the factors of a fused state dict in float64, by layer, with the separate alpha that float8 has."""
    ends = (".lora_A.weight", ".lora_B.weight")
    layers = {key.removesuffix(ends[0]) for key in state if key.endswith(ends[0])}
    alphas = {layer: state[f"{layer}.alpha"] for layer in layers if f"{layer}.alpha" in state}
    assert set(state) == {layer + end for layer in layers for end in ends} | {f"{layer}.alpha" for layer in alphas}
    deltas = {}
    for layer in layers:
        down, up = (state[layer + end].double() for end in ends)
        scale = float(alphas[layer]) / len(down) if layer in alphas else 1.0
        deltas[layer.removeprefix("diffusion_model.")] = scale * (up @ down)
    return deltas


BLOCKED = ("torch", "numpy", "safetensors", "comfy", "einops")


def cli(
    root: Path, *arguments: object, blocked: Sequence[str] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run `python -m converters` from the repository, with some modules made unimportable."""
    return subprocess.run(
        command(*arguments, blocked=blocked),
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


def command(*arguments: object, blocked: Sequence[str] = ()) -> list[str]:
    """Return the command line of `cli`."""
    words = list(map(str, arguments))
    if not blocked:
        return [sys.executable, "-m", "converters", *words]
    code = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({tuple(blocked)!r}))\n"
        "runpy.run_module('converters', run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", code, *words]
