"""Every shipped workflow opens, runs, and can be read before and after: measured on the screen, in both renderers."""

from itertools import combinations
from typing import Any, NamedTuple

import benches
import pytest
import test_workflow_runs as runs
from comfyui_omnix.lab.host.browser import Workbench
from graph_files import OWN_MODEL, UI, by_host, read
from test_browser_pages import SHRINK, SIZES

pytestmark = [pytest.mark.server, pytest.mark.since("0.20.1")]  # older frontends have other bars over the graph

files = runs.files
browser, stocked, stocked_bench = benches.browser, benches.stocked, benches.stocked_bench
SCREEN = {"width": 1920, "height": 1080}
ZOOM, LETTERS = 0.6, 11
"""The least zoom of a workflow as it opens, and the least height of the letters of its notes in pixels."""


# The screen, in its pixels: the whole of every node, things that cover its title, text of notes that is cut off,
# and the nodes that a wire runs behind. The two nodes of a wire cover its ends, a little within their borders.
MEASURED = """async () => {
    const { canvas, rootGraph } = window.app;
    const frame = canvas.canvas.getBoundingClientRect();
    const drawn = (node) => document.querySelector(`.lg-node[data-node-id="${node.id}"]`);
    const onPage = ([x, y, w, h]) => {
        const [left, top] = canvas.ds.convertOffsetToCanvas([x, y]);
        return { left: left + frame.x, top: top + frame.y, right: left + frame.x + w * canvas.ds.scale,
            bottom: top + frame.y + h * canvas.ds.scale };
    };
    const whole = (node) => drawn(node)?.getBoundingClientRect() ?? onPage(node.boundingRect);
    const inside = (a, b) =>
        a.left >= b.left - 1 && a.top >= b.top - 1 && a.right <= b.right + 1 && a.bottom <= b.bottom + 1;

    const cutOff = (node) => {
        const root = drawn(node) ?? node.widgets[0].element;
        const words = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
        const cut = [], letters = [];
        while (words.nextNode()) {
            const text = words.currentNode;
            if (!text.data.trim()) continue;
            const range = document.createRange();
            range.selectNodeContents(text);
            const frames = [whole(node)];
            for (let each = text.parentElement; each && each !== root.parentElement; each = each.parentElement)
                if (getComputedStyle(each).overflow !== "visible") frames.push(each.getBoundingClientRect());
            const shown = [...range.getClientRects()].every((part) => frames.every((one) => inside(part, one)));
            if (!shown) cut.push(text.data);
            if (text.parentElement.closest("p, li, h2, pre"))
                letters.push(parseFloat(getComputedStyle(text.parentElement).fontSize) * canvas.ds.scale);
        }
        return { words: root.textContent.length, cut, letters: Math.min(...letters) };
    };

    const pen = document.createElement("canvas").getContext("2d");
    pen.lineWidth = 3;
    const crosses = (path, { left, top, right, bottom }, rim) => {
        const [x0, y0] = canvas.ds.convertCanvasToOffset([left - frame.x, top - frame.y]);
        const [x1, y1] = canvas.ds.convertCanvasToOffset([right - frame.x, bottom - frame.y]);
        for (let x = x0 + rim; x <= x1 - rim; x += 2)
            for (const y of [y0 + rim, y1 - rim]) if (pen.isPointInStroke(path, x, y)) return true;
        for (let y = y0 + rim; y <= y1 - rim; y += 2)
            for (const x of [x0 + rim, x1 - rim]) if (pen.isPointInStroke(path, x, y)) return true;
        return false;
    };
    const wires = [...rootGraph.links.values()];
    const rim = (wire, node) => ([wire.origin_id, wire.target_id].includes(node.id) ? 14 : 3);
    const behind = wires.flatMap((wire) =>
        rootGraph.nodes
            .filter((node) => crosses(wire.path, whole(node), rim(wire, node)))
            .map((node) => `${wire.type} of ${rootGraph.getNodeById(wire.origin_id).title} behind ${node.title}`));

    const nodes = rootGraph.nodes.map((node) => {
        const { left, top, right, bottom } = whole(node);
        const seen = [0.1, 0.5, 0.9].every((part) => {
            const over = document.elementFromPoint(left + part * (right - left), top + 10);
            return over === canvas.canvas || drawn(node)?.contains(over);
        });
        return { title: node.title, left, top, right, bottom, seen };
    });
    const notes = rootGraph.nodes.filter((node) => node.type === "MarkdownNote").map(cutOff);
    const drawnWires = wires.filter((wire) => wire.path).length;
    return { scale: canvas.ds.scale, nodes, notes, wires: wires.length, drawn: drawnWires, behind };
}"""

