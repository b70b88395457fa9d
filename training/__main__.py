"""The command line: `python -m training` in a clone, and `omnix-train` where the pack is installed.

In a clone this folder is a package of its own and can't import the folders beside it. So the pack is loaded from the
folder above, as ComfyUI loads it, and the command runs inside the pack.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

PACK = "comfyui_omnix"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    package = __package__ if __package__ and "." in __package__ else f"{_pack()}.training"
    return importlib.import_module(f"{package}.command").main(arguments)


def _pack() -> str:
    """Load the pack by its path and return its name."""
    if PACK not in sys.modules:
        root = Path(__file__).resolve().parents[1]
        spec = importlib.util.spec_from_file_location(
            PACK, root / "__init__.py", submodule_search_locations=[str(root)]
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"{root / '__init__.py'} can't be loaded; download the whole pack again.")
        pack = importlib.util.module_from_spec(spec)
        sys.modules[PACK] = pack
        spec.loader.exec_module(pack)
    return PACK


if __name__ == "__main__":
    sys.exit(main())
