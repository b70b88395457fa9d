"""The shipped graphs on a real server, as they are but for files and sizes: each finishes and saves its maps."""

import io
from pathlib import Path

import numpy as np
import pytest
from comfyui_omnix.converters import STREAMS
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.lab.host.server import GraphError, Server
from comfyui_omnix.lab.host.tiny_models import ModelNames
from graph_files import API, Graph, by_host, read
from PIL import Image

pytestmark = pytest.mark.server
NAMES = ModelNames()
WIDTH, HEIGHT = 128, 64
SAVED = {
    "image_to_pano": ["panorama"],
    "text_to_pano": ["panorama"],
    "rgb_to_depth": ["depth"],
    "rgb_to_normal": ["normal"],
    "rgb_camray_to_normal": ["normal"],
    "rgb_to_albedo": ["albedo"],
    "rgb_to_pbr": ["roughness", "metallic"],
    "rgb_to_semantic": ["semantic"],
    "all_maps": ["depth", "normal", "albedo", "roughness", "metallic", "semantic"],
}


@pytest.fixture(scope="module")
def files(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Put tiny adapters for every task, a panorama and a picture where the graphs look for them."""
    for task, streams in STREAMS.items():
        for number, stream in enumerate(streams):
            folder = server.base / "models" / "loras" / "OmniX" / task / stream
            tiny.save(tiny.adapter(seed=number), folder / "pytorch_lora_weights.safetensors")
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.stack([2 * x, 4 * y, 128 + 0 * x], -1).astype(np.uint8)
    folder = tmp_path_factory.mktemp("pictures")
    for name, shown in (("panorama.png", pixels), ("example.png", pixels[:, :HEIGHT])):
        Image.fromarray(shown).save(folder / name)
        assert server.upload(folder / name) == name


SMALL = {
    "unet_name": NAMES.flux,
    "vae_name": NAMES.vae,
    "clip_name1": NAMES.clip_l,
    "clip_name2": NAMES.t5,
    "steps": 2,
    "resize_type.width": WIDTH,
}
PANORAMA = {"image": "panorama.png"}  # what a person loads in place of the host's example.png
SIZES = {
    "OmniXPlaceOnPanorama": {"width": WIDTH, "height": HEIGHT},
    "EmptySD3LatentImage": {"width": HEIGHT, "height": HEIGHT},
    "ModelSamplingFlux": {"width": HEIGHT, "height": HEIGHT},
}


def small(graph: Graph, seed: int = 0) -> Graph:
    """Point a shipped graph at the tiny models and sizes; links stay as they are.

    Hosts before 0.30 tell nothing of what another graph has saved already: each gets a seed of its own.
    """
    own = {} if any(node["class_type"] == "OmniXPlaceOnPanorama" for node in graph.values()) else PANORAMA
    for node in graph.values():
        for field, given in {**SMALL, **own, "seed": seed, **SIZES.get(node["class_type"], {})}.items():
            if not isinstance(node["inputs"].get(field, []), list):
                node["inputs"][field] = given
    return graph


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("slug", by_host({slug: API[slug] for slug in SAVED}))
def test_graph_runs(slug: str, server: Server) -> None:
    """Posted as it is but for files and size, a graph finishes and saves every map in the panorama's size."""
    result = server.run(small(read(API[slug]), list(SAVED).index(slug)))
    for name in SAVED[slug]:
        (data,) = server.images(result, f"save_{name}")
        image = np.asarray(Image.open(io.BytesIO(data)))
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert image.std() > 1
    shown = {entry["label"] for entry in result.outputs["viewer"]["omnix_maps"]}
    assert shown == {"image"} | (set(SAVED[slug]) - {"panorama"})
    if "depth" in SAVED[slug]:
        (file,) = result.files("save_depth_exr")
        assert file["filename"].endswith(".exr")
        assert server.fetch(file)[:4] == b"\x76\x2f\x31\x01"


@pytest.mark.usefixtures("files")
def test_saved_prompt_replaces_the_text_encoders(server: Server) -> None:
    """With the prompt saved once, perception gives the same picture and needs no text encoder."""
    written = server.run(small(read(API["save_prompt"])))
    name = Path(written.outputs["save"]["text"][0]).name
    graph = small(read(API["rgb_to_albedo"]))
    (before,) = server.images(server.run(graph), "save_albedo")
    for encoder in ("clip", "prompt", "text"):
        del graph[encoder]
    graph["guided"] = {"class_type": "OmniXLoadConditioning", "inputs": {"name": name}}
    (after,) = server.images(server.run(graph), "save_albedo")
    one, two = (np.asarray(Image.open(io.BytesIO(data))) for data in (before, after))
    assert np.array_equal(one, two)


@pytest.mark.usefixtures("files")
def test_missing_adapters_are_told_before_anything_runs(server: Server) -> None:
    graph = small(read(API["rgb_to_albedo"]))
    graph["adapters"]["inputs"]["folder"] = "Elsewhere"
    with pytest.raises(GraphError, match=r"Elsewhere: rgb, albedo: expected a file for each stream of rgb_to_albedo"):
        server.submit(graph)
