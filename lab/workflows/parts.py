"""The parts of the graphs: models, prompt, streams, maps; and several tasks on one panorama.

Their nodes stand beside each other, named apart, with what they share made once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from .graph import Group, Link, Node, Value

FOLDER = "OmniX"
STEPS, GUIDANCE = 28, 3.5
PANORAMA_WIDTH, PANORAMA_HEIGHT = 1024, 512
ROOM = "omnix_sample_room.png"


def models(column: int = 0) -> Group:
    """FLUX.1-dev, its text encoders and its VAE."""
    clip: dict[str, Value | Link] = {
        "clip_name1": "clip_l.safetensors",
        "clip_name2": "t5xxl_fp16.safetensors",
        "type": "flux",
        "device": "default",
    }
    return Group(
        "FLUX.1-dev",
        column,
        (
            Node("flux", "UNETLoader", {"unet_name": "flux1-dev.safetensors", "weight_dtype": "default"}),
            Node("clip", "DualCLIPLoader", clip),
            Node("vae", "VAELoader", {"vae_name": "ae.safetensors"}),
        ),
    )


def text(prompt: Value | Link = "") -> Node:
    """The tagged prompt, encoded, with FLUX's guidance."""
    return Node("text", "OmniXEncodePrompt", {"prompt": prompt, "guidance": GUIDANCE})


def condition(stream: str, pixels: str, before: str) -> tuple[Node, ...]:
    """Encode a picture and append it to the conditioning `before` as the next stream."""
    return (
        Node(f"{stream}_latent", "VAEEncode", {"pixels": Link(pixels)}),
        Node(
            f"{stream}_condition",
            "ReferenceLatent",
            {"conditioning": Link(before), "latent": Link(f"{stream}_latent")},
            title=f"Condition stream: {stream}",
        ),
    )


def canvas(panorama: str, conditioned: str) -> Group:
    """What all tasks on a panorama need: the negative, an empty latent of its size and the flow shift for it."""
    return Group(
        "Size",
        1,
        (
            Node("negative", "ConditioningZeroOut", {"conditioning": Link(conditioned)}),
            Node("size", "GetImageSize", {"image": Link(panorama)}),
            Node("empty", "EmptySD3LatentImage", {n: Link("size", n) for n in ("width", "height", "batch_size")}),
            Node("shifted", "OmniXFlowShift", {"latent": Link("empty")}),
        ),
    )


def sampler(name: str, model: str, conditioned: str, negative: str, latent: str, after: str) -> Node:
    """Sample as OmniX was published: 28 steps, euler, no CFG."""
    inputs: dict[str, Value | Link] = {
        "model": Link(model),
        "positive": Link(conditioned),
        "negative": Link(negative),
        "latent_image": Link(latent),
        "seed": 0,
        "steps": STEPS,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
    }
    return Node(name, "KSampler", inputs, after=after)


def streams(task: str, conditioned: str, after: str = "fixed") -> tuple[Node, ...]:
    """Run one task; ends in `decoded`."""
    attached: dict[str, Value | Link] = {"model": Link("shifted"), "adapters": Link("adapters")}
    return (
        Node("adapters", "OmniXLoadAdapters", {"task": task, "folder": FOLDER}),
        Node("streams", "OmniXApplyAdapters", attached),
        sampler("sampler", "streams", conditioned, "negative", "empty", after),
        Node("decoded", "OmniXDecodePanorama", {"samples": Link("sampler")}),
    )


def saved(name: str, image: Link) -> Node:
    """Save an image as PNG below output/OmniX."""
    return Node(f"save_{name}", "SaveImage", {"images": image, "filename_prefix": f"OmniX/{name}"}, f"Save {name}")


@dataclass(frozen=True)
class Reading:
    """How the target of a task is read: the nodes for it, and what they give by name."""

    nodes: tuple[Node, ...]
    outputs: Mapping[str, Link]


def reading(target: str) -> Reading:
    """Return how the decoded target stream is turned into maps."""
    decoded = Link("decoded")
    if target == "depth":
        view: dict[str, Value | Link] = {"depth": Link("depth", "mask"), "colours": "Spectral", "invert": False}
        nodes = (Node("depth", "OmniXDepth", {"image": decoded}), Node("depth_view", "OmniXColourDepth", view))
        return Reading(nodes, {**{n: Link("depth", n) for n in ("depth", "mask")}, "view": Link("depth_view")})
    if target == "normal":
        return Reading((Node("normal", "OmniXNormal", {"image": decoded}),), {"normal": Link("normal")})
    if target == "pbr":
        found = {name: Link("material", name) for name in ("roughness", "metallic")}
        return Reading((Node("material", "OmniXMaterial", {"image": decoded}),), found)
    return Reading((), {target: decoded})


Ends = tuple[tuple[str, str], ...]
ROWS = 720
"""Most rows that the authors perceive at; a box brings larger panoramas down to it."""
# The size that the box works at; it outputs the panorama in this size too, so that its maps match.
FITTED = Node("fitted", "OmniXFitPanorama", {"height": ROWS})
FITTING: Mapping[str, Ends] = {name: (("fitted", name),) for name in ("height", "fit")}


def encoders(*names: str, decoded: str = "decoded") -> Ends:
    """Return where the VAE goes: to the encoders of these streams, and to the decoder."""
    return (*((f"{name}_latent", "vae") for name in names), (decoded, "vae"))


def renamed(nodes: Iterable[Node], names: Mapping[str, str]) -> tuple[Node, ...]:
    """Return nodes with other names, and their links to each other; names that are not listed stay."""

    def moved(given: Value | Link) -> Value | Link:
        return Link(names.get(given.node, given.node), given.output) if isinstance(given, Link) else given

    return tuple(
        replace(node, name=names.get(node.name, node.name), inputs={k: moved(v) for k, v in node.inputs.items()})
        for node in nodes
    )


def one_of_all(task: str) -> Reading:
    """Run one task beside others: its nodes, named after its target, and what they give."""
    target = task.rpartition("_to_")[2]
    nodes, read = streams(task, "rgb_condition"), reading(target)
    names = {node.name: f"{node.name}_{target}" for node in nodes}

    outputs = {name: Link(names.get(link.node, link.node), link.output) for name, link in read.outputs.items()}
    return Reading(renamed((*nodes, *read.nodes), names), outputs)


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


def again(run: Several, suffix: str, pixels: str) -> Several:
    """Return the same tasks on a second panorama, the node `pixels`; what any panorama of that size shares is left out.

    Names get a suffix.
    """
    shared = ("fitted", "text", *(node.name for node in canvas("", "").nodes if node.name != "negative"))
    kept = [Group(g.title, g.column, tuple(n for n in g.nodes if n.name not in shared)) for g in run.groups]
    names = {node.name: f"{node.name}_{suffix}" for group in kept for node in group.nodes}
    given = {names["rgb_latent"]: {"pixels": Link(pixels)}}

    def fed(node: Node) -> Node:
        return replace(node, inputs={**node.inputs, **given.get(node.name, {})})

    groups = tuple(Group(g.title, g.column, tuple(fed(n) for n in renamed(g.nodes, names))) for g in kept)
    found = {name: Link(names[link.node], link.output) for name, link in run.found.items()}

    def ends(old: Mapping[str, Ends]) -> dict[str, Ends]:
        return {label: tuple((names[n], field) for n, field in led if n in names) for label, led in old.items()}

    return Several(groups, found, {"vae": ends(run.inputs)["vae"]}, ends(run.settings))
