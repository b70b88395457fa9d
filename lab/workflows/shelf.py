"""The blueprints that are shipped: each a part of the graphs, and a node in the browser's node library.

First those that perceive: a panorama goes in, its maps or its 3D scene come out, and the panorama in their size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .graph import Blueprint, Group, Link, Node, Value
from .notes import YOUR_LORA
from .parts import (
    FITTED,
    FITTING,
    GUIDANCE,
    PANORAMA_HEIGHT,
    PANORAMA_WIDTH,
    STEPS,
    Ends,
    canvas,
    condition,
    encoders,
    models,
    reading,
    sampler,
    several,
    streams,
    text,
)
from .scenes import scene, whole_scene

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


FLUX, SETTINGS = "FLUX.1-dev (OmniX)", "Steps and seed (OmniX)"
PICTURE_PROMPT = "a sunlit living room with a grey sofa, wooden floor and large windows"


def completed(prompt: Value | Link, column: int) -> tuple[Group, ...]:
    """Complete a perspective picture to a panorama: the groups from `column` on; ends in `decoded`."""
    placed: dict[str, Value | Link] = {"width": PANORAMA_WIDTH, "height": PANORAMA_HEIGHT, "fov_x": 90.0}
    if prompt:
        placed["image"] = Link("picture")
    laid = Node("placed", "OmniXPlaceOnPanorama", {**placed, "yaw": 0.0, "pitch": 0.0})
    words = (text(prompt), laid, *condition("masked_rgb", "placed", "text"))
    shared = canvas("placed", "masked_rgb_condition")
    return (
        Group("Prompt and condition stream", column, words),
        Group(shared.title, column + 1, shared.nodes),
        Group("OmniX", column + 2, streams("image_to_pano", "masked_rgb_condition", after="randomize")),
    )


def image_to_panorama() -> Blueprint:
    """Return the box that completes a picture."""
    return Blueprint(
        "Image to panorama (OmniX)",
        "Complete a picture to a seamless 360-degree panorama, with OmniX on FLUX.1-dev.",
        ("360", "equirectangular", "outpaint", "skybox"),
        completed("", 0),
        {
            "image": (("placed", "image"),),
            "model": (("shifted", "model"),),
            "clip": (("text", "clip"),),
            "vae": encoders("masked_rgb"),
            "prompt": (("text", "prompt"),),
            **{name: (("placed", name),) for name in ("width", "height", "fov_x", "yaw", "pitch")},
            **SAMPLING,
        },
        {"panorama": Link("decoded")},
    )


def text_to_panorama() -> Blueprint:
    """Return the box that paints a square picture with FLUX alone and completes it."""
    square: dict[str, Value | Link] = {"width": PANORAMA_HEIGHT, "height": PANORAMA_HEIGHT}
    words = Node("words", "PrimitiveStringMultiline", {"value": PICTURE_PROMPT}, "What the panorama shows")
    painting = (
        words,
        Node("picture_text", "OmniXEncodePrompt", {"prompt": Link("words"), "guidance": GUIDANCE, "tag": False}),
        Node("picture_negative", "ConditioningZeroOut", {"conditioning": Link("picture_text")}),
        Node("picture_empty", "EmptySD3LatentImage", square),
        Node("picture_shift", "ModelSamplingFlux", square),
        sampler(
            "picture_sampler", "picture_shift", "picture_text", "picture_negative", "picture_empty", after="randomize"
        ),
        Node("picture", "VAEDecode", {"samples": Link("picture_sampler")}),
    )
    sides = tuple((name, side) for name in ("picture_empty", "picture_shift") for side in ("width", "height"))
    return Blueprint(
        "Text to panorama (OmniX)",
        "Paint a picture with FLUX.1-dev and complete it to a seamless 360-degree panorama, with OmniX.",
        ("360", "equirectangular", "text to 360", "skybox", "HDRI"),
        (Group("A square picture with FLUX alone", 0, painting), *completed(Link("words"), 1)),
        {
            "model": (("picture_shift", "model"), ("shifted", "model")),
            "clip": (("picture_text", "clip"), ("text", "clip")),
            "vae": (("picture", "vae"), *encoders("masked_rgb")),
            "prompt": (("words", "value"),),
            "width": (("placed", "width"),),
            "height": (("placed", "height"), *sides),
            "steps": (("sampler", "steps"), ("picture_sampler", "steps")),
            "seed": (("sampler", "seed"), ("picture_sampler", "seed")),
            "adapters_folder": SAMPLING["adapters_folder"],
        },
        {"panorama": Link("decoded")},
    )


ANY_MODEL = "Text to panorama with any model (OmniX)"


def any_model() -> Blueprint:
    """Return the box that lets any model paint a panorama whose edges meet."""
    size: dict[str, Value | Link] = {"width": PANORAMA_WIDTH, "height": PANORAMA_HEIGHT}
    painting = (
        Node("text", "CLIPTextEncode", {"text": f"360 degree equirectangular panorama, {PICTURE_PROMPT}"}),
        Node("negative", "ConditioningZeroOut", {"conditioning": Link("text")}),
        Node("empty", "EmptySD3LatentImage", size),
        Node("lora", "LoraLoaderModelOnly", {"lora_name": YOUR_LORA, "strength_model": 1.0}),
        Node("seamless", "OmniXSeamlessPanorama", {"model": Link("lora")}),
        sampler("sampler", "seamless", "text", "negative", "empty", after="randomize"),
        Node("decoded", "OmniXDecodePanorama", {"samples": Link("sampler")}),
    )
    return Blueprint(
        ANY_MODEL,
        "Paint a seamless 360-degree panorama with any image model and its LoRA: Qwen-Image, Z-Image, Krea 2, SDXL and "
        "others.",
        ("360", "equirectangular", "text to 360", "skybox", "HDRI", "LoRA"),
        (Group("Any model", 0, painting[:3]), Group("Its edges meet", 1, painting[3:])),
        {
            "model": (("lora", "model"),),
            "clip": (("text", "clip"),),
            "vae": (("decoded", "vae"),),
            "lora_name": (("lora", "lora_name"),),
            "lora_strength": (("lora", "strength_model"),),
            "prompt": (("text", "text"),),
            "width": (("empty", "width"),),
            "height": (("empty", "height"),),
            **{name: (("sampler", name),) for name in ("steps", "cfg", "seed")},
        },
        {"panorama": Link("decoded")},
    )


def flux() -> Blueprint:
    """Return the box that loads what all others need."""
    fields = {
        "unet_name": ("flux", "unet_name"),
        "weight_dtype": ("flux", "weight_dtype"),
        "clip_name1": ("clip", "clip_name1"),
        "clip_name2": ("clip", "clip_name2"),
        "vae_name": ("vae", "vae_name"),
    }
    return Blueprint(
        FLUX,
        "FLUX.1-dev, its text encoders and its VAE, for the OmniX blueprints. Any other loader of FLUX.1-dev does too.",
        ("omnix", "flux", "models"),
        (models(),),
        {label: (end,) for label, end in fields.items()},
        {"model": Link("flux"), "clip": Link("clip"), "vae": Link("vae")},
    )


def settings() -> Blueprint:
    """Return the box that sets steps and seed for several others."""
    numbers = (Node("steps", "PrimitiveInt", {"value": STEPS}), Node("seed", "PrimitiveInt", {"value": 0}))
    return Blueprint(
        SETTINGS,
        "One place for the steps and the seed of several OmniX blueprints.",
        ("omnix", "steps", "seed"),
        (Group("Settings", 0, numbers),),
        {"steps": (("steps", "value"),), "seed": (("seed", "value"),)},
        {"steps": Link("steps"), "seed": Link("seed")},
    )


BLUEPRINTS = (
    flux(),
    settings(),
    *PERCEIVERS,
    image_to_panorama(),
    text_to_panorama(),
    any_model(),
    whole_scene(),
    *map(with_saved_prompt, PERCEIVERS),
)
