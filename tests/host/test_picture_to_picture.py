"""From a PNG and a prompt to the decoded picture, through the posted form of the shipped graphs, as the reference does.

The server's tokenizers, text encoders and VAE are the host's own code; the other side is `reference.py`.
"""

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import OpenImageIO as oiio
import pytest
import reference
import torch
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.lab.host.flux_vae import flux_vae
from comfyui_omnix.lab.host.graphs import Graph, graph_of, pointed
from comfyui_omnix.lab.host.server import Server
from comfyui_omnix.lab.host.tiny_models import ModelNames
from comfyui_omnix.omnix.runtime.tasks import STREAMS
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

pytestmark = [pytest.mark.server, pytest.mark.since("0.23.0")]  # the float picture is saved as EXR
NAMES = ModelNames(vae="made_up_ae.safetensors")
FOLDER = "picture to picture"
HEIGHT, WIDTH, SEED, STEPS = 64, 128, 7, 2
SEAM = 16
"""Pixel columns that Decode Panorama blends."""
TAG = "[EQUIRECTANGULAR]"
EXACT = 1e-4
"""Of the picture's own deviation, at every pixel."""
LONG = " ".join(f"a {colour} wall, {n} old chairs" for n in range(60) for colour in ("red", "green"))
CASES = {
    "2 streams": ("rgb_to_albedo", ""),
    "3 streams": ("rgb_camray_to_normal", ""),
    "a prompt": ("image_to_pano", "a hall with (two red doors:1.4), Ölgemälde & <tiles>\n"),
    "more than 512 tokens": ("image_to_pano", LONG),
}


@pytest.fixture(scope="module")
def vae(server: Server) -> Iterator[Any]:
    """FLUX's VAE of made-up weights, on both sides; its file (335 MB) goes when it has served."""
    made = flux_vae()
    path = server.base / "models" / "vae" / NAMES.vae
    save_file(made.state_dict(), path)
    yield made
    server.free()
    path.unlink()


@pytest.fixture(scope="module")
def adapters(server: Server) -> Iterator[dict[str, list[dict[str, Tensor]]]]:
    """An adapter for each stream, in the published layout."""
    root = server.base / "models" / "loras" / FOLDER
    found: dict[str, list[dict[str, Tensor]]] = {}
    for task in {task for task, _ in CASES.values()}:
        for number, stream in enumerate(STREAMS[task]):
            found.setdefault(task, []).append(tiny.adapter(seed=number))
            tiny.save(found[task][-1], root / task / stream / "pytorch_lora_weights.safetensors")
    yield found
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def given(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """A panorama and a view, uploaded as PNG."""
    found, folder = {}, tmp_path_factory.mktemp("pictures")
    for name, (height, width) in {"panorama.png": (HEIGHT, WIDTH), "view.png": (72, 96)}.items():
        coarse = np.random.default_rng(3).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / name)
        assert server.upload(folder / name) == name
        found[name] = torch.from_numpy(np.array(Image.open(folder / name), dtype=np.float32))[None] / 255
    return found


def graph(task: str, prompt: str) -> Graph:
    """Point a task's posted form at the models and pictures, and save what is decoded as 32-bit floats too."""
    changes: dict[str, dict[str, object]] = {
        "UNETLoader": {"unet_name": NAMES.flux},
        "VAELoader": {"vae_name": NAMES.vae},
        "DualCLIPLoader": {"clip_name1": NAMES.clip_l, "clip_name2": NAMES.t5},
        "OmniXLoadAdapters": {"folder": FOLDER},
        "OmniXLoadPanorama": {"image": "panorama.png", "height": HEIGHT},
        "LoadImage": {"image": "view.png"},
        "OmniXPlaceOnPanorama": {"width": WIDTH, "height": HEIGHT},
        "OmniXEncodePrompt": {"prompt": prompt},
        "KSampler": {"seed": SEED, "steps": STEPS},
    }
    exr = {"format": "exr", "format.bit_depth": "32-bit float", "format.input_color_space": "linear"}
    floats = {"images": ["decoded", 0], "filename_prefix": "floats", **exr}
    return {**pointed(graph_of(task), changes), "floats": {"class_type": "SaveImageAdvanced", "inputs": floats}}


