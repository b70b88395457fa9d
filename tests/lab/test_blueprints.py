"""The blueprints: each one is a box of the workflows, complete in itself, and the host lists it."""

import json

import pytest
from comfyui_omnix.lab.host.server import Server
from comfyui_omnix.lab.workflows.shelf import BLUEPRINTS as SHELF
from comfyui_omnix.lab.workflows.shelf import SETTINGS
from graph_files import BLUEPRINTS, UI, read

pytestmark = pytest.mark.server


def test_every_blueprint_is_there() -> None:
    assert sorted(BLUEPRINTS) == sorted(blueprint.name for blueprint in SHELF)
    assert len(BLUEPRINTS) >= 8


def test_every_blueprint_is_a_box_of_a_workflow() -> None:
    """Steps and seed, and the boxes with a saved prompt, are for graphs that people put together themselves."""
    forms = [read(path) for path in UI.values()]
    used = {graph["name"] for form in forms for graph in form.get("definitions", {}).get("subgraphs", [])}
    assert used | {SETTINGS} == {name for name in BLUEPRINTS if "with saved prompt" not in name}
    saved = {name.replace(" with saved prompt", "") for name in BLUEPRINTS if "with saved prompt" in name}
    perceiving = {box.name for box in SHELF if "panorama" in box.inputs and "prompt" not in box.inputs}
    assert {name.replace(" with saved prompt", "") for name in perceiving} == saved


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_outside_and_inside_agree(name: str) -> None:
    form = read(BLUEPRINTS[name])
    (outer,), (inner,) = form["nodes"], form["definitions"]["subgraphs"]
    assert outer["type"] == inner["id"] and inner["name"] == name and inner["category"] == "OmniX"
    assert inner["description"] and form["extra"]["BlueprintSearchAliases"]
    assert [(i["name"], i["type"]) for i in outer["inputs"]] == [(i["name"], i["type"]) for i in inner["inputs"]]
    assert [(o["name"], o["type"]) for o in outer["outputs"]] == [(o["name"], o["type"]) for o in inner["outputs"]]
    nodes = {node["id"]: node for node in inner["nodes"]}
    links = {link["id"]: link for link in inner["links"]}
    for slot, port in zip(outer["inputs"], inner["inputs"]):
        ends = [links[number] for number in port["linkIds"]]
        fields = ["widget" in nodes[end["target_id"]]["inputs"][end["target_slot"]] for end in ends]
        assert fields == ["widget" in slot] * len(ends)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_blueprint_links_meet(name: str) -> None:
    """Every port of a blueprint has its links, and they exist on both ends."""
    inner = read(BLUEPRINTS[name])["definitions"]["subgraphs"][0]
    nodes = {node["id"]: node for node in inner["nodes"]}
    links = {link["id"]: link for link in inner["links"]}
    assert len(links) == len(inner["links"]) and inner["state"]["lastLinkId"] == max(links)
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
