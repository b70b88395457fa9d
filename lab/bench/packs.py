"""Packs themselves, tried beside OmniX: rows of data, what their nodes are told, and how a checkout is imported.

Nothing is downloaded: who writes the page has clones of these commits below one folder, each under the pack's own name.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple
from unittest import mock

import comfy.sample
import comfy.samplers
import folder_paths
from comfyui_omnix.lab.host import gguf_files, tiny
from comfyui_omnix.lab.host.pack import load_pack
from companions import Companion, merged, ordinary_lora
from torch import Tensor

Model = Any


class Try(NamedTuple):
    """What is tried of a pack: what it does to a MODEL, what stands for the host's sample(), and the row's settings."""

    what: str
    put: Callable[[ModuleType, Model], Model] = lambda _pack, model: model
    through: Callable[..., Tensor] | None = None
    more: Mapping[str, Any] = MappingProxyType({})


def node(pack: ModuleType, name: str) -> Any:
    """Return an instance of one of the pack's nodes."""
    return pack.NODE_CLASS_MAPPINGS[name]()


def detail_daemon(
    pack: ModuleType, _sample: Any, model: Model, noise: Tensor, steps: int, cfg: float, *given: Any, **more: Any
) -> Tensor:
    """Run SamplerCustom with the pack's sampler round KSampler's."""
    sampler, scheduler, positive, negative, latent = given
    shape = {"start": 0.2, "end": 0.8, "bias": 0.5, "exponent": 1.0, "start_offset": 0.0, "end_offset": 0.0}
    (wrapped,) = node(pack, "DetailDaemonSamplerNode").go(
        comfy.samplers.sampler_object(sampler),
        detail_amount=0.3,
        fade=0.0,
        smooth=True,
        cfg_scale_override=1.0,
        **shape,
    )
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
    own = comfy.sample.sample_custom
    return own(model, noise, cfg, wrapped, sigmas, positive, negative, latent, disable_pbar=True, seed=more["seed"])


def efficient(
    pack: ModuleType, sample: Any, model: Model, noise: Tensor, steps: int, cfg: float, *given: Any, **more: Any
) -> Tensor:
    """Run KSampler (Efficient) on this noise."""
    sampler, scheduler, positive, negative, latent = given
    with (
        mock.patch.object(comfy.sample, "sample", sample),
        mock.patch.object(comfy.sample, "prepare_noise", lambda *_: noise),
    ):
        out = node(pack, "KSampler (Efficient)").sample(
            model,
            0,
            steps,
            cfg,
            sampler,
            scheduler,
            positive,
            negative,
            {"samples": latent},
            "none",
            "true",
            prompt={},
            extra_pnginfo={},
            my_unique_id="1",
        )
    return out["result"][3]["samples"]


@functools.cache
def scratch() -> Path:
    """Return a folder that lasts as long as this process."""
    made = tempfile.TemporaryDirectory()
    atexit.register(made.cleanup)
    return Path(made.name)


def power_lora(pack: ModuleType, model: Model) -> Model:
    """Load an ordinary LoRA by the pack's node, from the host's folder."""
    tiny.save(ordinary_lora(), scratch() / "ordinary.safetensors")
    folder_paths.add_model_folder_path("loras", str(scratch()))
    row = {"on": True, "lora": "ordinary.safetensors", "strength": 1.0}
    return node(pack, "Power Lora Loader (rgthree)").load_loras(model, None, lora_1=row)[0]


def gguf(kind: str) -> Callable[[ModuleType, Model], Model]:
    """Write the MODEL's weights to a file whose blocks are of this kind, and load it by the pack's node."""

    def put(pack: ModuleType, model: Model) -> Model:
        path = scratch() / f"flux-{kind}.gguf"
        if not path.exists():  # a model of the trial before may be mapped from it
            gguf_files.write(path, model.model.diffusion_model.state_dict(), kind)
        for folder in ("unet_gguf", "diffusion_models"):
            folder_paths.add_model_folder_path(folder, str(scratch()), is_default=True)
        return node(pack, "UnetLoaderGGUF").load_unet(path.name)[0]

    return put


NEUTRAL = {"neutral": True}


def called(name: str, method: str, *given: object) -> Callable[[ModuleType, Model], Model]:
    """Put a node of the pack on the MODEL."""
    return lambda pack, model: getattr(node(pack, name), method)(model, *given)[0]


