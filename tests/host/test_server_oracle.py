"""Every task as a graph on a real server: the resulting picture equals the oracle's, level for level."""

import io
from typing import Any

import numpy as np
import pytest
import stock
import torch
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.lab.host.server import Server
from comfyui_omnix.lab.host.tiny_models import ModelNames
from oracle import decode_panorama, sample
from PIL import Image
from torch import Tensor

pytestmark = pytest.mark.server
NAMES = ModelNames()
HEIGHT, WIDTH, SEED, STEPS = 64, 128, 42, 3
STREAMS = {
    "image_to_pano": ("masked_rgb", "filled_rgb"),
    "rgb_to_depth": ("rgb", "depth"),
    "rgb_to_normal": ("rgb", "normal"),
    "rgb_to_albedo": ("rgb", "albedo"),
    "rgb_to_pbr": ("rgb", "pbr"),
    "rgb_to_semantic": ("rgb", "semantic"),
    "rgb_camray_to_normal": ("rgb", "camray", "normal"),
}
FOLDER = "oracle test"


@pytest.fixture(scope="module")
def pictures(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, ...]:
    """Two conditions [1, h, w, 3], uploaded as condition_0.png and condition_1.png."""
    draw = np.random.default_rng(1)
    images = []
    for i in range(2):
        coarse = draw.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        pixels = coarse.repeat(8, 0).repeat(8, 1)
        path = tmp_path_factory.mktemp("conditions") / f"condition_{i}.png"
        Image.fromarray(pixels).save(path)
        assert server.upload(path) == path.name
        images.append(torch.from_numpy(pixels).float()[None] / 255)
    return tuple(images)


@pytest.fixture(scope="module")
def adapters(server: Server) -> dict[str, list[dict[str, Tensor]]]:
    """One adapter for each stream of each task, in the published layout under the server's loras folder."""
    found: dict[str, list[dict[str, Tensor]]] = {}
    for task, streams in STREAMS.items():
        for stream in streams:
            state = tiny.adapter(seed=sum(map(ord, task + stream)), rank=4 + len(stream) % 3, dtype=torch.bfloat16)
            folder = server.base / "models" / "loras" / FOLDER / task / stream
            tiny.save(state, folder / "pytorch_lora_weights.safetensors")
            found.setdefault(task, []).append(state)
    return found


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def graph(task: str) -> dict[str, dict[str, Any]]:
    """Write the graph of a task with as many reference latents as it has conditions."""
    nodes = {
        "flux": node("UNETLoader", unet_name=NAMES.flux, weight_dtype="default"),
        "clip": node("DualCLIPLoader", clip_name1=NAMES.clip_l, clip_name2=NAMES.t5, type="flux", device="default"),
        "vae": node("VAELoader", vae_name=NAMES.vae),
        "text": node("OmniXEncodePrompt", clip=["clip", 0], prompt="", guidance=3.5),
        "adapters": node("OmniXLoadAdapters", task=task, folder=FOLDER),
        "applied": node(
            "OmniXApplyAdapters",
            model=["flux", 0],
            adapters=["adapters", 0],
            strength_condition=1.0,
            strength_target=1.0,
            seam_columns=6,
        ),
        "empty": node("EmptySD3LatentImage", width=WIDTH, height=HEIGHT, batch_size=1),
        "shifted": node("OmniXFlowShift", model=["applied", 0], latent=["empty", 0], seam_columns=6),
        "decoded": node("OmniXDecodePanorama", samples=["sampled", 0], vae=["vae", 0], wrap_columns=2),
        "saved": node("SaveImage", images=["decoded", 0], filename_prefix=task),
    }
    last = "text"
    for i in range(len(STREAMS[task]) - 1):
        nodes[f"load {i}"] = node("LoadImage", image=f"condition_{i}.png")
        nodes[f"encode {i}"] = node("VAEEncode", pixels=[f"load {i}", 0], vae=["vae", 0])
        nodes[f"reference {i}"] = node("ReferenceLatent", conditioning=[last, 0], latent=[f"encode {i}", 0])
        last = f"reference {i}"
    nodes["sampled"] = node(
        "KSampler",
        model=["shifted", 0],
        positive=[last, 0],
        negative=[last, 0],
        latent_image=["empty", 0],
        seed=SEED,
        steps=STEPS,
        cfg=1.0,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    )
    return nodes


@pytest.mark.parametrize("task", STREAMS)
def test_picture_is_the_oracles(
    server: Server,
    pictures: tuple[Tensor, ...],
    adapters: dict[str, list[dict[str, Tensor]]],
    task: str,
) -> None:
    result = server.run(graph(task))
    (data,) = server.images(result, "saved")
    shown = torch.from_numpy(np.asarray(Image.open(io.BytesIO(data)), dtype=np.float32))[None]
    words, pooled = stock.text("[EQUIRECTANGULAR]")
    conditions = [stock.encoded(image) for image in pictures[: len(STREAMS[task]) - 1]]
    latent = sample(
        tiny.flux(), adapters[task], conditions, stock.noise(SEED, HEIGHT // 8, WIDTH // 8), words, pooled, STEPS, 3.5
    )
    expected = stock.saved(decode_panorama(stock.decoded, latent)).permute(0, 2, 3, 1)
    assert shown.shape == expected.shape == (1, HEIGHT, WIDTH, 3)
    assert expected.std() > 20
    assert (shown - expected).abs().max() <= 1
    assert (shown != expected).float().mean() < 0.01
