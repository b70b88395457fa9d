"""The parts that the graphs are put together from: models, prompt, streams, maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .graph import Group, Link, Node, Value

FOLDER = "OmniX"
STEPS, GUIDANCE = 28, 3.5
PANORAMA_WIDTH, PANORAMA_HEIGHT = 1024, 512
PERCEIVED_WIDTH = 1440


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


def text(prompt: Value | Link = "") -> tuple[Node, ...]:
    """The tagged prompt, encoded, with FLUX's guidance; ends in `guided`."""
    return (
        Node("prompt", "OmniXPrompt", {"prompt": prompt}),
        Node("text", "CLIPTextEncode", {"clip": Link("clip"), "text": Link("prompt")}),
        Node("guided", "FluxGuidance", {"conditioning": Link("text"), "guidance": GUIDANCE}),
    )


def condition(stream: str, pixels: str, before: str) -> tuple[Node, ...]:
    """Encode a picture and append it to the conditioning `before` as the next condition stream."""
    return (
        Node(f"{stream}_latent", "VAEEncode", {"pixels": Link(pixels), "vae": Link("vae")}),
        Node(
            f"{stream}_condition",
            "ReferenceLatent",
            {"conditioning": Link(before), "latent": Link(f"{stream}_latent")},
            title=f"Condition stream: {stream}",
        ),
    )


def canvas(panorama: str, conditioned: str) -> Group:
    """What all tasks on a panorama share: the negative, an empty latent of its size and the flow shift for it."""
    return Group(
        "Size",
        2,
        (
            Node("negative", "ConditioningZeroOut", {"conditioning": Link(conditioned)}),
            Node("size", "GetImageSize", {"image": Link(panorama)}),
            Node("empty", "EmptySD3LatentImage", {n: Link("size", n) for n in ("width", "height", "batch_size")}),
            Node("shifted", "OmniXFlowShift", {"model": Link("flux"), "latent": Link("empty")}),
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


def streams(task: str, conditioned: str, tail: str = "", after: str = "fixed") -> tuple[Node, ...]:
    """Run one task; ends in `decoded` + tail."""
    attached: dict[str, Value | Link] = {"model": Link("shifted"), "adapters": Link(f"adapters{tail}")}
    return (
        Node(f"adapters{tail}", "OmniXLoadAdapters", {"task": task, "folder": FOLDER}),
        Node(f"streams{tail}", "OmniXApplyAdapters", attached),
        sampler(f"sampler{tail}", f"streams{tail}", conditioned, "negative", "empty", after),
        Node(f"decoded{tail}", "OmniXDecodePanorama", {"samples": Link(f"sampler{tail}"), "vae": Link("vae")}),
    )


def saved(name: str, image: Link) -> Node:
    """Save an image as PNG below output/OmniX."""
    return Node(f"save_{name}", "SaveImage", {"images": image, "filename_prefix": f"OmniX/{name}"}, f"Save {name}")


def saved_float(name: str, image: Link) -> Node:
    """Save a map as it is, in 32-bit floats: EXR, three channels, linear."""
    inputs: dict[str, Value | Link] = {
        "images": image,
        "filename_prefix": f"OmniX/{name}",
        "format": "exr",
        "format.bit_depth": "32-bit float",
        "format.input_color_space": "linear",
    }
    return Node(f"save_{name}_exr", "SaveImageAdvanced", inputs, f"Save {name} as EXR")


@dataclass(frozen=True)
class Reading:
    """How the target of a task is read: the node for it, and the maps it gives by name."""

    nodes: tuple[Node, ...]
    maps: Mapping[str, Link]


def reading(target: str, tail: str = "") -> Reading:
    """Return how the decoded target stream is turned into maps."""
    decoded = Link(f"decoded{tail}")
    if target == "depth":
        view: dict[str, Value | Link] = {"depth": Link("depth", "mask"), "colours": "Spectral", "invert": False}
        nodes = (Node("depth", "OmniXDepth", {"image": decoded}), Node("depth_view", "OmniXColourDepth", view))
        return Reading(nodes, {"depth": Link("depth", "depth")})
    if target == "normal":
        return Reading((Node("normal", "OmniXNormal", {"image": decoded}),), {"normal": Link("normal")})
    if target == "pbr":
        found = {name: Link("material", name) for name in ("roughness", "metallic")}
        return Reading((Node("material", "OmniXMaterial", {"image": decoded}),), found)
    return Reading((), {target: decoded})


def savers(maps: Mapping[str, Link]) -> tuple[Node, ...]:
    """Save every map, depth as floats too, with a coloured view beside it."""
    pictures = tuple(saved(name, Link("depth_view") if name == "depth" else image) for name, image in maps.items())
    return pictures + tuple(saved_float(name, image) for name, image in maps.items() if name == "depth")


def viewer(image: str, maps: Mapping[str, Link]) -> Node:
    """Look around in the panorama and its maps."""
    return Node("viewer", "OmniXPanoramaViewer", {"image": Link(image), **maps})


def panorama_input() -> Group:
    """The user's panorama in the size that OmniX perceives."""
    resized: dict[str, Value | Link] = {
        "input": Link("picture"),
        "resize_type": "scale width",
        "resize_type.width": PERCEIVED_WIDTH,
        "scale_method": "lanczos",
    }
    return Group(
        "Your panorama",
        0,
        (
            Node("picture", "LoadImage", {"image": "example.png"}, "Load a panorama (2:1)"),
            Node("panorama", "ResizeImageMaskNode", resized, "Resize the panorama"),
        ),
    )
