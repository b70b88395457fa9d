"""Find out from the graph what a picture shows; the pixels alone don't say that a picture is a depth map.

The search starts at an input and follows the links back, through nodes that don't change what a picture shows, to the
node that made it: one of our own, the decoder of a sampled latent (whose adapters name the task), or a loader. If a box
is bypassed, the photo arrives where its map should be. If the graph doesn't say what the picture is (Load Image,
another pack's node), nothing is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from comfy_api.latest import io

from ..omnix.pictures import semantics
from ..omnix.pictures.maps import MAPS
from ..omnix.runtime.tasks import TASKS
from .files import hidden

HIDDEN = (io.Hidden.prompt, io.Hidden.unique_id)
"""The hidden inputs that a node needs to call `check_map` or `check_inputs`. (The host appends to the list it gets.)"""

# Target of a task -> the node that reads its map. The other targets need no node: they are pictures already.
READERS = {
    "depth": "OmniX Depth",
    "normal": "OmniX Normal",
    "pbr": "OmniX Roughness and Metallic",
    "semantic": "OmniX Semantic",
}

# Nodes of the host that don't change what a picture shows -> their picture input.
_SAME_MAP = {
    "ImageScale": "image",
    "ImageScaleBy": "image",
    "ImageScaleToTotalPixels": "image",
    "ImageFromBatch": "image",
    "RepeatImageBatch": "image",
    "ImageCrop": "image",
    "OmniXRollPanorama": "image",
    "ImageToMask": "image",
    "MaskToImage": "mask",
    "OmniXFitPanorama": "image",
}
_ADAPTERS = "OmniXLoadAdapters"
_BASES = ("UNETLoader", "CheckpointLoaderSimple", "UnetLoaderGGUF", "UnetLoaderGGUFAdvanced", "OmniXLoadDiffusersFlux")
_PLAIN = (
    *("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced", "BasicGuider", "CFGGuider"),
    *("ModelSamplingFlux", "OmniXFlowShift", "OmniXSeamlessPanorama", "TorchCompileModel", "LatentFromBatch"),
)
"""A latent that was sampled with a model from _BASES through no other nodes than these is a picture, not a map."""

PANORAMA, GENERATED, EMPTY = "panorama", "generated", "empty"
VIEW, MASK, LEGEND = "depth view", "mask", "legend"

# (node, output) of this pack -> what it shows.
_MADE = {
    ("OmniXDepth", 0): "depth",
    ("OmniXDepth", 1): "depth",
    ("OmniXNormal", 0): "normal",
    ("OmniXMaterial", 0): "roughness",
    ("OmniXMaterial", 1): "metallic",
    ("OmniXColourDepth", 0): VIEW,
    ("OmniXPlaceOnPanorama", 0): PANORAMA,
    ("OmniXPlaceOnPanorama", 1): MASK,
    ("OmniXRollPanorama", 1): MASK,
    ("OmniXForeground", 0): PANORAMA,
    ("OmniXForeground", 1): MASK,
    ("OmniXBackgroundLayer", 1): "depth",
    ("OmniXMoveViewpoint", 0): PANORAMA,
    ("OmniXMoveViewpoint", 1): MASK,
    ("OmniXMoveViewpoint", 2): "depth",
    ("OmniXLoadPanorama", 1): MASK,
    ("OmniXFitPanorama", 1): MASK,
    **{("OmniXSemantic", slot): MASK for slot in range(len(semantics.NAMES))},
    ("OmniXSemantic", len(semantics.NAMES)): LEGEND,
}
_TARGETS = {"filled_rgb": PANORAMA}
"""Target of a task -> the picture that it shows, if that differs from the target's name."""

# Input -> other kinds of pictures that it accepts.
_ALSO = {PANORAMA: (GENERATED,)}
_WORDS = {
    PANORAMA: "a plain panorama",
    GENERATED: "a picture that was sampled without OmniX adapters",
    EMPTY: "an empty latent that was not sampled",
    VIEW: "a coloured view of depth",
    MASK: "a mask of part of the picture",
    LEGEND: "a legend",
    "pbr": "the picture of rgb_to_pbr, which was not split",
}
_WAYS_OUT = {
    PANORAMA: "is a box bypassed? Turn it on, or disconnect it. Use Load Image for a {name} map from a file",
    GENERATED: "put Apply OmniX Adapters before the sampler",
    EMPTY: "is the sampler bypassed? Turn it on",
    VIEW: "connect the depth output of OmniX Depth",
    "pbr": "put OmniX Roughness and Metallic in between",
}

Prompt = Mapping[str, Mapping[str, Any]]


class Origin(NamedTuple):
    """An output of a node."""

    node: str
    output: int


def check_map(node: type[io.ComfyNode], target: str) -> None:
    """Raise ValueError if the graph connects anything but this task's target to the node's image input."""
    prompt, unique_id = _given(node)
    task = task_of_picture(prompt, unique_id, "image")
    if task in TASKS and (got := TASKS[task].target) != target:
        way_out = (
            f"connect it to {READERS[got]}" if got in READERS else "it is already a picture: use it without a node"
        )
        tasks = " or ".join(name for name, each in TASKS.items() if each.target == target)
        raise ValueError(
            f"{READERS[target]} reads the picture of {tasks}, but this one was made by {task}; {way_out}, or choose "
            "another task in Load OmniX Adapters."
        )
    if task is None and (shows := shown(prompt, unique_id, "image")) in (PANORAMA, GENERATED, EMPTY):
        raise _refusal(READERS[target], "image", target, shows)


