"""Train the adapters of a new task: from a folder of panoramas and maps to files for Load OmniX Adapters.

`run(config)` does the same as the command line; `train(...)` is only the engine, for latents that are already encoded.
Nothing is imported before it is used, so that `python -m training` can first load the pack that this folder is part of.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "AdapterError": "..converters",
    "Base": ".samples",
    "Batch": ".samples",
    "Config": ".config",
    "HostBase": ".host",
    "Latents": ".samples",
    "TrainingError": ".config",
    "run": ".run",
    "train": ".engine",
}


def __getattr__(name: str) -> Any:
    """Import a name of the package on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __package__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
