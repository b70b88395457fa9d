"""The fields of the blueprints' boxes in a real browser: each value arrives at every node that it belongs to."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import benches
import pytest
from comfyui_omnix.lab.host.browser import Workbench
from graph_files import BLUEPRINTS, UI, read
from playwright.sync_api import TimeoutError

pytestmark = pytest.mark.server

browser, bench = benches.browser, benches.bench

FORMS = {**UI, **BLUEPRINTS}
BOXED = [name for name, path in FORMS.items() if read(path).get("definitions")]

# Give every field of every box another value, in the way a typed one is given; return them by box and name.
SET = """() => {
    const given = {};
    let number = 1;
    for (const box of window.app.rootGraph.nodes.filter((node) => node.isSubgraphNode?.())) {
        given[box.id] = [];
        for (const widget of box.widgets) {
            const { step2 = 1, min = 0, values = [] } = widget.options ?? {};
            const value = {
                number: Math.max(min, 0) + 64 + 16 * number++ * Math.max(step2, 1),
                combo: [...values].reverse()[0],
            }[widget.type] ?? `words ${number++}`;
            widget.value = value;
            widget.callback?.(value, window.app.canvas, box, [0, 0]);
            given[box.id].push([widget.name, widget.value]);
        }
    }
    return given;
}"""
POSTED = "() => window.app.graphToPrompt().then(({ output }) => output)"


@pytest.mark.parametrize("bench", ["legacy"], indirect=True)  # what the fields hold is the same in both
@pytest.mark.parametrize("name", BOXED)
def test_every_field_of_every_box_arrives(bench: Workbench, name: str) -> None:
    form = read(FORMS[name])
    bench.open_workflow(form)
    bench.settle()
    given = bench.page.evaluate(SET)
    posted = bench.page.evaluate(POSTED)
    boxes = {graph["id"]: graph for graph in form["definitions"]["subgraphs"]}
    for node in form["nodes"]:
        if node["type"] not in boxes:
            continue
        fields = [slot["name"] for slot in node["inputs"] if "widget" in slot]
        assert [field for field, _ in given[str(node["id"])]] == fields, "one field each, and no other"
        linked = {slot["name"] for slot in node["inputs"] if slot["link"] is not None}
        for field, value in given[str(node["id"])]:
            found = arrived(boxes[node["type"]], field, node["id"], posted)
            assert found
            if field in linked:
                assert all(isinstance(each, list) for each in found), "what is linked counts"
            else:
                assert found == [value] * len(found), field


def arrived(box: Mapping[str, Any], field: str, number: int, posted: Mapping[str, Any]) -> list[Any]:
    """List what the nodes inside got that an input of the box leads to."""
    links = {link["id"]: link for link in box["links"]}
    nodes = {node["id"]: node for node in box["nodes"]}
    (port,) = [port for port in box["inputs"] if port["name"] == field]
    ends = [(link["target_id"], link["target_slot"]) for link in (links[i] for i in port["linkIds"])]
    return [posted[f"{number}:{node}"]["inputs"][nodes[node]["inputs"][slot]["name"]] for node, slot in ends]


def test_numbers_that_are_typed_arrive(bench: Workbench) -> None:
    bench.open_workflow(read(UI["OmniX 02 - Text to panorama"]))
    bench.settle()
    for field, value in {"width": "768", "height": "384", "steps": "3"}.items():
        typed(bench, "Text to panorama", field, value)
    posted = bench.page.evaluate(POSTED)
    of = {kind: [n["inputs"] for n in posted.values() if n["class_type"] == kind] for kind in INSIDE}
    assert [(n["width"], n["height"]) for n in of["OmniXPlaceOnPanorama"]] == [(768, 384)]
    assert (384, 384) in [(n["width"], n["height"]) for n in of["EmptySD3LatentImage"]]
    assert [n["steps"] for n in of["KSampler"]] == [3, 3]


INSIDE = ("OmniXPlaceOnPanorama", "EmptySD3LatentImage", "KSampler")
# The place of the right part of an old renderer's field on the page.
FIELD = """([title, field]) => {
    const { canvas, rootGraph } = window.app;
    const node = rootGraph.nodes.find((each) => each.title === title);
    const widget = node.widgets.find((each) => each.name === field);
    const [x, y] = canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] * 0.6, node.pos[1] + widget.y + 10]);
    const frame = canvas.canvas.getBoundingClientRect();
    return [frame.x + x, frame.y + y];
}"""


def typed(bench: Workbench, title: str, field: str, value: str) -> None:
    """Type a number into a field, as a person does."""
    if bench.nodes2:
        entry = bench.page.locator(".lg-node", has_text=title).get_by_label(field, exact=True).locator("input")
        entry.fill(value)
        entry.press("Enter")
    else:
        dialog = bench.page.locator(".graphdialog input")
        for _ in range(5):
            # One click: a second one would open the box itself where the field has moved since it was measured.
            bench.page.mouse.click(*bench.page.evaluate(FIELD, [title, field]))
            with suppress(TimeoutError):  # the dialog closes itself when the mouse leaves it
                dialog.fill(value, timeout=5000)
                dialog.press("Enter", timeout=5000)
                break
        else:
            pytest.fail(f"{title}, {field}: no dialog stayed open long enough to be filled")
    bench.settle()
