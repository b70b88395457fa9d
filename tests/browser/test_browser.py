"""The panorama viewer in a real browser, on the real server and frontend, in both renderers."""

import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import viewing
from comfyui_omnix.lab.host.browser import Pixels, ViewerOnPage, Workbench, pixels
from viewing import CLOSE, KEY_STEP, as_colour, direction, error, inside, looked_at, opened, sees

pytestmark = viewing.MARKS
browser, bench, pictures = viewing.browser, viewing.bench, viewing.pictures


@pytest.fixture(scope="module")
def shown(bench: Workbench, pictures: object) -> ViewerOnPage:
    """Return a viewer that shows the directions as "image" and, with their axes swapped, as "normal"."""
    return opened(bench, "rays", "swapped")


@pytest.fixture
def viewer(shown: ViewerOnPage) -> Iterator[ViewerOnPage]:
    """Return the same viewer, looking to the front at the first map; this pack must report no error."""
    shown.bench.complaints.clear()
    shown.press("r")
    shown.press("1")
    yield shown
    assert shown.bench.complaints == []


@pytest.mark.parametrize(("right", "up"), [(0, 0), (12, 0), (24, 0), (-7, 4), (3, -12), (20, 12)])
def test_turned_by_keys_every_pixel_is_right(viewer: ViewerOnPage, right: int, up: int) -> None:
    viewer.press("ArrowRight" if right > 0 else "ArrowLeft", abs(right))
    viewer.press("ArrowUp" if up > 0 else "ArrowDown", abs(up))
    sees(viewer, right * KEY_STEP, up * KEY_STEP)


def test_a_drag_takes_the_middle_along_and_the_wheel_zooms(viewer: ViewerOnPage) -> None:
    mouse, (x, y, width) = viewer.bench.page.mouse, viewer.middle()
    graph_scale = viewer.bench.page.evaluate("() => window.app.canvas.ds.scale")
    mouse.move(x, y)
    mouse.down()
    mouse.move(x - 60, y + 30)
    mouse.up()
    degrees = math.degrees(2 / width)
    sees(viewer, 60 * degrees, 30 * degrees)
    mouse.move(x, y)
    mouse.wheel(0, -500)
    sees(viewer, 60 * degrees, 30 * degrees, 90 * math.exp(-0.5))
    assert viewer.bench.page.evaluate("() => window.app.canvas.ds.scale") == graph_scale


def test_maps_share_the_camera_and_reset_goes_to_the_front(viewer: ViewerOnPage) -> None:
    viewer.press("ArrowRight", 4)
    viewer.press("m")
    assert viewer.chosen_map() == "normal"
    sees(viewer, 4 * KEY_STEP, 0, swapped=True)
    viewer.root.get_by_role("button", name="Show image").click()
    assert viewer.chosen_map() == "image"
    sees(viewer, 4 * KEY_STEP, 0)
    viewer.root.get_by_role("button", name="Look to the front").click()
    sees(viewer, 0, 0)


@pytest.mark.parametrize(("x", "y"), [(0.5, 0.5), (0.1, 0.3), (0.9, 0.8)])
def test_the_readout_reports_the_file_s_own_values(
    viewer: ViewerOnPage, pictures: dict[str, Pixels], x: float, y: float
) -> None:
    viewer.press("2")
    viewer.press("ArrowLeft", 20)
    text = viewer.readout(x, y)
    red, green, blue, lon, lat = (float(number) for number in re.findall(r"-?\d+\.\d+", text))
    box = viewer.canvas.bounding_box()
    assert box is not None
    half = math.tan(math.radians(45))
    ray = direction((2 * x - 1) * half, (1 - 2 * y) * half * box["height"] / box["width"], -20 * KEY_STEP)
    assert (lon, lat) == pytest.approx(ray, abs=0.5)
    panorama = pictures["swapped"]
    column = int((lon / 360 + 0.5) * panorama.shape[1]) % panorama.shape[1]
    row = int((0.5 - lat / 180) * panorama.shape[0])
    around = panorama[max(row - 1, 0) : row + 2, [(column + i) % panorama.shape[1] for i in (-1, 0, 1)]]
    assert any(np.abs(value - (red, green, blue)).max() < 6e-4 for value in around.reshape(-1, 3))


