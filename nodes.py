"""The list of nodes, and what ComfyUI is told when it loads them. The nodes themselves are in `graph/`, by kind."""

from __future__ import annotations

import contextlib
from pathlib import Path

import folder_paths
from comfy_api.latest import ComfyExtension, io

from .graph.conditioning import OmniXEncodePrompt, OmniXLoadConditioning, OmniXPrompt, OmniXSaveConditioning
from .graph.files import CONDITIONING_FOLDER, remember_posted_graphs
from .graph.images import OmniXCameraRays, OmniXDecodePanorama, OmniXPlaceOnPanorama
from .graph.layers import OmniXBackgroundLayer, OmniXForeground, OmniXMoveViewpoint
from .graph.loaders import OmniXConvertAdapter, OmniXLoadAdapters, OmniXLoadDiffusersFlux
from .graph.maps import (
    OmniXDepth,
    OmniXMaterial,
    OmniXMogeGeometry,
    OmniXNormal,
    OmniXPackORM,
    OmniXSemantic,
)
from .graph.measuring import OmniXCompareMaps
from .graph.model import OmniXApplyAdapters, OmniXFlowShift
from .graph.older import OmniXOlderGraph, register_replacements
from .graph.panoramas import OmniXFitPanorama, OmniXLoadPanorama, put_samples_into_input
from .graph.pictures import OmniXSavePanorama
from .graph.scene import OmniXScene
from .graph.viewing import OmniXColourDepth, OmniXContactSheet, OmniXPanoramaViewer

NODES: list[type[io.ComfyNode]] = [
    OmniXLoadPanorama,
    OmniXLoadAdapters,
    OmniXApplyAdapters,
    OmniXFlowShift,
    OmniXLoadDiffusersFlux,
    OmniXEncodePrompt,
    OmniXPrompt,
    OmniXSaveConditioning,
    OmniXLoadConditioning,
    OmniXDecodePanorama,
    OmniXFitPanorama,
    OmniXPlaceOnPanorama,
    OmniXCameraRays,
    OmniXDepth,
    OmniXNormal,
    OmniXMaterial,
    OmniXSemantic,
    OmniXPackORM,
    OmniXMogeGeometry,
    OmniXForeground,
    OmniXBackgroundLayer,
    OmniXScene,
    OmniXMoveViewpoint,
    OmniXColourDepth,
    OmniXContactSheet,
    OmniXCompareMaps,
    OmniXPanoramaViewer,
    OmniXSavePanorama,
    OmniXConvertAdapter,
    OmniXOlderGraph,
]


class OmniXExtension(ComfyExtension):
    """What ComfyUI asks the pack for."""

    async def on_load(self) -> None:
        """Tell the host where saved conditionings lie, and what becomes of graphs of the older pack."""
        for root in (folder_paths.models_dir, folder_paths.get_output_directory()):
            folder_paths.add_model_folder_path(CONDITIONING_FOLDER, str(Path(root, CONDITIONING_FOLDER)))
        folder_paths.folder_names_and_paths[CONDITIONING_FOLDER][1].add(".safetensors")
        with contextlib.suppress(OSError):  # a read-only folder: samples load from the pack, without a preview
            put_samples_into_input()
        remember_posted_graphs()
        await register_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the nodes."""
        return NODES


async def comfy_entrypoint() -> OmniXExtension:
    """Return the extension; the host calls this when it loads the pack."""
    return OmniXExtension()
