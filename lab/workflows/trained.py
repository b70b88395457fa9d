"""Write the graph of any task:  python lab/workflows/trained.py ADAPTER DESTINATION [--folder F] [--comfyui F]

ADAPTER is a file of a save of `omnix-train`, whose header tells the task and its streams. DESTINATION gets TASK.json,
which people open, and TASK_api.json, the form that is posted. `--folder` is where the adapters lie below models/loras.
"""

from __future__ import annotations

import argparse
import functools
import runpy
import sys
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...omnix.runtime.tasks import Task
    from .graph import Graph, Node

ROOT = Path(__file__).resolve().parents[2]
# Run by path this file belongs to no package; main() loads the pack then.
PACKAGE = __package__ or "comfyui_omnix.lab.workflows"
RAYS = "camray"
HEIGHT = 512
"""Of the panorama, in pixels; what `omnix-train` trains at."""
MODELS = {
    "OmniXEncodePrompt": {"clip": "clip"},
    "VAEEncode": {"vae": "vae"},
    "OmniXFlowShift": {"model": "flux"},
    "OmniXDecodePanorama": {"vae": "vae"},
}
"""Node -> its inputs that take a model, and the loader that gives it."""


def graph_of(task: Task, folder: str) -> Graph:
    """Return the graph of a task: a picture for each condition but camera rays, its streams in order, and its maps."""
    graphs, parts = (import_module(f".{name}", PACKAGE) for name in ("graph", "parts"))
    last = f"{task.conditions[-1]}_condition"
    read = parts.reading(task.target)
    first = "panorama"
    given = graphs.Node(first, "OmniXLoadPanorama", {"image": parts.ROOM, "height": HEIGHT})
    others = {*task.conditions} - {task.conditions[0]} or RAYS in task.conditions
    measured = (graphs.Node("measured", "GetImageSize", {"image": graphs.Link(first)}),) if others else ()
    pictures = tuple(parts.saved(name, link) for name, link in read.outputs.items() if name != "mask")
    groups = (
        graphs.Group("Your panorama", 0, (given, *measured)),
        parts.models(),
        graphs.Group("Prompt and condition streams", 1, (parts.text(), *_conditions(task, first))),
        parts.canvas(first, last),
        graphs.Group("OmniX", 2, parts.streams(task.name, last)),
        graphs.Group("Maps", 3, (*read.nodes, *pictures)),
    )
    closed = tuple(replace(group, nodes=tuple(_closed(node, folder) for node in group.nodes)) for group in groups)
    return graphs.Graph(task.name, task.name, closed, (graphs.Note("Start here", _words(task, folder)),))


def _closed(node: Node, folder: str) -> Node:
    """Connect what the parts leave open, since a blueprint gets it from outside: the models, and the folder."""
    link = import_module(".graph", PACKAGE).Link
    own = {name: link(source) for name, source in MODELS.get(node.type, {}).items()}
    chosen = {"folder": folder} if node.type == "OmniXLoadAdapters" else {}
    return replace(node, inputs={**node.inputs, **own, **chosen})


def _conditions(task: Task, first: str) -> tuple[Node, ...]:
    """Chain the condition streams; the first is the panorama, each other one a picture of its own, or camera rays."""
    graphs, parts = (import_module(f".{name}", PACKAGE) for name in ("graph", "parts"))
    nodes: tuple[Node, ...] = ()
    before = "text"
    for stream in task.conditions:
        pixels = first if stream == task.conditions[0] and stream != RAYS else f"{stream}_pixels"
        if pixels != first:
            size: dict[str, Any] = {name: graphs.Link("measured", name) for name in ("width", "height")}
            if stream == RAYS:
                nodes += (graphs.Node(pixels, "OmniXCameraRays", size),)
            else:
                loaded = graphs.Node(f"{stream}_picture", "LoadImage", {"image": "example.png"}, f"Load {stream} (2:1)")
                fitted = {"image": graphs.Link(loaded.name), "upscale_method": "area", "crop": "disabled", **size}
                nodes += (loaded, graphs.Node(pixels, "ImageScale", fitted))
        nodes += parts.condition(stream, pixels, before)
        before = f"{stream}_condition"
    return nodes


def _words(task: Task, folder: str) -> str:
    return f"""## {task.name}

1. Load a panorama that is twice as wide as high: it is the condition *{task.conditions[0]}*.
2. **Load OmniX Adapters** loads them from `models/loras/{folder}`; press **R** after you have put them there.
3. Run. The map *{task.target}* is saved to `output/OmniX`.

The condition streams are {", ".join(task.conditions)}, in this order.
"""


def main() -> None:
    """Write both forms of the graph."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("adapter", type=Path, help="a file of a save")
    parser.add_argument("destination", type=Path, help="the folder to write to")
    parser.add_argument("--folder", default="OmniX", help="folder below models/loras (default %(default)s)")
    parser.add_argument(
        "--comfyui", default="", help="ComfyUI's folder; default COMFYUI_PATH, or the one that the pack lies in"
    )
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["load_pack"]()
    try:
        comfyui = import_module("...training.run", PACKAGE).host_folder(options.comfyui)
    except ValueError as error:
        sys.exit(f"trained.py: {error}")
    task = _task_of(options.adapter)
    graph = graph_of(task, options.folder)
    server, formats, build = (import_module(name, PACKAGE) for name in ("..host.server", ".formats", ".build"))
    options.destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, server.Server(comfyui, Path(folder)) as running:
        describe = functools.cache(running.node_info)
        for name, form in ((task.name, formats.ui_form), (f"{task.name}_api", formats.api_form)):
            (options.destination / f"{name}.json").write_text(build.text(form(graph, describe)), encoding="utf-8")


def _task_of(adapter: Path) -> Task:
    tasks, converters = import_module("...omnix.runtime.tasks", PACKAGE), import_module("...converters", PACKAGE)
    found = tasks.task_from_header(converters.read_metadata(adapter, tasks.TASK_HEADER))
    if found is None:
        sys.exit(f"{adapter}: its header tells no task; give a file of a save of omnix-train.")
    return found[0]


if __name__ == "__main__":
    main()
