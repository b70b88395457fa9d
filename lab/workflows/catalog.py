"""The graphs that are shipped, each written once, and the graph of any task; `build.py` turns them into every form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...omnix.pictures.maps import MAPS
from ...omnix.runtime.tasks import Task
from .graph import Graph, Group, Link, Node, Note, Value, node
from .notes import (
    YOUR_MODEL,
    any_model_notes,
    generation_notes,
    maps_notes,
    perception_notes,
    prompt_notes,
    scene_notes,
    task_notes,
)
from .parts import ROOM, canvas, condition, models, reading, streams, text
from .scenes import SCENE, WHOLE
from .shelf import ALL_MAPS, ANY_MODEL, FLUX, PERCEIVING

Inputs = dict[str, Value | Link]
LOADED = {name: Link("models", name) for name in ("model", "clip", "vae")}
PANORAMA = node("panorama", "OmniXLoadPanorama", image=ROOM, height=720)
MODELS = Node("models", FLUX)
ASKED = ("panorama.image", "panorama.fit", "maps.height", "maps.steps")
"""What the app mode asks of a person who has a panorama."""


def previewed(name: str, image: Link, title: str) -> Node:
    """Show a picture, and save it nowhere."""
    return node(name, "PreviewImage", title, images=image)


def shown(
    slug: str,
    name: str,
    given: tuple[Node, ...],
    box: Node,
    image: Link,
    saved: Mapping[str, Link],
    prefix: str,
    notes: tuple[Note, ...],
    app: tuple[str, ...],
) -> Graph:
    """Run one box; look around in its panorama `image` and in the maps among `saved`, and save these."""
    maps = {each: link for each, link in saved.items() if each in MAPS}
    viewer = node("viewer", "OmniXPanoramaViewer", image=image, **maps)
    saver = node("save", "OmniXSavePanorama", **saved, filename_prefix=f"OmniX/{prefix}"[:40])
    view = previewed("view", Link("viewer"), "The captured view")
    columns = ((*given, MODELS), (box,), (viewer, saver), (view,))
    return Graph(slug, name, tuple(Group("", i, column) for i, column in enumerate(columns)), notes, app)


def generation(slug: str, name: str, fields: tuple[str, ...], *given: Node) -> Graph:
    """Make a panorama with the box of that name, of the nodes `given`."""
    title = name.partition(" - ")[2]
    own = {"image": Link(given[0].name)} if given else {}
    box = node("made", f"{title} (OmniX)", **own, **LOADED)
    asked = (*(f"{one.name}.image" for one in given), *(f"made.{field}" for field in fields))
    made, notes = Link("made"), generation_notes(slug, title)
    return shown(slug, name, given, box, made, {"panorama": made}, "generated", notes, asked)


def perception(task: str) -> Graph:
    """Turn a panorama into the maps of one task."""
    row = PERCEIVING[task]
    title = f"Panorama to {row.name}"
    maps = [each for each in reading(task.rpartition("_to_")[2]).outputs if each in MAPS]
    notes = perception_notes(task, row.title, title)
    return perceived(task, f"OmniX {row.number} - {title}", f"{title} (OmniX)", maps, "_".join(maps), notes)


def all_maps() -> Graph:
    """Turn a panorama into all maps, in one box, with one number of steps and one seed."""
    notes = maps_notes(ALL_MAPS.removesuffix(" (OmniX)"))
    return perceived("all_maps", "OmniX 09 - Panorama to all maps", ALL_MAPS, [*MAPS], "room", notes)


def perceived(slug: str, name: str, box: str, maps: list[str], prefix: str, notes: tuple[Note, ...]) -> Graph:
    """Turn a panorama into the maps that a box outputs."""
    made = node("maps", box, panorama=Link("panorama"), **LOADED)
    found = {each: Link("maps", each) for each in maps}
    return shown(slug, name, (PANORAMA,), made, Link("maps", "panorama"), found, prefix, notes, ASKED)


def any_model() -> Graph:
    """Paint a panorama with any model and its LoRA, and turn it into all maps."""
    checkpoint = node("checkpoint", "CheckpointLoaderSimple", "Your model", ckpt_name=YOUR_MODEL)
    made = node("made", ANY_MODEL, **{name: Link("checkpoint", name.upper()) for name in LOADED})
    maps = node("maps", ALL_MAPS, panorama=Link("made"), **LOADED)
    found = {each: Link("maps", each) for each in MAPS}
    fitted = Link("maps", "panorama")
    viewer = node("viewer", "OmniXPanoramaViewer", image=fitted, **found)
    saver = node("save", "OmniXSavePanorama", panorama=fitted, **found, filename_prefix="OmniX/room")
    asked = ("prompt", "lora_name", "width", "height", "steps", "cfg", "seed")
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
        (*(f"made.{field}" for field in asked), "maps.steps"),
    )


def panorama_to_scene() -> Graph:
    """Turn a panorama into a 3D scene."""
    asked = ("panorama.image", "panorama.fit", "scene.height")
    before = (Group("", 0, (PANORAMA, MODELS)),)
    return scene("panorama_to_scene", "OmniX 10 - Panorama to 3D scene", before, asked)


def photo_to_scene() -> Graph:
    """Complete a photo to a panorama, and turn that into a 3D scene."""
    picture = node("picture", "LoadImage", "Your photo", image="example.png")
    box = node("panorama", "Image to panorama (OmniX)", image=Link("picture"), **LOADED)
    # Three wires go from the models to the scene, above the box that makes the panorama.
    before = (Group("", 0, (MODELS, picture)), Group("", 1, (box,), lower=180))
    made = previewed("made", Link("panorama"), "The panorama")
    asked = ("picture.image", "panorama.prompt", "panorama.fov_x")
    return scene("photo_to_scene", "OmniX 11 - Photo to 3D scene", before, asked, made=(made,))


def whole_scene() -> Graph:
    """Turn a panorama into a 3D scene with what OmniX draws behind things."""
    before = (Group("", 0, (PANORAMA, MODELS)),)
    drawn = previewed("drawn", Link("scene", "filled"), "What OmniX drew behind")
    asked = ("panorama.image", "panorama.fit", "scene.prompt", "scene.height")
    return scene("whole_scene", "OmniX 12 - Panorama to whole 3D scene", before, asked, drawn=(drawn,), kind=WHOLE)


def scene(
    slug: str,
    name: str,
    before: tuple[Group, ...],
    asked: tuple[str, ...],
    made: tuple[Node, ...] = (),
    drawn: tuple[Node, ...] = (),
    kind: str = SCENE,
) -> Graph:
    """Make a scene of the node `panorama`, save it in a node that shows it, and the panorama beside it as light for it.

    made: nodes below the box; drawn: nodes below the scene.
    """
    box = node("scene", kind, panorama=Link("panorama"), **LOADED)
    report = node("report", "PreviewAny", "What was made", source=Link("scene", "report"))
    saver = node("save", "SaveGLB", mesh=Link("scene", "model_3d"), filename_prefix="OmniX/scene")
    exr: Inputs = {"images": Link("panorama"), "filename_prefix": "OmniX/scene_light", "format": "exr"}
    exr |= {"format.bit_depth": "32-bit float", "format.input_color_space": "sRGB"}
    light = Node("light", "SaveImageAdvanced", exr, "Save the panorama as light (EXR)")
    columns = ((box, light, *made), (saver, *drawn, report))
    return Graph(
        slug,
        name,
        (*before, *(Group("", i, column) for i, column in enumerate(columns, len(before)))),
        scene_notes(slug, kind.removesuffix(" (OmniX)")),
        (*asked, "scene.camera_height", "scene.steps"),
    )


def save_prompt() -> Graph:
    """Encode the constant prompt of perception once, for good."""
    encoded = text()
    columns = (
        node("clip", "DualCLIPLoader", **models().nodes[1].inputs),
        node("text", encoded.type, **encoded.inputs, clip=Link("clip")),
        node("save", "OmniXSaveConditioning", conditioning=Link("text"), filename_prefix="conditioning/OmniX"),
        node("name", "PreviewAny", "Saved as", source=Link("save")),
    )
    groups = tuple(Group("", i, (one,)) for i, one in enumerate(columns))
    return Graph("save_prompt", "OmniX extra - Save the prompt once", groups, prompt_notes())


PICTURE = node("picture", "LoadImage", "Your picture", image="example.png")
GRAPHS = (
    generation(
        "image_to_pano", "OmniX 01 - Image to panorama", ("prompt", "fov_x", "yaw", "pitch", "steps", "seed"), PICTURE
    ),
    generation("text_to_pano", "OmniX 02 - Text to panorama", ("prompt", "steps", "seed")),
    *map(perception, PERCEIVING),
    all_maps(),
    panorama_to_scene(),
    photo_to_scene(),
    whole_scene(),
    any_model(),
    save_prompt(),
)
RAYS = "camray"
HEIGHT = 512
"""Of the panorama of any task, in pixels; what `omnix-train` trains at."""
TAKING = {
    "OmniXEncodePrompt": {"clip": Link("clip")},
    "VAEEncode": {"vae": Link("vae")},
    "OmniXFlowShift": {"model": Link("flux")},
    "OmniXDecodePanorama": {"vae": Link("vae")},
}
"""Node -> its inputs that take a model, and the loader that gives it; a blueprint gets these from outside."""


def graph_of(task: Task, folder: str) -> Graph:
    """Return the graph of a task: a picture for each condition but camera rays, its streams in order, and its maps."""
    last, read = f"{task.conditions[-1]}_condition", reading(task.target)
    given = node("panorama", "OmniXLoadPanorama", image=ROOM, height=HEIGHT)
    others = {*task.conditions} - {task.conditions[0]} or RAYS in task.conditions
    measured = (node("measured", "GetImageSize", image=Link(given.name)),) if others else ()
    pictures = tuple(
        node(f"save_{name}", "SaveImage", f"Save {name}", images=link, filename_prefix=f"OmniX/{name}")
        for name, link in read.outputs.items()
        if name != "mask"
    )
    groups = (
        Group("Your panorama", 0, (given, *measured)),
        models(),
        Group("Prompt and condition streams", 1, (text(), *_conditions(task, given.name))),
        canvas(given.name, last),
        Group("OmniX", 2, streams(task.name, last)),
        Group("Maps", 3, (*read.nodes, *pictures)),
    )
    own = TAKING | {"OmniXLoadAdapters": {"folder": folder}}

    def closed(one: Node) -> Node:
        return replace(one, inputs={**one.inputs, **own.get(one.type, {})})

    closed_groups = tuple(replace(group, nodes=tuple(map(closed, group.nodes))) for group in groups)
    return Graph(task.name, task.name, closed_groups, task_notes(task, folder))


def _conditions(task: Task, first: str) -> tuple[Node, ...]:
    """Chain the condition streams; the first is the panorama, each other one a picture of its own, or camera rays."""
    nodes: tuple[Node, ...] = ()
    before, size = "text", {name: Link("measured", name) for name in ("width", "height")}
    for stream in task.conditions:
        pixels = f"{stream}_pixels"
        if stream == RAYS:
            nodes += (node(pixels, "OmniXCameraRays", **size),)
        elif stream == task.conditions[0]:
            pixels = first
        else:
            loaded = node(f"{stream}_picture", "LoadImage", f"Load {stream} (2:1)", image="example.png")
            how = {"upscale_method": "area", "crop": "disabled"}
            nodes += (loaded, node(pixels, "ImageScale", image=Link(loaded.name), **how, **size))
        nodes += condition(stream, pixels, before)
        before = f"{stream}_condition"
    return nodes
