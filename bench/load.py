"""Load the pack by path with the host beside it, as ComfyUI does; the first thing each bench does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def pack(cpu: bool = True) -> None:
    """Make `comfyui_omnix` and the host importable; `cpu` keeps the host off a GPU. Ends the program without a host."""
    if "COMFYUI_PATH" not in os.environ:
        sys.exit("set COMFYUI_PATH to the comfyui that `python dev.py setup --json` prints.")
    # For this import alone: demo/server.py would come before the host's server.
    sys.path.insert(0, str(ROOT / "demo"))
    import pack as loading

    sys.path.pop(0)
    loading.use_host(Path(os.environ["COMFYUI_PATH"]).resolve())
    if not cpu:
        from comfy.cli_args import args

        args.cpu = False
    loading.load_pack()
