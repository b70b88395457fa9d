"""What a picture shows, as the graph tells: a picture itself does not say that it is a depth map.

From an input the way goes back over nodes that leave a picture what it is, to the node that made it: one of our own,
the decoder of a sampled latent (whose adapters name the task), or a loader. A bypassed box leaves the photo where its
map was. Where the graph does not tell (Load Image, another pack's node), nothing is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from comfy_api.latest import io

from ..omnix import semantics
from ..omnix.tasks import TASKS

HIDDEN = (io.Hidden.prompt, io.Hidden.unique_id)
"""What a node that calls `check_map` or `check_inputs` must be given by the host, which adds to the list it gets."""

# Target of a task -> the node that reads its map. The other targets are pictures as they are.
READERS = {
    "depth": "OmniX Depth",
    "normal": "OmniX Normal",
    "pbr": "OmniX Roughness and Metallic",
    "semantic": "OmniX Semantic",
}

# Nodes of the host that leave a picture what it is -> the input that they take it from.
_SAME_MAP = {
    "ImageScale": "image",
    "ImageScaleBy": "image",
    "ImageScaleToTotalPixels": "image",
    "ImageFromBatch": "image",
    "RepeatImageBatch": "image",
    "ImageCrop": "image",
    "ImageToMask": "image",
    "MaskToImage": "mask",
}
_ADAPTERS = "OmniXLoadAdapters"
_BASES = ("UNETLoader", "CheckpointLoaderSimple", "UnetLoaderGGUF", "UnetLoaderGGUFAdvanced", "OmniXLoadDiffusersFlux")
_PLAIN = (
    *("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced", "BasicGuider", "CFGGuider"),
    *("ModelSamplingFlux", "OmniXFlowShift", "TorchCompileModel", "LatentFromBatch"),
)
"""What is sampled with a model of these loaders, past these nodes alone, is a picture and not a map."""

PANORAMA, GENERATED, EMPTY = "panorama", "generated", "empty"
VIEW, MASK, LEGEND = "depth view", "mask", "legend"
_MAPS = ("depth", "normal", "albedo", "roughness", "metallic", "semantic")

# (node, output) of ours -> what it shows.
_MADE = {
    ("OmniXDepth", 0): "depth",
    ("OmniXDepth", 1): "depth",
    ("OmniXNormal", 0): "normal",
    ("OmniXMaterial", 0): "roughness",
    ("OmniXMaterial", 1): "metallic",
    ("OmniXColourDepth", 0): VIEW,
    ("OmniXPlaceOnPanorama", 0): PANORAMA,
    ("OmniXPlaceOnPanorama", 1): MASK,
    ("OmniXForeground", 0): PANORAMA,
    ("OmniXForeground", 1): MASK,
    ("OmniXBackgroundLayer", 1): "depth",
    ("OmniXMoveViewpoint", 0): PANORAMA,
    ("OmniXMoveViewpoint", 1): MASK,
    ("OmniXMoveViewpoint", 2): "depth",
    ("OmniXLoadPanorama", 1): MASK,
    **{("OmniXSemantic", slot): MASK for slot in range(len(semantics.NAMES))},
    ("OmniXSemantic", len(semantics.NAMES)): LEGEND,
}
_TARGETS = {"filled_rgb": PANORAMA}
"""What the targets of tasks show, where it is not called as they are."""

# What an input may be given, besides what it is called.
_ALSO = {PANORAMA: (GENERATED,)}
_WORDS = {
    PANORAMA: "a panorama as it is",
    GENERATED: "a picture that was sampled without OmniX adapters",
    EMPTY: "an empty latent that was not sampled",
    VIEW: "a coloured view of depth",
    MASK: "a mask of a part of the picture",
    LEGEND: "a legend",
    "pbr": "the undivided picture of rgb_to_pbr",
}
_WAYS_OUT = {
    PANORAMA: "is a box bypassed? Turn it on, or disconnect it; use Load Image for a map of {name} from a file",
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
    """Raise ValueError if the graph gives a node, as its image, anything else than the target that it reads."""
    prompt, unique_id = _given(node)
    task = task_of_picture(prompt, unique_id, "image")
    if task in TASKS and (got := TASKS[task].target) != target:
        way_out = f"connect it to {READERS[got]}" if got in READERS else "it needs no node: it is already a picture"
        tasks = " or ".join(name for name, each in TASKS.items() if each.target == target)
        raise ValueError(
            f"{READERS[target]} reads the picture of {tasks}, this one was made by {task}; {way_out}, or choose "
            "another task in Load OmniX Adapters."
        )
    if task is None and (shows := shown(prompt, unique_id, "image")) in (PANORAMA, GENERATED, EMPTY):
        raise _refusal(READERS[target], "image", target, shows)


def check_inputs(node: type[io.ComfyNode], *names: str, views: bool = False) -> None:
    """Raise ValueError if the graph gives an input that is named after a map, or "panorama", something else.

    views: depth may be a coloured view, where it is only looked at.
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
    """Return what is wrong with an input of a node and what to do."""
    way_out = _WAYS_OUT.get(shows, f"connect it to {shows}" if shows in _MAPS else f"disconnect {name}")
    return ValueError(
        f"{title}: {name} expects {f'a {wanted}' if wanted == PANORAMA else f'a map of {wanted}'}, but the graph "
        f"connects {_WORDS.get(shows, f'the {shows} map')} to it; {way_out.format(name=wanted)}."
    )


