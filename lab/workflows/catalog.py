"""The graphs that are shipped, each written once; `build.py` turns them into every form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...omnix.maps import MAPS
from .graph import App, Graph, Group, Link, Node, Value
from .notes import (
    YOUR_LORA,
    YOUR_MODEL,
    any_model_notes,
    generation_notes,
    maps_notes,
    perception_notes,
    prompt_notes,
    scene_notes,
)
from .parts import ROOM, models, saved, text
from .shelf import ALL_MAPS, ANY_MODEL, FLUX, PICTURE_PROMPT, SCENE, WHOLE

__all__ = ["GRAPHS", "PICTURE_PROMPT"]
Inputs = dict[str, Value | Link]
LOADED: Mapping[str, Value | Link] = {n: Link("models", n) for n in ("model", "clip", "vae")}
PANORAMA = Node("panorama", "OmniXLoadPanorama", {"image": ROOM, "height": 720})
MODELS = Node("models", FLUX)


def looking(image: Link, maps: Mapping[str, Link]) -> tuple[Group, Group]:
    """Look around in a panorama and its maps, and see the captured view beside."""
    viewer = Node("viewer", "OmniXPanoramaViewer", {"image": image, **maps})
    kept: Inputs = {"images": Link("viewer"), "filename_prefix": "OmniX/view"}
    return Group("", 2, (viewer,)), Group("", 3, (Node("view", "PreviewImage", {"images": kept["images"]}, VIEW),))


VIEW = "The captured view"


def perception(slug: str, name: str, what: str, box: str, maps: tuple[str, ...]) -> Graph:
    """Turn a panorama into the maps of one task."""
    found = {each: Link("maps", each) for each in maps}
    viewer, view = looking(Link("maps", "panorama"), found)
    saver = Node("save", "OmniXSavePanorama", {**found, "filename_prefix": f"OmniX/{'_'.join(maps)}"[:40]})
    return Graph(
        slug,
        name,
        (
            Group("", 0, (PANORAMA, MODELS)),
            Group("", 1, (Node("maps", f"Panorama to {box} (OmniX)", {"panorama": Link("panorama"), **LOADED}),)),
            Group("", 2, (*viewer.nodes, saver)),
            view,
        ),
        perception_notes(slug, what),
        App((("panorama", "image"), ("maps", "height"), ("maps", "steps"), ("maps", "seed")), ("save",)),
    )


def image_to_pano() -> Graph:
    """Complete the user's picture to a panorama."""
    picture = Node("picture", "LoadImage", {"image": "example.png"}, "Your picture")
    own: Inputs = {"image": Link("picture"), **LOADED}
    shown = ("prompt", "fov_x", "yaw", "pitch", "width", "height", "steps", "seed")
    return generation("image_to_pano", "OmniX 01 - Image to panorama", (picture,), own, (("picture", "image"),), shown)


def text_to_pano() -> Graph:
    """Paint a square picture with FLUX alone and complete it to a panorama."""
    shown = ("prompt", "width", "height", "steps", "seed")
    return generation("text_to_pano", "OmniX 02 - Text to panorama", (), dict(LOADED), (), shown)


def generation(
    slug: str,
    name: str,
    given: tuple[Node, ...],
    inputs: Inputs,
    asked: tuple[tuple[str, str], ...],
    shown: tuple[str, ...],
) -> Graph:
    """Make a panorama with the box of that name."""
    box = Node("made", f"{name.partition(' - ')[2]} (OmniX)", inputs)
    viewer, view = looking(Link("made"), {})
    saver = Node("save", "OmniXSavePanorama", {"panorama": Link("made"), "filename_prefix": "OmniX/generated"})
    return Graph(
        slug,
        name,
        (
            Group("", 0, (*given, MODELS)),
            Group("", 1, (box,)),
            Group("", 2, (*viewer.nodes, saver)),
            view,
        ),
        generation_notes(slug),
        App((*asked, *(("made", field) for field in shown)), ("save",)),
    )


def all_maps() -> Graph:
    """Turn a panorama into all maps, in one box, with one number of steps and one seed."""
    box = Node("maps", ALL_MAPS, {"panorama": Link("panorama"), **LOADED})
    maps = {each: Link("maps", each) for each in MAPS}
    viewer, view = looking(Link("maps", "panorama"), maps)
    saver = Node("save", "OmniXSavePanorama", {**maps, "filename_prefix": "OmniX/room"})
    return Graph(
        "all_maps",
        "OmniX 09 - Panorama to all maps",
        (
            Group("", 0, (PANORAMA, MODELS)),
            Group("", 1, (box,)),
            Group("", 2, (*viewer.nodes, saver, saved("sheet", Link("maps", "sheet")))),
            view,
        ),
        maps_notes(),
        App(
            (("panorama", "image"), ("maps", "height"), ("maps", "steps"), ("maps", "seed")),
            ("save", "save_sheet"),
        ),
    )


