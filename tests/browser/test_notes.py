"""The notes of workflows: their commands are copied at a click; a field that they name is on its box."""

import benches
import pytest
import test_workflow_runs as runs
from comfyui_omnix.lab.host.browser import Workbench
from comfyui_omnix.lab.workflows import notes
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
