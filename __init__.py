"""OmniX for ComfyUI: 360-degree panoramas with FLUX.1-dev, and their depth, normals, albedo, materials and semantics.

ComfyUI loads this folder as a custom node and calls `comfy_entrypoint`. Without ComfyUI the package can still be
imported, so that `converters` works on its own. If ComfyUI is too old, a message in its log says so.
"""

import importlib.util
import logging
import re

OLDEST = (0, 16, 3)  # tested; pyproject.toml says the same to ComfyUI's registry
WEB_DIRECTORY = "./web"


def too_old(version: str) -> bool:
    """Return whether a ComfyUI version such as "0.16.3" is older than the oldest supported one; False if unknown."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    return bool(numbers) and numbers < OLDEST


def host_version() -> str:
    """Return the version of the ComfyUI that runs this."""
    import comfyui_version

    return comfyui_version.__version__


if importlib.util.find_spec("comfy_api") is not None:
    if too_old(host_version()):
        _needed = ".".join(map(str, OLDEST))
        logging.error("OmniX needs ComfyUI %s or newer, this is %s; update ComfyUI.", _needed, host_version())
    else:
        # Imported only with a host: there, an error in a node module must be raised, not mistaken for a missing host.
        from .nodes import comfy_entrypoint

        __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
