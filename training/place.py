"""Find ComfyUI and let it be imported, for a program that ComfyUI did not start."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from .errors import TrainingError

ROOT = Path(__file__).resolve().parents[1]
"""The pack."""


def use_host(named: str, cpu: bool) -> None:
    """Make ComfyUI importable: the one that runs already, the named folder, COMFYUI_PATH, or the one above the pack.

    Raises TrainingError if there is none.
    """
    if "comfy.model_management" in sys.modules:
        return
    folder = host_folder(named)
    # Started in the pack's folder, Python finds our nodes.py before the host's.
    sys.path[:] = [entry for entry in sys.path if Path(entry or os.getcwd()).resolve() != ROOT]
    sys.path.insert(0, str(folder))
    importlib.import_module("comfy.cli_args").args.cpu = cpu


def host_folder(named: str) -> Path:
    """Return ComfyUI's folder.  Raises TrainingError."""
    told = named or os.environ.get("COMFYUI_PATH", "")
    folder = Path(told).expanduser().resolve() if told else ROOT.parents[1]
    if not (folder / "comfy" / "cli_args.py").is_file():
        raise TrainingError(
            f"{folder} is no ComfyUI folder (it has no comfy/cli_args.py); set COMFYUI_PATH or --comfyui to the folder "
            "of your ComfyUI, and run with its Python."
        )
    return folder
