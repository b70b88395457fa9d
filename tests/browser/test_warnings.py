"""Warnings of a run are visible under the node or its box, also after the run, and in the console."""

from collections.abc import Iterator
from typing import Any

import benches
import pytest
import test_workflow_runs as runs
from comfyui_omnix.lab.host.browser import Workbench
from comfyui_omnix.lab.host.server import Server
from graph_files import UI, read
from playwright.sync_api import Browser
from test_browser_pages import SHRINK, SIZES

pytestmark = [pytest.mark.server, pytest.mark.since("0.30.0")]

files = runs.files
browser, stocked = benches.browser, benches.stocked
DEPTH = "OmniX 03 - Panorama to depth"
SET = """([type, field, value]) => {
    const graphs = [window.app.rootGraph, ...window.app.rootGraph.subgraphs.values()];
    for (const node of graphs.flatMap((graph) => graph.nodes).filter((each) => each.type === type))
        node.widgets.find(({ name }) => name === field).value = value;
}"""
ENTER = """(title) => {
    const { canvas, rootGraph } = window.app;
    canvas.openSubgraph(rootGraph.nodes.find((node) => node.title === title).subgraph);
}"""
# The rectangles of a panel, of the node with this title, and of all others, in pixels of the page.
AROUND = """(title) => {
    const { canvas } = window.app, { ds } = canvas, frame = canvas.canvas.getBoundingClientRect();
    const whole = (node) => {
        const drawn = document.querySelector(`.lg-node[data-node-id="${node.id}"]`)?.getBoundingClientRect();
        const [x, y, w, h] = node.boundingRect, [left, top] = ds.convertOffsetToCanvas([x, y]);
        const { left: l, top: t, right: r, bottom: b } = drawn ?? new DOMRect(
            left + frame.x, top + frame.y, w * ds.scale, h * ds.scale);
        return [l, t, r, b];
    };
    const { left, top, right, bottom } = document.querySelector(".omnix-warnings").getBoundingClientRect();
    const nodes = canvas.graph.nodes;
    return {
        panel: [left, top, right, bottom],
        own: whole(nodes.find((node) => node.title === title)),
        others: nodes.filter((node) => node.title !== title).map(whole),
    };
}"""


@pytest.fixture(params=benches.RENDERERS)
def bench(request: pytest.FixtureRequest, browser: Browser, stocked: Server) -> Iterator[Workbench]:
    with benches.opened(browser, stocked, request.param == "nodes2") as opened:
        opened.page.set_viewport_size({"width": 1920, "height": 1080})
        yield opened


def test_a_warning_of_a_node_inside_is_under_the_box_and_stays(bench: Workbench) -> None:
    said: list[str] = []
    bench.page.on("console", lambda message: said.append(message.text) if message.type == "warning" else None)
    bench.open_workflow(read(UI[DEPTH]))
    bench.page.evaluate(SHRINK, SIZES)
    cfg = 3.5 if bench.nodes2 else 3  # what has run already warns of nothing
    bench.page.evaluate(SET, ["KSampler", "cfg", cfg])
    bench.run()
    panel = bench.page.locator(".omnix-warnings")
    panel.first.wait_for()
    sentence = f"⚠ cfg is {cfg}, but rgb_to_depth needs cfg 1"
    assert panel.locator("li").all_inner_texts()[0].startswith(sentence)
    check_place(bench, "Panorama to depth")
    bench.page.evaluate(ENTER, "Panorama to depth")
    check_place(bench, "KSampler")
    bench.page.evaluate("() => window.app.canvas.setGraph(window.app.rootGraph)")
    bench.page.evaluate(SET, ["KSampler", "cfg", 1])
    bench.run()
    bench.wait("() => !document.querySelector('.omnix-warnings')")
    assert len([text for text in said if f"OmniX: Panorama to depth: cfg is {cfg}" in text]) == 1


def check_place(bench: Workbench, title: str) -> None:
    """There is one panel, and it comes to be right below its node, within its sides, and over no other node."""
    panel = bench.page.locator(".omnix-warnings")
    assert benches.becomes(lambda: panel.count() == 1 and placed(bench.page.evaluate(AROUND, title)))


def placed(found: dict[str, Any]) -> bool:
    (left, top, right, bottom), own = found["panel"], found["own"]
    below = top == pytest.approx(own[3], abs=3) and (left, right) == pytest.approx((own[0], own[2]), abs=3)
    return (
        below
        and bottom - top > 10
        and all(
            right <= other[0] or other[2] <= left or bottom <= other[1] + 1 or other[3] <= top + 1
            for other in found["others"]
        )
    )


def test_a_box_says_what_size_it_works_at(bench: Workbench) -> None:
    """A picture of a core loader may be of any size; the box brings it down to its height, and says so."""
    bench.open_workflow(read(UI[DEPTH]))
    bench.page.evaluate(SHRINK, SIZES)
    bench.page.evaluate(SET, ["OmniXLoadPanorama", "height", 128 if bench.nodes2 else 136])
    bench.run()
    said = f"{'256x128' if bench.nodes2 else '272x136'} given, 128x64 here"
    bench.wait("(said) => document.querySelector('.omnix-warnings li')?.textContent === said", said)


def test_in_app_mode_a_warning_is_a_message(bench: Workbench) -> None:
    if not bench.nodes2:
        pytest.skip("app mode has one renderer")
    bench.open_workflow(read(UI[DEPTH]))
    bench.page.evaluate(SHRINK, SIZES)
    bench.page.evaluate(SET, ["KSampler", "cfg", 2])
    bench.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.ToggleLinear')")
    bench.page.get_by_test_id("linear-run-button").get_by_role("button", name="Run", exact=True).click()
    # Newer frontends read it out to screen readers, too; the message that is seen is the last.
    bench.page.get_by_role("alert").get_by_text("cfg is 2, but rgb_to_depth needs cfg 1").last.wait_for()
