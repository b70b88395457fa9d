"""The boxes that perceive: a panorama goes in, its maps or its 3D scene come out, and the panorama in their size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from .graph import Blueprint, Group, Link, Node, Value
from .parts import Reading, canvas, condition, reading, streams, text

Ends = tuple[tuple[str, str], ...]
ALL_MAPS = "Panorama to all maps (OmniX)"
MAP_TASKS = ("rgb_to_depth", "rgb_to_normal", "rgb_to_albedo", "rgb_to_pbr", "rgb_to_semantic")
ROWS = 720
"""Most rows that the authors perceive at; a box brings larger panoramas down to it."""
# What a depth gives beside the picture that the sheet shows.
UNSHOWN = ("mask", "view")
SAMPLING: Mapping[str, Ends] = {
    "steps": (("sampler", "steps"),),
    "seed": (("sampler", "seed"),),
    "adapters_folder": (("adapters", "folder"),),
}


# What the box works at, and gives out beside its maps, so that they have one size.
FITTED = Node("fitted", "OmniXFitPanorama", {"height": ROWS})
FITTING: Mapping[str, Ends] = {name: (("fitted", name),) for name in ("height", "fit")}


def encoders(*names: str) -> Ends:
    """Return where the VAE goes: to the encoders of these streams, and to the decoder."""
    return (*((f"{name}_latent", "vae") for name in names), ("decoded", "vae"))


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


def one_of_all(task: str) -> Reading:
    """Run one task beside others: its nodes, named after its target, and what they give."""
    target = task.rpartition("_to_")[2]
    nodes, read = streams(task, "rgb_condition"), reading(target)
    names = {node.name: f"{node.name}_{target}" for node in nodes}

    def renamed(node: Node) -> Node:
        inputs = {
            field: Link(names.get(given.node, given.node), given.output) if isinstance(given, Link) else given
            for field, given in node.inputs.items()
        }
        return replace(node, name=names.get(node.name, node.name), inputs=inputs)

    outputs = {name: Link(names.get(link.node, link.node), link.output) for name, link in read.outputs.items()}
    return Reading(tuple(renamed(node) for node in (*nodes, *read.nodes)), outputs)


class Several(NamedTuple):
    """Tasks in one box: their groups, the maps that they give by name, and what the box's inputs and settings set."""

    groups: tuple[Group, ...]
    found: dict[str, Link]
    inputs: Mapping[str, Ends]
    settings: Mapping[str, Ends]


def several(tasks: Sequence[str]) -> Several:
    """Run tasks beside each other on one panorama; prompt and picture are encoded once."""
    runs = {task.rpartition("_to_")[2]: one_of_all(task) for task in tasks}
    return Several(
        (
            Group("Prompt and condition stream", 0, (FITTED, text(), *condition("rgb", "fitted", "text"))),
            canvas("fitted", "rgb_condition"),
            *(Group(target.capitalize(), 2 + i, run.nodes) for i, (target, run) in enumerate(runs.items())),
        ),
        {name: link for run in runs.values() for name, link in run.outputs.items()},
        {
            "panorama": (("fitted", "image"),),
            "model": (("shifted", "model"),),
            "clip": (("text", "clip"),),
            "vae": (("rgb_latent", "vae"), *((f"decoded_{target}", "vae") for target in runs)),
        },
        {
            **FITTING,
            "steps": tuple((f"sampler_{target}", "steps") for target in runs),
            "seed": tuple((f"sampler_{target}", "seed") for target in runs),
            "adapters_folder": tuple((f"adapters_{target}", "folder") for target in runs),
        },
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


SCENE = "Panorama to 3D scene (OmniX)"
SCENE_TASKS = ("rgb_to_depth", "rgb_to_normal", "rgb_to_albedo", "rgb_to_pbr")
SCENE_MAPS = ("normal", "albedo", "roughness", "metallic")


def scene() -> Blueprint:
    """Return the box that turns a panorama into its maps, and them into one mesh."""
    groups, found, inputs, settings = several(SCENE_TASKS)
    given: dict[str, Value | Link] = {"image": Link("fitted"), "depth": found["mask"]}
    given |= {name: found[name] for name in SCENE_MAPS}
    made = Node("scene", "OmniXScene", given)
    return Blueprint(
        SCENE,
        "A textured 3D mesh of a 360-degree panorama as GLB, for Blender, three.js and Unreal, by way of its depth, "
        "normals, albedo, roughness and metallic, with OmniX on FLUX.1-dev.",
        ("360", "equirectangular", "mesh", "glb", "gltf", "3D", "world"),
        (*groups, Group("Scene", len(groups), (made,))),
        {
            **inputs,
            "camera_height": (("scene", "camera_height"),),
            "triangles": (("scene", "triangles"),),
            "unlit": (("scene", "unlit"),),
            **settings,
        },
        {
            **{name: Link("scene", name) for name in ("model_3d", "mesh", "report")},
            "panorama": Link("fitted"),
            **{name: found[name] for name in ("depth", *SCENE_MAPS)},
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
