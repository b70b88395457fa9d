"""The graphs that are shipped, each written once; `build.py` turns them into every form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...omnix.pictures.maps import MAPS
from .graph import App, Graph, Group, Link, Node, Value
from .notes import (
    YOUR_MODEL,
    any_model_notes,
    generation_notes,
    maps_notes,
    perception_notes,
    prompt_notes,
    scene_notes,
)
from .parts import ROOM, models, text
from .scenes import SCENE, WHOLE
from .shelf import ALL_MAPS, ANY_MODEL, FLUX, PICTURE_PROMPT

__all__ = ["GRAPHS", "PICTURE_PROMPT"]
Inputs = dict[str, Value | Link]
LOADED: Mapping[str, Value | Link] = {n: Link("models", n) for n in ("model", "clip", "vae")}
PANORAMA = Node("panorama", "OmniXLoadPanorama", {"image": ROOM, "height": 720})
MODELS = Node("models", FLUX)


def looking(image: Link, maps: Mapping[str, Link]) -> tuple[Group, Group]:
    """Look around in a panorama and its maps, and see the captured view beside."""
    viewer = Node("viewer", "OmniXPanoramaViewer", {"image": image, **maps})
    return Group("", 2, (viewer,)), Group("", 3, (previewed("view", Link("viewer"), "The captured view"),))


def previewed(name: str, image: Link, title: str) -> Node:
    """Show a picture, and save it nowhere."""
    return Node(name, "PreviewImage", {"images": image}, title)


ASKED = (("panorama", "image"), ("panorama", "fit"), ("maps", "height"), ("maps", "steps"))
"""What the app mode asks of a person who has a panorama."""


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
        perception_notes(slug, what, f"Panorama to {box}"),
        App(ASKED, ("save",)),
    )


def image_to_pano() -> Graph:
    """Complete the user's picture to a panorama."""
    picture = Node("picture", "LoadImage", {"image": "example.png"}, "Your picture")
    own: Inputs = {"image": Link("picture"), **LOADED}
    shown = ("prompt", "fov_x", "yaw", "pitch", "steps", "seed")
    return generation("image_to_pano", "OmniX 01 - Image to panorama", (picture,), own, (("picture", "image"),), shown)


def text_to_pano() -> Graph:
    """Paint a square picture with FLUX alone and complete it to a panorama."""
    shown = ("prompt", "steps", "seed")
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
    title = name.partition(" - ")[2]
    box = Node("made", f"{title} (OmniX)", inputs)
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
        generation_notes(slug, title),
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
            Group("", 2, (*viewer.nodes, saver)),
            view,
        ),
        maps_notes("Panorama to all maps"),
        App(ASKED, ("save",)),
    )


def any_model() -> Graph:
    """Paint a panorama with any model and its LoRA, and turn it into all maps."""
    checkpoint = Node("checkpoint", "CheckpointLoaderSimple", {"ckpt_name": YOUR_MODEL}, "Your model")
    made = Node("made", ANY_MODEL, {name: Link("checkpoint", name.upper()) for name in ("model", "clip", "vae")})
    maps = Node("maps", ALL_MAPS, {"panorama": Link("made"), **LOADED})
    found = {each: Link("maps", each) for each in MAPS}
    fitted = Link("maps", "panorama")
    viewer = Node("viewer", "OmniXPanoramaViewer", {"image": fitted, **found})
    saver = Node("save", "OmniXSavePanorama", {"panorama": fitted, **found, "filename_prefix": "OmniX/room"})
    shown = ("prompt", "lora_name", "width", "height", "steps", "cfg", "seed")
    return Graph(
        "any_model",
        "OmniX 13 - Any model to panorama to maps",
        (
            # Wires go from FLUX.1-dev to the maps above the box that paints.
            Group("", 0, (MODELS, checkpoint)),
            Group("", 1, (made,), lower=320),
            Group("", 2, (maps,)),
            Group("", 3, (viewer, saver)),
        ),
        any_model_notes(),
        App((*(("made", field) for field in shown), ("maps", "steps")), ("save",)),
    )


def panorama_to_scene() -> Graph:
    """Turn a panorama into a 3D scene."""
    shown = (("panorama", "image"), ("panorama", "fit"), ("scene", "height"))
    before = (Group("", 0, (PANORAMA, MODELS)),)
    return scene("panorama_to_scene", "OmniX 10 - Panorama to 3D scene", before, shown)


def photo_to_scene() -> Graph:
    """Complete a photo to a panorama, and turn that into a 3D scene."""
    picture = Node("picture", "LoadImage", {"image": "example.png"}, "Your photo")
    box = Node("panorama", "Image to panorama (OmniX)", {"image": Link("picture"), **LOADED})
    shown = (("picture", "image"), ("panorama", "prompt"), ("panorama", "fov_x"))
    # Three wires go from the models to the scene, above the box that makes the panorama.
    before = (Group("", 0, (MODELS, picture)), Group("", 1, (box,), lower=180))
    made = previewed("made", Link("panorama"), "The panorama")
    return scene("photo_to_scene", "OmniX 11 - Photo to 3D scene", before, shown, made=(made,))


def whole_scene() -> Graph:
    """Turn a panorama into a 3D scene with what OmniX draws behind things."""
    shown = (("panorama", "image"), ("panorama", "fit"), ("scene", "prompt"), ("scene", "height"))
    before = (Group("", 0, (PANORAMA, MODELS)),)
    drawn = previewed("drawn", Link("scene", "filled"), "What OmniX drew behind")
    return scene("whole_scene", "OmniX 12 - Panorama to whole 3D scene", before, shown, drawn=(drawn,), kind=WHOLE)


def scene(
    slug: str,
    name: str,
    before: tuple[Group, ...],
    shown: tuple[tuple[str, str], ...],
    made: tuple[Node, ...] = (),
    drawn: tuple[Node, ...] = (),
    kind: str = SCENE,
) -> Graph:
    """Make a scene of the node `panorama`, save it in a node that shows it, and the panorama beside it as light for it.

    made: nodes below the box; drawn: nodes below the scene.
    """
    box = Node("scene", kind, {"panorama": Link("panorama"), **LOADED})
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
            Group("", len(before), (box, light, *made)),
            Group("", len(before) + 1, (saver, *drawn, report)),
        ),
        scene_notes(slug, kind.removesuffix(" (OmniX)")),
        App((*shown, ("scene", "camera_height"), ("scene", "steps")), ("save",)),
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
            Group("", 3, (Node("name", "PreviewAny", {"source": Link("save")}, "Saved as"),)),
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
