"""`.ci/run` leaves out of the run on the oldest host only tests that never reach a host, also not through imports."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_imports import HOST

ROOT = Path(__file__).resolve().parents[2]
RUN = (ROOT / ".ci" / "run").read_text("utf-8").partition("--host")[2]
HELPERS = {path.stem: path for path in (ROOT / "tests").rglob("*.py")}
STARTS_PROGRAMS = ROOT / "lab" / "host" / "pack.py"


def named(pattern: str) -> set[str]:
    """Return the names in the braces of a pattern of the shell."""
    (names,) = re.findall(pattern, RUN)
    return {f"test_{name}.py" for name in names.split(",")}


IGNORED = named(r"--ignore=tests/omnix/test_\{(.*?)\}\.py")
SCENES = {path.name for path in (ROOT / "tests" / "scene").glob("test_*.py")}
LEFT_OUT = [
    *(ROOT / "tests" / "omnix" / name for name in sorted(IGNORED)),
    *(ROOT / "tests" / "scene" / name for name in sorted(SCENES - named(r"tests/scene/test_\{(.*?)\}\.py"))),
]


def modules(path: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports, at any place in it."""
    here = ("comfyui_omnix", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def file_of(module: str) -> Path | None:
    """Return the file of a module of the pack, or of a helper of the tests."""
    if not module.startswith("comfyui_omnix."):
        return HELPERS.get(module)
    place = ROOT.joinpath(*module.split(".")[1:])
    return next((each for each in (place.with_suffix(".py"), place / "__init__.py") if each.is_file()), None)


def hosts(path: Path) -> set[str]:
    """Return the modules of the host that a file imports, directly or through others."""
    seen, waiting, found = {STARTS_PROGRAMS}, [path], set[str]()
    while waiting:
        each = waiting.pop()
        seen.add(each)
        reached = set(modules(each))
        found |= {name.split(".")[0] for name in reached} & HOST
        waiting += [file for file in map(file_of, reached) if file is not None and file not in seen]
    return found


@pytest.mark.parametrize("path", LEFT_OUT, ids=lambda path: path.stem)
def test_what_the_oldest_host_does_not_run_never_reaches_a_host(path: Path) -> None:
    assert hosts(path) == set()
    assert not re.search(r"\b(server|comfyui): ", path.read_text("utf-8")), "a fixture that is a host"


def test_a_host_behind_a_helper_would_be_seen() -> None:
    assert "comfy" in hosts(ROOT / "tests" / "omnix" / "test_stress.py")
    assert "comfy_api" in hosts(ROOT / "tests" / "scene" / "test_layers.py")
