"""Let the stock DualCLIPLoader (type flux) load the tiny text encoders of `lab/host/tiny_models.py`.

ComfyUI fixes the sizes of CLIP-L and T5-XXL in JSON files, but lets `model_options` override them per model. This
custom node pack has no nodes: it gives those options to every FLUX text encoder that is built after the import.
Only the servers of the demo and the tests use it; with it, real text encoders no longer load.
"""

import json
from pathlib import Path
from typing import Any

import comfy.text_encoders.flux

NODE_CLASS_MAPPINGS: dict[str, type] = {}
SIZES = json.loads((Path(__file__).parent / "config.json").read_text(encoding="utf-8"))


def install(sizes: dict[str, dict[str, int]] = SIZES) -> None:
    """Make FluxClipModel build its CLIP-L and T5 with these sizes; the rest of their configuration stays the host's."""
    model = comfy.text_encoders.flux.FluxClipModel
    build = model.__init__

    def build_tiny(self: Any, *args: Any, model_options: dict[str, Any] | None = None, **options: Any) -> None:
        tiny = {f"{name}_model_config": size for name, size in sizes.items()}
        build(self, *args, model_options={**(model_options or {}), **tiny}, **options)

    model.__init__ = build_tiny


install()
