"""Which task a picture was decoded from, as the graph tells: a picture itself says nothing of what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

from ..omnix.tasks import TASKS

HIDDEN = [io.Hidden.prompt, io.Hidden.unique_id]
"""What a node that calls `check_map` must be given by the host."""

# Target of a task -> the node that reads its map. The other targets are pictures as they are.
READERS = {"depth": "OmniX Depth", "normal": "OmniX Normal", "pbr": "OmniX Roughness and Metallic"}

# Nodes of the host that leave a map what it is -> the input that they take it from.
_SAME_MAP = {
    "ImageScale": "image",
    "ImageScaleBy": "image",
    "ImageScaleToTotalPixels": "image",
    "ImageFromBatch": "image",
    "RepeatImageBatch": "image",
    "ImageCrop": "image",
}
_ADAPTERS = "OmniXLoadAdapters"

Prompt = Mapping[str, Mapping[str, Any]]


def check_map(node: type[io.ComfyNode], target: str) -> None:
    """Raise ValueError if the graph gives a node, as its image, the map of another target than it reads."""
    hidden = getattr(node, "hidden", None)
    prompt, unique_id = getattr(hidden, "prompt", None), getattr(hidden, "unique_id", None)
    task = task_of_picture(prompt, str(unique_id), "image") if isinstance(prompt, Mapping) else None
    if task in TASKS and (got := TASKS[task].target) != target:
        way_out = (
            f"connect it to {READERS[got]}" if got in READERS else "it needs no node, for it is a picture as it is"
        )
        tasks = " or ".join(name for name, each in TASKS.items() if each.target == target)
        raise ValueError(
            f"{READERS[target]} reads the picture of {tasks}, this one was made by {task}; {way_out}, or choose "
            "another task in Load OmniX Adapters."
        )


def task_of_picture(prompt: Prompt, node: str, name: str) -> str | None:
    """Return the task of the adapters that made what goes into a node's input; None where the graph doesn't tell.

    From a picture the way goes to the node that decoded it, to the one that sampled it, and along its model.
    """
    found = _source(prompt, node, name)
    while found is not None and (follow := _SAME_MAP.get(_kind(prompt, found))):
        found = _source(prompt, found, follow)
    found = _source(prompt, found, "samples") if found is not None else None
    for _ in range(len(prompt)):  # a graph has no circle, but a file may
        if found is None or _kind(prompt, found) == _ADAPTERS:
            break
        ways = ("adapters", "guider", "model", "samples", "latent", "latent_image")
        found = next((link for way in ways if (link := _source(prompt, found, way)) is not None), None)
    task = _inputs(prompt, found).get("task") if found is not None else None
    return task if isinstance(task, str) else None


def _inputs(prompt: Prompt, node: str) -> Mapping[str, Any]:
    return prompt.get(node, {}).get("inputs", {})


def _kind(prompt: Prompt, node: str) -> str:
    return prompt.get(node, {}).get("class_type", "")


def _source(prompt: Prompt, node: str, name: str) -> str | None:
    """Return the node that an input is linked to."""
    link = _inputs(prompt, node).get(name)
    return str(link[0]) if isinstance(link, list) and len(link) == 2 else None
