"""A map must go to the node that reads it; another map's node refuses it and names the right one."""

import itertools
import json
from inspect import signature
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfyui_omnix import nodes
from comfyui_omnix.graph import maps
from comfyui_omnix.graph.lineage import READERS, check_map, task_of_picture
from comfyui_omnix.lab.bench import soak
from comfyui_omnix.lab.host.server import ROOT, GraphError, Server
from comfyui_omnix.omnix.runtime.tasks import TASKS

NODES = {
    "depth": maps.OmniXDepth,
    "normal": maps.OmniXNormal,
    "pbr": maps.OmniXMaterial,
    "semantic": maps.OmniXSemantic,
}
MAP_NODE = {target: node.__name__ for target, node in NODES.items()}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def graph(task: str, target: str, **more: dict[str, Any]) -> dict[str, Any]:
    """A task's graph with the node of a target's map behind it."""
    return soak.graph(task, 0, 1) | {"map": node(MAP_NODE[target], image=["decoded", 0])} | more


def reported(prompt: dict[str, Any], target: str) -> str | None:
    """Run a node's check on a graph as the host does; return what it says."""
    given = type("Given", (NODES[target],), {"hidden": SimpleNamespace(prompt=prompt, unique_id="map")})
    try:
        check_map(given, target)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("task", "target"), itertools.product(TASKS, NODES))
def test_each_map_goes_to_its_own_node(task: str, target: str) -> None:
    said = reported(graph(task, target), target)
    if TASKS[task].target == target:
        assert said is None
    else:
        assert said is not None and "\n" not in said
        assert f"this one was made by {task}" in said
        assert READERS.get(TASKS[task].target, "already a picture") in said


def test_ways_from_the_map_to_the_adapters() -> None:
    lora = node("LoraLoaderModelOnly", model=["applied", 0])
    ways = {
        "plain": {},
        "scaled": {
            "scaled": node("ImageScale", image=["decoded", 0]),
            "map": node("OmniXDepth", image=["scaled", 0]),
        },
        "fitted": {
            "fitted": node("OmniXFitPanorama", image=["decoded", 0]),
            "map": node("OmniXDepth", image=["fitted", 0]),
        },
        "other decoder": {"decoded": node("VAEDecodeTiled", samples=["sampled", 0], vae=["vae", 0])},
        "latent in between": {
            "one": node("LatentFromBatch", samples=["sampled", 0]),
            "decoded": node("VAEDecode", samples=["one", 0], vae=["vae", 0]),
        },
        "custom sampler": {
            "guider": node("BasicGuider", model=["lora", 0], conditioning=["rgb", 0]),
            "lora": lora,
            "sampled": node("SamplerCustomAdvanced", guider=["guider", 0], latent_image=["empty", 0]),
        },
    }
    for more in ways.values():
        assert task_of_picture(graph("rgb_to_normal", "depth", **more), "map", "image") == "rgb_to_normal"


def test_where_the_graph_does_not_say_nothing_is_refused() -> None:
    """Another model's maps, loaded pictures, tasks that come by a link, unknown nodes, and no graph at all."""
    odd = {
        "loaded": {"decoded": node("LoadImage", image="depth.png")},
        "estimated": {
            "estimated": node("DepthAnything", image=["decoded", 0]),
            "map": node("OmniXDepth", image=["estimated", 0]),
        },
        "another pack's model": {"shifted": node("SomeDepthModel", name="x")},
        "a LoRA of somebody": {
            "shifted": node("LoraLoaderModelOnly", model=["base", 0]),
            "base": node("UNETLoader", unet_name="x"),
        },
        "linked task": {"adapters": node("OmniXLoadAdapters", task=["chooser", 0], folder="OmniX")},
        "circle": {"shifted": node("Reroute", model=["shifted", 0])},
        "lost": {"sampled": node("KSampler", model=["gone", 0])},
    }
    for more in odd.values():
        assert reported(graph("rgb_to_normal", "depth", **more), "depth") is None
    assert reported({}, "depth") is None
    assert len(maps.OmniXDepth.execute(torch.rand(1, 4, 8, 3)).args) == 2


