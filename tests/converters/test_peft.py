"""Files of Diffusers and PEFT have the same effect in ComfyUI after conversion as in Diffusers and PEFT."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.utils
import pytest
import torch
from comfyui_omnix.converters import convert, convert_state_dict
from comfyui_omnix.lab.host import tiny
from diffusers import FluxPipeline
from host_flux import Inputs, forward, inputs, load, with_lora
from measure import relative_error
from oracle import _forward, adapted, transformer
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from torch import Tensor

GEOMETRY = tiny.Geometry(hidden=256, double=2, single=2)
STATE = tiny.flux(GEOMETRY, seed=11)
GIVEN = inputs(12)
MODULES = list(tiny.linears(GEOMETRY))
Measured = Callable[[str, float], float]


def kinds() -> dict[str, list[str]]:
    """Group the modules: one kind is the same layer of every block."""
    groups: dict[str, list[str]] = {}
    for module in MODULES:
        block, _, rest = module.partition("transformer_blocks.")
        name = f"{block}transformer_blocks.{rest.split('.', 1)[1]}" if rest else module
        groups.setdefault(name, []).append(module)
    return groups


MODULES_BY_KIND = kinds()


def reference(model: Any, given: Inputs = GIVEN) -> Tensor:
    """Run a Diffusers model, adapters included, in float32."""
    return _forward(model, given.latent, given.t, given.text, given.pooled, given.guidance)


def host_results(lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run ComfyUI with a converted LoRA, merged and bypassed."""
    patcher = load(STATE)
    return {name: forward(with_lora(patcher, lora, name == "bypassed"), GIVEN) for name in ("merged", "bypassed")}


PLAIN = reference(transformer(STATE))


def check(model: Any, lora: dict[str, Tensor], name: str, measured: Measured) -> None:
    """Compare Diffusers with ComfyUI: at most 1e-5 apart, and far from the model without LoRA."""
    expected = reference(model)
    assert relative_error(PLAIN, expected) > 1e-3
    for way, result in host_results(lora).items():
        assert measured(f"Diffusers + PEFT against ComfyUI, {name}, {way}", relative_error(result, expected)) <= 1e-5


def test_every_module_is_of_some_kind() -> None:
    assert sum(len(modules) for modules in MODULES_BY_KIND.values()) == len(MODULES)
    assert len(MODULES_BY_KIND) == 14 + 6 + 10


# PEFT finds a target by the end of its name: proj_out also names the single blocks' layers, which stay at zero.
@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters:RuntimeWarning")
@pytest.mark.parametrize("name", MODULES_BY_KIND)
def test_one_kind_of_module(name: str) -> None:
    """Every Linear of the Diffusers model is a target that PEFT allows; each kind alone is right."""
    adapter = tiny.adapter(GEOMETRY, seed=13, rank=4, alpha=3.0, modules=MODULES_BY_KIND[name])
    lora = convert_state_dict(adapter).state
    expected = reference(adapted(STATE, adapter))
    assert relative_error(PLAIN, expected) > 1e-4
    for result in host_results(lora).values():
        assert relative_error(result, expected) <= 1e-5


@pytest.mark.parametrize(
    ("name", "modules"), [("every module", MODULES), ("OmniX's six", tiny.omnix_modules(GEOMETRY))]
)
def test_all_at_once(name: str, modules: list[str], measured: Measured) -> None:
    ranks = {module: 1 + i % 7 for i, module in enumerate(modules)}
    alphas = {module: 0.5 + i % 3 for i, module in enumerate(modules) if i % 4}
    adapter = tiny.adapter(GEOMETRY, seed=14, rank=ranks, alpha=alphas, modules=modules, size=0.2)
    lora = convert_state_dict(adapter).state
    check(adapted(STATE, adapter), lora, name, measured)


# --- files that Diffusers and PEFT have written themselves ------------------------------------------------------------

CONFIGS: dict[str, dict[str, Any]] = {
    "alpha": {"lora_alpha": 12},
    "rank-stabilised": {"lora_alpha": 6, "use_rslora": True},
    "patterns": {
        "lora_alpha": 5,
        "rank_pattern": {
            "attn.to_q": 2,
            "transformer_blocks.0.ff.net.2": 7,
            r".*single_transformer_blocks\.1\.attn.to_v": 3,
        },
        "alpha_pattern": {"attn.to_k": 9, "transformer_blocks.1.attn.to_q": 1.5},
    },
    "patterns, rank-stabilised": {
        "lora_alpha": 3,
        "rank_pattern": {"proj_mlp": 6},
        "alpha_pattern": {"proj_mlp": 2, "to_out.0": 8},
        "use_rslora": True,
    },
    "unscaled": {"lora_alpha": 4},
}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_mlp", "add_k_proj", "norm1.linear"]


def config(name: str) -> LoraConfig:
    return LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False, **CONFIGS[name])


def randomised(model: Any) -> Any:
    """Give every LoRA factor random numbers of a moderate size."""
    generator = torch.Generator().manual_seed(15)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                size = parameter.shape[1] ** -0.5 if "lora_A" in name else 0.05
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    return model.eval()


def save_by_peft(name: str, folder: Path) -> tuple[Any, Path]:
    """PeftModel.save_pretrained: adapter_model.safetensors beside adapter_config.json."""
    model = randomised(get_peft_model(transformer(STATE), config(name)))
    model.save_pretrained(folder)
    return model.base_model.model, folder / "adapter_model.safetensors"


def save_by_model(name: str, folder: Path) -> tuple[Any, Path]:
    """FluxTransformer2DModel.save_lora_adapter: the config goes into the file's header."""
    model = transformer(STATE)
    model.add_adapter(config(name), adapter_name="default")
    randomised(model).save_lora_adapter(folder, adapter_name="default")
    return model, folder / "pytorch_lora_weights.safetensors"


def save_by_pipeline(name: str, folder: Path) -> tuple[Any, Path]:
    """FluxPipeline.save_lora_weights, as training scripts do, with the config in the header."""
    model = transformer(STATE)
    model.add_adapter(config(name), adapter_name="default")
    randomised(model)
    FluxPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(model),
        transformer_lora_adapter_metadata=config_metadata(model),
    )
    return model, folder / "pytorch_lora_weights.safetensors"


def config_metadata(model: Any) -> dict[str, Any]:
    """Make the config serialisable, as Diffusers' training scripts do."""
    from diffusers.training_utils import _collate_lora_metadata

    return _collate_lora_metadata({"transformer": model})["transformer_lora_adapter_metadata"]


WRITERS = {"PEFT": save_by_peft, "the model": save_by_model, "the pipeline": save_by_pipeline}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_saved_file(writer: str, name: str, tmp_path: Path, measured: Measured) -> None:
    model, source = WRITERS[writer](name, tmp_path / "saved")
    convert(source, tmp_path / "converted.safetensors")
    lora = comfy.utils.load_torch_file(str(tmp_path / "converted.safetensors"))
    check(model, lora, f"{name}, saved by {writer}", measured)


def test_injected_is_what_peft_computes() -> None:
    """Guard of the tests above: PEFT's own injection gives the same as the oracle's loading of the same numbers."""
    model = transformer(STATE)
    inject_adapter_in_model(config("alpha"), model, adapter_name="default")
    randomised(model)
    tensors = {f"transformer.{key}": value for key, value in get_peft_model_state_dict(model).items()}
    alphas = {key.replace(".lora_A.weight", ".alpha"): torch.tensor(12.0) for key in tensors if ".lora_A." in key}
    assert relative_error(reference(adapted(STATE, {**tensors, **alphas})), reference(model)) <= 1e-6
