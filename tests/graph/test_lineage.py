"""A map goes to the node that reads it; another map's node says so, and where it belongs."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfyui_omnix.graph import maps
from comfyui_omnix.graph.lineage import READERS, check_map, task_of_picture
from comfyui_omnix.lab.bench import soak
from comfyui_omnix.lab.host.server import GraphError, Server
from comfyui_omnix.omnix.tasks import TASKS

NODES = {"depth": maps.OmniXDepth, "normal": maps.OmniXNormal, "pbr": maps.OmniXMaterial}
MAP_NODE = {target: node.__name__ for target, node in NODES.items()}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def graph(task: str, target: str, **more: dict[str, Any]) -> dict[str, Any]:
    """A task's graph with the node of a target's map behind it."""
    return soak.graph(task, 0, 1) | {"map": node(MAP_NODE[target], image=["decoded", 0])} | more


def told(prompt: dict[str, Any], target: str) -> str | None:
    """Run a node's check on a graph as the host does; return what it says."""
    given = type("Given", (NODES[target],), {"hidden": SimpleNamespace(prompt=prompt, unique_id="map")})
    try:
        check_map(given, target)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("task", "target"), itertools.product(TASKS, NODES))
def test_each_map_goes_to_its_own_node(task: str, target: str) -> None:
    said = told(graph(task, target), target)
    if TASKS[task].target == target:
        assert said is None
    else:
        assert said is not None and "\n" not in said
        assert f"this one was made by {task}" in said
        assert READERS.get(TASKS[task].target, "a picture as it is") in said


def test_ways_from_the_map_to_the_adapters() -> None:
    lora = node("LoraLoaderModelOnly", model=["applied", 0])
    ways = {
        "plain": {},
        "scaled": {
            "scaled": node("ImageScale", image=["decoded", 0]),
            "map": node("OmniXDepth", image=["scaled", 0]),
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


def test_where_the_graph_does_not_tell_nothing_is_refused() -> None:
    """Another model's maps, loaded pictures, tasks that come by a link, unknown nodes, and no graph at all."""
    odd = {
        "loaded": {"decoded": node("LoadImage", image="depth.png")},
        "estimated": {
            "estimated": node("DepthAnything", image=["decoded", 0]),
            "map": node("OmniXDepth", image=["estimated", 0]),
        },
        "plain model": {"shifted": node("UNETLoader", unet_name="x")},
        "linked task": {"adapters": node("OmniXLoadAdapters", task=["chooser", 0], folder="OmniX")},
        "circle": {"shifted": node("Reroute", model=["shifted", 0])},
        "lost": {"sampled": node("KSampler", model=["gone", 0])},
    }
    for more in odd.values():
        assert told(graph("rgb_to_normal", "depth", **more), "depth") is None
    assert told({}, "depth") is None
    assert len(maps.OmniXDepth.execute(torch.rand(1, 4, 8, 3)).args) == 2


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
    with pytest.raises(GraphError, match="OmniX Depth reads the picture of rgb_to_depth, this one was made by rgb_to_"):
        server.run(wrong)