PHOTO = {"photo": node("OmniXLoadPanorama", image="my room.png", height=512)}
PLAIN_MODEL = {"shifted": node("UNETLoader", unet_name="x")}
CHECKED = {
    "OmniXSavePanorama": ("depth", "normal", "albedo", "roughness", "metallic", "semantic", "panorama"),
    "OmniXPanoramaViewer": ("depth", "normal", "albedo", "roughness", "metallic", "semantic"),
    "OmniXContactSheet": ("depth", "normal", "albedo", "roughness", "metallic", "semantic", "panorama"),
    "OmniXScene": ("depth", "albedo", "normal", "roughness", "metallic"),
    "OmniXColourDepth": ("depth",),
    "OmniXMogeGeometry": ("depth",),
    "OmniXPackORM": ("roughness", "metallic"),
}
PAIRS = [(kind, name) for kind, names in CHECKED.items() for name in names]
MAPS_MADE = {
    "depth": ["depth node", 0],
    "normal": ["normal node", 0],
    "roughness": ["pbr node", 0],
    "metallic": ["pbr node", 1],
}


def made(task: str = "rgb_to_depth") -> dict[str, Any]:
    """A task's graph, together with nodes that made maps."""
    return soak.graph(task, 0, 1) | {
        "depth node": node("OmniXDepth", image=["somewhere", 0]),
        "normal node": node("OmniXNormal", image=["somewhere", 0]),
        "pbr node": node("OmniXMaterial", image=["somewhere", 0]),
        "view": node("OmniXColourDepth", depth=["depth node", 1]),
        **PHOTO,
    }


def said(kind: str, prompt: dict[str, Any], **inputs: Any) -> str | None:
    """Run a node as the host does, with the graph but without pictures; return what its check says."""
    hidden = SimpleNamespace(prompt=prompt | {"it": node(kind, **inputs)}, unique_id="it", extra_pnginfo=None)
    cls = type(kind, (getattr(nodes, kind),), {"hidden": hidden})
    named = {name: None for name, one in signature(cls.execute).parameters.items() if one.kind is not one.VAR_KEYWORD}
    try:
        cls.execute(**named)
    except (TypeError, AttributeError):  # the pictures are not there
        return None
    except ValueError as error:
        return str(error) if " but the graph connects " in str(error) else None
    return None


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_a_bypassed_box_leaves_no_photo_as_a_map(kind: str, name: str) -> None:
    """The photo itself, resized on its way, or encoded and decoded without a sampler in between."""
    ways = {
        "photo": PHOTO,
        "resized": {"resized": node("ImageScale", image=["photo", 0]), **PHOTO},
        "decoded": {
            "decoded": node("VAEDecode", samples=["encoded", 0]),
            "encoded": node("VAEEncode", pixels=["photo", 0]),
            **PHOTO,
        },
    }
    for last, prompt in ways.items():
        words = said(kind, prompt, **{name: [last, 0]})
        if name == "panorama":
            assert words is None
        else:
            assert words is not None and "\n" not in words
            assert f": {name} expects the {name} map, but the graph connects a plain panorama to it; is a box" in words


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_crosswise_wires_are_refused_and_straight_ones_not(kind: str, name: str) -> None:
    for other, link in MAPS_MADE.items():
        words = said(kind, made(), **{name: link})
        assert (words is None) == (other == name), (other, words)
        assert words is None or f"connects the {other} map to it; connect it to {other}." in words
    for task, each in TASKS.items():
        words, target = (
            said(kind, made(task), **{name: ["decoded", 0]}),
            "panorama" if task == "image_to_pano" else each.target,
        )
        assert (words is None) == (target == name), (task, words)


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_a_picture_that_was_made_without_adapters_is_no_map(kind: str, name: str) -> None:
    words = said(kind, made() | PLAIN_MODEL, **{name: ["decoded", 0]})
    if name == "panorama":
        assert words is None
    else:
        assert words is not None and "sampled without OmniX adapters to it; put Apply OmniX Adapters before" in words


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_a_bypassed_sampler_leaves_nothing(kind: str, name: str) -> None:
    empty = {"decoded": node("VAEDecode", samples=["e", 0]), "e": node("EmptySD3LatentImage", width=64, height=32)}
    words = said(kind, empty, **{name: ["decoded", 0]})
    assert words is not None and "an empty latent that was not sampled to it; is the sampler bypassed?" in words


