"""Imports run one way, lab -> nodes -> graph -> omnix -> converters; only the necessary modules use ComfyUI."""

import ast
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOF = "the pack's root"
"""Where `nodes.py` and `__init__.py` lie."""
HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "node_helpers", "server"}

_NODES = {"comfy_api", "folder_paths"}
KNOW_THE_HOST = {
    "omnix/runtime/patch.py": {"comfy"},
    "omnix/runtime/memory.py": {"comfy"},
    "omnix/runtime/seamless.py": {"comfy"},
    "training/host.py": {"comfy", "folder_paths"},
    # Whether the host was started with --disable-metadata.
    "graph/pictures.py": {*_NODES, "comfy"},
}

SHIPPED: dict[str, set[str]] = {
    "converters.files": set(),
    "converters.lora": {"converters.files"},
    "converters.fusing": {"converters.lora", "converters.files"},
    "converters": {"converters.fusing", "converters.lora", "converters.files"},
    "omnix": set(),
    "omnix.pictures": {"omnix", "converters"},
    "omnix.runtime": {"omnix.pictures", "converters", "converters.fusing"},
    "mapfiles": {"converters.files"},
    "evaluation": {"mapfiles"},
    "omnix.scene": {"omnix.pictures"},
    "training": {
        "omnix.runtime",
        "omnix.pictures",
        "converters",
        "converters.lora",
        "converters.files",
        "converters.fusing",
        "mapfiles",
        "evaluation",
    },
    "graph": {"omnix.runtime", "omnix.pictures", "omnix.scene", "converters", "mapfiles", "evaluation"},
    ROOF: {"graph"},
}
"""A room of the house -> the rooms that it may import; `converters.errors`, which all of them raise, is free to all."""
_PACK = {*SHIPPED}
UNSHIPPED: dict[str, set[str]] = {
    "lab.host": _PACK,
    "lab.blender": set(),
    "lab.rooms": {"mapfiles", "lab.host"},
    "lab.workflows": {*_PACK, "lab.host"},
    "lab.micro": {*_PACK, "lab.host", "lab.rooms"},
    "lab.demo": {*_PACK, "lab.host", "lab.workflows", "lab.rooms", "lab.micro"},
    "lab.pages": {*_PACK, "lab.host", "lab.workflows", "lab.rooms", "lab.micro", "lab.demo"},
    "lab.bench": {*_PACK, "lab.host", "lab.workflows", "lab.rooms", "lab.micro", "lab.pages"},
}
ALLOWED = SHIPPED | UNSHIPPED


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (level, module) of every import of a file, at any place in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else []
            yield from ((node.level, name) for name in names or [alias.name for alias in node.names])


def files(room: str) -> list[Path]:
    folder = ROOT if room == ROOF else ROOT / room.replace(".", "/")
    found = sorted(folder.glob("*.py"))
    assert found
    return found


def own_modules(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the modules of the pack that a file imports, as their names below the pack's root."""
    here = path.relative_to(ROOT).parts[:-1]
    for level, name in imports(path):
        if level:
            yield (*here[: len(here) + 1 - level], *name.split("."))
        elif name.startswith("comfyui_omnix."):
            yield tuple(name.split(".")[1:])


def room_of(module: tuple[str, ...]) -> str:
    """The part of the pack that a module belongs to: the longest known name above it, or the pack's root."""
    above = (room for room in ALLOWED if module[: room.count(".") + 1] == tuple(room.split(".")))
    return max(above, key=len, default=ROOF)


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_one_way(room: str) -> None:
    for path in files(room):
        reached = {room_of(module) for module in own_modules(path) if module != ("converters", "errors")}
        assert reached <= ALLOWED[room] | {room}, path


def test_the_plan_of_the_house_has_no_way_back() -> None:
    """Every room is drawn, and no row of the table leads back to itself."""
    rooms = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in python_files()}
    assert rooms == {*ALLOWED} - {ROOF} | {"."}
    order = {room: number for number, room in enumerate(ALLOWED)}
    assert all(order[other] < order[room] for room, others in ALLOWED.items() for other in others)


def python_files() -> list[Path]:
    """All modules of the pack and of the lab; the doubles are separate packs."""
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in tracked.splitlines()]
    return [path for path in paths if not {"tests", "doubles"} & {*path.relative_to(ROOT).parts} and path.exists()]


def test_nothing_shipped_knows_the_lab() -> None:
    for path in (path for room in SHIPPED for path in files(room)):
        assert not [module for module in own_modules(path) if module[0] == "lab"], path


@pytest.mark.parametrize("room", SHIPPED)
def test_only_patch_and_the_nodes_know_the_host(room: str) -> None:
    for path in files(room):
        known = {name.split(".")[0] for level, name in imports(path) if level == 0} & HOST
        usual = _NODES if room in ("graph", ROOF) else set()
        assert known <= KNOW_THE_HOST.get(path.relative_to(ROOT).as_posix(), usual), path


def test_converter_imports_torch_only_for_arithmetic() -> None:
    paths = [path for room in SHIPPED if room.startswith("converters") for path in files(room)]
    importing = {path.name for path in paths if {"torch", "numpy"} & {name for _, name in imports(path)}}
    assert importing <= {"arithmetic.py", "light.py", "state.py"}


def test_converter_never_climbs_out_of_itself() -> None:
    """It is the top level under `python -m converters`."""
    for path in (path for room in SHIPPED if room.startswith("converters") for path in files(room)):
        assert all(module[0] == "converters" for module in own_modules(path)), path


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
