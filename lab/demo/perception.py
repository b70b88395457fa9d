"""The demo with real weights: predict a panorama's maps in a real ComfyUI server, and put all of them on a sheet."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ...converters import find_adapters
from ...omnix.pictures.sheet import contact_sheet
from ...omnix.runtime.tasks import STREAMS
from ..host.graphs import graph_of, of_type, pointed
from ..host.progress import heard
from ..host.server import PACK, ROOT, Server
from ..host.tiny_models import ModelNames
from ..rooms import room
from .files import save_picture, short

TASKS = ("rgb_to_depth", "rgb_to_normal", "rgb_to_pbr")
HOURS = 6  # 28 steps of the real model on a processor
HEIGHT, STEPS = 720, 28


@dataclass(frozen=True)
class Setting:
    """The files and sizes that the graphs use."""

    names: ModelNames
    width: int
    height: int
    steps: int


def check(options: argparse.Namespace) -> None:
    """Raise ValueError, before anything is made, if an adapter is missing."""
    wanted = {(task, stream) for task in TASKS for stream in STREAMS[task]}
    missing = sorted("/".join(slot) for slot in wanted - find_adapters(options.adapters).keys())
    if missing:
        raise ValueError(f"--adapters {options.adapters}: no file for {', '.join(missing)}; download them first.")


def show(options: argparse.Namespace) -> None:
    """Start the server, run the depth, normal and material graphs, and save their results."""
    height = options.height or HEIGHT
    print("== 1. A panorama to perceive")
    panorama = prepared_panorama(options, height)
    with tempfile.TemporaryDirectory(prefix="omnix-demo-") as folder:
        base = Path(folder)
        setting = Setting(linked_models(base, options), 2 * height, height, options.steps or STEPS)
        print("\n== 2. A real ComfyUI server with this pack as a custom node")
        cpu = not torch.cuda.is_available()
        with Server(Path(os.environ["COMFYUI_PATH"]), base, {PACK: ROOT}, cpu=cpu) as server:
            print(f"{server.url}, ready in {server.startup_seconds:.1f} s")
            perceive(server, setting, panorama, options.output)


def prepared_panorama(options: argparse.Namespace, height: int) -> Path:
    """Return the panorama to perceive: the user's, or a rendered room."""
    path = options.output / "panorama.png"
    if options.panorama:
        shutil.copyfile(options.panorama, path)
        print(f"{short(path)}: yours")
    else:
        save_picture(path, room.render(2 * height, height).rgb)
        print(f"{short(path)}: a rendered room")
    return path


def linked_models(base: Path, options: argparse.Namespace) -> ModelNames:
    """Put the user's files into the server's folders, as links, or as copies if links are not allowed."""
    places = {
        "diffusion_models": [options.flux],
        "vae": [options.vae],
        "text_encoders": [options.clip_l, options.t5],
    }
    for kind, files in places.items():
        for file in files:
            link(file.resolve(), base / "models" / kind / file.name)
    for (task, stream), file in find_adapters(options.adapters).items():
        if task in TASKS:
            link(file.resolve(), base / "models" / "loras" / "OmniX" / f"{task}_{stream}.safetensors")
    return ModelNames(options.flux.name, options.vae.name, options.clip_l.name, options.t5.name)


def link(source: Path, target: Path) -> None:
    """Make `target` a link to `source`, or a copy of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def perceive(server: Server, setting: Setting, panorama: Path, output: Path) -> None:
    """Run each task's graph; save its pictures and one sheet of them all."""
    pictures = [("panorama", read_image(panorama.read_bytes()))]
    image = server.upload(panorama)
    for task in TASKS:
        graph = pointed(graph_of(task), changes(setting, image))
        with shown_progress(server, task, of_type(graph, "KSampler"), setting.steps):
            result = server.run(graph, timeout=HOURS * 3600)
        for node in graph:
            for file in (*result.files(node), *result.files(node, "omnix_values")):
                if file["type"] == "output" and file["filename"].endswith((".png", ".exr")):
                    save_output(server, file, task, output, pictures)
        print(f"{task}: {setting.width}x{setting.height}, {setting.steps} steps, {result.seconds:.1f} s")
    save_picture(output / "contact_sheet.png", contact_sheet(pictures, columns=2)[0].numpy())
    print(f"{short(output / 'contact_sheet.png')}: everything on one sheet")


@contextmanager
def shown_progress(server: Server, task: str, samplers: Container[str], steps: int) -> Iterator[None]:
    """Show a bar of the sampler's steps on stderr inside this context."""
    with tqdm(total=steps, desc=task, unit="step", leave=False) as bar:

        def hear(node: str, value: int, _total: int) -> None:
            if node in samplers:
                bar.update(value - bar.n)

        with heard(server.url, hear):
            yield


def changes(setting: Setting, image: str) -> dict[str, dict[str, Any]]:
    """Return the inputs that the demo sets, by node type."""
    return {
        "UNETLoader": {"unet_name": setting.names.flux},
        "VAELoader": {"vae_name": setting.names.vae},
        "DualCLIPLoader": {"clip_name1": setting.names.clip_l, "clip_name2": setting.names.t5},
        "OmniXLoadPanorama": {"image": image, "height": setting.height},
        "KSampler": {"steps": setting.steps},
    }


def save_output(
    server: Server, file: dict[str, str], task: str, output: Path, pictures: list[tuple[str, torch.Tensor]]
) -> None:
    """Download a file that the server made, save it next to the input, and add a picture to the sheet."""
    data = server.fetch(file)
    path = output / f"{task}_{file['filename']}"
    path.write_bytes(data)
    print(f"{short(path)}: {len(data) / 1e3:.0f} kB")
    if path.suffix == ".png" and not path.stem.endswith("_16bit"):
        pictures.append((path.stem.removesuffix("_view").rpartition("_")[2], read_image(data)))


def read_image(data: bytes) -> torch.Tensor:
    """Decode a PNG to an IMAGE [1, H, W, 3] in [0, 1]."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels)[None]
