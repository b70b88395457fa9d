"""The shipped graphs on a real server, as they are but for files and sizes: each finishes and saves its maps."""

import io
import json
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import trimesh
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.lab.host.server import Server
from comfyui_omnix.lab.host.tiny_models import ModelNames
from comfyui_omnix.omnix.runtime.tasks import STREAMS
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
    """Put tiny adapters for every task and a picture where the graphs look for them."""
    for task, streams in STREAMS.items():
        for number, stream in enumerate(streams):
            folder = server.base / "models" / "loras" / "OmniX" / task / stream
            tiny.save(tiny.adapter(seed=number), folder / "pytorch_lora_weights.safetensors")
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.stack([2 * x, 4 * y, 128 + 0 * x], -1).astype(np.uint8)
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(pixels[:, :HEIGHT]).save(folder / "example.png")
    assert server.upload(folder / "example.png") == "example.png"


SMALL = {
    "unet_name": NAMES.flux,
    "vae_name": NAMES.vae,
    "clip_name1": NAMES.clip_l,
    "clip_name2": NAMES.t5,
    "steps": 2,
    "height": HEIGHT,
}
SIZES = {
    "OmniXPlaceOnPanorama": {"width": WIDTH, "height": HEIGHT},
    "EmptySD3LatentImage": {"width": HEIGHT, "height": HEIGHT},
    "ModelSamplingFlux": {"width": HEIGHT, "height": HEIGHT},
}


def small(graph: Graph, seed: int = 0) -> Graph:
    """Point a shipped graph at the tiny models and sizes; links and pictures stay as they are.

    Hosts before 0.30 tell nothing of what another graph has saved already: each gets a seed of its own.
    """
    for node in graph.values():
        for field, value in {**SMALL, "seed": seed, **SIZES.get(node["class_type"], {})}.items():
            if not isinstance(node["inputs"].get(field, []), list):
                node["inputs"][field] = value
    for name in ("steps", "seed"):
        if name in graph:
            graph[name]["inputs"]["value"] = {"steps": 2, "seed": seed}[name]
    return graph


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("slug", by_host({slug: API[slug] for slug in SAVED}))
def test_graph_runs(slug: str, server: Server) -> None:
    """Posted as it is but for files and size, a graph finishes and saves every map in the panorama's size."""
    result = server.run(small(read(API[slug]), list(SAVED).index(slug)))
    shown = {file["filename"].split("_000")[1][3:]: server.fetch(file) for file in result.files("save")}
    assert set(shown) == {f"{name}_view.png" if name == "depth" else f"{name}.png" for name in SAVED[slug]}
    for data in shown.values():
        image = np.asarray(Image.open(io.BytesIO(data)))
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert image.std() > 1
    labels = {entry["label"] for entry in result.outputs["viewer"]["omnix_maps"]}
    assert labels == {"image"} | (set(SAVED[slug]) - {"panorama"})
    assert result.files("view"), "the captured view is shown"
    if "depth" in SAVED[slug]:
        grey, exr = (server.fetch(file) for file in result.files("save", "omnix_values"))
        assert Image.open(io.BytesIO(grey)).mode == "I;16"
        assert exr[:4] == b"\x76\x2f\x31\x01"


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("slug", by_host({slug: API[slug] for slug in ("panorama_to_scene", "photo_to_scene")}))
def test_scene_is_saved(slug: str, server: Server) -> None:
    """The graph of a scene, as it is but for files and size, saves a GLB and keeps the panorama as light."""
    result = server.run(small(read(API[slug]), len(SAVED)))
    (saved,) = result.files("save", "3d")
    found = trimesh.load(io.BytesIO(server.fetch(saved)), file_type="glb", force="scene").geometry
    mesh = found["Panorama"]
    seen = sum(len(part.faces) for name, part in found.items() if name.startswith("Panorama"))  # what glows is apart
    assert len(mesh.faces) > 100 and np.isfinite(mesh.vertices).all()
    assert mesh.visual.material.metallicRoughnessTexture is not None
    # Made-up weights make normals that may contradict their depth: then they are left out, in words.
    left_out = "the normal map was left out" in result.outputs["report"]["text"][0]
    assert (mesh.visual.material.normalTexture is None) == left_out
    assert f"Mesh: {seen:,} triangles" in result.outputs["report"]["text"][0]
    (light,) = result.files("light")
    assert server.fetch(light)[:4] == b"\x76\x2f\x31\x01"


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("slug", by_host({"whole_scene": API["whole_scene"]}))
def test_whole_scene_has_what_is_drawn_behind(slug: str, server: Server) -> None:
    """Ten runs of the model in one graph: what is drawn behind is shown, and the report says what became of it."""
    result = server.run(small(read(API[slug]), len(SAVED) + 1))
    (saved,) = result.files("save", "3d")
    found = trimesh.load(io.BytesIO(server.fetch(saved)), file_type="glb", force="scene").geometry
    (report,) = result.outputs["report"]["text"]
    seen = sum(len(mesh.faces) for name, mesh in found.items() if name != "background")
    assert f"Mesh: {seen:,} triangles" in report
    assert "Background layer: " in report and "Objects: " in report
    (drawn,) = result.files("drawn")
    picture = np.asarray(Image.open(io.BytesIO(server.fetch(drawn))))
    assert picture.shape == (HEIGHT, WIDTH, 3) and picture.std() > 1


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("slug", by_host({"any_model": API["any_model"]}))
def test_any_model_paints_the_panorama_of_all_maps(slug: str, server: Server) -> None:
    """With the checkpoint replaced by loaders of its parts, as the note says: here they are FLUX.1's."""
    graph = small(read(API[slug]), len(SAVED) + 1)
    del graph["checkpoint"]
    loaders = {"model": "flux", "clip": "clip", "vae": "vae"}
    for node in graph.values():
        for field, given in node["inputs"].items():
            if isinstance(given, list) and given[0] == "checkpoint":
                node["inputs"][field] = [loaders[field], 0]
    graph["lora"]["inputs"]["lora_name"] = "OmniX/rgb_to_depth/rgb/pytorch_lora_weights.safetensors"
    graph["empty_made"]["inputs"] |= {"width": WIDTH, "height": HEIGHT}
    result = server.run(graph)
    shown = {file["filename"].split("_000")[1][3:]: server.fetch(file) for file in result.files("save")}
    assert {f"{name}.png" for name in ("panorama", "normal", "albedo", "roughness", "semantic")} <= set(shown)
    panorama = np.asarray(Image.open(io.BytesIO(shown["panorama.png"])))
    assert panorama.shape == (HEIGHT, WIDTH, 3) and panorama.std() > 1


