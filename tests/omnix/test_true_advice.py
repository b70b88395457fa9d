"""Messages about wrong or doubtful graphs are true: follow the advice and the run is right."""

import gc
import itertools
import logging
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy_execution.utils import CurrentNodeContext
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_nag import NAGuidance
from comfyui_omnix.converters import AdapterError
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.omnix.runtime import checks, patch
from comfyui_omnix.omnix.runtime.schedule import flow_shift
from measure import relative_error
from oracle import sample
from rig import Case, Model, conditioning, forward, ksample, load_flux, make_case, patched
from torch import Tensor

EXACT = 1e-5
GIB = 1 << 30


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def model(manager: str, case: Case) -> Model:
    return load_flux(case.flux)


# --- a tensor of the panorama's own width -----------------------------------------------------------------------------


def guided_by(held: Tensor, mix: Callable[[Tensor, Tensor], Tensor]) -> comfy.samplers.KSAMPLER:
    """A sampler that holds a latent, as guides, inverters and flow editors do."""

    def sampler(
        model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
    ):
        for now, then in itertools.pairwise(sigmas):
            denoised = model(x, now * x.new_ones(x.shape[0]), **extra_args)
            x = mix(x + (x - denoised) / now * (then - now), held)
        return x

    return comfy.samplers.KSAMPLER(sampler)


MIXES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda x, held: x + 0.1 * held,
    "lerp": lambda x, held: torch.lerp(x, held, 0.1),
    "in place": lambda x, held: x.copy_(held),
    "cat": lambda x, held: torch.cat((x, held), dim=0)[:1],
    "stack": lambda x, held: torch.stack((x, held))[0],
    "where": lambda x, held: torch.where(held > 0, held, x),
    "expand": lambda x, held: held.expand(x.shape),
}


@torch.inference_mode()
def custom(model: Model, case: Case, sampler: Any, steps: int = 2) -> Tensor:
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": conditioning(model, case)})
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    out = guider.sample(case.noise, torch.zeros_like(case.noise), sampler, sigmas, disable_pbar=True, seed=0)
    return model.model.latent_format.process_in(out)


@pytest.mark.parametrize("mix", MIXES)
def test_another_nodes_tensor_of_the_own_width(model: Model, case: Case, mix: str) -> None:
    sampler = guided_by(case.conditions[0], MIXES[mix])
    with pytest.raises(
        ValueError,
        match=r"own width \(16 latent columns\) .* OmniX Adapters has widened by 6: set seam_columns to 0, on Apply",
    ) as caught:
        custom(patched(model, case), case, sampler)
    assert "\n" not in str(caught.value)
    assert custom(patched(model, case, seam=0), case, sampler).isfinite().all()


def test_with_no_seam_a_sampler_that_holds_a_latent_is_right(model: Model, case: Case) -> None:
    sampler = guided_by(torch.zeros_like(case.noise), MIXES["sum"])
    want = sample(**case.oracle(), steps=2, seam=0)
    assert relative_error(custom(patched(model, case, seam=0), case, sampler), want) <= EXACT


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied (16x3 and 4x5)"), torch.OutOfMemoryError("22 of 16 GiB")],
)
def test_other_errors_are_reported_as_they_are(model: Model, case: Case, error: Exception) -> None:
    def fail(*_: Any) -> Tensor:
        raise error

    with pytest.raises(type(error)) as caught:
        custom(patched(model, case), case, guided_by(case.noise, fail))
    assert caught.value is error


# --- wrapped models, and foreign ones ---------------------------------------------------------------------------------


@pytest.fixture
def eager_compile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[torch.nn.Module], torch.nn.Module]]:
    """torch.compile without a compiler: the wrapper alone counts here. Its graphs, which hold models, go at the end."""
    # The host's attention divides by the memory that is free, a new figure and so a new graph now and then.
    monkeypatch.setattr(
        comfy.model_management, "get_free_memory", lambda _=None, both=False: (GIB, GIB) if both else GIB
    )
    yield lambda module: torch.compile(module, backend="eager")
    torch._dynamo.reset()
    gc.collect()


