"""The list of nodes, and the extension that ComfyUI loads. The nodes themselves are in `graph/`, by kind."""

from __future__ import annotations

import contextlib
from pathlib import Path

import folder_paths
from comfy_api.latest import ComfyExtension, io

from .graph.conditioning import OmniXEncodePrompt, OmniXLoadConditioning, OmniXPrompt, OmniXSaveConditioning
from .graph.files import CONDITIONING_FOLDER, remember_posted_graphs
from .graph.images import OmniXCameraRays, OmniXDecodePanorama, OmniXPlaceOnPanorama, OmniXRollPanorama
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
from .graph.model import OmniXApplyAdapters, OmniXFlowShift, OmniXSeamlessPanorama
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
    OmniXSeamlessPanorama,
    OmniXLoadDiffusersFlux,
    OmniXEncodePrompt,
    OmniXPrompt,
    OmniXSaveConditioning,
    OmniXLoadConditioning,
    OmniXDecodePanorama,
    OmniXFitPanorama,
    OmniXPlaceOnPanorama,
    OmniXRollPanorama,
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
    """The extension that ComfyUI loads."""

    async def on_load(self) -> None:
        """Register the folders of saved conditionings and the replacements of the older pack's nodes."""
        for root in (folder_paths.models_dir, folder_paths.get_output_directory()):
            folder_paths.add_model_folder_path(CONDITIONING_FOLDER, str(Path(root, CONDITIONING_FOLDER)))
        folder_paths.folder_names_and_paths[CONDITIONING_FOLDER][1].add(".safetensors")
        with contextlib.suppress(OSError):  # in a read-only folder, samples load from the pack, without a preview
            put_samples_into_input()
        remember_posted_graphs()
        await register_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the nodes."""
        return NODES


async def comfy_entrypoint() -> OmniXExtension:
    """Return the extension; the host calls this when it loads the pack."""
    return OmniXExtension()
