"""The command line: `python -m training` in a clone, and `omnix-train` where the pack is installed.

In a clone, this folder is a separate package for Python, which can't import the folders next to it. So the folder above
gets the pack's name, and the command runs inside it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

PACK = "comfyui_omnix"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    package = __package__ if __package__ and "." in __package__ else f"{_pack()}.training"
    return importlib.import_module(f"{package}.command").main(arguments)


def _pack() -> str:
    """Make the folder above a package, so that this one can import the folders next to it; nothing else there runs."""
    if PACK not in sys.modules:
        pack = ModuleType(PACK)
        pack.__path__ = [str(Path(__file__).resolve().parents[1])]
        sys.modules[PACK] = pack
    return PACK


if __name__ == "__main__":
    sys.exit(main())
