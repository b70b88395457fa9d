"""The command line: `python -m evaluation` in a clone, `omnix-evaluate` where the package is installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

PACK = "comfyui_omnix"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    package = __package__ if __package__ and "." in __package__ else f"{_pack()}.evaluation"
    try:
        command = importlib.import_module(f"{package}.command")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "numpy":
            raise
        print(
            'omnix-evaluate: figures need numpy, which is not installed: pip install "numpy>=1.25,<3"', file=sys.stderr
        )
        return 1
    return command.main(arguments)


def _pack() -> str:
    """Make the folder above a package, so that this one can import `mapfiles` next to it; nothing else there runs."""
    if PACK not in sys.modules:
        pack = ModuleType(PACK)
        pack.__path__ = [str(Path(__file__).resolve().parents[1])]
        sys.modules[PACK] = pack
    return PACK


if __name__ == "__main__":
    sys.exit(main())