def compiled_whole(model: Model, compile: Callable[[Any], Any]) -> Model:
    own = model.clone()
    own.add_object_patch("diffusion_model", compile(own.get_model_object("diffusion_model")))
    return own


def compiled_block(model: Model, compile: Callable[[Any], Any]) -> Model:
    own = model.clone()
    key = "diffusion_model.single_blocks.0"
    own.add_object_patch(key, compile(own.get_model_object(key)))
    return own


def graphs() -> int:
    """Count what torch.compile has made."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.ordinary  # DynamicVRAM can't run two such clones in turn, with or without OmniX
@pytest.mark.parametrize("wrap", [compiled_whole, compiled_block])
@torch.inference_mode()
def test_compiled_clones_of_one_checkpoint(tmp_path: Path, eager_compile: Any, wrap: Callable[..., Model]) -> None:
    """After a compiled clone has run, its wrapper is on the modules that all clones share."""
    case = make_case(tmp_path, geometry=tiny.Geometry(hidden=128, double=1, single=1))
    model, want = load_flux(case.flux), sample(**case.oracle(), steps=2)
    theirs = wrap(model, eager_compile)
    with torch.compiler.set_stance("force_eager"):  # this is about the wrapper
        plain = ksample(theirs, case, 1, conditioning(theirs, case, ()))
    before = graphs()
    for base in (model, theirs, model):
        assert relative_error(ksample(patched(base, case), case, 2), want) <= EXACT
    assert graphs() - before <= (wrap is compiled_whole)  # what is round our wrapper, and no hook
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(ksample(theirs, case, 1, conditioning(theirs, case, ())), plain)


@torch.inference_mode()
def test_a_compiled_block_sees_no_hook_of_ours(tmp_path: Path, eager_compile: Any) -> None:
    """Between our runs it gives what it gives alone, and is compiled no more."""
    case = make_case(tmp_path, geometry=tiny.Geometry(hidden=128, double=1, single=1))
    model, want = load_flux(case.flux), sample(**case.oracle(), steps=2)
    theirs, want_plain = compiled_block(model, eager_compile), forward(load_flux(case.flux), case)
    torch._dynamo.reset()
    for _ in range(2):  # the host's own second run is not quite its first
        forward(theirs, case)
    gc.collect()
    before = graphs()
    for strength in (1.0, 0.5, 1.0):
        gc.collect()
        ours = ksample(patched(theirs, case, (strength, strength)), case, 2)
        assert (relative_error(ours, want) <= EXACT) == (strength == 1.0)
        assert relative_error(forward(theirs, case), want_plain) <= EXACT
    assert graphs() == before > 0


class ComfyFluxWrapper(torch.nn.Module):
    """Nunchaku's replacement of the transformer."""


def test_a_foreign_transformer_is_reported_by_its_own_name(model: Model, case: Case) -> None:
    theirs = model.clone()
    theirs.add_object_patch("diffusion_model", ComfyFluxWrapper())
    for action in (lambda m: patch.attach(m, case.loaded(), 1.0, 1.0, 6), lambda m: patch.with_flow_shift(m, 1.0)):
        with pytest.raises(
            ValueError, match=rf"got ComfyFluxWrapper of {__name__}; connect a FLUX\.1-dev model instead"
        ):
            action(theirs)


# --- the negative, and parts of the picture ---------------------------------------------------------------------------


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("sampler", ["euler_cfg_pp", "euler_ancestral_cfg_pp", "dpmpp_2m_cfg_pp", "nag"])
def test_a_negative_that_is_asked_for_at_any_cfg(model: Model, case: Case, sampler: str, cfg: float) -> None:
    ours = patched(model, case)
    if sampler == "nag":
        ours, sampler = NAGuidance.execute(ours, 5.0, 0.5, 1.5).result[0], "euler"
    bare = conditioning(model, case, ())
    with pytest.raises(
        ValueError, match="Set Reference Latent nodes on it too; this sampler, or a guidance node"
    ) as caught:
        ksample(ours, case, 2, cfg=cfg, sampler=sampler, negative=bare)
    assert "set cfg" not in str(caught.value)
    assert ksample(ours, case, 2, cfg=cfg, sampler=sampler).isfinite().all()


