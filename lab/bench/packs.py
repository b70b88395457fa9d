"""Packs themselves, tried beside OmniX: rows of data, and how a checkout is imported.

Nothing is downloaded: who writes the page has clones of these commits below one folder, each under the pack's own name.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

from comfyui_omnix.lab.host import gguf_files
from companions import Companion, merged
from pack_nodes import detail_daemon, efficient, gguf, ip_adapter, nag, node, power_lora
from torch import Tensor

Model = Any


class Try(NamedTuple):
    """What is tried of a pack: what it does to a MODEL, what stands for the host's sample(), and the row's settings."""

    what: str
    put: Callable[[ModuleType, Model], Model] = lambda _pack, model: model
    through: Callable[..., Tensor] | None = None
    more: Mapping[str, Any] = MappingProxyType({})


class Pack(NamedTuple):
    """A pack at a commit, and what is tried of it."""

    name: str
    repository: str
    commit: str
    tries: tuple[Try, ...]


NEUTRAL = {"neutral": True}


def gguf_file(kind: str) -> Try:
    """Return what is tried of a file of this kind; a loader comes before Apply."""
    more = {**NEUTRAL, "orders": ("before",), "weights": partial(gguf_files.held, kind=kind)}
    return Try(f"Unet Loader (GGUF), {kind}", gguf(kind), more=more)


PACKS = (
    # A threshold of next to nothing reuses no step: what is left is the pack's own FLUX.
    Pack(
        "ComfyUI-TeaCache",
        "welltop-cn/ComfyUI-TeaCache",
        "91dff8e31684ca70a5fda309611484402d8fa192",
        (
            Try(
                "TeaCache, no step reused",
                lambda pack, model: node(pack, "TeaCache").apply_teacache(model, "flux", 1e-9, 0.0, 1.0, "cpu")[0],
                more=NEUTRAL,
            ),
        ),
    ),
    Pack(
        "Comfy-WaveSpeed",
        "chengzeyi/Comfy-WaveSpeed",
        "8253745127785d820cff0a9621d1537a5aae5424",
        (
            Try(
                "Apply First Block Cache, no step reused",
                lambda pack, model: node(pack, "ApplyFBCacheOnModel").patch(model, "diffusion_model", 1e-9)[0],
                more=NEUTRAL,
            ),
        ),
    ),
    Pack(
        "ComfyUI-Fluxtapoz",
        "logtd/ComfyUI-Fluxtapoz",
        "17c71bea20e932945e9c1be0586cfd4b7e51cbf6",
        (
            Try(
                "Configure Modified Flux",
                lambda pack, model: node(pack, "ConfigureModifiedFlux").apply(model)[0],
                more=NEUTRAL,
            ),
        ),
    ),
    Pack(
        "ComfyUI-Detail-Daemon",
        "Jonseed/ComfyUI-Detail-Daemon",
        "3394e44afea04ed0188fb37b21f0d9952469766b",
        (Try("Detail Daemon Sampler", through=detail_daemon),),
    ),
    Pack(
        "ComfyUI-NAG",
        "ChenDarYen/ComfyUI-NAG",
        "ef8a641be08983cf5f06669f70719b6eecce3c7f",
        (Try("KSampler With NAG, texts of unequal length", through=nag),),
    ),
    Pack(
        "ComfyUI-KJNodes",
        "kijai/ComfyUI-KJNodes",
        "3f20054214fec9f9234fd3841ae6f1e4287948f6",
        (
            Try(
                "TorchCompileModelFluxAdvancedV2",
                lambda pack, model: node(pack, "TorchCompileModelFluxAdvancedV2").patch(
                    model, "inductor", "default", False, True, True, False
                )[0],
                more=NEUTRAL,
            ),
            Try(
                "PatchModelPatcherOrder",
                lambda pack, model: node(pack, "PatchModelPatcherOrder").patch(model, "weight_patch_first", "auto")[0],
                more=NEUTRAL,
            ),
        ),
    ),
    Pack(
        "rgthree-comfy",
        "rgthree/rgthree-comfy",
        "13b4399c00b5ef5a97b1b6800fc1185874740f5d",
        (Try("Power Lora Loader", power_lora, more={"weights": merged}),),
    ),
    Pack(
        "efficiency-nodes-comfyui",
        "jags111/efficiency-nodes-comfyui",
        "4579b7d6076b2870998a08f5d37883fbc8261ff2",
        (Try("KSampler (Efficient)", through=efficient),),
    ),
    Pack(
        "ComfyUI-GGUF",
        "city96/ComfyUI-GGUF",
        "795e45156ece99afbc3efef911e63fcb46e6a20d",
        tuple(map(gguf_file, ("F32", "Q8_0", "Q4_0"))),
    ),
    Pack(
        "ComfyUI-MultiGPU",
        "pollockjj/ComfyUI-MultiGPU",
        "a38cbda5fb64232bfa67867d55ae473d2c44d54e",
        (Try("loaded beside OmniX, one device", more=NEUTRAL),),
    ),
    Pack(
        "ComfyUI-IPAdapter-Flux",
        "Shakker-Labs/ComfyUI-IPAdapter-Flux",
        "eef22b6875ddaf10f13657248b8123d6bdec2014",
        (Try("Apply IPAdapter Flux Model, made-up weights", ip_adapter),),
    ),
    Pack(
        "ComfyUI-TiledDiffusion",
        "shiimizu/ComfyUI-TiledDiffusion",
        "a155b1bac39147381aeaa52b9be42e545626a44f",
        (
            Try(
                "tiles of 64x64 pixels",
                lambda pack, model: node(pack, "TiledDiffusion").apply(model, "MultiDiffusion", 64, 64, 0, 1)[0],
            ),
        ),
    ),
    Pack(
        "RES4LYF",
        "ClownsharkBatwing/RES4LYF",
        "022c873c6d198c67b3312a1804336533a050df18",
        # Its ReFluxPatcher needs CUDA; the double whose forward is replaced stands for it.
        (Try("KSampler with its sampler res_2m", more={"run": {"sampler": "res_2m"}}),),
    ),
)


def companions(folder: Path) -> list[Companion]:
    """Return the rows of the packs below a folder; one that is not there ends the program with how to get it."""
    absent = [pack for pack in PACKS if not (folder / pack.name / "__init__.py").is_file()]
    if absent:
        commands = "\n".join(
            f"  git clone https://github.com/{pack.repository} {folder / pack.name} && "
            f"git -C {folder / pack.name} checkout {pack.commit}"
            for pack in absent
        )
        sys.exit(f"together: these packs are not below {folder}; get them with\n{commands}")
    return [_companion(folder, pack, one) for pack in PACKS for one in pack.tries]


def _companion(folder: Path, pack: Pack, tried: Try) -> Companion:
    place = folder / pack.name

    def put(model: Model) -> Model:
        return tried.put(imported(place), model)

    def through(sample: Any, *given: Any, **more: Any) -> Tensor:
        assert tried.through is not None
        return tried.through(imported(place), sample, *given, **more)

    own = through if tried.through else None
    return Companion(f"{pack.name}: {tried.what}", f"pack, {pack.commit[:7]}", put, through=own, **tried.more)


@cache
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
    name = f"pack_{folder.name.replace('-', '_')}"
    if name not in sys.modules:
        start_host()
        place = [str(folder)]
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=place)
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except ModuleNotFoundError as error:
            sys.exit(f"together: {folder.name} needs the package {error.name}; install it and run again.")
    return sys.modules[name]
