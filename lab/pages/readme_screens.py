"""Take screenshots of a workflow and of its app mode for the README:  python lab/pages/readme_screens.py FOLDER

FOLDER is the same as for readme_picture.py: a panorama and its maps, by OmniX's authors. The viewer shows them; no
model runs.
COMFYUI_PATH names the host, OMNIX_CHROMIUM a Chromium.
"""

from __future__ import annotations

import io
import json
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = "OmniX 09 - Panorama to all maps"
SCREEN = {"width": 1920, "height": 1080}
# The part of the screen with the graph, and the width of the pictures.
PART, WIDTH = {"x": 60, "y": 100, "width": 1840, "height": 930}, 1280
MAPS = ("depth", "normal", "albedo", "roughness", "metallic", "semantic")
PANORAMA = "rgb_1440x720.png"
CHOOSE = """([name, maps]) => {
    const of = (type) => window.app.rootGraph.nodes.find((node) => node.type === type);
    const picture = of("OmniXLoadPanorama").widgets.find((widget) => widget.name === "image");
    picture.value = name;
    picture.callback?.(name);
    if (maps) of("OmniXPanoramaViewer").onExecuted({ omnix_maps: maps });
}"""


def shown_maps(bench: Any) -> Any:
    """Let the server's viewer prepare the pictures; return its message to the browser."""
    loaded = {name: {"class_type": "LoadImage", "inputs": {"image": f"{name}.png"}} for name in MAPS}
    loaded["image"] = {"class_type": "LoadImage", "inputs": {"image": PANORAMA}}
    links = {name: [name, 0] for name in loaded}
    viewer = {"class_type": "OmniXPanoramaViewer", "inputs": {**links, "view": "", "width": 64}}
    return bench.server.run({**loaded, "viewer": viewer}).outputs["viewer"]["omnix_maps"]


def photograph(folder: Path, target: Path) -> None:
    """Write graph.jpg and app.jpg."""
    from .help_screens import ViewerOnPage, workbench

    with tempfile.TemporaryDirectory(prefix="omnix-readme-") as made, workbench(Path(made)) as bench:
        for name in (*MAPS, Path(PANORAMA).stem):
            bench.server.upload(folder / f"{name}.png")
        maps = shown_maps(bench)
        bench.page.set_viewport_size(SCREEN)
        bench.open()
        bench.open_workflow(json.loads((ROOT / "workflows" / f"{WORKFLOW}.json").read_text(encoding="utf-8")))
        bench.page.evaluate(CHOOSE, [PANORAMA, maps])
        viewer = ViewerOnPage(bench)
        viewer.wait()
        viewer.press("2")
        bench.page.mouse.move(SCREEN["width"] // 2, SCREEN["height"] - 40)
        bench.page.wait_for_timeout(2000)
        save(bench.page.screenshot(clip=PART), target / "graph.jpg")
        bench.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.ToggleLinear')")
        bench.page.get_by_test_id("app-mode-widget-item").first.wait_for()
        bench.page.wait_for_timeout(2000)
        save(bench.page.screenshot(), target / "app.jpg")


def save(png: bytes, path: Path) -> None:
    """Write a smaller screenshot as JPEG."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.resize((WIDTH, WIDTH * image.height // image.width), Image.Resampling.LANCZOS).save(
        path, quality=82, optimize=True, progressive=True
    )


if __name__ == "__main__":
    runpy.run_path(str(ROOT / "lab" / "host" / "pack.py"))["enter"]("readme_screens")
    from comfyui_omnix.lab.pages import readme_screens

    readme_screens.photograph(Path(sys.argv[1]), ROOT / "web")