def tiled(ours: Model) -> Model:
    """TiledDiffusion: the function wrapper cuts what the model is given."""
    own = ours.clone()

    def halves(apply: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
        parts = [apply(half, given["timestep"], **given["c"]) for half in given["input"].chunk(2, dim=-1)]
        return torch.cat(parts, dim=-1)

    own.set_model_unet_function_wrapper(halves)
    return own


def windowed(ours: Model) -> Model:
    fields = {"context_length": 8, "context_overlap": 0, "context_schedule": "standard_static", "context_stride": 1}
    more = {"closed_loop": False, "fuse_method": "pyramid", "dim": 3, "freenoise": False, "cond_retain_index_list": ""}
    return ContextWindowsManualNode.execute(ours, **fields, **more, split_conds_to_windows=False).result[0]


@pytest.mark.parametrize("cut", [tiled, windowed])
@pytest.mark.parametrize("seam", [0, 6])
def test_a_part_of_the_picture_is_not_asked_to_be_resized(
    model: Model, case: Case, cut: Callable[[Model], Model], seam: int
) -> None:
    match = r"got only \d+x\d+ of a picture of 128x64\. It can't run on tiles or windows"
    with pytest.raises(ValueError, match=match) as caught:
        ksample(cut(patched(model, case, seam=seam)), case, 1)
    assert "resize" not in str(caught.value)


# --- what is doubtful -------------------------------------------------------------------------------------------------


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records if record.getMessage().startswith("OmniX: ")]


CFGS = [
    (1.0, "rgb_to_depth", False),
    (3.5, "rgb_to_depth", True),
    (1.5, "rgb_camray_to_normal", True),
    (3.5, "image_to_pano", False),
]


