"""The notes of workflows: commands are copied at a click, a named field is on its box, and the box has a page."""

import benches
import numpy as np
import pytest
import test_workflow_runs as runs
from comfyui_omnix.lab.host.browser import Workbench
from comfyui_omnix.lab.workflows import forms, notes
from graph_files import UI, read

pytestmark = [pytest.mark.server, pytest.mark.since("0.30.0")]

files = runs.files
browser, stocked, stocked_bench = benches.browser, benches.stocked, benches.stocked_bench
DEPTH = "OmniX 03 - Panorama to depth"


@pytest.fixture(scope="module")
def bench(stocked_bench: Workbench) -> Workbench:
    stocked_bench.page.set_viewport_size({"width": 1920, "height": 1080})
    stocked_bench.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    stocked_bench.open_workflow(read(UI[DEPTH]))
    stocked_bench.page.wait_for_timeout(1500)
    return stocked_bench


@pytest.mark.parametrize("number", [0, 1])
def test_a_command_is_copied_at_a_click(bench: Workbench, number: int) -> None:
    command = bench.page.locator(".lg-node pre" if bench.nodes2 else ".comfy-markdown pre").nth(number)
    command.click(position={"x": 30, "y": 10})
    bench.page.get_by_role("alert").get_by_text("Command copied").last.wait_for()
    line = notes.command(("rgb_to_depth",))
    copied = bench.page.evaluate("() => navigator.clipboard.readText()")
    assert copied == (line.replace("python", notes.PORTABLE, 1) if number else line)


def test_a_field_that_a_note_names_is_on_its_box(bench: Workbench) -> None:
    """The host calls weight_dtype advanced, and Nodes 2.0 of frontend 1.47 hid it on a box."""
    if not bench.nodes2:
        pytest.skip("the old renderer hides no field")
    box = bench.page.locator(".lg-node", has_text="FLUX.1-dev").filter(has_text="unet_name")
    box.get_by_text("weight_dtype").wait_for()


SELECT = """(type) => {
    const { canvas, rootGraph } = window.app;
    const box = rootGraph.nodes.find((node) => node.type === type);
    canvas.selectNode(box);
    return box.title;
}"""


def test_the_info_button_of_a_box_shows_its_page(bench: Workbench) -> None:
    box = next(graph for graph in read(UI[DEPTH])["definitions"]["subgraphs"] if "depth" in graph["name"])
    title = bench.page.evaluate(SELECT, box["id"])
    bench.page.get_by_test_id("info-button").click()
    page = bench.page.locator("dialog.omnix-box-page")
    assert page.locator("h1").inner_text() == title
    assert box["description"] in page.inner_text()
    names = [slot["name"] for slot in (*box["inputs"], *box["outputs"])]
    assert page.locator("th").all_inner_texts() == names
    assert all(page.locator("td:last-child").all_inner_texts()), "every input and output is explained"
    bench.page.keyboard.press("Escape")
    page.wait_for(state="detached")


ROOM = {
    "1": {"class_type": "OmniXLoadPanorama", "inputs": {"image": "omnix_sample_room_depth.png", "height": 64}},
    "2": {"class_type": "OmniXDepth", "inputs": {"image": ["1", 0], "stretch": False, "near": 0.0, "far": 100.0}},
    "4": {"class_type": "OmniXScene", "inputs": {"image": ["1", 0], "depth": ["2", 1]}},
    "3": {"class_type": "SaveGLB", "inputs": {"mesh": ["4", 0], "filename_prefix": "room"}},
}


def test_a_scene_is_entered_as_the_notes_say(bench: Workbench) -> None:
    """Without the click, the wheel zooms the graph in Nodes 2.0; with --disable-api-nodes a scene is white."""
    bench.load(ROOM)
    bench.run()
    view = bench.page.locator(":is(.lg-node, .dom-widget) canvas")
    view.wait_for()
    scale = bench.page.evaluate("() => window.app.canvas.ds.scale")

    def at_rest(least: float, most: float) -> bool:
        """Return whether the scene covers such a part of the view, and two pictures of it are equal."""
        one, two = bench.picture(view), bench.picture(view)
        return np.array_equal(one, two) and bool(least < (one.mean(-1) > 0.9).mean() < most)

    assert benches.becomes(lambda: at_rest(0.005, 0.3)), "seen from outside"
    view.click()
    for _ in range(12):
        bench.page.mouse.wheel(0, -500)
    assert benches.becomes(lambda: at_rest(0.5, 1.1)), "seen from inside, at rest"
    inside = bench.picture(view)
    assert bench.page.evaluate("() => window.app.canvas.ds.scale") == scale
    box = view.bounding_box()
    assert box is not None
    bench.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    bench.page.mouse.down()
    bench.page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2, steps=5)
    bench.page.mouse.up()
    # In a white room only the axes and the grid show how the view turns.
    assert np.abs(bench.picture(view) - inside).mean() > 0.001, "dragging turns the view"


def test_a_template_opens_with_letters_on_a_small_screen(bench: Workbench) -> None:
    """With the whole graph on it, a screen of 1366x768 showed empty boxes."""
    bench.page.set_viewport_size({"width": 1366, "height": 768})
    bench.open_template(DEPTH)
    drawn = "() => { const { ds, low_quality } = window.app.canvas; return [low_quality, ds.scale, ...ds.offset]; }"
    small, scale, left, top = bench.page.evaluate(drawn)
    x, y = min(node["pos"] for node in read(UI[DEPTH])["nodes"])
    corner = ((x + left) * scale, (y - forms.TITLES + top) * scale)
    assert not small and scale == 0.6
    assert corner == pytest.approx(forms.SCREEN_AT, abs=1), "from the notes on"
