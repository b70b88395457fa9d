"""The app mode of newer frontends: it shows the fields that a workflow chose, runs it, and shows what it saved."""

from collections.abc import Iterator

import benches
import pytest
import test_workflow_runs as runs
from comfyui_omnix.lab.host.browser import Workbench
from comfyui_omnix.lab.host.server import Server
from graph_files import UI, read
from playwright.sync_api import Browser, Locator

pytestmark = [pytest.mark.server, pytest.mark.since("0.30.0")]  # the first pinned host whose frontend has app mode

files = runs.files
browser, stocked = benches.browser, benches.stocked
APPS = [name for name, path in UI.items() if "linearData" in read(path)["extra"]]


@pytest.fixture(scope="module")
def bench(browser: Browser, stocked: Server) -> Iterator[Workbench]:
    with benches.opened(browser, stocked, nodes2=True) as opened:
        opened.page.set_viewport_size({"width": 1920, "height": 1080})
        yield opened


def opened_as_app(bench: Workbench, name: str) -> Locator:
    """Open a workflow in app mode; return the fields that it shows."""
    bench.open_workflow(read(UI[name]))
    bench.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.ToggleLinear')")
    bench.page.get_by_test_id("linear-run-button").wait_for()
    return bench.page.get_by_test_id("app-mode-widget-item")


def test_every_workflow_that_makes_pictures_is_an_app() -> None:
    assert sorted(APPS) == sorted(name for name in UI if "extra" not in name)


@pytest.mark.parametrize("name", APPS)
def test_an_app_shows_the_chosen_fields(bench: Workbench, name: str) -> None:
    fields = opened_as_app(bench, name)
    chosen = [field for _, field in read(UI[name])["extra"]["linearData"]["inputs"]]
    fields.nth(len(chosen) - 1).wait_for()
    assert [text.split("\n")[0] for text in fields.all_inner_texts()] == chosen


def test_an_app_runs_and_shows_what_it_saved(bench: Workbench) -> None:
    name = "OmniX 07 - Panorama to roughness and metallic"
    bench.complaints.clear()
    fields = opened_as_app(bench, name)
    for field, value in {"height": "64", "steps": "2"}.items():
        entry = fields.filter(has_text=field).locator("input").first
        entry.fill(value)
        entry.press("Enter")
    bench.page.get_by_test_id("linear-run-button").get_by_role("button", name="Run", exact=True).click()
    shown = bench.page.get_by_test_id("linear-image-output")
    for each in ("roughness", "metallic"):
        shown.and_(bench.page.locator(f"img[src*={each}]")).first.wait_for()
    assert bench.complaints == []
