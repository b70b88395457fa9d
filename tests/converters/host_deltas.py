"""Dense deltas of a converted file, from the host's own LoRA loader and from our runtime, to compare with the truth."""

from collections.abc import Mapping
from pathlib import Path

import comfy.lora
import comfy.utils
import torch
from comfyui_omnix.omnix.runtime.low_rank import read_layers
from torch import Tensor


def host_deltas(path: Path) -> dict[str, Tensor]:
    """Return the delta of every layer as comfy.lora reads and multiplies it, in float64; nothing may be left over."""
    lora = comfy.utils.load_torch_file(str(path), safe_load=True)
    layers = {key.removesuffix(".lora_A.weight") for key in lora if key.endswith(".lora_A.weight")}
    loaded = comfy.lora.load_lora(lora, {layer: layer for layer in layers}, log_missing=False)
    assert set(loaded) == layers
    assert {key for adapter in loaded.values() for key in adapter.loaded_keys} == set(lora)
    deltas = {}
    for layer, adapter in loaded.items():
        rows, columns = adapter.weights[0].shape[0], adapter.weights[1].shape[1]
        zeros = torch.zeros(rows, columns, dtype=torch.float64)
        delta = adapter.calculate_weight(zeros, layer, 1.0, 1.0, None, lambda x: x, torch.float64)
        deltas[layer.removeprefix("diffusion_model.")] = delta
    return deltas


def runtime_deltas(path: Path) -> dict[str, Tensor]:
    """Return the delta of every layer as the runtime multiplies it, in float64."""
    deltas = {}
    for name, layer in read_layers(path).items():
        eye = torch.eye(layer.down.shape[1], dtype=torch.float64)[None]
        rows = max(rows.start + rows.size for rows in layer.rows)
        out = torch.zeros(1, eye.shape[1], rows, dtype=torch.float64)
        layer.add_to(out, eye, 1.0)
        deltas[name] = out[0].t()
    return deltas


def furthest(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Return the largest relative difference of a layer's delta; rows that the runtime leaves out must be zero."""
    assert set(found) == set(wanted)
    worst = 0.0
    for layer, want in wanted.items():
        got = found[layer]
        assert not bool(want[len(got) :].any())
        apart = float((got - want[: len(got)]).norm())
        worst = max(worst, apart / float(want.norm()) if bool(want.any()) else apart)
    return worst