@pytest.mark.parametrize("target", NODES)
def test_readers_of_maps_refuse_photos_and_plain_models_too(target: str) -> None:
    plain, photo = (
        reported(graph("rgb_to_depth", target, **more), target) for more in (PLAIN_MODEL, {"decoded": PHOTO["photo"]})
    )
    assert plain is not None and "sampled without OmniX adapters" in plain
    assert photo is not None and f"image expects the {target} map, but the graph connects a plain panorama" in photo


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_maps_from_files_and_from_other_packs_pass(kind: str, name: str) -> None:
    """Load Image says nothing; Load Panorama's own files have names; another pack's node may make anything."""
    files = {
        "unknown": node("LoadImage", image="x.png"),
        "estimated": node("DepthAnything", image=["photo", 0]),
        "sample": node("OmniXLoadPanorama", image=f"omnix_sample_room_{name}.png", height=512),
        "own": node("OmniXLoadPanorama", image=f"below/My{name.title()}Map.exr", height=512),
        **PHOTO,
    }
    for source in ("unknown", "estimated", "sample", "own"):
        assert said(kind, files, **{name: [source, 0]}) is None


def test_the_picture_that_is_the_panorama_is_no_map_wherever_it_came_from() -> None:
    loaded = {"any": node("LoadImage", image="x.png"), "smaller": node("ImageScale", image=["any", 0])}
    for kind, photo in (("OmniXSavePanorama", "panorama"), ("OmniXPanoramaViewer", "image"), ("OmniXScene", "image")):
        words = said(kind, loaded, **{photo: ["any", 0], "normal": ["smaller", 0]})
        assert words is not None and ": normal expects the normal map, but the graph connects a plain panorama" in words


def test_a_coloured_view_is_for_eyes_only() -> None:
    for kind in ("OmniXPanoramaViewer", "OmniXContactSheet"):
        assert said(kind, made(), depth=["view", 0]) is None
    words = said("OmniXSavePanorama", made(), depth=["view", 0])
    assert (
        words is not None
        and "connects a coloured view of depth to it; connect the depth output of OmniX Depth." in words
    )
    words = said("OmniXPanoramaViewer", made(), normal=["view", 0])
    assert words is not None and "coloured view" in words
    words = said("OmniXScene", made(), depth=["photo", 1])
    assert words is not None and "connects a mask of part of the picture to it" in words


def test_a_fitted_panorama_is_the_panorama_and_its_mask_a_mask() -> None:
    fitted = {**made(), "fitted": node("OmniXFitPanorama", image=["photo", 0])}
    words = said("OmniXSavePanorama", fitted, depth=["fitted", 0])
    assert words is not None and "the graph connects a plain panorama" in words
    words = said("OmniXScene", fitted, depth=["fitted", 1])
    assert words is not None and "connects a mask of part of the picture to it" in words


def test_the_shipped_workflows_pass() -> None:
    for path in sorted((ROOT / "lab" / "workflows" / "api").glob("*.json")):
        prompt = json.loads(path.read_text(encoding="utf-8"))
        for unique_id, each in prompt.items():
            if each["class_type"] in CHECKED:
                assert said(each["class_type"], prompt, **each["inputs"]) is None, (path.name, unique_id)


@pytest.mark.server
def test_a_bypassed_box_is_said_by_the_server_and_nothing_is_saved(server: Server) -> None:
    photo = node("OmniXLoadPanorama", image="omnix_sample_room.png", height=64)
    saved = node("OmniXSavePanorama", depth=["photo", 0], filename_prefix="bypassed/room", values="depth")
    with pytest.raises(
        GraphError, match="Save Panorama and Maps: depth expects the depth map, but the graph connects a plain pan"
    ):
        server.run({"photo": photo, "saved": saved})
    assert not list((server.base / "output").glob("bypassed/*"))


@pytest.mark.server
def test_the_host_hands_the_graph_over(server: Server) -> None:
    """Only a running node knows the graph that it is in."""
    info = server.node_info("OmniXDepth")
    assert set(info["input"]["hidden"]) == {"prompt", "unique_id"}
    rays = node("OmniXCameraRays", width=64, height=32)
    read = node("OmniXDepth", image=["decoded", 0])
    saved = node("SaveImage", images=["map", 0], filename_prefix="map")
    assert server.run({"decoded": rays, "map": read, "saved": saved}).files("saved")
    soak.install(server.base)
    wrong = soak.graph("rgb_to_normal", 0, 1) | {"map": read, "saved": saved}
    with pytest.raises(GraphError, match="OmniX Depth reads the picture of rgb_to_depth, but this one was made by rgb"):
        server.run(wrong)