def made(server: Server, posted: Graph) -> Tensor:
    """Run a graph; return the decoded picture [1, h, w, 3]."""
    (data,) = server.images(server.run(posted), "floats")
    (server.base / "floats.exr").write_bytes(data)
    return torch.from_numpy(oiio.ImageBuf(str(server.base / "floats.exr")).get_pixels(oiio.FLOAT))[None, ..., :3]


@pytest.fixture(scope="module")
def expected(
    comfyui: Path, vae: Any, adapters: dict[str, list[dict[str, Tensor]]], given: dict[str, Tensor]
) -> Callable[..., Tensor]:
    """The reference's picture of the same files, each computed once."""

    @functools.cache
    def compute(task: str, prompt: str, **ways: Any) -> Tensor:
        rays = [reference.camera_rays(HEIGHT, WIDTH)] if "camray" in STREAMS[task] else []
        shown = reference.placed(given["view.png"], HEIGHT, WIDTH) if task == "image_to_pano" else given["panorama.png"]
        words = f"{TAG} {prompt.strip()}" if prompt else TAG
        made = functools.partial(reference.picture, comfyui, vae, tiny.flux(), adapters[task], [shown, *rays], words)
        return made(seed=SEED, steps=STEPS, **ways)

    return compute


def apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of any pixel, in units of the picture's own deviation."""
    assert one.shape == other.shape
    return ((one - other).abs().max() / other.std()).item()


@pytest.mark.parametrize("case", CASES)
def test_the_picture_is_the_references(
    case: str, server: Server, expected: Callable[..., Tensor], measured: Callable[[str, float], float]
) -> None:
    want = expected(*CASES[case])
    assert want.std() > 0.1 and 0.01 < ((want == 0) | (want == 1)).float().mean() < 0.5, "some values are cut"
    got = made(server, graph(*CASES[case]))
    assert measured(f"picture to picture, {case}: of its deviation", apart(got, want)) <= EXACT


@pytest.mark.parametrize("case", list(CASES)[:3])
def test_other_ways_are_distinguished(
    case: str, expected: Callable[..., Tensor], measured: Callable[[str, float], float]
) -> None:
    """ComfyUI's number of text rows, values that are cut before the seam is blended, and a drawn latent."""
    want = expected(*CASES[case])
    ways: dict[str, dict[str, Any]] = {
        "256 rows of text": {"rows": 256},
        "cut before blending, at the seam": {"cut_first": True},
        "conditions 1 % off": {"drawn": 0.01},
    }
    for name, way in ways.items():
        off = expected(*CASES[case], **way) - want
        if "seam" in name:
            assert not off[:, :, SEAM:].any()
            off = off[:, :, :SEAM]
        share = (off.square().mean().sqrt() / want.std()).item()
        assert measured(f"{name}, {case}: of the deviation", share) > EXACT


def test_a_graph_with_clip_text_encode_runs_and_is_reported(server: Server, expected: Callable[..., Tensor]) -> None:
    older = graph(*CASES["2 streams"])
    clip = older["text"]["inputs"]["clip"]
    older |= {
        "prompt": {"class_type": "OmniXPrompt", "inputs": {"prompt": ""}},
        "words": {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": ["prompt", 0]}},
        "text": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["words", 0], "guidance": 3.5}},
    }
    before = len(server.log.read_text(encoding="utf-8"))
    assert apart(made(server, older), expected(*CASES["2 streams"], rows=256)) <= EXACT
    reported = server.log.read_text(encoding="utf-8")[before:]
    assert reported.count("OmniX: The text has 256 rows, and OmniX was trained with 512") == 1
