"""Imports run one way: nodes -> graph -> omnix -> converters; ComfyUI is known where it must be and nowhere else."""

import ast
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "node_helpers", "server"}
# folder -> the parts of the pack it may import
ALLOWED = {"converters": set(), "omnix": {"converters"}, "graph": {"omnix", "converters"}}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (level, module) of every import of a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((node.level, name) for name in names)


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).glob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("folder", ALLOWED)
def test_parts_import_one_way(folder: str) -> None:
    for path in files(folder):
        reached = {name.split(".")[0] for level, name in imports(path) if level == 2}
        assert reached <= ALLOWED[folder], path
        assert not {level for level, _ in imports(path)} - {0, 1, 2}, path


@pytest.mark.parametrize("folder", ALLOWED)
def test_only_patch_and_the_nodes_know_the_host(folder: str) -> None:
    for path in files(folder):
        known = {name.split(".")[0] for level, name in imports(path) if level == 0} & HOST
        allowed = {"omnix/patch.py": {"comfy"}}.get(path.relative_to(ROOT).as_posix(), set())
        assert known <= (allowed if folder != "graph" else {"comfy_api", "folder_paths"}), path


def test_converter_imports_torch_only_for_arithmetic() -> None:
    importing = {path.name for path in files("converters") if {"torch", "numpy"} & {name for _, name in imports(path)}}
    assert importing <= {"arithmetic.py", "state.py"}


def test_pack_imports_without_a_host(tmp_path: Path) -> None:
    """The package and its converter work where there is no ComfyUI."""
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('pack', {str(ROOT / '__init__.py')!r},"
        f" submodule_search_locations=[{str(ROOT)!r}])\n"
        "pack = importlib.util.module_from_spec(spec); sys.modules['pack'] = pack; spec.loader.exec_module(pack)\n"
        "import pack.converters\n"
        "assert not hasattr(pack, 'comfy_entrypoint') and len(pack.converters.LAYOUT) > 20\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    command = [os.environ["OMNIX_BASE_PYTHON"], "-I", "-c", code]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)


def test_installed_by_pip_it_is_the_converter_alone(tmp_path: Path, comfyui: Path) -> None:
    """There are no nodes in it, so none are looked for, though a ComfyUI can be imported."""
    package = tmp_path / "comfyui_omnix"
    shutil.copytree(ROOT / "converters", package / "converters")
    for file in ROOT.glob("*.py"):  # what setuptools takes along with the package's root
        shutil.copy(file, package)
    command = [os.environ["OMNIX_BASE_PYTHON"], "-m", "comfyui_omnix.converters", "--version"]
    search = os.pathsep.join((str(tmp_path), str(comfyui)))
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, env=os.environ | {"PYTHONPATH": search})