def gguf_file(kind: str) -> Try:
    """Return what is tried of a file of this kind; a loader comes before Apply."""
    more = {**NEUTRAL, "orders": ("before",), "weights": functools.partial(gguf_files.held, kind=kind)}
    return Try(f"Unet Loader (GGUF), {kind}", gguf(kind), more=more)


_COMPILE = called("TorchCompileModelFluxAdvancedV2", "patch", "inductor", "default", False, True, True, False)
_ORDER = called("PatchModelPatcherOrder", "patch", "weight_patch_first", "auto")
_TILES = called("TiledDiffusion", "apply", "MultiDiffusion", 64, 64, 0, 1)
PACKS: dict[tuple[str, str], tuple[Try, ...]] = {
    ("logtd/ComfyUI-Fluxtapoz", "17c71bea20e932945e9c1be0586cfd4b7e51cbf6"): (
        Try("Configure Modified Flux", called("ConfigureModifiedFlux", "apply"), more=NEUTRAL),
    ),
    ("Jonseed/ComfyUI-Detail-Daemon", "3394e44afea04ed0188fb37b21f0d9952469766b"): (
        Try("Detail Daemon Sampler", through=detail_daemon),
    ),
    ("kijai/ComfyUI-KJNodes", "3f20054214fec9f9234fd3841ae6f1e4287948f6"): (
        Try("TorchCompileModelFluxAdvancedV2", _COMPILE, more=NEUTRAL),
        Try("PatchModelPatcherOrder", _ORDER, more=NEUTRAL),
    ),
    ("rgthree/rgthree-comfy", "13b4399c00b5ef5a97b1b6800fc1185874740f5d"): (
        Try("Power Lora Loader", power_lora, more={"weights": merged}),
    ),
    ("jags111/efficiency-nodes-comfyui", "4579b7d6076b2870998a08f5d37883fbc8261ff2"): (
        Try("KSampler (Efficient)", through=efficient),
    ),
    ("city96/ComfyUI-GGUF", "795e45156ece99afbc3efef911e63fcb46e6a20d"): (*map(gguf_file, ("F32", "Q8_0", "Q4_0")),),
    ("pollockjj/ComfyUI-MultiGPU", "a38cbda5fb64232bfa67867d55ae473d2c44d54e"): (
        Try("loaded beside OmniX, one device", more=NEUTRAL),
    ),
    ("shiimizu/ComfyUI-TiledDiffusion", "a155b1bac39147381aeaa52b9be42e545626a44f"): (
        Try("tiles of 64x64 pixels", _TILES),
    ),
    # Its ReFluxPatcher needs CUDA; the double whose forward is replaced stands for it.
    ("ClownsharkBatwing/RES4LYF", "022c873c6d198c67b3312a1804336533a050df18"): (
        Try("KSampler with its sampler res_2m", more={"run": {"sampler": "res_2m"}}),
    ),
}
"""(a pack's repository, a commit) -> what is tried of it."""


def companions(folder: Path) -> list[Companion]:
    """Return the rows of the packs below a folder; one that is not there ends the program with how to get it."""
    places = {pack: folder / pack[0].partition("/")[2] for pack in PACKS}
    commands = [
        f"  git clone https://github.com/{repository} {place} && git -C {place} checkout {commit}"
        for (repository, commit), place in places.items()
        if not (place / "__init__.py").is_file()
    ]
    if commands:
        sys.exit("\n".join((f"together: some packs are not below {folder}; get them with", *commands)))
    return [_companion(places[pack], pack[1], one) for pack, tries in PACKS.items() for one in tries]


def _companion(place: Path, commit: str, tried: Try) -> Companion:
    def put(model: Model) -> Model:
        return tried.put(imported(place), model)

    def through(sample: Any, *given: Any, **more: Any) -> Tensor:
        assert tried.through is not None
        return tried.through(imported(place), sample, *given, **more)

    own = through if tried.through else None
    return Companion(f"{place.name}: {tried.what}", f"pack, {commit[:7]}", put, through=own, **tried.more)


@functools.cache
def start_host() -> None:
    """Make what packs look for as they are imported: the host's server and all of its own nodes."""
    import server

    nodes: Any = importlib.import_module("nodes")  # the host's, not ours
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    server.PromptServer(loop)
    loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))


def imported(folder: Path) -> ModuleType:
    """Import a pack by its path, as the host does."""
    start_host()
    try:
        return load_pack(folder, f"pack_{folder.name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        sys.exit(f"together: {folder.name} needs the package {error.name}; install it and run again.")
