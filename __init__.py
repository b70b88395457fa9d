"""OmniX for ComfyUI: 360-degree panoramas with FLUX.1-dev, and their depth, normals, albedo, materials and semantics.

ComfyUI loads this folder as a custom node and calls `comfy_entrypoint`. Without ComfyUI the package still imports, so
that `converters` works on its own.
"""

import importlib.util

if importlib.util.find_spec("comfy_api") is not None:
    # Only with a host: a broken node module must fail loudly there, not be taken for a missing host.
    from .nodes import comfy_entrypoint

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

WEB_DIRECTORY = "./web"
