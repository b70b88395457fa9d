"""Computations that are done once or not at all, because the result does not depend on them (the oracle tests that)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_omnix.lab.host import tiny
from measure import relative_error
from oracle import sample
from rig import Case, Model, ksample, load_flux, make_case, patched

TEXT, IMAGE = 12, 4 * 11  # tokens of a stream: 8 x 16 latent cells, widened by 6 columns


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("adapters"), "rgb_camray_to_normal")


def rows_seen(model: Model, ours: Model, case: Case) -> dict[str, int]:
    """Count the sequences that each layer works on in one step of three streams."""
    rows: dict[str, int] = {}
    flux = model.model.diffusion_model
    named = {name: layer for name, layer in flux.named_modules() if isinstance(layer, torch.nn.Linear)}
    # After OmniX's own hooks, which are put on first: an outer hook sees what its layer is really given.
    originals = {name: layer.forward for name, layer in named.items()}

    def counting(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(x: torch.Tensor) -> torch.Tensor:
            rows[name] = x.shape[0]
            return originals[name](x)

        return forward

    for name, layer in named.items():
        layer.forward = counting(name)
    try:
        ksample(ours, case, 1)
    finally:
        for layer in named.values():
            del layer.forward
    return rows


def test_text_runs_once_and_the_last_layer_for_the_target_alone(case: Case) -> None:
    model = load_flux(case.flux)
    rows = rows_seen(model, patched(model, case), case)
    once = {name for name, count in rows.items() if count == 1 and "block" in name}
    text = [f"double_blocks.{i}.txt_{name}" for i in (0, 1) for name in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2")]
    assert once == {*text, "single_blocks.1.linear2"}
    assert {count for name, count in rows.items() if name not in once} == {3}


def test_the_last_block_asks_for_the_target_alone(case: Case) -> None:
    queries: list[int] = []

    def attention(
        func: Callable[..., torch.Tensor], q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        queries.append(q.shape[2])
        assert k.shape[2] == 3 * (TEXT + IMAGE)
        return func(q, k, *args, **kwargs)

    ours = patched(load_flux(case.flux), case)
    ours.model_options["transformer_options"]["optimized_attention_override"] = attention
    ksample(ours, case, 1)
    assert queries == [TEXT + 3 * IMAGE, TEXT + 3 * IMAGE, 3 * (TEXT + IMAGE), TEXT + IMAGE]


@pytest.mark.parametrize("module", ["single_transformer_blocks.1.proj_out", "transformer_blocks.0.attn.add_q_proj"])
def test_nothing_is_saved_where_an_adapter_acts(tmp_path: Path, module: str) -> None:
    """Adapters on the last layer, or on text, need every stream there."""
    case = make_case(tmp_path, modules=[*tiny.omnix_modules(), module])
    model = load_flux(case.flux)
    ours = patched(model, case)
    rows = rows_seen(model, ours, case)
    layer = "single_blocks.1.linear2" if "proj_out" in module else "double_blocks.0.txt_attn.qkv"
    assert rows[layer] == 2
    assert relative_error(ksample(ours, case, 2), sample(**case.oracle(), steps=2)) <= 1e-5
