"""The boxes that perceive: a panorama goes in, its maps or its 3D scene come out, and the panorama in their size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .graph import Blueprint, Group, Link, Node, Value
from .parts import canvas, condition, reading, streams, text
from .scenes import scene
from .several import FITTED, FITTING, Ends, encoders, several

ALL_MAPS = "Panorama to all maps (OmniX)"
MAP_TASKS = ("rgb_to_depth", "rgb_to_normal", "rgb_to_albedo", "rgb_to_pbr", "rgb_to_semantic")
# What a depth gives beside the picture that the sheet shows.
UNSHOWN = ("mask", "view")
SAMPLING: Mapping[str, Ends] = {
    "steps": (("sampler", "steps"),),
    "seed": (("sampler", "seed"),),
    "adapters_folder": (("adapters", "folder"),),
}


def perceiver(task: str, what: str, words: str, aliases: tuple[str, ...]) -> Blueprint:
    """Return the box that turns a panorama into the maps of one task."""
    rays = task == "rgb_camray_to_normal"
    target = task.rpartition("_to_")[2]
    inner = (FITTED, text(), *condition("rgb", "fitted", "text"))
    conditioned = "rgb_condition"
    size = canvas("fitted", conditioned)
    if rays:
        measured: dict[str, Value | Link] = {n: Link("size", n) for n in ("width", "height")}
        negative, measuring, *others = canvas("fitted", "camray_condition").nodes
        inner += (measuring, Node("rays", "OmniXCameraRays", measured), *condition("camray", "rays", conditioned))
        conditioned = "camray_condition"
        size = replace(size, nodes=(negative, *others))
    read = reading(target)
    return Blueprint(
        f"Panorama to {what} (OmniX)",
        f"{words} of a 360-degree panorama, with OmniX on FLUX.1-dev.",
        ("360", "equirectangular", *aliases),
        (
            Group("Prompt and condition streams", 0, inner),
            size,
            Group("OmniX", 2, streams(task, conditioned)),
            *((Group("Maps", 3, read.nodes),) if read.nodes else ()),
        ),
        {
            "panorama": (("fitted", "image"),),
            "model": (("shifted", "model"),),
            "clip": (("text", "clip"),),
            "vae": encoders("rgb", *(("camray",) if rays else ())),
            **FITTING,
            **SAMPLING,
        },
        {"panorama": Link("fitted"), **read.outputs},
    )


def all_maps() -> Blueprint:
    """Return the box that turns a panorama into every map, and a sheet of them."""
    groups, found, inputs, settings = several(MAP_TASKS)
    shown: dict[str, Value | Link] = {**found, "depth": found["view"], "columns": 2}
    sheet = Node("sheet", "OmniXContactSheet", {name: given for name, given in shown.items() if name not in UNSHOWN})
    return Blueprint(
        ALL_MAPS,
        "Depth, normals, albedo, roughness, metallic and semantics of a 360-degree panorama, and a sheet of them, with "
        "OmniX on FLUX.1-dev. A map whose output is not linked is not made.",
        ("360", "equirectangular", "depth map", "normal map", "pbr", "segmentation"),
        (*groups, Group("Sheet", len(groups), (sheet,))),
        {**inputs, **settings},
        {
            "panorama": Link("fitted"),
            **{name: link for name, link in found.items() if name != "view"},
            "sheet": Link("sheet"),
        },
    )


SAVED = "OmniX_00001_.safetensors"
"""What the workflow that saves the prompt once writes first."""


def with_saved_prompt(box: Blueprint) -> Blueprint:
    """Return a box that perceives with a prompt from a file, so that no text encoder is loaded."""
    prompt = Node("text", "OmniXLoadConditioning", {"name": SAVED})
    groups = (replace(each, nodes=tuple(prompt if n.name == "text" else n for n in each.nodes)) for each in box.groups)
    inputs = {label: ends for label, ends in box.inputs.items() if label != "clip"}
    return replace(
        box,
        name=box.name.replace(" (OmniX)", " with saved prompt (OmniX)"),
        description=f"{box.description} The prompt comes from a file of Save OmniX Conditioning: T5 is not loaded.",
        aliases=(*box.aliases, "without T5"),
        groups=tuple(groups),
        inputs={**inputs, "saved_prompt": (("text", "name"),)},
    )


CAMERA_RAYS = "normal with camera rays"
PERCEIVERS = (
    perceiver("rgb_to_depth", "depth", "Relative distance", ("depth map", "distance")),
    perceiver("rgb_to_normal", "normal", "World-space normals", ("normal map",)),
    perceiver("rgb_camray_to_normal", CAMERA_RAYS, "World-space normals", ("normal map", "camray")),
    perceiver("rgb_to_albedo", "albedo", "Albedo", ("intrinsic", "base color")),
    perceiver("rgb_to_pbr", "roughness and metallic", "Roughness and metallic", ("pbr", "material")),
    perceiver("rgb_to_semantic", "semantic", "Semantics", ("segmentation",)),
    all_maps(),
    scene(),
)
