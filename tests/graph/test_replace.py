"""Graphs of the older pack: the real server answers each with one sentence that names the workflow to open."""

import json
import urllib.request
from typing import Any

import pytest
from comfyui_omnix.graph import older
from comfyui_omnix.lab.host.browser import Workbench, chromium
from comfyui_omnix.lab.host.server import ROOT, GraphError, Server

# The nodes of ComfyUI-OmniX with the inputs they were saved with.
LATENT = {"vae": ["vae", 0], "samples": ["sampled", 0]}
OLDER = {
    "OmniX_PanoPerception_Depth": LATENT | {"normalize": True, "colorize": True, "colormap": "inferno"},
    "OmniX_PanoPerception_Normal": LATENT | {"normalize_vectors": True, "output_format": "rgb"},
    "OmniX_PanoPerception_PBR": LATENT | {"normalize_maps": True},
    "OmniX_PanoPerception_Semantic": LATENT | {"palette": "custom", "num_classes": 16},
}
OUTPUTS = {"OmniX_PanoPerception_PBR": 3}


def older_graph(kind: str) -> dict[str, dict[str, Any]]:
    """The end of a graph as the older pack's examples have it, in the form the browser posts."""
    graph = {
        "vae": {"class_type": "VAELoader", "inputs": {"vae_name": "ae.safetensors"}},
        "sampled": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 32, "batch_size": 1}},
        "map": {"class_type": kind, "inputs": OLDER[kind]},
    }
    for slot in range(OUTPUTS.get(kind, 1)):
        graph[f"saved{slot}"] = {"class_type": "SaveImage", "inputs": {"images": ["map", slot], "filename_prefix": "x"}}
    return {name: node | {"_meta": {"title": name}} for name, node in graph.items()}


@pytest.mark.server
@pytest.mark.parametrize("kind", OLDER)
def test_an_older_graph_is_answered_with_what_to_open(server: Server, kind: str) -> None:
    with pytest.raises(GraphError) as caught:
        server.submit(older_graph(kind))
    workflow, _ = older.WORKFLOWS[kind.removeprefix(older.PREFIX)]
    assert (caught.value.node, caught.value.node_type) == ("map", "OmniXOlderGraph")
    assert older.advice(workflow) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.server
def test_the_browser_is_informed_too(server: Server) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    reported = json.loads(direct.open(f"{server.url}/node_replacements", timeout=60).read())
    for kind in OLDER:
        assert [one["new_node_id"] for one in reported[kind]] == ["OmniXOlderGraph"]
        assert len(reported[kind][0]["output_mapping"]) == OUTPUTS.get(kind, 1)
    assert server.node_info("OmniXOlderGraph")["deprecated"] is True


# The end of the older pack's example for materials, as its file has it: the albedo and the metallic image are saved.
SAVED: dict[str, Any] = {
    "nodes": [
        {
            "id": 1,
            "type": "EmptySD3LatentImage",
            "pos": [0, 0],
            "size": [300, 120],
            "outputs": [{"name": "LATENT", "type": "LATENT", "links": [1]}],
            "widgets_values": [64, 32, 1],
        },
        {
            "id": 2,
            "type": "OmniX_PanoPerception_PBR",
            "pos": [400, 0],
            "size": [315, 106],
            "inputs": [
                {"name": "vae", "type": "VAE", "link": None},
                {"name": "samples", "type": "LATENT", "link": 1},
            ],
            "outputs": [
                {"name": "albedo_img", "type": "IMAGE", "links": [2]},
                {"name": "roughness_img", "type": "IMAGE", "links": None},
                {"name": "metallic_img", "type": "IMAGE", "links": [3]},
            ],
            "widgets_values": [True],
        },
        *(
            {
                "id": 1 + link,
                "type": "SaveImage",
                "pos": [800, 400 * (link - 2)],
                "size": [315, 270],
                "inputs": [{"name": "images", "type": "IMAGE", "link": link}],
                "widgets_values": ["older"],
            }
            for link in (2, 3)
        ),
    ],
    "links": [[1, 1, 0, 2, 1, "LATENT"], [2, 2, 0, 3, 0, "IMAGE"], [3, 2, 2, 4, 0, "IMAGE"]],
    "version": 0.4,
}
POSTED = "async () => (await window.app.graphToPrompt()).output"


@pytest.mark.since("0.30.0")
@pytest.mark.server
def test_a_person_swaps_the_node_and_reads_what_to_open(server: Server) -> None:
    workflow, _ = older.WORKFLOWS["PBR"]
    with chromium() as browser:
        bench = Workbench(browser, server, nodes2=True)
        bench.open_workflow(SAVED)
        bench.page.get_by_role("button", name="View details").click()
        bench.page.get_by_role("button", name="Replace All").click()
        bench.wait("() => window.app.graph.nodes.some((node) => node.type === 'OmniXOlderGraph')")
        posted = bench.page.evaluate(POSTED)
        assert posted["2"]["inputs"] == {"open_instead": workflow}
        assert [posted[node]["inputs"]["images"] for node in ("3", "4")] == [["2", 0], ["2", 2]]
        with pytest.raises(RuntimeError, match="Open Templates, Extensions, omnix-panorama"):
            bench.run()
        bench.page.get_by_role("button", name="View details").click()
        bench.page.get_by_label("Info for Graph of the Older OmniX Pack - open_instead").click()
        bench.page.get_by_text("so it can't make a map").first.wait_for()
        bench.close()


def test_every_older_node_has_a_workflow_that_is_shipped() -> None:
    assert set(OLDER) == {older.PREFIX + name for name in older.WORKFLOWS}
    for workflow, _ in older.WORKFLOWS.values():
        assert (ROOT / "workflows" / f"{workflow}.json").is_file()
    options = older.OmniXOlderGraph.GET_SCHEMA().inputs[0].options
    assert set(options) == {workflow for workflow, _ in older.WORKFLOWS.values()}


def test_it_never_runs() -> None:
    with pytest.raises(ValueError, match="Panorama to depth instead, and load your panorama there"):
        older.OmniXOlderGraph.execute("OmniX 03 - Panorama to depth")