def test_a_flux_without_guidance_embedding(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    case = make_case(tmp_path, geometry=tiny.Geometry(guidance=False))
    ours = patched(load_flux(case.flux), case)
    (warning,) = said()
    assert "no guidance embedding, like FLUX.1-schnell" in warning
    assert ksample(ours, case, 1).isfinite().all()
    assert len(said()) == 1


def test_a_right_graph_is_not_warned_of(model: Model, case: Case, said: Callable[[], list[str]]) -> None:
    for seam in (0, 6):
        ksample(patched(model, case, seam=seam), case, 3)
    assert said() == []


@pytest.mark.parametrize(("cfg", "task", "doubtful"), CFGS)
def test_perception_with_cfg_is_warned_of(
    tmp_path: Path, said: Callable[[], list[str]], cfg: float, task: str, doubtful: bool
) -> None:
    """Generation depends on its prompt, which cfg is for; a map depends on the panorama."""
    case = make_case(tmp_path, task)
    assert ksample(patched(load_flux(case.flux), case), case, 2, cfg=cfg).isfinite().all()
    words = said()
    assert len(words) == doubtful
    assert not doubtful or (f"cfg is {cfg:g}, but {task} needs cfg 1" in words[0] and "four times" in words[0])


@pytest.mark.parametrize(
    ("rows", "task", "doubtful"), [(64, "rgb_to_depth", 0), (56, "rgb_to_depth", 1), (56, "image_to_pano", 0)]
)
def test_a_panorama_that_is_larger_than_omnix_perceives_is_warned_of(
    tmp_path: Path,
    said: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    task: str,
    doubtful: int,
) -> None:
    """A picture of another loader comes at its full size; a step may then take many times as long."""
    monkeypatch.setattr(checks, "PERCEIVED_ROWS", rows)
    case = make_case(tmp_path, task)
    assert ksample(patched(load_flux(case.flux), case), case, 1).isfinite().all()
    words = said()
    assert len(words) == doubtful
    assert (
        not doubtful
        or "sampled at 128x64, but rgb_to_depth is meant for up to 112x56: each step has 1.3 times" in words[0]
    )


@pytest.mark.parametrize(
    ("shift", "reported"),
    [
        (None, "The model has no OmniX Flow Shift: the shift is 1.1500, this panorama needs 0.4641."),
        ((8, 16, 0), "OmniX Flow Shift was set for another size or seam: the shift is"),
        ((4, 8, 6), "OmniX Flow Shift was set for another size or seam: the shift is"),
        ((8, 16, 64), "OmniX Flow Shift was set for another size or seam: the shift is"),
    ],
)
def test_a_flow_shift_for_another_size(
    model: Model, case: Case, said: Callable[[], list[str]], shift: tuple[int, int, int] | None, reported: str
) -> None:
    based = model if shift is None else patch.with_flow_shift(model, flow_shift(*shift))
    out = ksample(patch.attach(based, case.loaded(), 1.0, 1.0, 6), case, 4)
    assert out.isfinite().all()
    (warning,) = said()
    assert warning.startswith(f"OmniX: {reported}") and "seam_columns of Apply OmniX Adapters (6)" in warning


@pytest.mark.parametrize(("rows", "cfg", "warnings"), [(256, 1.0, 1), (256, 3.0, 1), (512, 3.0, 0), (1024, 1.0, 1)])
def test_a_text_of_another_length(
    model: Model, case: Case, said: Callable[[], list[str]], rows: int, cfg: float, warnings: int
) -> None:
    """One warning for each run, and the run continues; a negative that is not used causes no warning."""
    channels = case.text.shape[-1]
    positive = conditioning(model, replace(case, text=torch.randn(1, rows, channels)))
    negative = conditioning(model, replace(case, text=torch.randn(1, 300 if cfg == 1.0 else rows, channels)))
    for number in (1, 2):
        out = ksample(patched(model, case), case, 2, positive, cfg=cfg, negative=negative)
        reported = [message for message in said() if f"has {rows} rows, and OmniX was trained with 512" in message]
        assert out.isfinite().all() and len(reported) == number * warnings
        assert all("Replace CLIP Text Encode with OmniX Encode Prompt" in message for message in reported)
    assert not any("300 rows" in message for message in said())


def test_a_warning_is_sent_to_the_browser_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the host has a server that can, and a node runs; else the log is enough."""
    shown: list[tuple[object, ...]] = []
    server = types.ModuleType("server")
    monkeypatch.setitem(sys.modules, "server", server)
    patch.warn("nobody listens")
    server.PromptServer = types.SimpleNamespace(instance=types.SimpleNamespace(client_id="tab"))
    with CurrentNodeContext("prompt", "7"):
        patch.warn("no way to show it")
        server.PromptServer.instance.send_sync = lambda *sent: shown.append(sent)
        patch.warn("a warning")
    patch.warn("no node runs")
    assert shown == [("omnix.warning", {"node": "7", "text": "a warning", "prompt_id": "prompt"}, "tab")]


# --- adapters that are no numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "factor", ["single_transformer_blocks.1.attn.to_k.lora_B", "transformer_blocks.0.ff.net.2.lora_A"]
)
def test_numbers_that_are_none(tmp_path: Path, value: float, dtype: torch.dtype, factor: str) -> None:
    case = make_case(tmp_path, dtype=dtype)
    state = case.states[0]
    state[f"transformer.{factor}.weight"][3, 2] = value
    tiny.save(state, tmp_path / "rgb_to_depth/rgb/pytorch_lora_weights.safetensors")
    layer = r"single_blocks\.1\.linear1" if "single" in factor else r"double_blocks\.0\.img_mlp\.2"
    with pytest.raises(AdapterError, match=rf"rgb.*: {layer}: expected finite numbers, got NaN or infinity; download"):
        case.loaded()
