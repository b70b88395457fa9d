"""The browser reports impossible graphs before anything runs: one sentence, at the field that is wrong."""

from collections.abc import Iterator
from pathlib import Path

import benches
import pytest
import test_workflow_runs as runs
from comfyui_omnix.lab.host.browser import Workbench
from comfyui_omnix.lab.host.server import Server
from graph_files import UI, read
from PIL import Image
from playwright.sync_api import Browser

pytestmark = [pytest.mark.server, pytest.mark.since("0.30.0")]  # older frontends tell errors in a window of their own

files = runs.files
browser, stocked = benches.browser, benches.stocked
DEPTH = "OmniX 03 - Panorama to depth"
CHOOSE = """([title, field, value]) => {
    const node = window.app.rootGraph.nodes.find((each) => each.title === title);
    node.widgets.find((each) => each.name === field).value = value;
}"""


@pytest.fixture(params=benches.RENDERERS)
def bench(request: pytest.FixtureRequest, browser: Browser, stocked: Server) -> Iterator[Workbench]:
    """A new page for each test; otherwise a message of the test before would still be visible."""
    with benches.opened(browser, stocked, request.param == "nodes2") as opened:
        yield opened


def refused(bench: Workbench, title: str, field: str, value: str) -> str:
    """Choose a value in the depth workflow and press Run; return the one sentence that a person reads.

    Nothing but that field of that node may be marked.
    """
    bench.open_workflow(read(UI[DEPTH]))
    bench.settle()
    bench.page.evaluate(CHOOSE, [title, field, value])
    with bench.page.expect_response(lambda answer: answer.url.endswith("/prompt")) as sent:
        bench.page.evaluate("() => window.app.queuePrompt(0)")
    (report,) = sent.value.json()["node_errors"].values()
    (error,) = report["errors"]
    sentence = error["details"].partition(" - ")[2]
    overlay = bench.page.get_by_test_id("error-overlay")
    assert title in overlay.inner_text() and field in overlay.inner_text()
    (node, given) = [mark for mark in bench.troubles() if mark.startswith(("node in red", "red input"))]
    assert given.endswith(f".{field}") and node.removeprefix("node in red: ") in given
    # Buttons that move while they appear.
    bench.page.get_by_test_id("error-overlay-see-errors").dispatch_event("click")
    bench.page.get_by_role("button", name=f"Info for {title} - {field}").dispatch_event("click")
    bench.page.get_by_text(sentence).first.wait_for()
    return sentence


def test_a_picture_that_is_no_panorama(bench: Workbench, tmp_path: Path) -> None:
    Image.new("RGB", (640, 480), (9, 99, 200)).save(tmp_path / "photo.png")
    bench.server.upload(tmp_path / "photo.png")
    sentence = refused(bench, "Load Panorama", "image", "photo.png")
    assert sentence.startswith("photo.png: expected a panorama, twice as wide as high, got 640x480; choose")


def test_a_folder_that_is_not_there(bench: Workbench) -> None:
    sentence = refused(bench, "Panorama to depth", "adapters_folder", "Elsewhere")
    # Other tests may have put folders of adapters beside it.
    assert sentence.startswith("Elsewhere: no such folder in models/loras; folders with OmniX adapters are OmniX")


def test_every_missing_adapter_is_named(bench: Workbench, tmp_path: Path) -> None:
    task = bench.server.base / "models" / "loras" / "OmniX" / "rgb_to_depth"
    task.rename(tmp_path / "elsewhere")
    try:
        sentence = refused(bench, "Panorama to depth", "adapters_folder", "OmniX")
    finally:
        (tmp_path / "elsewhere").rename(task)
    for stream in ("rgb", "depth"):
        assert f"rgb_to_depth/{stream}/pytorch_lora_weights.safetensors" in sentence