@pytest.mark.usefixtures("files")
def test_saved_prompt_replaces_the_text_encoders(server: Server) -> None:
    """With the prompt saved once, perception gives the same picture and needs no text encoder."""
    written = server.run(small(read(API["save_prompt"])))
    name = Path(written.outputs["save"]["text"][0]).name
    graph = small(read(API["rgb_to_albedo"]))
    (before,) = server.images(server.run(graph), "save")
    del graph["clip"]
    graph["text"] = {"class_type": "OmniXLoadConditioning", "inputs": {"name": name}}
    (after,) = server.images(server.run(graph), "save")
    one, two = (np.asarray(Image.open(io.BytesIO(data))) for data in (before, after))
    assert np.array_equal(one, two)


@pytest.mark.usefixtures("files")
def test_missing_adapters_are_reported_once_at_the_folder(server: Server) -> None:
    """Before anything runs: the folders there are, or every file that is missing in the one that was chosen."""
    graph = small(read(API["rgb_to_albedo"]))
    graph["adapters"]["inputs"]["folder"] = "Elsewhere"
    assert reported(server, graph) == [("folder", "Elsewhere: no such folder in models/loras; folders with OmniX"[:60])]
    tiny.save(tiny.adapter(), server.base / "models" / "loras" / "Part" / "rgb_to_depth" / "rgb.safetensors")
    graph["adapters"]["inputs"]["folder"] = "Part"
    assert reported(server, graph) == [("folder", "Part: rgb, albedo: expected a file for each stream of rgb_to")]
    graph["panorama"]["inputs"]["image"] = "gone.png"
    assert [name for name, _ in reported(server, graph, "panorama")] == ["image"]


def reported(server: Server, graph: Graph, node: str = "adapters") -> list[tuple[str, str]]:
    """Return (input, start of the sentence) of every error that the host reports for a node."""
    request = urllib.request.Request(
        f"{server.url}/prompt", json.dumps({"prompt": graph}).encode(), {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30)
    errors = json.loads(refused.value.read())["node_errors"][node]["errors"]
    return [(error["extra_info"]["input_name"], error["details"].partition(" - ")[2][:60]) for error in errors]
