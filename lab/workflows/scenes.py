"""The blueprints that make a 3D scene of a panorama: of what it shows, and with what OmniX draws behind that."""

from __future__ import annotations

from dataclasses import replace

from .graph import Blueprint, Group, Link, Node, Value, node
from .parts import (
    FITTED,
    MAP_TASKS,
    PANORAMA,
    PANORAMA_HEIGHT,
    SCENE_TASKS,
    Several,
    again,
    condition,
    encoders,
    exchanged,
    fields,
    renamed,
    several,
    streams,
    text,
)

SCENE, WHOLE = "Panorama to 3D scene (OmniX)", "Panorama to whole 3D scene (OmniX)"
EMPTY_ROOM = "an empty room with bare walls and a bare floor, without furniture"
BEHIND_TASKS = ("rgb_to_depth", "rgb_to_albedo", "rgb_to_pbr")
SCENE_MAPS, BEHIND_MAPS = ("normal", "albedo", "roughness", "metallic"), ("albedo", "roughness", "metallic")
MESH = ("mesh", "glb", "gltf", "3D", "world")


def scene() -> Blueprint:
    """Return the box that turns a panorama into its maps, and them into one mesh."""
    groups, found, inputs, settings = several(SCENE_TASKS)
    maps = {name: found[name] for name in SCENE_MAPS}
    made = node("scene", "OmniXScene", image=Link("fitted"), depth=found["mask"], **maps)
    return Blueprint(
        SCENE,
        "A textured 3D mesh of a 360-degree panorama as GLB, for Blender, three.js and Unreal, by way of its depth, "
        "normals, albedo, roughness and metallic, with OmniX on FLUX.1-dev.",
        (*PANORAMA, *MESH),
        (*groups, Group("Scene", len(groups), (made,))),
        {**inputs, **fields("scene", "camera_height", "triangles", "unlit"), **settings},
        {
            **{name: Link("scene", name) for name in ("model_3d", "mesh", "report")},
            "panorama": Link("fitted"),
            **{"depth": found["depth"], **maps},
        },
    )


def filling(found: dict[str, Link]) -> tuple[Group, ...]:
    """Mask the things in front in the panorama and draw what is behind it; ends in `decoded_fill`."""
    maps = {"depth": found["mask"], "normal": found["normal"], "semantic": found["semantic"]}
    front = node("front", "OmniXForeground", image=Link("fitted"), **maps)
    words = replace(text(EMPTY_ROOM), name="text_fill")
    negative = node("negative", "ConditioningZeroOut", conditioning=Link("masked_rgb_condition"))
    nodes = (negative, *streams("image_to_pano", "masked_rgb_condition"))
    return (
        Group("Things in front", 0, (words, front, *condition("masked_rgb", "front", "text_fill"))),
        Group("What is behind it", 0, renamed(nodes, {one.name: f"{one.name}_fill" for one in nodes})),
    )


FILLING = fields("sampler_fill", "steps", "seed") | {"adapters_folder": "adapters_fill.folder"}


def whole_scene() -> Blueprint:
    """Return the box that also draws what stands behind things, and puts it into the scene as a second layer."""
    first, second = several(MAP_TASKS), again(several(BEHIND_TASKS), "behind", "decoded_fill")
    fitted = {FITTED.name: replace(FITTED, inputs={"height": PANORAMA_HEIGHT})}
    maps = {name: first.found[name] for name in (*SCENE_MAPS, "semantic")}
    outputs = {name: Link("scene", name) for name in ("model_3d", "mesh", "report")} | {"panorama": Link("fitted")}
    return Blueprint(
        WHOLE,
        "A textured 3D mesh of a 360-degree panorama as GLB, with objects as separate nodes and with the surfaces that "
        "OmniX on FLUX.1-dev draws behind them.",
        (*PANORAMA, *MESH, "inpaint", "background"),
        in_columns(
            exchanged(first.groups, fitted), filling(first.found), second.groups, (_layered(first, second, maps),)
        ),
        {
            **first.inputs,
            "clip": f"{first.inputs['clip']} text_fill.clip",
            "vae": " ".join(
                (first.inputs["vae"], encoders("masked_rgb", decoded="decoded_fill"), second.inputs["vae"])
            ),
            "prompt": "text_fill.prompt",
            "grow": "front.grow",
            **fields("scene", "camera_height", "triangles", "unlit"),
            **{n: " ".join((led, FILLING.get(n, ""), second.settings[n])) for n, led in first.settings.items()},
        },
        {
            **outputs,
            **{"masked": Link("front", "panorama"), "filled": Link("decoded_fill")},
            **{"depth": first.found["depth"], **maps},
        },
    )


def _layered(first: Several, second: Several, maps: dict[str, Link]) -> Group:
    """Make the scene of the panorama, and of the drawn one as a layer behind it."""
    behind = {name: second.found[name] for name in BEHIND_MAPS}
    depths = {"depth": second.found["mask"], "first_depth": first.found["mask"]}
    given: dict[str, Value | Link] = {"image": Link("decoded_fill"), **depths, "mask": Link("front", "mask"), **behind}
    layer = Node("layer", "OmniXBackgroundLayer", {**given, "if_different": "leave it out"})
    inputs: dict[str, Value | Link] = {"image": Link("fitted"), "depth": first.found["mask"], **maps}
    made = Node("scene", "OmniXScene", {**inputs, "background_layer": Link("layer"), "objects": True})
    return Group("Scene", 0, (layer, made))


def in_columns(*runs: tuple[Group, ...]) -> tuple[Group, ...]:
    """Return groups, each in a column of its own, but for those of a run that share one."""
    found: list[Group] = []
    for run in runs:
        start = 1 + max((group.column for group in found), default=-1)
        first = min(group.column for group in run)
        found += [replace(group, column=start + group.column - first) for group in run]
    return tuple(found)
