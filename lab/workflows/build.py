"""Write the shipped graphs in all their forms:  python lab/workflows/build.py

The host is asked which inputs its nodes have, so a ComfyUI is started: the one that COMFYUI_PATH or --comfyui names.
Their thumbnails are drawn by `lab/pages/help_pictures.py --thumbnails`.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import runpy
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .graph import Describe

ROOT = Path(__file__).resolve().parents[2]
# Run by path this file belongs to no package; main() loads the pack then.
PACKAGE = __package__ or "comfyui_omnix.lab.workflows"


def files(describe: Describe) -> Iterator[tuple[str, str]]:
    """Yield every file as (path below the repository, text)."""
    formats = import_module(".formats", PACKAGE)
    blueprints = import_module(".blueprints", PACKAGE)
    for graph in import_module(".catalog", PACKAGE).GRAPHS:
        yield f"workflows/{graph.name}.json", packed(blueprints.workflow_form(graph, describe))
        yield f"lab/workflows/api/{graph.slug}.json", text(formats.api_form(graph, describe))
    for blueprint in import_module(".shelf", PACKAGE).BLUEPRINTS:
        yield f"subgraphs/{blueprint.name}.json", packed(blueprints.blueprint_form(blueprint, describe))


def text(form: dict[str, Any]) -> str:
    """Return a form as JSON text."""
    return json.dumps(form, indent=2, ensure_ascii=False) + "\n"


def packed(form: dict[str, Any]) -> str:
    """Return a form for the browser as it is written: on one line, since blanks were more than half of the archive."""
    return json.dumps(form, separators=(",", ":"), ensure_ascii=False) + "\n"


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"), help="a folder with ComfyUI")
    options = parser.parse_args()
    if options.comfyui is None:
        parser.error("name a ComfyUI with --comfyui or COMFYUI_PATH.")
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["load_pack"]()
    server = import_module(".server", PACKAGE.replace("workflows", "host"))
    with tempfile.TemporaryDirectory() as folder, server.Server(options.comfyui.resolve(), Path(folder)) as running:
        for path, written in files(functools.cache(running.node_info)):
            (ROOT / path).write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
