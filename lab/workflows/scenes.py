"""The blueprints that make a 3D scene of a panorama: of what it shows, and with what OmniX draws behind that."""

from __future__ import annotations

from dataclasses import replace

from .graph import Blueprint, Group, Link, Node, Value
from .parts import FITTED, PANORAMA_HEIGHT, Several, again, condition, encoders, renamed, several, streams, text

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


WHOLE = "Panorama to whole 3D scene (OmniX)"
EMPTY_ROOM = "an empty room with bare walls and a bare floor, without furniture"
BEHIND_TASKS = ("rgb_to_depth", "rgb_to_albedo", "rgb_to_pbr")
FILLING = {
    **{name: (("sampler_fill", name),) for name in ("steps", "seed")},
    "adapters_folder": (("adapters_fill", "folder"),),
}
BEHIND_MAPS = ("albedo", "roughness", "metallic")


def filling(found: dict[str, Link]) -> tuple[Group, ...]:
    """Mask the things in front in the panorama and draw what is behind it; ends in `decoded_fill`."""
    maps: dict[str, Value | Link] = {
        "image": Link("fitted"),
        "depth": found["mask"],
        **{n: found[n] for n in ("normal", "semantic")},
    }
    words = replace(text(EMPTY_ROOM), name="text_fill")
    front = (words, Node("front", "OmniXForeground", maps), *condition("masked_rgb", "front", "text_fill"))
    negative = Node("negative", "ConditioningZeroOut", {"conditioning": Link("masked_rgb_condition")})
    nodes = (negative, *streams("image_to_pano", "masked_rgb_condition"))
    drawn = renamed(nodes, {node.name: f"{node.name}_fill" for node in nodes})
    return Group("Things in front", 0, front), Group("What is behind it", 0, drawn)


def whole_scene() -> Blueprint:
    """Return the box that also draws what stands behind things, and puts it into the scene as a second layer."""
    first = at_rows(several((*SCENE_TASKS, "rgb_to_semantic")), PANORAMA_HEIGHT)
    second = again(several(BEHIND_TASKS), "behind", "decoded_fill")
    layer: dict[str, Value | Link] = {
        **{"image": Link("decoded_fill"), "depth": second.found["mask"], "first_depth": first.found["mask"]},
        **{"mask": Link("front", "mask"), **{name: second.found[name] for name in BEHIND_MAPS}},
        "if_different": "leave it out",
    }
    given: dict[str, Value | Link] = {
        **{
            "image": Link("fitted"),
            "depth": first.found["mask"],
            **{name: first.found[name] for name in (*SCENE_MAPS, "semantic")},
        },
        **{"background_layer": Link("layer"), "objects": True},
    }
    made = Node("layer", "OmniXBackgroundLayer", layer), Node("scene", "OmniXScene", given)
    return Blueprint(
        WHOLE,
        "A textured 3D mesh of a 360-degree panorama as GLB, with objects as nodes of their own and with what OmniX on "
        "FLUX.1-dev draws behind them.",
        ("360", "equirectangular", "mesh", "glb", "gltf", "3D", "world", "inpaint", "background"),
        in_columns(first.groups, filling(first.found), second.groups, (Group("Scene", 0, made),)),
        {
            **first.inputs,
            "clip": (*first.inputs["clip"], ("text_fill", "clip")),
            "vae": (*first.inputs["vae"], *encoders("masked_rgb", decoded="decoded_fill"), *second.inputs["vae"]),
            "prompt": (("text_fill", "prompt"),),
            "grow": (("front", "grow"),),
            **{name: (("scene", name),) for name in ("camera_height", "triangles", "unlit")},
            **{name: (*led, *FILLING.get(name, ()), *second.settings[name]) for name, led in first.settings.items()},
        },
        {
            **{name: Link("scene", name) for name in ("model_3d", "mesh", "report")},
            "panorama": Link("fitted"),
            **{"masked": Link("front", "panorama"), "filled": Link("decoded_fill")},
            **{name: first.found[name] for name in ("depth", *SCENE_MAPS, "semantic")},
        },
    )


def at_rows(run: Several, rows: int) -> Several:
    """Return tasks that bring the panorama down to so many rows."""
    fitted = replace(FITTED, inputs={"height": rows})
    groups = (replace(g, nodes=tuple(fitted if n.name == FITTED.name else n for n in g.nodes)) for g in run.groups)
    return run._replace(groups=tuple(groups))


def in_columns(*runs: tuple[Group, ...]) -> tuple[Group, ...]:
    """Return groups, each in a column of its own, but for those of a run that share one."""
    found: list[Group] = []
    for run in runs:
        start = 1 + max((group.column for group in found), default=-1)
        first = min(group.column for group in run)
        found += [replace(group, column=start + group.column - first) for group in run]
    return tuple(found)
