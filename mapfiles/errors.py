"""Errors about files of maps, and about packages that are not installed."""

from __future__ import annotations

import importlib
from types import ModuleType

# import name -> (what needs it, what pip installs); pyproject.toml's extras list the same versions.
PACKAGES = {
    "OpenImageIO": ("Reading maps", "OpenImageIO>=3.1,<4"),
    "PIL.Image": ("The words on a sheet", "pillow>=10.1,<14"),
    "PIL.ImageDraw": ("The words on a sheet", "pillow>=10.1,<14"),
    "torch": ("LPIPS", "torch"),
    "lpips": ("LPIPS", "lpips>=0.1.4,<0.2"),
}


class MapError(ValueError):
    """Maps that can't be read, written or compared: one sentence, with the file if there is one."""


class MissingPackage(MapError):
    """A package of the extra is not installed."""


def package(name: str) -> ModuleType:
    """Import a package of the table above; the message of MissingPackage has the command that installs it."""
    purpose, requirement = PACKAGES[name]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = name.partition(".")[0]
        raise MissingPackage(
            f'{purpose} needs {missing}, which is not installed: pip install "{requirement}"'
        ) from error
