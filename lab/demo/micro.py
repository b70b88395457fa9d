"""Second half of the demo: the micro model perceives a room that nobody trained on, beside what the renderer knows.

The folders `room` and `perceived` of the output are those that `python -m evaluation` compares.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from ...converters import convert, jobs
from ...evaluation import views
from ...evaluation.metrics import FIGURES
from ...mapfiles import layout
from ...mapfiles.pictures import Array
from ...omnix.sheet import contact_sheet
from ..host.server import PACK, ROOT, Server
from ..micro import graphs
from ..micro.evaluating import GENERATED, given, judged_room, maps_in, perceived, scores
from ..micro.recipe import HEIGHT, JUDGED_SEED
from ..rooms.lighting import PICTURE
from . import scene
from .files import save_picture, short

STEM = "000001"
FIGURE = {"depth": "abs_rel", "normal": "mean"}
"""Kind -> the figure that is told; of the others it is PSNR in dB."""
NOTE = (
    "Perceived by the micro model of lab/micro, a FLUX.1 of 3.4 million parameters that knows rendered rooms of "
    f"{2 * HEIGHT}x{HEIGHT} alone; what is true, the renderer knows. It shows that the streams perceive, not how well "
    "OmniX does. "
    "Real weights: python dev.py demo --flux F --vae V --clip-l C --t5 T --adapters A --panorama P"
)


def show(output: Path, steps: int | None) -> None:
    """Render the room, perceive it in a real ComfyUI server, and lay maps, truth and errors on one sheet."""
    print("\n== 5. A room that the micro model has never seen")
    truth, ours = output / "room", output / "perceived"
    prepare(truth)
    with tempfile.TemporaryDirectory(prefix="omnix-demo-") as folder:
        install(Path(folder))
        print("\n== 6. A real ComfyUI server with this pack as a custom node")
        with Server(Path(os.environ["COMFYUI_PATH"]), Path(folder), {PACK: ROOT}, cpu=True) as server:
            print(f"{server.url}, ready in {server.startup_seconds:.1f} s")
            perceive(server, truth, ours, steps or graphs.STEPS)
    rgb = panorama(truth)
    scenes = zip(("its 3D scene from the perceived maps", "from the true maps"), scene.show(ours, truth, rgb, output))
    first = [("panorama, all that the model sees", rgb), *scenes]
    pictures = [*((label, batch(pixels)) for label, pixels in first), *tiles(truth, ours)]
    sheet = contact_sheet(pictures, columns=3, tile_width=384, note=NOTE)
    save_picture(output / "contact_sheet.png", sheet[0].numpy())
    print(f"{short(output / 'contact_sheet.png')}: input, maps, truth and errors on one sheet")
    print(f"\n{NOTE}")


def prepare(folder: Path) -> None:
    """Write the first of the judged rooms with its true maps."""
    for kind, values in judged_room(JUDGED_SEED, PICTURE).items():
        layout.write(layout.place(folder, kind, STEM), kind, values)
    print(f"{short(folder)}: room {JUDGED_SEED} and its true maps, as the renderer knows them")


def install(base: Path) -> None:
    """Put the micro model where the server looks, its adapters converted as a user's would be."""
    graphs.install(base / "models", graphs.WEIGHTS)
    adapters = base / "models" / graphs.PLACES[graphs.ADAPTERS]
    original = shutil.move(adapters, base / "original")
    for job in jobs(Path(original), adapters):
        convert(job.source, job.destination, slot=job.slot)


def perceive(server: Server, truth: Path, target: Path, steps: int) -> None:
    """Run each task's shipped graph; keep the maps in the layout of `evaluation`."""
    shutil.rmtree(target, ignore_errors=True)
    for task in graphs.tasks(graphs.WEIGHTS):
        image = server.upload(given(task, truth, STEM), f"{task}.png")
        for path in perceived(server, graphs.micro_graph(task, image, steps), target, STEM).values():
            print(f"{short(path)}: {path.stat().st_size / 1e3:.0f} kB, by {task}")


def panorama(truth: Path) -> Array:
    """Return the panorama that is perceived, [H, W, 3] in [0, 1]."""
    return layout.read(layout.find(truth, "rgb", STEM), "rgb")


def tiles(truth: Path, ours: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the sheet's rows of three: what is perceived, what is true, and the error; what is made of a picture."""
    for kind in maps_in(ours):
        yield from perceived_beside_true(kind, truth, ours)
    if (ours / "rgb").is_dir():
        yield "a picture of the room", batch(layout.read(given(GENERATED, truth, STEM), "rgb"))
        yield "the panorama that is generated around it", batch(layout.read(layout.find(ours, "rgb", STEM), "rgb"))
        yield "the room", batch(panorama(truth))


def perceived_beside_true(kind: str, truth: Path, ours: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a map as it is perceived, as it is true, and its error, [1, H, W, 3] each with what it is."""
    mine, true = (layout.read(layout.find(folder, kind, STEM), kind) for folder in (ours, truth))
    name = FIGURE.get(kind, "psnr")
    figure = scores(kind, mine, true).figures[name][0]
    caption = f"error of {kind}: {FIGURES[kind][name].title} {figure:.3g}"
    drawn = (*views.views(kind, mine, true), views.error(kind, mine, true))
    yield from zip((f"{kind}, perceived (micro model)", f"{kind}, true (renderer)", caption), map(batch, drawn))


def batch(picture: Array) -> torch.Tensor:
    """Return an image [1, H, W, C]."""
    return torch.from_numpy(picture)[None].float()
