"""The parts of the graphs: models, prompt, streams, maps; and several tasks on one panorama.

Nodes of several tasks are next to each other and have different names. The nodes that tasks share are made once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from .graph import Group, Link, Node, Value, node

FOLDER = "OmniX"
STEPS, GUIDANCE = 28, 3.5
PANORAMA_WIDTH, PANORAMA_HEIGHT = 1024, 512
ROOM = "omnix_sample_room.png"
PANORAMA = ("360", "equirectangular")
"""The words by which people find every blueprint."""
SCENE_TASKS = ("rgb_to_depth", "rgb_to_normal", "rgb_to_albedo", "rgb_to_pbr")
MAP_TASKS = (*SCENE_TASKS, "rgb_to_semantic")


def models() -> Group:
    """FLUX.1-dev, its text encoders and its VAE."""
    encoders = {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl_fp16.safetensors"}
    nodes = (
        node("flux", "UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
        node("clip", "DualCLIPLoader", **encoders, type="flux", device="default"),
        node("vae", "VAELoader", vae_name="ae.safetensors"),
    )
    return Group("FLUX.1-dev", 0, nodes)


def text(prompt: Value | Link = "") -> Node:
    """The tagged prompt, encoded, with FLUX's guidance."""
    return node("text", "OmniXEncodePrompt", prompt=prompt, guidance=GUIDANCE)


def condition(stream: str, pixels: str, before: str) -> tuple[Node, ...]:
    """Encode a picture and append it to the conditioning `before` as the next stream."""
    latent, title = f"{stream}_latent", f"Condition stream: {stream}"
    return (
        node(latent, "VAEEncode", pixels=Link(pixels)),
        node(f"{stream}_condition", "ReferenceLatent", title, conditioning=Link(before), latent=Link(latent)),
    )


def canvas(panorama: str, conditioned: str) -> Group:
    """What all tasks on a panorama need: the negative, an empty latent of its size and the flow shift for it."""
    nodes = (
        node("negative", "ConditioningZeroOut", conditioning=Link(conditioned)),
        node("size", "GetImageSize", image=Link(panorama)),
        node("empty", "EmptySD3LatentImage", **{n: Link("size", n) for n in ("width", "height", "batch_size")}),
        node("shifted", "OmniXFlowShift", latent=Link("empty")),
    )
    return Group("Size", 1, nodes)


