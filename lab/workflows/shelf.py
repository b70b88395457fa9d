"""The blueprints that are shipped: each a part of the graphs, and a node in the browser's node library.

First those that perceive: a panorama goes in, its maps or its 3D scene come out, and the panorama in their size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from .graph import Blueprint, Group, Link, Node, Value, node
from .notes import YOUR_LORA
from .parts import (
    FITTED,
    FITTING,
    GUIDANCE,
    MAP_TASKS,
    PANORAMA,
    PANORAMA_HEIGHT,
    PANORAMA_WIDTH,
    STEPS,
    canvas,
    condition,
    encoders,
    exchanged,
    fields,
    models,
    reading,
    sampler,
    several,
    streams,
    text,
)
from .scenes import scene, whole_scene

FLUX, SETTINGS, ALL_MAPS = "FLUX.1-dev (OmniX)", "Steps and seed (OmniX)", "Panorama to all maps (OmniX)"
ANY_MODEL = "Text to panorama with any model (OmniX)"
PICTURE_PROMPT = "a sunlit living room with a grey sofa, wooden floor and large windows"
SAVED = "OmniX_00001_.safetensors"
"""What the workflow that saves the prompt once writes first."""
SAMPLING = fields("sampler", "steps", "seed") | {"adapters_folder": "adapters.folder"}


class Perceiving(NamedTuple):
    """One perception task in words: its workflow's number, its name, its note's title, what its box makes, aliases."""

    number: str
    name: str
    title: str
    words: str
    aliases: tuple[str, ...]


PERCEIVING = {
    "rgb_to_depth": Perceiving("03", "depth", "Depth", "Relative distance", ("depth map", "distance")),
    "rgb_to_normal": Perceiving("04", "normal", "Normals", "World-space normals", ("normal map",)),
    "rgb_camray_to_normal": Perceiving(
        "05", "normal with camera rays", "Normals", "World-space normals", ("normal map", "camray")
    ),
    "rgb_to_albedo": Perceiving("06", "albedo", "Albedo", "Albedo", ("intrinsic", "base color")),
    "rgb_to_pbr": Perceiving(
        "07", "roughness and metallic", "Roughness and metallic", "Roughness and metallic", ("pbr", "material")
    ),
    "rgb_to_semantic": Perceiving("08", "semantic", "Semantics", "Semantics", ("segmentation",)),
}


def perceiver(task: str) -> Blueprint:
    """Return the box that turns a panorama into the maps of one task."""
    rays, row, read = "camray" in task, PERCEIVING[task], reading(task.rpartition("_to_")[2])
    conditioned = "camray_condition" if rays else "rgb_condition"
    inner, size = (FITTED, text(), *condition("rgb", "fitted", "text")), canvas("fitted", conditioned)
    if rays:
        negative, measuring, *others = size.nodes
        rays_of = node("rays", "OmniXCameraRays", width=Link("size", "width"), height=Link("size", "height"))
        inner += (measuring, rays_of, *condition("camray", "rays", "rgb_condition"))
        size = replace(size, nodes=(negative, *others))
    return Blueprint(
        f"Panorama to {row.name} (OmniX)",
        f"{row.words} of a 360-degree panorama, with OmniX on FLUX.1-dev.",
        (*PANORAMA, *row.aliases),
        (
            Group("Prompt and condition streams", 0, inner),
            size,
            Group("OmniX", 2, streams(task, conditioned)),
            *((Group("Maps", 3, read.nodes),) if read.nodes else ()),
        ),
        {
            **{"panorama": "fitted.image", "model": "shifted.model", "clip": "text.clip"},
            "vae": encoders("rgb", *(("camray",) if rays else ())),
            **FITTING,
            **SAMPLING,
        },
        {"panorama": Link("fitted"), **read.outputs},
    )


def all_maps() -> Blueprint:
    """Return the box that turns a panorama into every map, and a sheet of them."""
    groups, found, inputs, settings = several(MAP_TASKS)
    shown = {name: link for name, link in found.items() if name not in ("mask", "view")}
    sheet = node("sheet", "OmniXContactSheet", **shown | {"depth": found["view"]}, columns=2)
    return Blueprint(
        ALL_MAPS,
        "Depth, normals, albedo, roughness, metallic and semantics of a 360-degree panorama, and a sheet of them, with "
        "OmniX on FLUX.1-dev. A map whose output is not linked is not made.",
        (*PANORAMA, "depth map", "normal map", "pbr", "segmentation"),
        (*groups, Group("Sheet", len(groups), (sheet,))),
        {**inputs, **settings},
        {
            "panorama": Link("fitted"),
            **{name: link for name, link in found.items() if name != "view"},
            "sheet": Link("sheet"),
        },
    )


def with_saved_prompt(box: Blueprint) -> Blueprint:
    """Return a box that perceives with a prompt from a file, so that no text encoder is loaded."""
    prompt = Node("text", "OmniXLoadConditioning", {"name": SAVED})
    inputs = {label: ends for label, ends in box.inputs.items() if label != "clip"}
    return replace(
        box,
        name=box.name.replace(" (OmniX)", " with saved prompt (OmniX)"),
        description=f"{box.description} The prompt comes from a file of Save OmniX Conditioning: T5 is not loaded.",
        aliases=(*box.aliases, "without T5"),
        groups=exchanged(box.groups, {"text": prompt}),
        inputs={**inputs, "saved_prompt": "text.name"},
    )


def completed(prompt: Value | Link, column: int) -> tuple[Group, ...]:
    """Complete a perspective picture to a panorama: the groups from `column` on; ends in `decoded`."""
    own = {"image": Link("picture")} if prompt else {}
    size = {"width": PANORAMA_WIDTH, "height": PANORAMA_HEIGHT}
    placed = node("placed", "OmniXPlaceOnPanorama", **own, **size, fov_x=90.0, yaw=0.0, pitch=0.0)
    words = (text(prompt), placed, *condition("masked_rgb", "placed", "text"))
    return (
        Group("Prompt and condition stream", column, words),
        replace(canvas("placed", "masked_rgb_condition"), column=column + 1),
        Group("OmniX", column + 2, streams("image_to_pano", "masked_rgb_condition", after="randomize")),
    )


def image_to_panorama() -> Blueprint:
    """Return the box that completes a picture."""
    return Blueprint(
        "Image to panorama (OmniX)",
        "Complete a picture to a seamless 360-degree panorama, with OmniX on FLUX.1-dev.",
        (*PANORAMA, "outpaint", "skybox"),
        completed("", 0),
        {
            **{"image": "placed.image", "model": "shifted.model", "clip": "text.clip", "vae": encoders("masked_rgb")},
            "prompt": "text.prompt",
            **fields("placed", "width", "height", "fov_x", "yaw", "pitch"),
            **SAMPLING,
        },
        {"panorama": Link("decoded")},
    )


def text_to_panorama() -> Blueprint:
    """Return the box that paints a square picture with FLUX alone and completes it."""
    square = {"width": PANORAMA_HEIGHT, "height": PANORAMA_HEIGHT}
    links = ("picture_shift", "picture_text", "picture_negative", "picture_empty")
    painting = (
        node("words", "PrimitiveStringMultiline", "What the panorama shows", value=PICTURE_PROMPT),
        node("picture_text", "OmniXEncodePrompt", prompt=Link("words"), guidance=GUIDANCE, tag=False),
        node("picture_negative", "ConditioningZeroOut", conditioning=Link("picture_text")),
        node("picture_empty", "EmptySD3LatentImage", **square),
        node("picture_shift", "ModelSamplingFlux", **square),
        sampler("picture_sampler", *links, after="randomize"),
        node("picture", "VAEDecode", samples=Link("picture_sampler")),
    )
    sides = " ".join(f"{name}.{side}" for name in ("picture_empty", "picture_shift") for side in square)
    return Blueprint(
        "Text to panorama (OmniX)",
        "Paint a picture with FLUX.1-dev and complete it to a seamless 360-degree panorama, with OmniX.",
        (*PANORAMA, "text to 360", "skybox", "HDRI"),
        (Group("A square picture with FLUX alone", 0, painting), *completed(Link("words"), 1)),
        {
            "model": "picture_shift.model shifted.model",
            "clip": "picture_text.clip text.clip",
            "vae": f"picture.vae {encoders('masked_rgb')}",
            "prompt": "words.value",
            "width": "placed.width",
            "height": f"placed.height {sides}",
            **{name: f"sampler.{name} picture_sampler.{name}" for name in ("steps", "seed")},
            "adapters_folder": "adapters.folder",
        },
        {"panorama": Link("decoded")},
    )


def any_model() -> Blueprint:
    """Return the box that lets any model paint a panorama whose edges meet."""
    painting = (
        node("text", "CLIPTextEncode", text=f"360 degree equirectangular panorama, {PICTURE_PROMPT}"),
        node("negative", "ConditioningZeroOut", conditioning=Link("text")),
        node("empty", "EmptySD3LatentImage", width=PANORAMA_WIDTH, height=PANORAMA_HEIGHT),
        node("lora", "LoraLoaderModelOnly", lora_name=YOUR_LORA, strength_model=1.0),
        node("seamless", "OmniXSeamlessPanorama", model=Link("lora")),
        sampler("sampler", "seamless", "text", "negative", "empty", after="randomize"),
        node("decoded", "OmniXDecodePanorama", samples=Link("sampler")),
    )
    return Blueprint(
        ANY_MODEL,
        "Paint a seamless 360-degree panorama with any image model and its LoRA: Qwen-Image, Z-Image, Krea 2, SDXL and "
        "others.",
        (*PANORAMA, "text to 360", "skybox", "HDRI", "LoRA"),
        (Group("Any model", 0, painting[:3]), Group("Its edges meet", 1, painting[3:])),
        {
            **{"model": "lora.model", "clip": "text.clip", "vae": "decoded.vae", "lora_name": "lora.lora_name"},
            **{"lora_strength": "lora.strength_model", "prompt": "text.text"},
            **fields("empty", "width", "height"),
            **fields("sampler", "steps", "cfg", "seed"),
        },
        {"panorama": Link("decoded")},
    )


def flux() -> Blueprint:
    """Return the box that loads what all others need."""
    return Blueprint(
        FLUX,
        "FLUX.1-dev, its text encoders and its VAE, for the OmniX blueprints. Other loaders of FLUX.1-dev work too.",
        ("omnix", "flux", "models"),
        (models(),),
        fields("flux", "unet_name", "weight_dtype")
        | fields("clip", "clip_name1", "clip_name2")
        | fields("vae", "vae_name"),
        {"model": Link("flux"), "clip": Link("clip"), "vae": Link("vae")},
    )


def settings() -> Blueprint:
    """Return the box that sets steps and seed for several others."""
    numbers = (node("steps", "PrimitiveInt", value=STEPS), node("seed", "PrimitiveInt", value=0))
    return Blueprint(
        SETTINGS,
        "One place for the steps and the seed of several OmniX blueprints.",
        ("omnix", "steps", "seed"),
        (Group("Settings", 0, numbers),),
        {"steps": "steps.value", "seed": "seed.value"},
        {"steps": Link("steps"), "seed": Link("seed")},
    )


PERCEIVERS = (*map(perceiver, PERCEIVING), all_maps(), scene())
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
