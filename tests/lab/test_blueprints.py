"""The blueprints: each is its task's graph as one node, and the host offers it."""

import functools
import json
from typing import Any

import pytest
from comfyui_omnix.lab.host.server import Server
from graph_files import API, BLUEPRINTS, posted, read, relabelled

pytestmark = pytest.mark.server
WHOLE = {
    "Panorama to depth (OmniX)": "rgb_to_depth",
    "Panorama to normal (OmniX)": "rgb_to_normal",
    "Panorama to albedo (OmniX)": "rgb_to_albedo",
    "Panorama to roughness and metallic (OmniX)": "rgb_to_pbr",
    "Panorama to semantic (OmniX)": "rgb_to_semantic",
    "Image to panorama (OmniX)": "image_to_pano",
}
OUTSIDE = ("LoadImage", "SaveImage", "SaveImageAdvanced", "OmniXPanoramaViewer", "OmniXColourDepth")


@pytest.fixture(scope="module")
def describe(server: Server) -> Any:
    return functools.cache(server.node_info)


def test_every_blueprint_is_there() -> None:
    assert sorted(BLUEPRINTS) == sorted(WHOLE)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_blueprint_is_its_graph(name: str, describe: Any) -> None:
    """Unfolded, a blueprint is the task's graph without loading, saving and looking."""
    form = read(BLUEPRINTS[name])
    (outer,), (inner,) = form["nodes"], form["definitions"]["subgraphs"]
    assert outer["type"] == inner["id"] and inner["name"] == name and inner["category"] == "OmniX"
    assert inner["description"] and form["extra"]["BlueprintSearchAliases"]
    assert [(i["name"], i["type"]) for i in outer["inputs"]] == [(i["name"], i["type"]) for i in inner["inputs"]]
    assert [(o["name"], o["type"]) for o in outer["outputs"]] == [(o["name"], o["type"]) for o in inner["outputs"]]
    whole = read(API[WHOLE[name]])
    inputs = {-10: [port["name"] for port in inner["inputs"]]}
    links = {
        link["id"]: (link["origin_id"], link["origin_slot"]) for link in inner["links"] if link["target_id"] != -20
    }
    graph = posted(inner["nodes"], links, describe)
    for node in graph.values():
        task = node["inputs"].get("task")
        assert task in (None, WHOLE[name])
    kept = [key for key, node in whole.items() if node["class_type"] not in OUTSIDE]
    assert [whole[key]["class_type"] for key in kept] == [node["class_type"] for node in graph.values()]
    names = {**dict(zip(graph, kept)), -10: "outside"}
    for key, node in relabelled(graph, names).items():
        for field, given in node["inputs"].items():
            if isinstance(given, list) and given[0] == "outside":
                assert inputs[-10][given[1]]
            else:
                assert given == whole[key]["inputs"][field]


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_blueprint_links_meet(name: str) -> None:
    """Every port of a blueprint has its links, and they exist on both ends."""
    inner = read(BLUEPRINTS[name])["definitions"]["subgraphs"][0]
    nodes = {node["id"]: node for node in inner["nodes"]}
    links = {link["id"]: link for link in inner["links"]}
    assert len(links) == len(inner["links"]) == inner["state"]["lastLinkId"]
    for side, end, slot in (("inputs", "origin_id", "origin_slot"), ("outputs", "target_id", "target_slot")):
        for position, port in enumerate(inner[side]):
            assert port["linkIds"]
            assert all(links[i][end] == (-10 if side == "inputs" else -20) for i in port["linkIds"])
            assert all(links[i][slot] == position and links[i]["type"] == port["type"] for i in port["linkIds"])
    for link in links.values():
        if link["target_id"] != -20:
            assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
        if link["origin_id"] != -10:
            assert link["id"] in nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_server_offers_the_blueprint(name: str, server: Server) -> None:
    offered = server._get("/global_subgraphs")
    (key,) = [key for key, entry in offered.items() if entry["name"] == name]
    assert offered[key]["source"] == "custom_node"
    assert json.loads(server._get(f"/global_subgraphs/{key}")["data"]) == read(BLUEPRINTS[name])
