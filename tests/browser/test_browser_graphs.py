"""The panorama viewer in graphs that are opened, left, changed and reloaded, in a real browser and both renderers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import viewing
from comfyui_omnix.lab.host.browser import ViewerOnPage, Workbench
from comfyui_omnix.omnix.pictures.colour import spectral
from viewing import CLOSE, KEY_STEP, error, graph, inside, opened, sees

pytestmark = viewing.MARKS
browser, bench, pictures = viewing.browser, viewing.bench, viewing.pictures


def test_another_tab_and_a_reload_keep_what_was_on_show(bench: Workbench, pictures: object) -> None:
    viewer = opened(bench, "rays", "swapped")
    viewer.press("2")
    viewer.press("ArrowLeft", 6)
    name = bench.page.evaluate("() => window.app.extensionManager.workflow.activeWorkflow.filename")
    bench.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    bench.wait("() => !document.querySelector('.omnix-panorama')")
    bench.page.locator(".workflow-tabs").get_by_text(name, exact=True).click()
    viewer.wait()
    sees(viewer, -6 * KEY_STEP, 0, swapped=True)
    bench.open()
    viewer.wait()
    # Frontends open a workflow again with the node partly off the page.
    bench.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    assert viewer.chosen_map() == "normal"
    sees(viewer, -6 * KEY_STEP, 0, swapped=True)


@inside
def test_the_seam_cannot_be_seen(bench: Workbench, pictures: object) -> None:
    """Noise, zoomed out until its coarser levels are drawn, looks the same across the seam as elsewhere."""
    viewer = opened(bench, "noise", "turned")
    viewer.press("1")
    viewer.press("r")
    viewer.press("ArrowRight", round(180 / KEY_STEP))
    viewer.press("-", 4)
    across = viewer.pixels()
    viewer.press("r")
    viewer.press("2")
    viewer.press("-", 4)
    whole = viewer.pixels()
    assert whole.std() > 0.05
    assert error(across, whole) < CLOSE  # a shader that lets the card choose the level is off by 0.09


def test_it_opens_on_the_newest_map_with_the_picture_one_key_away(bench: Workbench, pictures: object) -> None:
    bench.load(graph("rays", "swapped", width=401 if bench.nodes2 else 402))  # a graph that no other test has run
    bench.run()
    viewer = ViewerOnPage(bench)
    viewer.wait()
    assert viewer.chosen_map() == "normal"
    viewer.press("r")
    sees(viewer, 0, 0, swapped=True)
    viewer.press("1")
    sees(viewer, 0, 0)
    bench.run()
    assert viewer.chosen_map() == "image", "what was chosen stays"


@inside
def test_depth_is_drawn_in_the_colours_of_colour_depth_and_read_as_values(bench: Workbench, pictures: object) -> None:
    both = graph("rays", "swapped")
    both["3"]["inputs"] = {"image": ["1", 0], "depth": ["5", 0], "view": "", "width": 64}
    both["5"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 512, "height": 256, "batch_size": 1, "color": 0x404040},
    }
    bench.load(both)
    bench.run()
    viewer = ViewerOnPage(bench)
    viewer.wait()
    grey = 0x40 / 255
    coloured = spectral(torch.tensor(grey)).numpy()
    assert viewer.chosen_map() == "depth"
    assert np.abs(viewer.pixels()[20:-20, 20:-20] - coloured).max() < CLOSE
    assert viewer.readout(0.5, 0.5).startswith(f"{grey:.3f} {grey:.3f} {grey:.3f} ")


@inside
def test_two_fingers_zoom_the_viewer_and_not_the_graph(bench: Workbench, pictures: object) -> None:
    viewer = opened(bench, "rays", "swapped")
    viewer.press("1")
    where = "() => [window.app.canvas.ds.scale, ...window.app.canvas.ds.offset]"
    before, (x, y, _) = bench.page.evaluate(where), viewer.middle()
    touch = bench.page.context.new_cdp_session(bench.page)

    def send(kind: str, *apart: float) -> None:
        points = [{"x": x + side * half, "y": y, "id": number} for half in apart for number, side in enumerate((-1, 1))]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", 20)
    for half in (25, 30, 40):
        send("touchMove", half)
    send("touchEnd")
    sees(viewer, 0, 0, 45)
    assert bench.page.evaluate(where) == before


@inside
def test_a_batch_is_leafed_through(bench: Workbench, pictures: object) -> None:
    both = graph("rays", "swapped")
    both["5"] = {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}}
    both["3"]["inputs"] = {"image": ["5", 0], "view": "", "width": 64}
    bench.load(both)
    bench.run()
    viewer = ViewerOnPage(bench)
    viewer.wait()
    sees(viewer, 0, 0)
    viewer.press("b")
    viewer.wait()
    assert viewer.root.locator(".omnix-batch span").inner_text() == "2 / 2"
    sees(viewer, 0, 0, swapped=True)
    viewer.press("b")
    sees(viewer, 0, 0)


def test_a_large_panorama_is_shown_and_everything_is_given_back(bench: Workbench, pictures: object) -> None:
    large = graph("rays", "swapped")
    size = {"upscale_method": "bilinear", "width": 4096, "height": 2048, "crop": "disabled"}
    large["5"] = {"class_type": "ImageScale", "inputs": {"image": ["1", 0], **size}}
    large["3"]["inputs"] = {"image": ["5", 0], "view": "", "width": 64}
    bench.load(large)
    bench.run()
    viewer = ViewerOnPage(bench)
    viewer.wait()
    viewer.press("ArrowRight", 4)
    sees(viewer, 4 * KEY_STEP, 0)
    bench.page.evaluate(
        """() => {
            window.context = document.querySelector(".omnix-panorama canvas").getContext("webgl2");
            window.app.graph.remove(window.app.graph.getNodeById(3));
        }"""
    )
    bench.wait("() => window.context.isContextLost() && !document.querySelector('.omnix-panorama')")


@inside
def test_a_picture_that_the_server_lost_is_reported_and_not_a_blank(
    bench: Workbench, pictures: object, tmp_path: Path
) -> None:
    viewer = opened(bench, "rays", "swapped")
    temp = bench.server.base / "temp"
    moved = temp.rename(tmp_path / "elsewhere")
    try:
        viewer.press("1")
        message = "The server no longer has this picture; run the graph again."
        bench.wait("text => document.querySelector('.omnix-message').textContent === text", message)
        assert viewer.pixels()[4:80, 4:-4].max() == 0.0, "no other picture in its place"
    finally:
        moved.rename(temp)


@pytest.mark.parametrize("edit", ["capture", "another node"])
def test_undo_and_redo_keep_the_viewer(bench: Workbench, pictures: object, edit: str) -> None:
    """Each action makes the nodes again, whichever of them was edited."""
    viewer = opened(bench, "rays", "swapped")
    viewer.press("1")
    viewer.press("r")
    viewer.press("ArrowRight", 4)
    if edit == "capture":
        viewer.press("c")
    else:
        bench.page.evaluate(EDIT_ANOTHER)
    for command in ("Comfy.Undo", "Comfy.Redo"):
        bench.page.evaluate("command => window.app.extensionManager.command.execute(command)", command)
        bench.settle()
        viewer.wait()
        sees(viewer, 4 * KEY_STEP, 0)
    bench.run()
    viewer.press("ArrowRight", 4)
    sees(viewer, 8 * KEY_STEP, 0)


def test_the_viewer_speaks_chinese_where_the_frontend_does(bench: Workbench, pictures: object) -> None:
    bench.set("Comfy.Locale", "zh")
    try:
        bench.open()
        bench.load(graph("rays", "swapped"))
        root = bench.page.locator(".omnix-panorama")
        assert root.locator(".omnix-message").inner_text() == "运行工作流后，即可在全景图中环视。"
        assert root.locator(".omnix-tools > button").all_inner_texts() == ["复位", "全屏", "捕获", "保存", "复制"]
        bench.run()
        bench.wait(
            "() => document.querySelector('.omnix-panorama canvas').ariaLabel === '全景图法线，向右 0°，向上 0°'"
        )
        assert root.locator(".omnix-maps button").all_inner_texts() == ["图像", "法线"]
    finally:
        bench.set("Comfy.Locale", "en")
        bench.open()


EDIT_ANOTHER = """() => {
    const { canvas, graph } = window.app;
    canvas.emitBeforeChange();
    graph.getNodeById(2).widgets[0].value = "rays.png";
    canvas.emitAfterChange();
}"""
