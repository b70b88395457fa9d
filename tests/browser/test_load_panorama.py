"""Load Panorama in the browser: old workflows without a fit, a picture that is dropped on it, and its refusals."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import benches
import pytest
from comfyui_omnix.lab.host.browser import Workbench
from comfyui_omnix.lab.host.server import Server
from PIL import Image
from playwright.sync_api import Browser

pytestmark = [pytest.mark.server, pytest.mark.since("0.30.0")]

browser = benches.browser
SAMPLE = "omnix_sample_room.png"
VALUES = """() => Object.fromEntries(
    window.app.graph.nodes[0].widgets.map(({ name, value }) => [name, value]))"""
SAVED = "() => JSON.parse(JSON.stringify(window.app.graph.serialize()))"
SET = """([field, value]) => {
    window.app.graph.nodes[0].widgets.find(({ name }) => name === field).value = value;
}"""
DROP = """async ([name, data]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
    const { canvas } = window.app;
    const [node] = window.app.graph.nodes;
    const [x, y] = canvas.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] + 20]);
    const box = canvas.canvas.getBoundingClientRect();
    const at = { clientX: box.left + x, clientY: box.top + y, bubbles: true, cancelable: true, dataTransfer: transfer };
    const target = document.elementFromPoint(at.clientX, at.clientY);
    for (const kind of ["dragenter", "dragover", "drop"]) target.dispatchEvent(new DragEvent(kind, at));
}"""


@pytest.fixture(params=benches.RENDERERS)
def bench(request: pytest.FixtureRequest, browser: Browser, server: Server) -> Iterator[Workbench]:
    with benches.opened(browser, server, request.param == "nodes2") as opened:
        yield opened


def workflow(values: list[Any]) -> dict[str, Any]:
    node = {
        "id": 1,
        "type": "OmniXLoadPanorama",
        "pos": [100, 200],
        "size": [320, 400],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": values,
    }
    return {"last_node_id": 1, "last_link_id": 0, "nodes": [node], "links": [], "version": 0.4}


def values(bench: Workbench) -> dict[str, Any]:
    return bench.page.evaluate(VALUES)


def test_a_workflow_from_before_keeps_its_values(bench: Workbench) -> None:
    bench.open_workflow(workflow([SAMPLE, 512, "image"]))
    bench.settle()
    known = values(bench)
    assert (known["image"], known["height"], known["fit"], known["vertical_fov"]) == (SAMPLE, 512, "by GPano", 0)
    assert not bench.troubles()


def test_a_fit_is_saved_and_opened(bench: Workbench) -> None:
    bench.open_workflow(workflow([SAMPLE, 512, "by GPano", 0, "image"]))
    bench.settle()
    for field, value in (("fit", "pad"), ("vertical_fov", 45)):
        bench.page.evaluate(SET, [field, value])
    saved = bench.page.evaluate(SAVED)
    assert saved["nodes"][0]["widgets_values"][:4] == [SAMPLE, 512, "pad", 45]
    bench.open_workflow(saved)
    bench.settle()
    known = values(bench)
    assert (known["height"], known["fit"], known["vertical_fov"]) == (512, "pad", 45)


def test_a_dropped_picture_is_loaded_and_its_refusal_is_on_the_node(bench: Workbench) -> None:
    bench.open_workflow(workflow([SAMPLE, 512, "by GPano", 0, "image"]))
    bench.settle()
    file = io.BytesIO()
    Image.new("RGB", (800, 200), (9, 99, 200)).save(file, "PNG")
    bench.page.evaluate(DROP, ["dropped.png", base64.b64encode(file.getvalue()).decode()])
    bench.wait("() => window.app.graph.nodes[0].widgets[0].value.startsWith('dropped')")
    assert len(bench.page.evaluate(SAVED)["nodes"]) == 1, "no second node"
    bench.page.evaluate(
        """() => {
        const viewer = LiteGraph.createNode("PreviewImage");
        window.app.graph.add(viewer);
        window.app.graph.nodes[0].connect(0, viewer, 0);
    }"""
    )
    with bench.page.expect_response(lambda answer: answer.url.endswith("/prompt")):
        bench.page.evaluate("() => window.app.queuePrompt(0)")
    sentence = "expected a panorama, twice as wide as high, got 800x200; choose one half if it is a side-by-side"
    bench.wait(
        """(sentence) => window.app.graph.nodes[0].widgets.some(({ value }) => `${value}`.includes(sentence))""",
        sentence,
    )
