"""Write the shipped graphs in all their forms:  python lab/workflows/build.py

or the graph of any task:  python lab/workflows/build.py ADAPTER DESTINATION [--folder F]

ADAPTER is a file of a save of `omnix-train`, whose header describes the task and its streams. DESTINATION gets
TASK.json, which people open, and TASK_api.json, the form that is posted. The host is asked which inputs its nodes have,
so a ComfyUI is started. The thumbnails of the shipped graphs are drawn by `lab/pages/help_pictures.py --thumbnails`.
"""

from __future__ import annotations

import argparse
import functools
import json
import runpy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .graph import Describe

ROOT = Path(__file__).resolve().parents[2]


def files(describe: Describe) -> Iterator[tuple[str, str]]:
    """Yield every file of the shipped graphs as (path below the repository, text)."""
    from comfyui_omnix.lab.workflows import boxes, catalog, forms

    for graph in catalog.GRAPHS:
        yield f"workflows/{graph.name}.json", packed(forms.workflow_form(graph, describe))
        yield f"lab/workflows/api/{graph.slug}.json", text(boxes.api_form(graph, describe))
    for name, blueprint in boxes.BOXES.items():
        yield f"subgraphs/{name}.json", packed(forms.blueprint_form(blueprint, describe))


def task_files(adapter: Path, folder: str, describe: Describe) -> Iterator[tuple[str, str]]:
    """Yield both files of the graph of an adapter's task as (name, text)."""
    from comfyui_omnix.converters import read_metadata
    from comfyui_omnix.lab.workflows import boxes, catalog, forms
    from comfyui_omnix.omnix.runtime import tasks

    found = tasks.task_from_header(read_metadata(adapter, tasks.TASK_HEADER))
    if found is None:
        sys.exit(f"{adapter}: its header describes no task; give a file of a save of omnix-train.")
    graph = catalog.graph_of(found[0], folder)
    yield f"{graph.name}.json", text(forms.workflow_form(graph, describe))
    yield f"{graph.name}_api.json", text(boxes.api_form(graph, describe))


def text(form: dict[str, Any]) -> str:
    """Return a form as JSON text."""
    return json.dumps(form, indent=2, ensure_ascii=False) + "\n"


def packed(form: dict[str, Any]) -> str:
    """Return a form for the browser as it is written: on one line, since blanks were more than half of the archive."""
    return json.dumps(form, separators=(",", ":"), ensure_ascii=False) + "\n"


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", nargs="?", type=Path, help="an adapter file of a save (default: the shipped graphs)")
    parser.add_argument("destination", nargs="?", type=Path, default=ROOT, help="the folder to write to")
    parser.add_argument("--folder", default="OmniX", help="folder of the adapters below models/loras (%(default)s)")
    parser.add_argument("--comfyui", default="", help="default: COMFYUI_PATH, or the ComfyUI that the pack is in")
    options = parser.parse_args()
    if options.adapter and options.destination == ROOT:
        parser.error("name the folder to write to after the adapter.")
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["load_pack"]()
    from comfyui_omnix.lab.host.server import Server
    from comfyui_omnix.training.run import host_folder

    try:
        comfyui = host_folder(options.comfyui)
    except ValueError as error:
        sys.exit(f"build.py: {error}")
    options.destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Server(comfyui, Path(folder)) as running:
        describe = functools.cache(running.node_info)
        written = task_files(options.adapter, options.folder, describe) if options.adapter else files(describe)
        for path, content in written:
            (options.destination / path).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