def test_keys_stay_in_the_viewer(viewer: ViewerOnPage) -> None:
    """With the viewer's node selected, Delete would delete it and R would reload all node definitions."""
    page = viewer.bench.page
    page.evaluate("() => window.app.canvas.selectNode(window.app.graph.getNodeById(3))")
    before = len(viewer.bench.requests)
    for key in ("Delete", "Backspace", "r", "q", "w", "."):
        viewer.press(key)
    assert page.evaluate("() => window.app.graph.nodes.length") == 4
    assert not [url for url in viewer.bench.requests[before:] if "object_info" in url]


@inside
def test_drawing_waits_for_a_reason(viewer: ViewerOnPage) -> None:
    """However many events arrive, there is one drawing a frame, and none while nothing happens."""
    counts = viewer.bench.page.evaluate(
        """async () => {
            const canvas = document.querySelector(".omnix-panorama canvas");
            const gl = canvas.getContext("webgl2");
            const draw = gl.drawArrays;
            let count = 0;
            gl.drawArrays = function () { count += 1; return draw.apply(this, arguments); };
            const frame = () => new Promise(requestAnimationFrame);
            const pause = async (frames) => { for (let i = 0; i < frames; i += 1) await frame(); };
            await pause(5);
            const idle = count;
            for (let i = 0; i < 100; i += 1)
                canvas.dispatchEvent(new PointerEvent("pointermove", {clientX: 100 + i, clientY: 100, bubbles: true}));
            await pause(3);
            gl.drawArrays = draw;
            return [idle, count - idle];
        }"""
    )
    assert counts == [0, 1]


def test_the_captured_view_is_what_the_next_run_gives_out(viewer: ViewerOnPage) -> None:
    page, server = viewer.bench.page, viewer.bench.server
    viewer.press("2")
    viewer.press("ArrowRight", 5)
    viewer.press("ArrowUp", 3)
    seen = viewer.pixels()
    viewer.root.get_by_role("button", name="Make this view").click()
    widgets = page.evaluate("() => window.app.graph.getNodeById(3).serialize().widgets_values")
    assert json.loads(widgets[0]) | {"aspect": 0} == {
        **{"yaw": 5 * KEY_STEP, "pitch": 3 * KEY_STEP, "fov": 90, "map": "normal", "batch": 0, "aspect": 0}
    }
    assert len(widgets) == 2, "nothing but the view and its width is saved"
    outputs = viewer.bench.run()
    given = pixels(server.fetch(outputs["4"]["images"][0]))
    assert given.shape[1] == 400
    expected = as_colour(looked_at(given, 5 * KEY_STEP, 3 * KEY_STEP))[..., ::-1]
    assert error(given, expected) < CLOSE
    assert abs(given.shape[0] / given.shape[1] - seen.shape[0] / seen.shape[1]) < 0.02
    maps = outputs["3"]["omnix_maps"]
    assert [item["label"] for item in maps] == ["image", "normal"]
    assert len(json.dumps(maps)) < 1000, "the pictures are files of the server, not part of its answer"


def test_saved_is_what_was_seen(viewer: ViewerOnPage) -> None:
    viewer.press("ArrowRight", 2)
    seen = viewer.pixels()
    with viewer.bench.page.expect_download() as download:
        viewer.root.get_by_role("button", name="Save this view").click()
    assert download.value.suggested_filename == "image yaw 15 pitch 0.png"
    saved = pixels(Path(download.value.path()).read_bytes())
    # A picture of the screen ends at whole pixels, the canvas does not.
    assert max(abs(one - other) for one, other in zip(saved.shape, seen.shape)) <= 2
    assert error(saved, as_colour(looked_at(saved, 2 * KEY_STEP, 0))) < CLOSE


def test_full_screen_and_back(viewer: ViewerOnPage) -> None:
    full = "() => document.fullscreenElement?.classList.contains('omnix-panorama')"
    viewer.press("f")
    viewer.bench.wait(full)
    sees(viewer, 0, 0)
    viewer.press("f")
    viewer.bench.wait("() => !document.fullscreenElement")
    sees(viewer, 0, 0)


