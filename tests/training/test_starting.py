"""Training starts from adapters of other programs (--init): what is saved means the same as what was read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from comfyui_omnix.converters.lora.layout import LAYOUT, height, numbered
from comfyui_omnix.training import adapters, engine
from made_up import SMALL, TASK, base, config, latents
from safetensors.torch import load_file, save_file
from torch import Tensor


def fused(rank: int = 4, hidden: int = SMALL.hidden, number: int = 0) -> dict[str, Tensor]:
    """One pair for each whole layer of ComfyUI's blocks, as kohya and BFL's own tools write them."""
    draw, state = torch.Generator().manual_seed(3), {}
    geometry = adapters.Geometry(hidden, 4 * hidden)
    for row in (row for row in LAYOUT if row.columns is not None and row.block):
        name = numbered(row.name, number)
        rows, columns = height(row), row.columns
        assert rows is not None and columns is not None
        state[f"{name}.lora_A.weight"] = torch.randn(rank, columns.of(geometry), generator=draw)
        state[f"{name}.lora_B.weight"] = torch.randn(rows.of(geometry), rank, generator=draw) / 100
    return state


def write(folder: Path, state: dict[str, Tensor]) -> Path:
    folder.mkdir()
    for stream in TASK.streams:
        save_file(state, str(folder / f"{stream}.safetensors"))
    return folder


def deltas(path: Path) -> dict[str, Tensor]:
    """The dense delta of each layer of ComfyUI that a file adapts."""
    found = {}
    for name, layer in adapters.from_file(path).by_name().items():
        delta = torch.zeros(max(rows.start + rows.size for rows in layer.rows), layer.down.shape[1])
        for down, up, rows in zip(layer.down.split([up.shape[1] for up in layer.ups]), layer.ups, layer.rows):
            delta[rows.start : rows.start + rows.size] += rows.scale * up.detach() @ down.detach()
        found[name] = delta
    return found


def test_whole_fused_layers_are_saved_part_by_part(tmp_path: Path) -> None:
    start = write(tmp_path / "start", fused())
    given = config(init=str(start), steps=1, save_every=1, save_dtype="float32", learning_rate=1e-30, weight_decay=0.0)
    done = engine.train(given, TASK, base(), latents(), tmp_path / "run", show=False)
    want = deltas(start / "rgb.safetensors")
    for file in ("rgb.safetensors", "rgb/pytorch_lora_weights.safetensors"):
        got = deltas(done.folder / TASK.name / file)
        assert got.keys() == want.keys()
        for name, delta in want.items():
            torch.testing.assert_close(got[name], delta, rtol=1e-5, atol=1e-6)


def test_every_diffusers_layer_is_published_as_it_was_read(tmp_path: Path) -> None:
    """Also the one whose halves ComfyUI keeps in the other order."""
    draw, h = torch.Generator().manual_seed(4), SMALL.hidden
    sizes = {
        "norm_out.linear": 2 * h,
        "transformer_blocks.0.attn.to_v": h,
        "single_transformer_blocks.1.proj_mlp": 4 * h,
    }
    state = {}
    for name, rows in sizes.items():
        state[f"transformer.{name}.lora_A.weight"] = torch.randn(4, h, generator=draw)
        state[f"transformer.{name}.lora_B.weight"] = torch.randn(rows, 4, generator=draw)
    start = write(tmp_path / "start", state)
    published = adapters.published(adapters.from_file(start / "rgb.safetensors"), torch.float32)
    assert published.keys() == state.keys()
    assert all(torch.equal(published[name], load_file(start / "rgb.safetensors")[name]) for name in state)


@pytest.mark.parametrize(
    ("state", "words"),
    [(fused(hidden=2 * SMALL.hidden), "made for another model"), (fused(number=5), "the model has no such layer")],
)
def test_adapters_of_another_model_are_refused(tmp_path: Path, state: dict[str, Tensor], words: str) -> None:
    start = write(tmp_path / "start", state)
    with pytest.raises(ValueError, match=words):
        engine.train(config(init=str(start)), TASK, base(), latents(), tmp_path / "run", show=False)
