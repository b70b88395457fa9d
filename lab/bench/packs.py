"""Packs themselves, tried beside OmniX: rows of data, and how a checkout is imported.

Nothing is downloaded: who writes the page has clones of these commits below one folder, each under the pack's own name.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from companions import Companion

Model = Any


class Pack(NamedTuple):
    """A pack at a commit, and what its node is asked to do to a MODEL, as a call of the pack's module."""

    name: str
    repository: str
    commit: str
    put: Callable[[ModuleType, Model], Model]
    what: str


def node(pack: ModuleType, name: str) -> Any:
    """Return an instance of one of the pack's nodes."""
    return pack.NODE_CLASS_MAPPINGS[name]()


PACKS = (
    # A threshold of next to nothing reuses no step: what is left is the pack's own FLUX.
    Pack(
        "ComfyUI-TeaCache",
        "welltop-cn/ComfyUI-TeaCache",
        "91dff8e31684ca70a5fda309611484402d8fa192",
        lambda pack, model: node(pack, "TeaCache").apply_teacache(model, "flux", 1e-9, 0.0, 1.0, "cpu")[0],
        "TeaCache, no step reused",
    ),
    Pack(
        "Comfy-WaveSpeed",
        "chengzeyi/Comfy-WaveSpeed",
        "8253745127785d820cff0a9621d1537a5aae5424",
        lambda pack, model: node(pack, "ApplyFBCacheOnModel").patch(model, "diffusion_model", 1e-9)[0],
        "Apply First Block Cache, no step reused",
    ),
    Pack(
        "ComfyUI-Fluxtapoz",
        "logtd/ComfyUI-Fluxtapoz",
        "17c71bea20e932945e9c1be0586cfd4b7e51cbf6",
        lambda pack, model: node(pack, "ConfigureModifiedFlux").apply(model)[0],
        "Configure Modified Flux",
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
    return [_companion(folder, pack) for pack in PACKS]


def _companion(folder: Path, pack: Pack) -> Companion:
    def put(model: Model) -> Model:
        return pack.put(imported(folder / pack.name), model)

    return Companion(f"{pack.name}: {pack.what}", f"pack, {pack.commit[:7]}", put, neutral=True)


def imported(folder: Path) -> ModuleType:
    """Import a pack by its path, as the host does."""
    name = f"pack_{folder.name.replace('-', '_')}"
    if name not in sys.modules:
        place = [str(folder)]
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=place)
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]
