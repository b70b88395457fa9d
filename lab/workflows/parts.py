"""The parts of the graphs: models, prompt, streams, maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
