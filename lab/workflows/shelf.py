"""The blueprints that are shipped: each a part of the graphs, and a node of its own in the browser's node library."""

from __future__ import annotations

from .graph import Blueprint, Group, Link, Node, Value
from .notes import YOUR_LORA
from .parts import (
    GUIDANCE,
    PANORAMA_HEIGHT,
    PANORAMA_WIDTH,
    STEPS,
    canvas,
    condition,
    models,
    sampler,
    streams,
    text,
)
from .perceivers import PERCEIVERS, SAMPLING, with_saved_prompt
from .scenes import whole_scene
from .several import encoders

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
