"""The graphs that are shipped, each written once; `build.py` turns them into every form."""

from __future__ import annotations

from .graph import Graph, Group, Link, Node, Value
from .notes import generation_notes, maps_notes, perception_notes, prompt_notes
from .parts import (
    GUIDANCE,
    PANORAMA_HEIGHT,
    PANORAMA_WIDTH,
    canvas,
    condition,
    models,
    panorama_input,
    reading,
    sampler,
    saved,
    savers,
    streams,
    text,
    viewer,
)

PICTURE_PROMPT = "a sunlit living room with a grey sofa, wooden floor and large windows"


def perception(slug: str, name: str, what: str, target: str, rays: bool = False) -> Graph:
    """Turn a panorama into the maps of one task."""
    words = (*text(), *condition("rgb", "panorama", "guided"))
    conditioned = "rgb_condition"
    if rays:
        size: dict[str, Value | Link] = {n: Link("size", n) for n in ("width", "height")}
        words += (Node("rays", "OmniXCameraRays", size), *condition("camray", "rays", conditioned))
        conditioned = "camray_condition"
    read = reading(target)
    return Graph(
        slug,
        name,
        (
            panorama_input(),
            models(),
            Group("Prompt and condition streams", 1, words),
            canvas("panorama", conditioned),
            Group("OmniX", 3, streams(slug, conditioned)),
            Group("Maps", 4, (*read.nodes, *savers(read.maps))),
            Group("Look around", 5, (viewer("panorama", read.maps),)),
        ),
        perception_notes(slug, what),
    )


def completion(slug: str, name: str, before: tuple[Group, ...], prompt: Value | Link, column: int) -> Graph:
    """Complete a perspective picture, the output `picture` of `before`, to a panorama."""
    placed: dict[str, Value | Link] = {
        "image": Link("picture"),
        "width": PANORAMA_WIDTH,
        "height": PANORAMA_HEIGHT,
        "fov_x": 90.0,
    }
    laid = Node("placed", "OmniXPlaceOnPanorama", placed)
    words = (*text(prompt), laid, *condition("masked_rgb", "placed", "guided"))
    shared = canvas("placed", "masked_rgb_condition")
    return Graph(
        slug,
        name,
        (
            *before,
            Group("Prompt and condition stream", column, words),
            Group(shared.title, column + 1, shared.nodes),
            Group("OmniX", column + 2, streams("image_to_pano", "masked_rgb_condition", after="randomize")),
            Group("Panorama", column + 3, (saved("panorama", Link("decoded")), viewer("decoded", {}))),
        ),
        generation_notes(slug),
    )


def image_to_pano() -> Graph:
    """Complete the user's picture to a panorama."""
    picture = Group("Your picture", 0, (Node("picture", "LoadImage", {"image": "example.png"}),))
    return completion("image_to_pano", "OmniX 1 - Image to panorama", (picture, models()), "", 1)


def text_to_pano() -> Graph:
    """Paint a square picture with FLUX alone and complete it to a panorama."""
    square: dict[str, Value | Link] = {"width": PANORAMA_HEIGHT, "height": PANORAMA_HEIGHT}
    words: dict[str, Value | Link] = {"clip": Link("clip"), "text": Link("words")}
    painting = (
        Node("picture_text", "CLIPTextEncode", words),
        Node("picture_guided", "FluxGuidance", {"conditioning": Link("picture_text"), "guidance": GUIDANCE}),
        Node("picture_negative", "ConditioningZeroOut", {"conditioning": Link("picture_text")}),
        Node("picture_empty", "EmptySD3LatentImage", square),
        Node("picture_shift", "ModelSamplingFlux", {"model": Link("flux"), **square}),
        sampler(
            "picture_sampler", "picture_shift", "picture_guided", "picture_negative", "picture_empty", after="randomize"
        ),
        Node("picture", "VAEDecode", {"samples": Link("picture_sampler"), "vae": Link("vae")}),
    )
    prompt = Node("words", "PrimitiveStringMultiline", {"value": PICTURE_PROMPT}, "What the panorama shows")
    before = (Group("Your prompt", 0, (prompt,)), models(), Group("A square picture with FLUX alone", 1, painting))
    return completion("text_to_pano", "OmniX 2 - Text to panorama", before, Link("words"), 2)


def all_maps() -> Graph:
    """Turn a panorama into all maps, with one model and one encoded panorama."""
    tasks: list[Group] = []
    maps: dict[str, Link] = {}
    for column, (target, title) in enumerate(TARGETS.items(), 3):
        tail = f"_{target}"
        read = reading(target, tail)
        nodes = (*streams(f"rgb_to_{target}", "rgb_condition", tail), *read.nodes, *savers(read.maps))
        tasks.append(Group(title, column, nodes))
        maps |= read.maps
    sheet = {**maps, "depth": Link("depth_view"), "panorama": Link("panorama"), "columns": 2}
    overview = (Node("sheet", "OmniXContactSheet", sheet), saved("sheet", Link("sheet")))
    last = 3 + len(tasks)
    return Graph(
        "all_maps",
        "OmniX 9 - Panorama to all maps",
        (
            panorama_input(),
            models(),
            Group("Prompt and condition stream", 1, (*text(), *condition("rgb", "panorama", "guided"))),
            canvas("panorama", "rgb_condition"),
            *tasks,
            Group("Overview", last, overview),
            Group("Look around", last + 1, (viewer("panorama", maps),)),
        ),
        maps_notes(),
    )


def save_prompt() -> Graph:
    """Encode the constant prompt of perception once, for good."""
    written: dict[str, Value | Link] = {"conditioning": Link("guided"), "filename_prefix": "conditioning/OmniX"}
    clip = Node("clip", "DualCLIPLoader", models().nodes[1].inputs)
    return Graph(
        "save_prompt",
        "OmniX extra - Save the prompt once",
        (
            Group("Text encoders", 0, (clip,)),
            Group("Prompt", 1, text()),
            Group("Save", 2, (Node("save", "OmniXSaveConditioning", written),)),
        ),
        prompt_notes(),
    )


TARGETS = {
    "depth": "Depth",
    "normal": "Normal",
    "albedo": "Albedo",
    "pbr": "Roughness and metallic",
    "semantic": "Semantic",
}
GRAPHS = (
    image_to_pano(),
    text_to_pano(),
    perception("rgb_to_depth", "OmniX 3 - Panorama to depth", "depth", "depth"),
    perception("rgb_to_normal", "OmniX 4 - Panorama to normal", "normals", "normal"),
    perception("rgb_camray_to_normal", "OmniX 5 - Panorama to normal with camera rays", "normals", "normal", rays=True),
    perception("rgb_to_albedo", "OmniX 6 - Panorama to albedo", "albedo", "albedo"),
    perception("rgb_to_pbr", "OmniX 7 - Panorama to roughness and metallic", "roughness and metallic", "pbr"),
    perception("rgb_to_semantic", "OmniX 8 - Panorama to semantic", "semantics", "semantic"),
    all_maps(),
    save_prompt(),
)
