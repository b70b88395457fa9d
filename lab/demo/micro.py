"""Second half of the demo: the micro model predicts maps of rooms that it was not trained on.

The sheet shows them next to the true maps. One room is from the renderer that the model was trained with; the foreign
ones are from another renderer, with other shapes, textures and lamps. `python -m evaluation` compares the folders
`room` and `perceived` of the output, and the pairs of the foreign rooms.
"""

from __future__ import annotations

import itertools
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
from ...omnix.pictures.sheet import contact_sheet
from ..host.server import PACK, ROOT, Server
from ..micro import graphs
from ..micro.evaluating import GENERATED, given, maps_in, scores, tasks_of
from ..micro.judged import other_room, own_room, read, write
from ..micro.recipe import HEIGHT, JUDGED_SEED, NOT_LEARNED
from ..rooms.foreign import FAMILIES
from ..rooms.lighting import PICTURE
from . import scene
from .files import save_picture, short

STEM = "000001"
FIGURE = {"depth": "abs_rel", "normal": "mean", "semantic": "accuracy"}
"""Kind -> the figure on the sheet; other kinds show PSNR in dB."""
NOTE = (
    "Predicted by the micro model of lab/micro, a FLUX.1 of 3.4 million parameters, trained on rendered rooms of "
    f"{2 * HEIGHT}x{HEIGHT} pixels. It shows that the streams work, not how good OmniX is. It was not trained on any "
    "of these rooms. It also learned from other rooms of the foreign renderer. "
    "Real weights: python dev.py demo --flux F --vae V --clip-l C --t5 T --adapters A --panorama P"
)


def show(output: Path, steps: int | None) -> None:
    """Render the rooms, predict their maps in a real ComfyUI server, and put maps, truth and errors on one sheet."""
    print("\n== 5. Rooms that the micro model was not trained on")
    truth, ours = output / "room", output / "perceived"
    prepare(truth)
    foreign = {family: prepare_foreign(output, family) for family in FAMILIES}
    with tempfile.TemporaryDirectory(prefix="omnix-demo-") as folder:
        install(Path(folder))
        print("\n== 6. A real ComfyUI server with this pack as a custom node")
        with Server(Path(os.environ["COMFYUI_PATH"]), Path(folder), {PACK: ROOT}, cpu=True) as server:
            print(f"{server.url}, ready in {server.startup_seconds:.1f} s")
            for folders in ((truth, ours), *foreign.values()):
                perceive(server, *folders, steps or graphs.STEPS)
    rgb = panorama(truth)
    scenes = zip(("its 3D scene from the perceived maps", "from the true maps"), scene.show(ours, truth, rgb, output))
    first = [("panorama, all that the model sees", rgb), *scenes]
    pictures = [*((label, batch(pixels)) for label, pixels in first), *tiles(truth, ours)]
    pictures += [tile for family, folders in foreign.items() for tile in foreign_tiles(family, *folders)]
    sheet = contact_sheet(pictures, columns=3, tile_width=384, note=NOTE)
    save_picture(output / "contact_sheet.png", sheet[0].numpy())
    print(f"{short(output / 'contact_sheet.png')}: input, maps, truth and errors on one sheet")
    print(f"\n{NOTE}")


def prepare(folder: Path) -> None:
    """Write the first of the judged rooms with its true maps."""
    write(folder, [own_room(JUDGED_SEED, PICTURE)])
    print(f"{short(folder)}: room {JUDGED_SEED} and its true maps, from the renderer")


def prepare_foreign(output: Path, family: str) -> tuple[Path, Path]:
    """Write a room of the other renderer; return its folder and the folder for its predicted maps."""
    folder = output / f"foreign_{family}"
    write(folder, [other_room(JUDGED_SEED, family)])
    print(f"{short(folder)}: a {family} room from another renderer, not used for training")
    return folder, output / f"foreign_{family}_perceived"


def install(base: Path) -> None:
    """Put the micro model into the server's folders, with its adapters converted as for a user."""
    graphs.install(base / "models", graphs.WEIGHTS)
    adapters = base / "models" / graphs.PLACES[graphs.ADAPTERS]
    original = shutil.move(adapters, base / "original")
    for job in jobs(Path(original), adapters):
        convert(job.source, job.destination, slot=job.slot)


def perceive(server: Server, truth: Path, target: Path, steps: int) -> None:
    """Run the shipped graph of each task that the room has maps for; keep the predictions in the layout of maps."""
    shutil.rmtree(target, ignore_errors=True)
    for task in tasks_of(graphs.WEIGHTS, layout.kinds(truth)):
        image = server.upload(given(task, truth, STEM), f"{task}.png")
        for path in graphs.perceived(server, graphs.micro_graph(task, image, steps), target, STEM).values():
            print(f"{short(path)}: {path.stat().st_size / 1e3:.0f} kB, by {task}")


def panorama(truth: Path) -> Array:
    """Return the panorama of a room, [H, W, 3] in [0, 1]."""
    return layout.read(layout.find(truth, "rgb", STEM), "rgb")


def tiles(truth: Path, ours: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the sheet's rows of three (perceived, true, error), and a panorama that is generated around a picture."""
    for kind in maps_in(ours):
        yield from perceived_beside_true(kind, truth, ours)
    if (ours / "rgb").is_dir():
        yield "a picture of the room", batch(layout.read(given(GENERATED, truth, STEM), "rgb"))
        yield "the panorama that is generated around it", batch(layout.read(layout.find(ours, "rgb", STEM), "rgb"))
        yield "the room", batch(panorama(truth))


def foreign_tiles(family: str, truth: Path, ours: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the sheet's two rows of three for a room of another renderer."""
    yield f"foreign room ({family}), another renderer", batch(panorama(truth))
    yield from perceived_beside_true("depth", truth, ours)
    yield from itertools.islice(perceived_beside_true("normal", truth, ours), 2)


def perceived_beside_true(kind: str, truth: Path, ours: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a perceived map, its true map, and the error, [1, H, W, 3] each with its label."""
    mine, true = (read(folder, kind, STEM) for folder in (ours, truth))
    name = FIGURE.get(kind, "psnr")
    figure = scores(kind, mine, true).figures[name][0]
    figure_of = f"error of {kind}: {FIGURES[kind][name].title} {figure:.3g}"
    model = "not learned" if kind in NOT_LEARNED else "micro model"
    drawn = (*views.views(kind, mine, true), views.error(kind, mine, true))
    yield from zip((f"{kind}, perceived ({model})", f"{kind}, true (renderer)", figure_of), map(batch, drawn))


def batch(picture: Array) -> torch.Tensor:
    """Return an image [1, H, W, C]."""
    return torch.from_numpy(picture)[None].float()
