"""The shipped graphs with the micro model instead of FLUX, and its files in ComfyUI's folders."""

from __future__ import annotations

import shutil
from pathlib import Path

from ...mapfiles import layout
from ..host.graphs import Graph, graph_of, of_type, pointed
from ..host.server import Server
from .judged import MADE
from .recipe import HEIGHT, SEAM_COLUMNS

BASE, VAE, PROMPT = "micro_flux.safetensors", "micro_vae.safetensors", "micro_prompt.safetensors"
ADAPTERS = "adapters"
PLACES = {BASE: "diffusion_models", VAE: "vae", PROMPT: "conditioning", ADAPTERS: "loras/OmniX"}
ENDINGS = {"rgb": "panorama.png", "depth": "depth_float.exr"}
STEPS = 2
"""The best number on 32 rooms that are neither trained on nor judged (seeds from 2,000,000): see README.md."""
WEIGHTS = Path(__file__).parent / "weights"
"""The shipped weights; `making.gather` wrote them after the longest training run."""


def install(models: Path, weights: Path) -> None:
    """Copy a folder of weights that `making.gather` wrote into ComfyUI's `models`."""
    for name, place in PLACES.items():
        source, target = weights / name, models / place
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name)


def tasks(weights: Path) -> tuple[str, ...]:
    """Return the tasks with adapters, by name."""
    folder = weights / ADAPTERS
    return tuple(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else ()


def micro_graph(task: str, image: str, steps: int = STEPS, height: int = HEIGHT) -> Graph:
    """Return a task's shipped graph on the micro model.  `image` is a panorama, or a view for image to panorama."""
    return on_micro(graph_of(task), image, steps, height)


def on_micro(graph: Graph, image: str, steps: int = STEPS, height: int = HEIGHT) -> Graph:
    """Return a shipped graph on the micro model, with the saved prompt instead of encoded text."""
    seam = {"seam_columns": SEAM_COLUMNS}
    changes = {
        "UNETLoader": {"unet_name": BASE},
        "VAELoader": {"vae_name": VAE},
        "OmniXLoadPanorama": {"image": image, "height": height},
        "LoadImage": {"image": image},
        "OmniXPlaceOnPanorama": {"width": 2 * height, "height": height},
        "OmniXFlowShift": seam,
        "OmniXApplyAdapters": seam,
        "KSampler": {"steps": steps},
    }
    graph = pointed(graph, changes)
    for name in [name for name, node in graph.items() if node["class_type"] == "DualCLIPLoader"]:
        del graph[name]
    for node in graph.values():
        if node["class_type"] == "OmniXEncodePrompt":
            node |= {"class_type": "OmniXLoadConditioning", "inputs": {"name": PROMPT}}
    return graph


def perceived(server: Server, graph: Graph, target: Path, stem: str) -> dict[str, Path]:
    """Run a graph, keep the saved maps in the layout of `mapfiles`, and return the files by kind.

    Depth is kept as EXR, for its exact values.
    """
    (saver,) = of_type(graph, "OmniXSavePanorama")
    result = server.run(graph)
    found = {}
    for file in (*result.files(saver), *result.files(saver, "omnix_values")):
        for kind in ("rgb", *MADE):
            ending = ENDINGS.get(kind, f"{kind}.png")
            if file["filename"].endswith(f"_{ending}"):
                found[kind] = layout.place(target, kind, stem, Path(ending).suffix)
                found[kind].parent.mkdir(parents=True, exist_ok=True)
                found[kind].write_bytes(server.fetch(file))
    return found
