"""The test server itself: stock graphs run unmodified on the tiny models, and every failure is reported."""

import copy
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_omnix.lab.host.server import GraphError, Interrupted, Server
from comfyui_omnix.lab.host.tiny_models import ModelNames
from PIL import Image

pytestmark = pytest.mark.server
NAMES = ModelNames()

GRAPH: dict[str, dict[str, Any]] = {
    "flux": {"class_type": "UNETLoader", "inputs": {"unet_name": NAMES.flux, "weight_dtype": "default"}},
    "clip": {
        "class_type": "DualCLIPLoader",
        "inputs": {"clip_name1": NAMES.clip_l, "clip_name2": NAMES.t5, "type": "flux", "device": "default"},
    },
    "vae": {"class_type": "VAELoader", "inputs": {"vae_name": NAMES.vae}},
    "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["clip", 0], "text": "[EQUIRECTANGULAR] a room"}},
    "guided": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["text", 0], "guidance": 3.5}},
    "picture": {"class_type": "LoadImage", "inputs": {"image": "ramp.png"}},
    "encoded": {"class_type": "VAEEncode", "inputs": {"pixels": ["picture", 0], "vae": ["vae", 0]}},
    "reference": {
        "class_type": "ReferenceLatent",
        "inputs": {"conditioning": ["guided", 0], "latent": ["encoded", 0]},
    },
    "empty": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 128, "height": 64, "batch_size": 1}},
    "sampled": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["flux", 0],
            "positive": ["reference", 0],
            "negative": ["text", 0],
            "latent_image": ["empty", 0],
            "seed": 7,
            "steps": 2,
            "cfg": 1.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
        },
    },
    "decoded": {"class_type": "VAEDecode", "inputs": {"samples": ["sampled", 0], "vae": ["vae", 0]}},
    "saved": {"class_type": "SaveImage", "inputs": {"images": ["decoded", 0], "filename_prefix": "stock"}},
}


@pytest.fixture(scope="module", autouse=True)
def ramp(server: Server, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Upload a picture under the name that the graph loads."""
    y, x = np.mgrid[0:64, 0:128]
    pixels = np.stack([2 * x, 4 * y, 128 + 0 * x], -1).astype(np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "ramp.png"
    Image.fromarray(pixels).save(path)
    assert server.upload(path) == "ramp.png"
    return pixels


def changed(node: str, **inputs: object) -> dict[str, dict[str, Any]]:
    """Copy the graph with other inputs at one node."""
    graph = copy.deepcopy(GRAPH)
    graph[node]["inputs"].update(inputs)
    return graph


def picture(data: bytes) -> np.ndarray:
    """Decode a PNG as float pixels in [0, 1]."""
    return np.asarray(Image.open(io.BytesIO(data)), dtype=np.float64) / 255


def test_stock_graph_runs(server: Server) -> None:
    result = server.run(GRAPH)
    (image,) = [picture(data) for data in server.images(result, "saved")]
    assert image.shape == (64, 128, 3)
    assert image.std() > 0.05


def test_every_model_matters(server: Server) -> None:
    """Another prompt, guidance or seed, or no reference, changes the picture: no file is loaded in vain."""
    graphs = [
        changed("saved", filename_prefix="every model"),  # older hosts report nothing of a graph they have cached
        changed("text", text="a garden"),
        changed("guided", guidance=1.0),
        changed("sampled", seed=8),
        changed("sampled", positive=["guided", 0]),
    ]
    images = [picture(server.images(server.run(graph), "saved")[0]) for graph in graphs]
    for i, image in enumerate(images):
        for other in images[:i]:
            assert np.abs(image - other).max() > 0.02


def test_same_seed_same_picture(server: Server) -> None:
    first = server.run(changed("saved", filename_prefix="first"))
    server.free()
    second = server.run(changed("saved", filename_prefix="second"))
    one, two = (picture(server.images(result, "saved")[0]) for result in (first, second))
    assert np.array_equal(one, two)


def test_vae_keeps_the_picture(server: Server, ramp: np.ndarray) -> None:
    result = server.run(
        {**GRAPH, "decoded": {**GRAPH["decoded"], "inputs": {"samples": ["encoded", 0], "vae": ["vae", 0]}}}
    )
    image = picture(server.images(result, "saved")[0])
    assert np.abs(image - ramp / 255)[8:-8, 8:-8].mean() < 0.1


def test_refused_graph_names_the_node(server: Server) -> None:
    with pytest.raises(GraphError, match="no such") as refused:
        server.submit(changed("flux", unet_name="no such.safetensors"))
    assert (refused.value.node, refused.value.node_type) == ("flux", "UNETLoader")


def test_failing_node_reports_its_message(server: Server) -> None:
    broken = server.base / "models" / "vae" / "broken.safetensors"
    broken.write_bytes(b"not a safetensors file")
    with pytest.raises(GraphError) as failed:
        server.run(changed("vae", vae_name="broken.safetensors"))
    assert failed.value.node == "vae"
    assert failed.value.node_type == "VAELoader"
    assert failed.value.message


def test_interrupt(server: Server) -> None:
    prompt_id = server.submit(changed("sampled", steps=10000, seed=99))
    deadline = time.monotonic() + 60
    while prompt_id not in server.running() and time.monotonic() < deadline:
        time.sleep(0.01)
    server.interrupt()
    with pytest.raises(Interrupted):
        server.wait(prompt_id, timeout=60)
    assert server.run(GRAPH).outputs


def test_start_failure_shows_the_log(comfyui: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no-such-option"):
        Server(comfyui, tmp_path, {}, ("--no-such-option",)).start()


def test_a_pack_that_cannot_be_imported_is_reported(comfyui: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("raise ValueError('broken on purpose')\n")
    with pytest.raises(RuntimeError, match="broken on purpose"):
        Server(comfyui, tmp_path / "base", {"broken-pack": tmp_path / "broken"}).start()


def test_no_process_is_left(comfyui: Path, tmp_path: Path) -> None:
    """Starting takes seconds; stopping ends the process, and what is asked afterwards says so."""
    with Server(comfyui, tmp_path, {}) as running:
        assert running.node_info("KSampler")
        assert not running.node_info("OmniXPrompt")  # no pack was asked for
        process = running._process
    assert process is not None and process.poll() is not None
    with pytest.raises(OSError):
        running.node_info("KSampler")