def any_model() -> Graph:
    """Paint a panorama with any model and its LoRA, and turn it into all maps."""
    checkpoint = Node("checkpoint", "CheckpointLoaderSimple", {"ckpt_name": YOUR_MODEL}, "Your model")
    lora = Node(
        "lora",
        "LoraLoaderModelOnly",
        {"model": Link("checkpoint"), "lora_name": YOUR_LORA, "strength_model": 1.0},
        "Your 360-degree LoRA",
    )
    own: Inputs = {"model": Link("lora"), **{name: Link("checkpoint", name.upper()) for name in ("clip", "vae")}}
    made = Node("made", ANY_MODEL, own)
    maps = Node("maps", ALL_MAPS, {"panorama": Link("made"), **LOADED})
    found = {each: Link("maps", each) for each in MAPS}
    viewer = Node("viewer", "OmniXPanoramaViewer", {"image": Link("made"), **found})
    saver = Node("save", "OmniXSavePanorama", {"panorama": Link("made"), **found, "filename_prefix": "OmniX/room"})
    shown = ("prompt", "width", "height", "steps", "cfg", "seed")
    return Graph(
        "any_model",
        "OmniX 13 - Any model to panorama to maps",
        (
            # Wires go from FLUX.1-dev to the maps, above the box that paints the panorama.
            Group("", 0, (MODELS, checkpoint, lora)),
            Group("", 1, (made,), lower=180),
            Group("", 2, (maps,)),
            Group("", 3, (viewer, saver, saved("sheet", Link("maps", "sheet")))),
        ),
        any_model_notes(),
        App((*(("made", field) for field in shown), ("maps", "steps")), ("save", "save_sheet")),
    )


def panorama_to_scene() -> Graph:
    """Turn a panorama into a 3D scene."""
    shown = (("panorama", "image"), ("scene", "height"))
    before = (Group("", 0, (PANORAMA, MODELS)),)
    return scene("panorama_to_scene", "OmniX 10 - Panorama to 3D scene", before, shown)


def photo_to_scene() -> Graph:
    """Complete a photo to a panorama, and turn that into a 3D scene."""
    picture = Node("picture", "LoadImage", {"image": "example.png"}, "Your photo")
    box = Node("panorama", "Image to panorama (OmniX)", {"image": Link("picture"), **LOADED})
    shown = (("picture", "image"), ("panorama", "prompt"), ("panorama", "fov_x"))
    # Three wires go from the models to the scene, above the box that makes the panorama.
    before = (Group("", 0, (MODELS, picture)), Group("", 1, (box,), lower=180))
    return scene("photo_to_scene", "OmniX 11 - Photo to 3D scene", before, shown)


def whole_scene() -> Graph:
    """Turn a panorama into a 3D scene with what OmniX draws behind things."""
    shown = (("panorama", "image"), ("scene", "prompt"))
    before = (Group("", 0, (PANORAMA, MODELS)),)
    made = scene("whole_scene", "OmniX 12 - Panorama to whole 3D scene", before, shown, WHOLE)
    views = tuple(
        Node(f"{name}_view", "PreviewImage", {"images": Link("scene", name)}, title)
        for name, title in (("masked", "The masked foreground"), ("filled", "The filled panorama"))
    )
    return replace(made, groups=(*made.groups, Group("", len(made.groups), views)))


def scene(
    slug: str, name: str, before: tuple[Group, ...], shown: tuple[tuple[str, str], ...], kind: str = SCENE
) -> Graph:
    """Make a scene of the node `panorama`, show it and save it, and the panorama beside it as light for it."""
    box = Node("scene", kind, {"panorama": Link("panorama"), **LOADED})
    preview = Node("preview", "Preview3D", {"model_file": Link("scene", "model_3d")})
    report = Node("report", "PreviewAny", {"source": Link("scene", "report")}, "What was made")
    saver = Node("save", "SaveGLB", {"mesh": Link("scene", "model_3d"), "filename_prefix": "OmniX/scene"})
    exr: Inputs = {"images": Link("panorama"), "filename_prefix": "OmniX/scene_light", "format": "exr"}
    exr |= {"format.bit_depth": "32-bit float", "format.input_color_space": "sRGB"}
    light = Node("light", "SaveImageAdvanced", exr, "Save the panorama as light (EXR)")
    return Graph(
        slug,
        name,
        (
            *before,
            Group("", len(before), (box, light)),
            Group("", len(before) + 1, (preview, saver, report)),
        ),
        scene_notes(slug),
        App((*shown, ("scene", "camera_height"), ("scene", "steps"), ("scene", "seed")), ("save",)),
    )


def save_prompt() -> Graph:
    """Encode the constant prompt of perception once, for good."""
    written: Inputs = {"conditioning": Link("text"), "filename_prefix": "conditioning/OmniX"}
    encoded = text()
    return Graph(
        "save_prompt",
        "OmniX extra - Save the prompt once",
        (
            Group("", 0, (Node("clip", "DualCLIPLoader", models().nodes[1].inputs),)),
            Group("", 1, (replace(encoded, inputs={**encoded.inputs, "clip": Link("clip")}),)),
            Group("", 2, (Node("save", "OmniXSaveConditioning", written),)),
        ),
        prompt_notes(),
    )


GRAPHS = (
    image_to_pano(),
    text_to_pano(),
    perception("rgb_to_depth", "OmniX 03 - Panorama to depth", "depth", "depth", ("depth",)),
    perception("rgb_to_normal", "OmniX 04 - Panorama to normal", "normals", "normal", ("normal",)),
    perception(
        "rgb_camray_to_normal",
        "OmniX 05 - Panorama to normal with camera rays",
        "normals",
        "normal with camera rays",
        ("normal",),
    ),
    perception("rgb_to_albedo", "OmniX 06 - Panorama to albedo", "albedo", "albedo", ("albedo",)),
    perception(
        "rgb_to_pbr",
        "OmniX 07 - Panorama to roughness and metallic",
        "roughness and metallic",
        "roughness and metallic",
        ("roughness", "metallic"),
    ),
    perception("rgb_to_semantic", "OmniX 08 - Panorama to semantic", "semantics", "semantic", ("semantic",)),
    all_maps(),
    panorama_to_scene(),
    photo_to_scene(),
    whole_scene(),
    any_model(),
    save_prompt(),
)