RECTANGLES = """() => [
    ...window.app.rootGraph.nodes.map((node) => [...node.boundingRect]),
    ...[...document.querySelectorAll(".lg-node, .dom-widget")].map((each) =>
        JSON.stringify(each.getBoundingClientRect())),
]"""


class Box(NamedTuple):
    """The whole of a node on the screen with its title, in pixels; `seen` if nothing covers its title."""

    title: str
    left: float
    top: float
    right: float
    bottom: float
    seen: bool

    def overlaps(self, other: "Box") -> bool:
        """Return whether two nodes share more than a pixel."""
        apart = self.right <= other.left + 1 or other.right <= self.left + 1
        return not apart and self.bottom > other.top + 1 and other.bottom > self.top + 1


@pytest.fixture(scope="module")
def bench(stocked_bench: Workbench) -> Workbench:
    """Nothing is missing, so no message covers the graph."""
    stocked_bench.page.set_viewport_size(SCREEN)
    return stocked_bench


def measured(bench: Workbench) -> dict[str, Any]:
    """Measure what is on the screen once it has come to rest: nodes grow while their pictures load, widgets follow."""
    rectangles, before = bench.page.evaluate(RECTANGLES), None
    while rectangles != before:
        bench.page.wait_for_timeout(300)
        bench.settle()
        rectangles, before = bench.page.evaluate(RECTANGLES), rectangles
    return bench.page.evaluate(MEASURED)


@pytest.mark.parametrize("name", by_host(UI))
def test_a_workflow_opens_from_the_template_browser_finishes_and_can_be_read(bench: Workbench, name: str) -> None:
    """One run for both: a run takes longer than all that is measured."""
    bench.complaints.clear()
    bench.open_template(name)
    assert bench.troubles() == []
    check_as_it_opens(measured(bench), message=name in OWN_MODEL)
    if name not in OWN_MODEL:
        finishes(bench, name)
        bench.page.wait_for_timeout(2000)
        check(measured(bench))
    bench.open_workflow(read(UI[name]))
    check_as_it_opens(measured(bench), message=name in OWN_MODEL)


def finishes(bench: Workbench, name: str) -> None:
    """The workflow that is open, but for steps and sizes, runs, saves pictures and shows them, without a complaint."""
    bench.page.evaluate(SHRINK, SIZES)
    outputs = bench.run()
    saved = [file for output in outputs.values() for file in output.get("images", []) if file["type"] == "output"]
    assert saved or name == "OmniX extra - Save the prompt once"
    if any("omnix_maps" in output for output in outputs.values()):
        bench.wait("() => document.querySelector('.omnix-panorama canvas').ariaLabel.includes('looking')")
    assert bench.troubles() == []


def check_as_it_opens(found: dict[str, Any], message: bool) -> None:
    """The graph is large enough, every note is complete in letters that can be read, and every wire is drawn."""
    check(found, message)
    assert found["scale"] >= ZOOM
    assert found["notes"] and all(note["words"] > 100 for note in found["notes"])
    assert [words for note in found["notes"] for words in note["cut"]] == []
    assert min(note["letters"] for note in found["notes"]) >= LETTERS
    assert found["wires"] == found["drawn"] > 0


def check(found: dict[str, Any], message: bool = False) -> None:
    """Nodes are completely on the screen, nothing covers a title, no node covers another, and no wire runs behind one.

    message: one of the host lies over a corner.
    """
    boxes = [Box(**node) for node in found["nodes"]]
    assert message or [box.title for box in boxes if not box.seen] == []
    assert [box.title for box in boxes if min(box.left, box.top) < 0] == []
    assert [box.title for box in boxes if box.right > SCREEN["width"] or box.bottom > SCREEN["height"]] == []
    assert [(a.title, b.title) for a, b in combinations(boxes, 2) if a.overlaps(b)] == []
    assert found["behind"] == []