def check_inputs(node: type[io.ComfyNode], *names: str, views: bool = False) -> None:
    """Raise ValueError if the graph connects something else to an input that is named after a map or "panorama".

    views: depth may also be a coloured view, because the node only shows it.
    """
    prompt, unique_id = _given(node)
    title = node.define_schema().display_name or ""
    photo = next((origin for name in ("panorama", "image") if (origin := _origin(prompt, unique_id, name))), None)
    for name in names:
        shows = shown(prompt, unique_id, name)
        if shows is None and name != PANORAMA and photo is not None and _origin(prompt, unique_id, name) == photo:
            shows = PANORAMA
        if shows not in (None, name, *_ALSO.get(name, ()), *((VIEW,) if views and name == "depth" else ())):
            raise _refusal(title, name, name, str(shows))


def _refusal(title: str, name: str, wanted: str, shows: str) -> ValueError:
    """Return an error that says what is wrong with a node's input and what to do."""
    way_out = _WAYS_OUT.get(shows, f"connect it to {shows}" if shows in MAPS else f"disconnect {name}")
    return ValueError(
        f"{title}: {name} expects {f'a {wanted}' if wanted == PANORAMA else f'the {wanted} map'}, but the graph "
        f"connects {_WORDS.get(shows, f'the {shows} map')} to it; {way_out.format(name=wanted)}."
    )


def _given(node: type[io.ComfyNode]) -> tuple[Prompt, str]:
    prompt = hidden(node, "prompt")
    return (prompt if isinstance(prompt, Mapping) else {}), str(hidden(node, "unique_id"))


def shown(prompt: Prompt, node: str, name: str) -> str | None:
    """Return what an input shows: a map's name, the target of a task, or one of the words above; None if unknown."""
    origin = _origin(prompt, node, name)
    if origin is None:
        return None
    kind = _kind(prompt, origin.node)
    if (kind, origin.output) in _MADE:
        return _MADE[kind, origin.output]
    if kind == "OmniXLoadPanorama":
        return _named(_inputs(prompt, origin.node).get("image"))
    return _of_way(prompt, list(_way(prompt, origin.node)))


def _of_way(prompt: Prompt, way: Sequence[str]) -> str | None:
    """Return what a decoded picture shows, judging by the nodes on the way back from its decoder."""
    if not way:
        return None
    kinds = [_kind(prompt, node) for node in way]
    if kinds[-1] == "VAEEncode":  # the sampler is bypassed
        return shown(prompt, way[-1], "pixels")
    if re.fullmatch("Empty.*Latent.*", kinds[-1]):
        return EMPTY
    if kinds[-1] in _BASES:
        return GENERATED if all(kind in _PLAIN for kind in kinds[:-1]) else None
    task = _task(prompt, way)
    if task not in TASKS:
        return None
    return _TARGETS.get(TASKS[task].target, TASKS[task].target)


def _named(file: Any) -> str | None:
    """Return what a file in Load Panorama shows: the map that its name contains, else a panorama."""
    if not isinstance(file, str):
        return None
    stem = PurePath(file).stem.lower()
    named = next((name for name in MAPS if name in stem), PANORAMA)
    return VIEW if "depth_view" in stem else named


def task_of_picture(prompt: Prompt, node: str, name: str) -> str | None:
    """Return the task whose adapters made the picture at a node's input; None if the graph doesn't say."""
    origin = _origin(prompt, node, name)
    return None if origin is None else _task(prompt, [*_way(prompt, origin.node)])


def _task(prompt: Prompt, way: Sequence[str]) -> str | None:
    """Return the task of the adapters at the end of a way, if there are any."""
    task = _inputs(prompt, way[-1]).get("task") if way and _kind(prompt, way[-1]) == _ADAPTERS else None
    return task if isinstance(task, str) else None


def _origin(prompt: Prompt, node: str, name: str) -> Origin | None:
    """Return the output that made an input's picture; nodes that don't change what it shows are skipped."""
    found = _source(prompt, node, name)
    for _ in range(len(prompt)):
        kind = None if found is None else _kind(prompt, found.node)
        if found is None or (kind, found.output) in _MADE or not (follow := _SAME_MAP.get(str(kind))):
            break
        found = _source(prompt, found.node, follow)
    return found


def _way(prompt: Prompt, decoder: str) -> Iterator[str]:
    """Yield the nodes from a decoder's samples back to its sampler and along its model, to the adapters or a loader."""
    ways = ("adapters", "guider", "model", "samples", "latent", "latent_image")
    link = _source(prompt, decoder, "samples")
    for _ in range(len(prompt)):  # a valid graph has no cycle, but a file may
        if link is None:
            return
        yield link.node
        node = link.node
        link = next((each for way in ways if (each := _source(prompt, node, way)) is not None), None)


def _inputs(prompt: Prompt, node: str) -> Mapping[str, Any]:
    return prompt.get(node, {}).get("inputs", {})


def _kind(prompt: Prompt, node: str) -> str:
    return prompt.get(node, {}).get("class_type", "")


def _source(prompt: Prompt, node: str, name: str) -> Origin | None:
    """Return the output that an input is linked to."""
    link = _inputs(prompt, node).get(name)
    return Origin(str(link[0]), int(link[1])) if isinstance(link, list) and len(link) == 2 else None
