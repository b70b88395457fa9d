"""Take screenshots of nodes in ComfyUI's own frontend, for the help pages of nodes that make no picture."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from ...omnix.runtime.tasks import STREAMS
from ..host import tiny
from ..host.browser import ViewerOnPage, Workbench, chromium
from ..host.server import PACK, ROOT, Server
from ..host.tiny_models import DOUBLES, ModelNames, write_models
from ..rooms.room import render
from .help_pictures import QUALITY

# The file names of the downloads that the workflows use.
DOWNLOADED = ModelNames("flux1-dev.safetensors", "ae.safetensors", "clip_l.safetensors", "t5xxl_fp16.safetensors")
DEPTH = "OmniX 03 - Panorama to depth"
IN_WORKFLOWS = {
    "OmniXLoadAdapters": DEPTH,
    "OmniXApplyAdapters": DEPTH,
    "OmniXFlowShift": DEPTH,
    "OmniXEncodePrompt": "OmniX extra - Save the prompt once",
    "OmniXDecodePanorama": DEPTH,
    "OmniXLoadPanorama": DEPTH,
    "OmniXSavePanorama": DEPTH,
    "OmniXSaveConditioning": "OmniX extra - Save the prompt once",
}
ALONE = (
    "OmniXPrompt",
    "OmniXLoadConditioning",
    "OmniXLoadDiffusersFlux",
    "OmniXConvertAdapter",
    "OmniXFitPanorama",
    "OmniXOlderGraph",
)
SHOWN = ("depth", "normal", "albedo", "roughness", "metallic")
# The margin around a node, in pixels.
MARGIN = 45
HIGHEST = 460
# Go inside the box that holds a node of this type.
OPEN_BOX = """(type) => {
    const { canvas, rootGraph } = window.app;
    const box = rootGraph.nodes.find((one) => one.subgraph?.nodes.some((inner) => inner.type === type));
    canvas.openSubgraph(box.subgraph, box);
}"""
CENTRE = """([type, highest]) => {
    const { canvas } = window.app;
    const node = canvas.graph.nodes.find((one) => one.type === type);
    const frame = canvas.canvas.getBoundingClientRect();
    canvas.deselectAll?.();
    canvas.ds.scale = Math.min(1, highest / node.size[1]);
    canvas.ds.offset[0] = frame.width / 2 / canvas.ds.scale - node.pos[0] - node.size[0] / 2;
    canvas.ds.offset[1] = frame.height / 2 / canvas.ds.scale - node.pos[1] - node.size[1] / 2;
    canvas.setDirty(true, true);
    const size = [...node.size].map((pixels) => pixels * canvas.ds.scale);
    return { x: frame.x + frame.width / 2, y: frame.y + frame.height / 2, size };
}"""


def photograph(folder: Path) -> None:
    """Write {node}.jpg for every node of the tables above."""
    with tempfile.TemporaryDirectory(prefix="omnix-help-") as made, workbench(Path(made)) as bench:
        for node, workflow in IN_WORKFLOWS.items():
            form = json.loads((ROOT / "workflows" / f"{workflow}.json").read_text(encoding="utf-8"))
            bench.open_workflow(form)
            if node not in [one["type"] for one in form["nodes"]]:
                bench.page.evaluate(OPEN_BOX, node)
            shoot(bench, node, folder)
        for node in ALONE:
            bench.load({"3": {"class_type": node, "inputs": {}}})
            shoot(bench, node, folder)
        viewer(bench)
        shoot(bench, "OmniXPanoramaViewer", folder)


@contextmanager
def workbench(base: Path) -> Iterator[Any]:
    """Start the server with tiny models, and a browser with the new renderer (Nodes 2.0)."""
    write_files(base)
    packs = {PACK: ROOT, "tiny_text_encoders": DOUBLES / "tiny_text_encoders"}
    with Server(Path(os.environ["COMFYUI_PATH"]), base, packs) as server, chromium() as browser:
        yield Workbench(browser, server, nodes2=True)


def write_files(base: Path) -> None:
    """Put files into the server's folders, so that the combos list them; only the pictures are used."""
    models = base / "models"
    write_models(models, names=DOWNLOADED)
    for task, streams in STREAMS.items():
        for stream in streams:
            tiny.save(tiny.adapter(), models / "loras" / "OmniX" / task / stream / "pytorch_lora_weights.safetensors")
    for name in ("conditioning/OmniX_00001_", "diffusers/FLUX.1-dev/transformer/diffusion_pytorch_model"):
        tiny.save({}, models / f"{name}.safetensors")
    (base / "input").mkdir()
    for name, picture in room_pictures().items():
        picture.save(base / "input" / f"{name}.png")


def room_pictures() -> dict[str, Image.Image]:
    """Return the demo's room and its maps as pictures."""
    from .thumbnails import image_of, layers

    pictures = {name: image_of(picture) for name, picture in layers(render(1024, 512)).items()}
    return pictures | {"example": pictures["rgb"]}  # what the workflows load


def viewer(bench: Any) -> None:
    """Show the room and its maps in the viewer, turned a little."""
    graph: dict[str, Any] = {
        str(10 + slot): {"class_type": "LoadImage", "inputs": {"image": f"{name}.png"}}
        for slot, name in enumerate(("rgb", *SHOWN))
    }
    links = {name: [str(10 + slot), 0] for slot, name in enumerate(("image", *SHOWN))}
    graph["3"] = {"class_type": "OmniXPanoramaViewer", "inputs": {**links, "view": "", "width": 1024}}
    bench.load(graph)
    bench.run()
    shown = ViewerOnPage(bench)
    shown.wait()
    shown.press("ArrowRight", 3)
    shown.press("ArrowDown", 2)


def shoot(bench: Any, node: str, folder: Path) -> None:
    """Save a screenshot of a node with its margin."""
    seen = bench.page.evaluate(CENTRE, [node, HIGHEST])
    bench.settle()
    bench.page.wait_for_timeout(700)
    width, height = (size + 2 * MARGIN for size in seen["size"])
    clip = {"x": seen["x"] - width / 2, "y": seen["y"] - height / 2, "width": width, "height": height}
    image = Image.open(io.BytesIO(bench.page.screenshot(clip=clip))).convert("RGB")
    image.save(folder / f"{node}.jpg", quality=QUALITY, optimize=True, progressive=True)
