"""The pack in a real browser: every node has a help page, and missing nodes and models would be noticed."""

from pathlib import Path
from typing import Any

import benches
import pytest
import test_workflow_runs as runs
from comfyui_omnix.lab.host.browser import Workbench
from graph_files import UI

pytestmark = pytest.mark.server

files = runs.files
browser, stocked, bench = benches.browser, benches.stocked, benches.stocked_bench
HELP = sorted((Path(__file__).resolve().parents[2] / "web" / "docs").glob("*.md"))

# Few steps and small pictures: the models are tiny, but they run on a processor.
SHRINK = """(sizes) => {
    const graphs = [window.app.rootGraph, ...window.app.rootGraph.subgraphs.values()];
    for (const node of graphs.flatMap((graph) => graph.nodes))
        for (const widget of node.widgets ?? []) {
            const given = { ...sizes.any, ...sizes.of[node.type] }[widget.name];
            if (given !== undefined) widget.value = given;
        }
}"""
SIZES = {
    "any": {"steps": 2, "width": runs.WIDTH, "height": runs.HEIGHT},
    "of": {**runs.SIZES, "OmniXPanoramaViewer": {"width": 64}},
}


def test_workflows_are_shipped() -> None:
    assert len(UI) >= 8


BROKEN: dict[str, Any] = {
    "nodes": [
        {"id": 1, "type": "NoSuchNode", "pos": [0, 0], "size": [100, 100], "inputs": [], "outputs": []},
        {"id": 2, "type": "VAELoader", "pos": [300, 0], "size": [100, 100], "widgets_values": ["gone.safetensors"]},
    ],
    "links": [],
    "version": 0.4,
}


@pytest.mark.since("0.30.0")  # it looks for what that frontend lays over the graph
def test_a_missing_node_and_a_missing_model_would_be_noticed(bench: Workbench) -> None:
    bench.open_workflow(BROKEN)
    bench.page.get_by_test_id("error-overlay").wait_for()
    assert {"missing node NoSuchNode", "node in red: VAELoader"} <= set(bench.troubles())


@pytest.mark.since("0.18.2")  # before, the frontend's own Run button lies over the one for help
def test_every_node_shows_its_page_of_help(bench: Workbench) -> None:
    assert HELP, "web/docs holds a page for every node"
    bench.complaints.clear()
    bench.open_workflow({"nodes": [], "links": [], "version": 0.4})
    for page in HELP:
        heading = page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").strip()
        assert heading in bench.help_page(page.stem)
    pictures = "() => [...document.querySelectorAll('.node-help-content img')].every(one => one.complete)"
    bench.wait(pictures)
    assert bench.troubles() == []