def sampler(name: str, model: str, conditioned: str, negative: str, latent: str, after: str) -> Node:
    """Sample as OmniX was published: 28 steps, euler, no CFG."""
    links = {"model": model, "positive": conditioned, "negative": negative, "latent_image": latent}
    schedule = {"steps": STEPS, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    return Node(name, "KSampler", {k: Link(v) for k, v in links.items()} | {"seed": 0} | schedule, after=after)


def streams(task: str, conditioned: str, after: str = "fixed") -> tuple[Node, ...]:
    """Run one task; ends in `decoded`."""
    return (
        node("adapters", "OmniXLoadAdapters", task=task, folder=FOLDER),
        node("streams", "OmniXApplyAdapters", model=Link("shifted"), adapters=Link("adapters")),
        sampler("sampler", "streams", conditioned, "negative", "empty", after),
        node("decoded", "OmniXDecodePanorama", samples=Link("sampler")),
    )


class Reading(NamedTuple):
    """How the target of a task is read: the nodes for it, and what they give by name."""

    nodes: tuple[Node, ...]
    outputs: Mapping[str, Link]


def reading(target: str) -> Reading:
    """Return how the decoded target stream is turned into maps."""
    decoded = Link("decoded")
    if target == "depth":
        view = node("depth_view", "OmniXColourDepth", depth=Link("depth", "mask"), colours="Spectral", invert=False)
        found = {**{n: Link("depth", n) for n in ("depth", "mask")}, "view": Link("depth_view")}
        return Reading((node("depth", "OmniXDepth", image=decoded), view), found)
    if target == "normal":
        return Reading((node("normal", "OmniXNormal", image=decoded),), {"normal": Link("normal")})
    if target == "pbr":
        found = {name: Link("material", name) for name in ("roughness", "metallic")}
        return Reading((node("material", "OmniXMaterial", image=decoded),), found)
    return Reading((), {target: decoded})


ROWS = 720
"""Most rows that the authors perceive at; a box brings larger panoramas down to it."""
# The size that the box works at; it outputs the panorama in this size too, so that its maps match.
FITTED = node("fitted", "OmniXFitPanorama", height=ROWS)


def fields(name: str, *names: str) -> dict[str, str]:
    """Return inputs of a box that are fields of one node, with their names."""
    return {each: f"{name}.{each}" for each in names}


FITTING = fields("fitted", "height", "fit")


def encoders(*names: str, decoded: str = "decoded") -> str:
    """Return where the VAE goes: to the encoders of these streams, and to the decoder."""
    return " ".join((*(f"{name}_latent.vae" for name in names), f"{decoded}.vae"))


def renamed(nodes: Iterable[Node], names: Mapping[str, str]) -> tuple[Node, ...]:
    """Return nodes with other names, and their links to each other; names that are not listed stay."""

    def moved(given: Value | Link) -> Value | Link:
        return Link(names.get(given.node, given.node), given.output) if isinstance(given, Link) else given

    return tuple(
        replace(one, name=names.get(one.name, one.name), inputs={k: moved(v) for k, v in one.inputs.items()})
        for one in nodes
    )


def exchanged(groups: tuple[Group, ...], nodes: dict[str, Node]) -> tuple[Group, ...]:
    """Return groups with other nodes of the same names."""
    return tuple(replace(g, nodes=tuple(nodes.get(one.name, one) for one in g.nodes)) for g in groups)


def one_of_all(task: str) -> Reading:
    """Run one task beside others: its nodes, named after its target, and what they give."""
    target = task.rpartition("_to_")[2]
    nodes, read = streams(task, "rgb_condition"), reading(target)
    names = {one.name: f"{one.name}_{target}" for one in nodes}
    outputs = {name: Link(names.get(link.node, link.node), link.output) for name, link in read.outputs.items()}
    return Reading(renamed((*nodes, *read.nodes), names), outputs)


class Several(NamedTuple):
    """Tasks in one box: their groups, the maps that they give by name, and what the box's inputs and settings set."""

    groups: tuple[Group, ...]
    found: dict[str, Link]
    inputs: Mapping[str, str]
    settings: Mapping[str, str]


def several(tasks: Sequence[str]) -> Several:
    """Run tasks beside each other on one panorama; prompt and picture are encoded once."""
    runs = {task.rpartition("_to_")[2]: one_of_all(task) for task in tasks}

    def each(name: str, field: str) -> str:
        return " ".join(f"{name}_{target}.{field}" for target in runs)

    return Several(
        (
            Group("Prompt and condition stream", 0, (FITTED, text(), *condition("rgb", "fitted", "text"))),
            canvas("fitted", "rgb_condition"),
            *(Group(target.capitalize(), 2 + i, run.nodes) for i, (target, run) in enumerate(runs.items())),
        ),
        {name: link for run in runs.values() for name, link in run.outputs.items()},
        {
            "panorama": "fitted.image",
            "model": "shifted.model",
            "clip": "text.clip",
            "vae": f"rgb_latent.vae {each('decoded', 'vae')}",
        },
        {
            **FITTING,
            "steps": each("sampler", "steps"),
            "seed": each("sampler", "seed"),
            "adapters_folder": each("adapters", "folder"),
        },
    )


def again(run: Several, suffix: str, pixels: str) -> Several:
    """Return the same tasks on a second panorama, the node `pixels`; what any panorama of that size shares is left out.

    Names get a suffix.
    """
    shared = ("fitted", "text", *(one.name for one in canvas("", "").nodes if one.name != "negative"))
    kept = [replace(g, nodes=tuple(n for n in g.nodes if n.name not in shared)) for g in run.groups]
    names = {one.name: f"{one.name}_{suffix}" for group in kept for one in group.nodes}

    def fed(one: Node) -> Node:
        return replace(one, inputs={"pixels": Link(pixels)}) if one.name == names["rgb_latent"] else one

    def moved(ends: str) -> str:
        parts = (end.partition(".") for end in ends.split())
        return " ".join(f"{names[name]}.{field}" for name, _, field in parts if name in names)

    return Several(
        tuple(replace(g, nodes=tuple(map(fed, renamed(g.nodes, names)))) for g in kept),
        {name: Link(names[link.node], link.output) for name, link in run.found.items()},
        {"vae": moved(run.inputs["vae"])},
        {label: moved(ends) for label, ends in run.settings.items()},
    )
