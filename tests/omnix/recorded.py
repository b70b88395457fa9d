"""The recorded runs: a FLUX.1 with numbers from a seed, and the oracle's results with it (see golden/README.md).

python tests/omnix/recorded.py      records the results again
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from oracle import sample
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

ROOT = Path(__file__).parents[1] / "golden"
RESULTS = ROOT / "golden.safetensors"
with safe_open(RESULTS, "pt") as _file:
    METADATA: dict[str, str] = _file.metadata()
CASES: dict[str, dict[str, Any]] = {task: json.loads(text) for task, text in sorted(METADATA.items())}
RUNS = [(task, steps) for task, case in CASES.items() for steps in case["steps"]]
SIZES = {
    "num_layers": 2,
    "num_single_layers": 2,
    "num_attention_heads": 2,
    "joint_attention_dim": 64,
    "pooled_projection_dim": 32,
    "guidance_embeds": True,
}
"""Of the FLUX.1, in Diffusers' words."""


def flux() -> dict[str, Tensor]:
    """Return the weights: all tensors, by name, in one stream of PCG64, whose integers NumPy promises never to change.

    Evenly distributed, of deviation 1/sqrt(columns) for matrices and 0.1 for biases and norms; norms are around 1.
    """
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        model = FluxTransformer2DModel(**SIZES)
    norms = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.RMSNorm)}
    stream = np.random.PCG64(2025)
    state = {}
    for name, empty in sorted(model.state_dict().items()):
        drawn = stream.random_raw(empty.numel()) / 2.0**64 - 0.5
        deviation = empty.shape[1] ** -0.5 if empty.ndim == 2 else 0.1
        numbers = torch.from_numpy(drawn * deviation * 12**0.5 + (name in norms)).float()
        state[name] = numbers.reshape(empty.shape)
    return state


def inputs(task: str) -> dict[str, Any]:
    """Return the arguments of the oracle's `sample` for a task, except for the weights and the number of steps."""
    case, tensors = CASES[task], load_file(RESULTS)
    folders = [ROOT / "adapters" / task / stream for stream in case["streams"]]
    return {
        "adapters": [load_file(folder / "pytorch_lora_weights.safetensors") for folder in folders],
        "conditions": [tensors[f"{task}.condition_{i}"] for i in range(len(folders) - 1)],
        "noise": tensors[f"{task}.noise"],
        "prompt_embeds": tensors[f"{task}.text"],
        "pooled": tensors[f"{task}.pooled"],
        "guidance": case["guidance"],
        "seam": case["blend_columns"],
    }


def result(task: str, steps: int) -> Tensor:
    """Return the recorded result of a run."""
    return load_file(RESULTS)[f"{task}.result_{steps}"]


def record() -> None:
    """Write the oracle's results in float64 next to the inputs, rounded to float32."""
    weights = flux()
    found = {
        f"{task}.result_{steps}": sample(weights, **inputs(task), steps=steps, dtype=torch.float64).float()
        for task, steps in RUNS
    }
    save_file(load_file(RESULTS) | found, RESULTS, METADATA)


if __name__ == "__main__":
    record()
