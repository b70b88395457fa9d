"""FLUX.1 in GGUF for ComfyUI-GGUF; needs the package gguf, which neither ComfyUI nor the tests install."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def write(path: Path, state: Mapping[str, Tensor], kind: str) -> None:
    """Write a FLUX.1 in ComfyUI's layout, the matrices of its blocks as `kind` ("F32", "Q8_0", ..)."""
    import gguf

    writer, of = gguf.GGUFWriter(str(path), "flux"), gguf.GGMLQuantizationType[kind]
    for name, tensor in state.items():
        values: Any = tensor.float().numpy()
        if _is_packed(name, tensor):
            writer.add_tensor(name, gguf.quants.quantize(values, of), raw_dtype=of)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def held(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return the numbers in such a file, by ComfyUI's or Diffusers' names: quantisation works along rows."""
    import gguf

    of = gguf.GGMLQuantizationType[kind]

    def numbers(tensor: Tensor) -> Tensor:
        values = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(tensor.float().numpy(), of), of).copy())
        return values if kind == "F32" else values.half().float()  # the pack unpacks in float16

    return {name: numbers(tensor) if _is_packed(name, tensor) else tensor for name, tensor in state.items()}


def _is_packed(name: str, tensor: Tensor) -> bool:
    return tensor.ndim == 2 and "blocks" in name