def test_a_lost_context_comes_back(viewer: ViewerOnPage) -> None:
    page = viewer.bench.page
    viewer.press("ArrowRight", 6)
    page.evaluate(
        """() => {
            const gl = document.querySelector(".omnix-panorama canvas").getContext("webgl2");
            window.losing = gl.getExtension("WEBGL_lose_context");
            window.losing.loseContext();
        }"""
    )
    viewer.bench.wait("() => document.querySelector('.omnix-message').textContent.includes('lost the graphics card')")
    page.evaluate("() => window.losing.restoreContext()")
    viewer.wait()
    sees(viewer, 6 * KEY_STEP, 0)


@inside
def test_it_can_be_used_without_eyes_or_mouse(viewer: ViewerOnPage) -> None:
    viewer.press("ArrowRight", 2)
    label = viewer.canvas.get_attribute("aria-label")
    assert label == "Panorama image, looking 15° to the right and 0° up"
    names = viewer.root.locator("button").evaluate_all("all => all.map(one => one.ariaLabel && one.title)")
    assert len(names) >= 9 and all(names)
    assert viewer.root.get_attribute("tabindex") == "0" and viewer.root.get_attribute("aria-label")


def drawn(viewer: ViewerOnPage) -> tuple[float, float]:
    """Return the viewer's size on the screen after the graph has been drawn again."""
    for _ in range(3):
        viewer.bench.page.evaluate("() => window.app.canvas.draw(true, true)")
        viewer.bench.settle()
    box = viewer.root.bounding_box()
    assert box is not None
    return box["width"], box["height"]


@pytest.mark.since("0.26.0")  # the panel and its settings came with that frontend
def test_the_side_panel_leaves_the_viewer_its_size_and_shows_no_empty_parameter(viewer: ViewerOnPage) -> None:
    bench, before = viewer.bench, drawn(viewer)
    bench.page.evaluate("() => window.app.canvas.selectNode(window.app.graph.getNodeById(3))")
    bench.set("Comfy.RightSidePanel.IsOpen", True)
    panel = bench.page.get_by_test_id("properties-panel")
    panel.get_by_test_id("panel-tab-parameters").wait_for()
    lines = panel.inner_text().splitlines()
    assert "Panorama Viewer (360)" in lines and not {"panorama", "view"} & {*lines}
    drawn(viewer)
    bench.set("Comfy.RightSidePanel.IsOpen", False)
    panel.wait_for(state="detached")
    assert drawn(viewer) == pytest.approx(before, abs=1)


def test_the_wheel_over_the_viewer_never_moves_the_graph(viewer: ViewerOnPage) -> None:
    """Nodes 2.0 takes the wheel over what has no focus, and sideways and with Ctrl over everything."""
    page, where = viewer.bench.page, "() => [window.app.canvas.ds.scale, ...window.app.canvas.ds.offset]"
    before, turned = page.evaluate(where), 0
    page.mouse.move(*viewer.middle()[:2])
    for focused, key, (across, down) in itertools.product((False, True), ("", "Control"), ((0, -120), (150, -20))):
        page.evaluate("focused => document.querySelector('.omnix-panorama')[focused ? 'focus' : 'blur']()", focused)
        if key:
            page.keyboard.down(key)
        page.mouse.wheel(across, down)
        turned += down
        viewer.bench.settle()
        if key:
            page.keyboard.up(key)
        assert page.evaluate(where) == before
    sees(viewer, 0, 0, 90 * math.exp(turned * 0.001))


def test_a_screen_reader_hears_whole_degrees(viewer: ViewerOnPage) -> None:
    def heard() -> str:
        viewer.bench.settle()
        return str(viewer.canvas.get_attribute("aria-label"))

    assert heard() == "Panorama image, looking 0° to the right and 0° up"
    viewer.press("ArrowRight", 3)
    viewer.press("ArrowDown")
    assert heard() == "Panorama image, looking 23° to the right and 8° down"
    viewer.press("m")
    viewer.press("ArrowLeft", 5)
    viewer.press("ArrowUp", 2)
    assert heard() == "Panorama normal, looking 15° to the left and 8° up"
