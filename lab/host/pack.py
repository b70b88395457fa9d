"""Load this repository as the package `comfyui_omnix`, by path, the way ComfyUI loads a custom node.

The repository's root is never on `sys.path`, because our `nodes.py` would shadow the host's. The programs of the lab
and all tests load the pack with this module, so they run the same code as ComfyUI, from a folder of any name.
"""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

NAME = "comfyui_omnix"
ROOT = Path(__file__).resolve().parents[2]


def use_host(comfyui: Path, cpu: bool = True) -> None:
    """Put the ComfyUI folder `comfyui` first on `sys.path`; `cpu` makes it compute on the CPU.

    Raises RuntimeError if there is no ComfyUI, or if the host was imported before.
    """
    if not (comfyui / "comfy" / "cli_args.py").is_file():
        raise RuntimeError(f"{comfyui} is not a ComfyUI folder: it has no comfy/cli_args.py; set COMFYUI_PATH to one.")
    if "comfy.model_management" in sys.modules:
        raise RuntimeError("ComfyUI was imported before use_host() could choose the CPU; call use_host() first.")
    sys.path[:] = [entry for entry in sys.path if not _is_root(entry)]
    sys.path.insert(0, str(comfyui))
    from comfy.cli_args import args

    args.cpu = cpu


def enter(program: str, cpu: bool = True) -> None:
    """Load the pack together with the host of COMFYUI_PATH, for a program of the lab that was started by its path.

    `cpu` keeps the host from using a GPU. Ends the program with one sentence if COMFYUI_PATH is not set.
    """
    if "COMFYUI_PATH" not in os.environ:
        sys.exit(f"{program}: set COMFYUI_PATH to the comfyui that `python dev.py setup --json` prints.")
    use_host(Path(os.environ["COMFYUI_PATH"]).resolve(), cpu)
    load_pack()


def load_pack(root: Path = ROOT, name: str = NAME) -> ModuleType:
    """Return the pack in folder `root` as the package `name`, importable from then on."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, root / "__init__.py", submodule_search_locations=[str(root)])
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{root / '__init__.py'} can't be loaded; is this the root of a pack?")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_root(entry: str) -> bool:
    """Return whether the `sys.path` entry is this repository ("" is the current folder)."""
    folder = entry or os.getcwd()
    return os.path.exists(folder) and os.path.samefile(folder, ROOT)
