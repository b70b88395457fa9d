"""Drive ComfyUI's own frontend in a headless Chromium, as a person would: look, click, press keys, read pixels."""

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Response, sync_playwright

from .server import PACK, Graph, Server

# The processor renders WebGL2, so that the tests see the same pixels on every machine.
OPTIONS = (
    *("--no-sandbox", "--disable-gpu-sandbox", "--no-first-run"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    # WebGL needs this GPU in software; everything else is drawn faster without it.
    *("--disable-gpu-rasterization", "--disable-accelerated-2d-canvas", "--disable-gpu-compositing"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.RightSidePanel.IsOpen": False,
    "Comfy.OnboardingCoachmarks.Seen": ["appMode"],
}
# A mask blocks the page until the frontend has started.
READY = """() => window.app?.extensionManager?.workflow?.activeWorkflow && document.querySelector("#graph-canvas")
    && !document.querySelector(".p-blockui-mask")"""
MARKED = """() => {
    const graphs = [window.app.rootGraph, ...window.app.rootGraph.subgraphs.values()];
    return graphs.flatMap((graph) => graph.nodes).flatMap((node) => [
        ...(node.isSubgraphNode?.() || node.type in window.LiteGraph.registered_node_types || node.isVirtualNode
            ? [] : [`missing node ${node.type}`]),
        ...(node.has_errors ? [`node in red: ${node.type}`] : []),
        ...(node.inputs ?? []).filter((input) => input.hasErrors).map(({ name }) => `red input ${node.type}.${name}`),
    ]);
}"""
ALONE = """(type) => {
    const { app, LiteGraph } = window;
    app.graph.clear();
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    app.canvas.selectNode(node);
    return node.id;
}"""
# A node's bounds are known only after it was drawn; 40 is the height of its title.
LOOK_AT = """(id) => {
    const { pos, size } = window.app.graph.getNodeById(id);
    window.app.canvas.ds.fitToBounds([pos[0], pos[1] - 40, size[0], size[1] + 40]);
    window.app.canvas.setDirty(true, true);
}"""

# While anything moves, the processor draws the whole screen 60 times a second: half the cost of opening the templates.
# What the tests measure, they measure at rest.
STILL = """(() => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync("*, *::before, *::after { animation: none !important; transition: none !important; }");
    document.adoptedStyleSheets.push(sheet);
})()"""

# The frontend first asks for a help page in its own language, and uses the default page if there is none. Older
# frontends ask the registry for every pack of a workflow, which tests must not reach.
TRIED = re.compile(r"/docs/\w+/en\.md|//api\.comfy\.org/nodes")

Pixels = NDArray[np.float64]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the Chromium that OMNIX_CHROMIUM names."""
    path = os.environ.get("OMNIX_CHROMIUM")
    if not path:
        raise RuntimeError("the browser tests need Chromium: run `python dev.py test`, which sets OMNIX_CHROMIUM.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


class Workbench:
    """One page of the frontend; `nodes2` chooses the renderer, `complaints` collects all errors of this pack."""

    def __init__(self, browser: Browser, server: Server, nodes2: bool) -> None:
        self.server = server
        self.nodes2 = nodes2
        self.complaints: list[str] = []
        self.requests: list[str] = []
        context = browser.new_context(viewport={"width": 1100, "height": 760}, accept_downloads=True)
        context.set_default_timeout(60_000)
        context.add_init_script(STILL)
        self.page: Page = context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.page.on("response", self._response)
        self.open()

    def _console(self, message: ConsoleMessage) -> None:
        text = f"{message.text} {message.location.get('url', '')}"
        if message.type == "error" and "omnix" in text.lower() and not TRIED.search(text):
            self.complaints.append(text)

    def _response(self, response: Response) -> None:
        self.requests.append(response.url)
        if (
            response.status >= 400
            and ("omnix" in response.url.lower() or "/view" in response.url)
            and not TRIED.search(response.url)
        ):
            self.complaints.append(f"{response.status} {response.url}")

    def open(self) -> None:
        """Go to the frontend with this workbench's renderer and wait until graphs can be loaded."""
        self.server.post("/settings", SETTINGS | {"Comfy.VueNodes.Enabled": self.nodes2})
        self.page.goto(self.server.url)
        self.wait(READY)
        self.settle()

    def close(self) -> None:
        self.page.context.close()

    def set(self, setting: str, value: object) -> None:
        """Change a setting of the frontend, like its settings dialog."""
        self.page.evaluate("([id, value]) => window.app.extensionManager.setting.set(id, value)", [setting, value])
        self.settle()

    def wait(self, condition: str, argument: object = None) -> None:
        """Wait until a JavaScript function returns something true."""
        self.page.wait_for_function(condition, arg=argument)

    def settle(self) -> None:
        """Wait until the page has drawn two more frames of its own."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def load(self, graph: Graph) -> None:
        """Open a graph in API format (its nodes' names are numbers) as a workflow in a new tab."""
        self.page.evaluate("graph => window.app.loadApiJson(graph, 'posted.json')", graph)
        # Saved and opened like a user's workflow, because only that gives the graph its own id.
        self.open_workflow(self.page.evaluate("() => window.app.graph.serialize()"))
        self.page.evaluate(LOOK_AT, 3)
        self.settle()

    def open_workflow(self, workflow: Mapping[str, Any]) -> None:
        """Open a workflow in the UI's format in a new tab."""
        self.page.evaluate("workflow => window.app.loadGraphData(workflow, true, true, null)", workflow)

    def run(self, timeout: float = 120.0) -> dict[str, Any]:
        """Press Run, wait for the end and return the outputs by node id; raises GraphError if it failed."""
        with self.page.expect_response(
            lambda answer: answer.url.endswith("/prompt") and answer.request.method == "POST"
        ) as sent:
            self.page.evaluate("() => window.app.queuePrompt(0)")
        answer = sent.value.json()
        if "prompt_id" not in answer:
            raise RuntimeError(f"the graph was refused: {json.dumps(answer)[:2000]}")
        return dict(self.server.wait(answer["prompt_id"], timeout).outputs)

    def picture(self, locator: Locator) -> Pixels:
        """Return a picture of an element on the screen, [h, w, 3] in [0, 1]."""
        self.settle()
        return pixels(locator.screenshot())

    def open_template(self, name: str) -> None:
        """Open one of this pack's workflows from the template browser."""
        self.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self.page.get_by_role("button", name=PACK, exact=True).click()
        self.page.get_by_test_id(f"template-workflow-{name}").click()
        self.wait("name => window.app.extensionManager.workflow.activeWorkflow.filename.startsWith(name)", name)
        self.page.get_by_test_id("template-workflows-content").wait_for(state="detached")
        self.settle()

    def troubles(self) -> list[str]:
        """Return what the frontend reports: missing nodes, models or pictures, red nodes and inputs, our errors."""
        overlay = self.page.get_by_test_id("error-overlay")
        messages = overlay.all_inner_texts()
        return [*messages, *self.page.evaluate(MARKED), *self.complaints]

    def help_page(self, node_type: str) -> str:
        """Put a node into an empty graph, open its help like a user and return the text of the page."""
        self.page.evaluate(LOOK_AT, self.page.evaluate(ALONE, node_type))
        self.page.get_by_test_id("info-button").click()
        shown = self.page.locator(".node-help-content")
        shown.locator("h1").wait_for()
        return shown.inner_text()


class ViewerOnPage:
    """The panorama viewer of the graph that is open."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.root = bench.page.locator(".omnix-panorama")
        self.canvas = self.root.locator("canvas")

    def wait(self) -> None:
        """Wait until a picture is visible."""
        self.bench.wait("() => document.querySelector('.omnix-panorama canvas')?.ariaLabel.includes('looking')")
        self.bench.wait("() => !document.querySelector('.omnix-message').textContent")

    def middle(self) -> tuple[float, float, float]:
        """Return (x, y) of the middle of the canvas on the page, and the canvas's width."""
        box = self.canvas.bounding_box()
        assert box is not None
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["width"]

    def press(self, key: str, times: int = 1) -> None:
        """Press a key while the viewer has the focus."""
        self.root.focus()
        for _ in range(times):
            self.bench.page.keyboard.press(key)
        self.bench.settle()

    def pixels(self) -> Pixels:
        """Return the picture on the canvas, with the pointer elsewhere; the whole canvas must be visible."""
        self.bench.page.mouse.move(5, 5)
        shown = self.bench.picture(self.canvas)
        box = self.canvas.bounding_box()
        assert box is not None
        assert abs(shown.shape[0] - box["height"]) <= 2 and abs(shown.shape[1] - box["width"]) <= 2
        return shown

    def readout(self, x: float, y: float) -> str:
        """Point at (x, y) in [0, 1] of the canvas and return the text of the readout."""
        box = self.canvas.bounding_box()
        assert box is not None
        self.bench.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        self.bench.settle()
        return self.root.locator(".omnix-readout").inner_text()

    def chosen_map(self) -> str:
        return self.root.locator(".omnix-maps button[aria-pressed=true]").inner_text()


def pixels(png: bytes) -> Pixels:
    """Decode a PNG, [h, w, 3] in [0, 1]."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.float64) / 255