def _given(node: type[io.ComfyNode]) -> tuple[Prompt, str]:
    hidden = getattr(node, "hidden", None)
    prompt, unique_id = getattr(hidden, "prompt", None), getattr(hidden, "unique_id", None)
    return (prompt if isinstance(prompt, Mapping) else {}), str(unique_id)


def shown(prompt: Prompt, node: str, name: str) -> str | None:
    """Return what an input is given: a map's name, the target of a task, or one of the words above; None if unknown."""
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
    """Return what was decoded, by the nodes on the way back from its decoder."""
    if not way:
        return None
    kinds = [_kind(prompt, node) for node in way]
    if kinds[-1] == "VAEEncode":  # the sampler is bypassed
        return shown(prompt, way[-1], "pixels")
    if re.fullmatch("Empty.*Latent.*", kinds[-1]):
        return EMPTY
    if kinds[-1] in _BASES:
        return GENERATED if all(kind in _PLAIN for kind in kinds[:-1]) else None
    task = _inputs(prompt, way[-1]).get("task") if kinds[-1] == _ADAPTERS else None
    if not isinstance(task, str) or task not in TASKS:
        return None
    return _TARGETS.get(TASKS[task].target, TASKS[task].target)


def _named(file: Any) -> str | None:
    """Return what a file of Load Panorama shows, by its name: the map that it names, or else a panorama."""
    if not isinstance(file, str):
        return None
    stem = PurePath(file).stem.lower()
    named = next((name for name in _MAPS if name in stem), PANORAMA)
    return VIEW if "depth_view" in stem else named


def task_of_picture(prompt: Prompt, node: str, name: str) -> str | None:
    """Return the task of the adapters that made what goes into a node's input; None where the graph doesn't tell."""
    origin = _origin(prompt, node, name)
    *_, last = [None, *_way(prompt, origin.node)] if origin is not None else [None]
    task = _inputs(prompt, last).get("task") if last is not None and _kind(prompt, last) == _ADAPTERS else None
    return task if isinstance(task, str) else None


def _origin(prompt: Prompt, node: str, name: str) -> Origin | None:
    """Return the output that made what an input is given, past nodes that leave a picture what it is."""
    found = _source(prompt, node, name)
    for _ in range(len(prompt)):
        if found is None or not (follow := _SAME_MAP.get(_kind(prompt, found.node))):
            break
        found = _source(prompt, found.node, follow)
    return found


def _way(prompt: Prompt, decoder: str) -> Iterator[str]:
    """Yield the nodes from a decoder's samples back to its sampler and along its model, to the adapters or a loader."""
    ways = ("adapters", "guider", "model", "samples", "latent", "latent_image")
    link = _source(prompt, decoder, "samples")
    for _ in range(len(prompt)):  # a graph has no circle, but a file may
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
