"""The whole command at its smallest: a few rooms, a few steps of every stage, and its weights in a real ComfyUI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from comfyui_omnix.lab.micro import adapters, base, evaluating, graphs, making, pictures
from comfyui_omnix.lab.micro.blocks import Blocks
from comfyui_omnix.lab.micro.recipe import BEGUN, FIRST, HEIGHT, OTHERS, PICTURES, STAGES, TASKS, TURNED, Stage
from comfyui_omnix.mapfiles import layout
from comfyui_omnix.mapfiles.nyu40 import CLASSES
from comfyui_omnix.omnix.pictures.panorama import camera_rays
from comfyui_omnix.omnix.runtime.tasks import TASKS as TASKS_OF
from comfyui_omnix.training import record
from comfyui_omnix.training.saving import PUBLISHED, RUN_KEY, STATE, saves
from safetensors import safe_open
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from comfyui_omnix.lab.host.server import Server

ROOMS = 14
"""The fewest with which one room of each kind is of the validation part."""
SMALL = Stage(3, len(PICTURES), 2e-3)
LARGEST = 24 << 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step a stage."""
    folder = tmp_path_factory.mktemp("micro")
    making.make(folder, making.chosen(STAGES, 1), torch.get_num_threads(), ROOMS)
    return folder


def latents(count: int = 6) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(count, 16, HEIGHT // 8, HEIGHT // 4, generator=draw) for name in PICTURES}


def equal(ours: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)


def test_a_base_that_was_stopped_goes_on_exactly(tmp_path: Path) -> None:
    whole = base.train(latents(), SMALL, tmp_path / "whole")
    base.train(latents(), SMALL._replace(steps=1), tmp_path / "parts")
    assert equal(whole, base.train(latents(), SMALL, tmp_path / "parts"))
    curves = [record.read(tmp_path / run / "base.csv") for run in ("whole", "parts")]
    assert curves[0] == curves[1] and len(curves[0]) == SMALL.steps


def test_the_mean_of_two_folders_of_weights(tmp_path: Path) -> None:
    after, target = tmp_path / "after", tmp_path / "mean"
    shutil.copytree(graphs.WEIGHTS, after)
    path = Path(graphs.ADAPTERS, "rgb_to_depth", "rgb", PUBLISHED)
    before = load_file(graphs.WEIGHTS / path)
    with safe_open(graphs.WEIGHTS / path, "pt") as file:
        metadata = file.metadata()
    save_file({name: tensor * 3 for name, tensor in before.items()}, after / path, metadata)
    making.average(graphs.WEIGHTS, after, target)
    changed = load_file(target / path)
    assert all(torch.allclose(changed[name].float(), tensor.float() * 2, rtol=4e-3) for name, tensor in before.items())
    with safe_open(target / path, "pt") as file:
        assert file.metadata() == metadata
    for file in (each.relative_to(after) for each in after.rglob("*") if each.is_file()):
        assert file == path or equal(load_file(target / file), load_file(after / file))
    with pytest.raises(ValueError, match="mean: this folder exists"):
        making.average(graphs.WEIGHTS, after, target)
    base = load_file(after / graphs.BASE)
    save_file({name: tensor + 1 for name, tensor in base.items()}, after / graphs.BASE)
    with pytest.raises(ValueError, match="expected the base of"):
        making.average(graphs.WEIGHTS, after, tmp_path / "other")


def test_a_base_learns(tmp_path: Path) -> None:
    bright = {name: torch.full_like(stack, 3.0) for name, stack in latents().items()}
    base.train(bright, Stage(10, len(PICTURES), 0.3), tmp_path)
    losses = [row["loss"] for row in record.read(tmp_path / "base.csv")]
    assert losses[0] > 9 and losses[-1] < 0.7 * losses[0]


def test_the_base_sees_every_stream_alike_and_turns_no_normals() -> None:
    numbered = {name: torch.zeros(3, 16, 8, 16) + place for place, name in enumerate(PICTURES)}
    for stack in numbered.values():
        stack[..., 0] += 100
    drawn = list(base.drawn(numbered, 64, torch.Generator().manual_seed(0)))
    assert [len(part) for part in drawn] == [10, 10, 11, 11, 11, 11]
    for (name, part), place in zip(zip(PICTURES, drawn), range(len(PICTURES))):
        marked = part[:, 0, 0] >= 100
        assert (part - 100 * marked[:, None, None] == place).all() and (marked.sum(1) == 1).all()
        assert bool(marked[:, 0].all()) == (name not in TURNED)


def test_adapters_are_trained_on_both_precisions_and_sampled_with_one() -> None:
    flux = base.InTwoPrecisions(base.loaded(load_file(graphs.WEIGHTS / graphs.BASE)).model, "base").flux()
    weight = flux.get_parameter("double_blocks.0.img_attn.qkv.weight")
    own = weight.detach().clone()
    text, pooled = base.prompt()
    seen = []
    for training in (True, True, False, True, False):
        with torch.set_grad_enabled(training):
            flux(torch.zeros(1, 16, 8, 16), torch.ones(1), text, pooled, torch.ones(1))
        seen.append(weight.detach().clone())
    rounded = own.to(torch.float8_e4m3fn).float()
    assert not torch.equal(own, rounded)
    for found, wanted in zip(seen, (own, rounded, own, own, own)):
        assert torch.equal(found, wanted)


def test_the_watcher_counts_no_scale(tmp_path: Path) -> None:
    axes = torch.eye(192)[:16]
    blocks = Blocks(axes, torch.full((192,), 0.5), torch.ones(16))
    truth = torch.zeros(3, 16, 8, 16)
    both = {"own": truth[:2], "foreign": truth[2:]}
    note = adapters.watcher("depth", blocks, both, tmp_path / "watched.csv")
    note(1, truth)
    note(2, torch.cat([truth[:2] + 0.1, truth[2:] - 0.2]))
    first, second = record.read(tmp_path / "watched.csv")
    for renderer, off in (("own", 0.1), ("foreign", 0.2)):
        assert first[f"{renderer}_rms"] == first[f"{renderer}_relative"] == 0
        assert second[f"{renderer}_rms"] == pytest.approx(off * (16 / 192) ** 0.5, rel=1e-4)
        assert second[f"{renderer}_relative"] == pytest.approx(2 * off * 16 / 192, rel=1e-4)


def test_the_watcher_counts_classes_of_semantics_and_errors_of_other_maps(tmp_path: Path) -> None:
    blocks = Blocks(torch.eye(192)[:192], torch.zeros(192), torch.ones(192))
    colours = [torch.tensor(dict(CLASSES)[name]) / 255 for name in ("floor", "wall")]
    floor, wall = (blocks.encode(colour[None, :, None, None].expand(1, 3, 64, 128)) for colour in colours)
    half = torch.cat([floor[..., :4], wall[..., 4:]], dim=-1)
    for kind in ("semantic", "albedo"):
        adapters.watcher(kind, blocks, {"own": floor}, tmp_path / f"{kind}.csv")(1, half)
    (semantic,), (albedo,) = (record.read(tmp_path / f"{kind}.csv") for kind in ("semantic", "albedo"))
    assert semantic["own_accuracy"] == 0.25 and "own_relative" not in semantic
    assert albedo.keys() == {"step", "own_rms"} and albedo["own_rms"] == semantic["own_rms"] > 0.1


def test_tasks_are_trained_on_all_renderers_that_have_their_maps() -> None:
    streams = {"own": (*PICTURES, "masked_rgb", "filled_rgb"), **{kind: each.streams for kind, each in OTHERS.items()}}
    seen = {kind: adapters.Seen(*({name: torch.zeros(1) for name in names},) * 2) for kind, names in streams.items()}
    data = adapters.Data(Path(), seen, Blocks(*[torch.zeros(1)] * 3))
    of_all = {name for name in TASKS if [*data.of(TASKS_OF[name])] == ["own", "crowded", "foreign"]}
    assert of_all == {"rgb_to_depth", "rgb_to_normal", "rgb_to_albedo"}
    assert all([*data.of(TASKS_OF[name])] == ["own", "crowded"] for name in {*TASKS} - of_all)


def test_what_cannot_be_made_is_reported_before_anything_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--stages depth: .* stages are vae, base, rgb_to_depth"):
        making.chosen(("depth",))
    with pytest.raises(ValueError, match=r"no base .* --stages base"):
        making.make(tmp_path, making.chosen(("rgb_to_depth",)), 1)
    with pytest.raises(ValueError, match=r"python -m lab\.micro make"):
        evaluating.evaluate(tmp_path, evaluating.Choice(tmp_path / "weights"))
    assert not any(tmp_path.iterdir())


def test_every_stage_has_its_curve(made: Path) -> None:
    drawn = (made / making.CURVES).read_text(encoding="utf-8")
    assert all(f"{name}: " in drawn for name in STAGES)


def test_the_other_tasks_begin_with_the_first_ones_adapters(made: Path) -> None:
    first = saves(adapters.output_of(made, FIRST, made / graphs.BASE))[-1] / FIRST
    for task in TASKS[1:]:
        begun = adapters.output_of(made, task, made / graphs.BASE) / "init"
        for ours, theirs in zip(TASKS_OF[task].streams, TASKS_OF[FIRST].streams, strict=True):
            assert (begun / ours / PUBLISHED).read_bytes() == (first / theirs / PUBLISHED).read_bytes()
    assert not (first.parents[1] / "init").exists()


def test_a_task_that_begun_weights_lack_begins_with_their_first_task(tmp_path: Path) -> None:
    """Weights from before a task was added to the recipe: the new task still starts from adapters that see rooms."""
    begun, task = tmp_path / BEGUN / graphs.ADAPTERS, TASKS_OF["rgb_to_semantic"]
    shutil.copytree(graphs.WEIGHTS / graphs.ADAPTERS / FIRST, begun / FIRST)
    init = Path(adapters.begun_from(task, tmp_path / "output", tmp_path / "first"))
    for ours, theirs in zip(task.streams, TASKS_OF[FIRST].streams, strict=True):
        assert (init / ours / PUBLISHED).read_bytes() == (begun / FIRST / theirs / PUBLISHED).read_bytes()
    assert adapters.begun_from(TASKS_OF[FIRST], tmp_path / "first", tmp_path / "first") == str(begun / FIRST)


def test_weights_without_saves_are_gone_on_with(made: Path, tmp_path: Path) -> None:
    weights, task = made / "weights", TASKS[1]
    for _ in range(2):
        making.begin(weights, tmp_path)  # the second time as after a stop
    for name in (making.PICTURES_KEPT, *(f"{kind}.npz" for kind in OTHERS)):
        shutil.copyfile(made / name, tmp_path / name)
    making.make(tmp_path, making.chosen((task,), 1, 1e-3), torch.get_num_threads())
    for kept in (path.relative_to(weights) for path in weights.rglob("*") if path.is_file() and task not in path.parts):
        assert equal(*(load_file(folder / kept) for folder in (weights, tmp_path / "weights"))), kept
    (newest,) = saves(adapters.output_of(tmp_path, task, tmp_path / graphs.BASE))
    with safe_open(newest / STATE, "pt") as state:
        run = json.loads(state.metadata()[RUN_KEY])
    assert run["config"]["init"] == str(tmp_path / BEGUN / graphs.ADAPTERS / task)
    assert run["config"]["learning_rate"] == 1e-3


def test_what_cannot_be_resumed_is_reported(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the folder already has a base"):
        making.begin(made / "weights", made)
    with pytest.raises(ValueError, match="expected the weights that `make` writes"):
        making.begin(tmp_path, tmp_path / "new")
    assert not any(tmp_path.iterdir())
    making.begin(made / "weights", tmp_path)
    with pytest.raises(ValueError, match="came without its optimiser's state"):
        making.make(tmp_path, making.chosen(("base",)), 1)


def test_long_curves_are_means_of_neighbours() -> None:
    drawn = making.thinned([(float(step), float(step % 4)) for step in range(1, 4 * making.SHOWN + 1)])
    assert drawn == [(4.0 * number, 1.5) for number in range(1, making.SHOWN + 1)]


def test_everything_is_small_enough_to_be_kept(made: Path) -> None:
    files = [path for path in (made / "weights").rglob("*") if path.is_file()]
    assert len(files) == 3 + 2 * len(TASKS)
    assert sum(path.stat().st_size for path in files) <= LARGEST


def test_the_base_has_the_names_of_flux_dev(made: Path) -> None:
    names = load_file(made / "weights" / graphs.BASE).keys()
    wanted = {"img_in.weight", "guidance_in.in_layer.weight", "double_blocks.1.img_attn.norm.query_norm.scale"}
    assert wanted <= names and not any(name.endswith("_norm.weight") for name in names)


@pytest.mark.parametrize("task", TASKS)
def test_a_real_comfyui_perceives_with_it(made: Path, server: Server, task: str) -> None:
    graphs.install(server.base / "models", made / "weights")
    image = server.upload(evaluating.given(task, made / "rooms", "000001"), f"micro_{task}.png")
    found = graphs.perceived(server, graphs.micro_graph(task, image, 1), made / "perceived", "000001")
    wanted = ("rgb",) if task == evaluating.GENERATED else PICTURES[task.removeprefix("rgb_to_")]
    assert sorted(found) == sorted(wanted)
    for kind, path in found.items():
        assert layout.read(path, kind).shape[:2] == (HEIGHT, 2 * HEIGHT)


def test_image_to_panorama_is_given_a_view_where_it_lay() -> None:
    angle = np.linspace(0, 2 * np.pi, 2 * HEIGHT, endpoint=False)
    smooth = 0.5 + 0.4 * np.sin(angle)[None, :, None] * np.cos(angle[:HEIGHT] / 2)[:, None, None] * [1, 0.5, -1]
    panorama = (smooth[None] * 255).round().astype(np.uint8)
    off = np.abs(pictures.views_on_grey(panorama).astype(int) - panorama).max(-1)[0] / 255
    middle = off[HEIGHT // 2 - 8 : HEIGHT // 2 + 8, HEIGHT - 12 : HEIGHT + 12]
    assert middle.max() < 0.06 and np.median(off) > 0.06


def test_image_to_panorama_is_given_what_workflows_hide() -> None:
    """In turns of four rooms: a view, the shapes of the room before, a view, a rectangle; the rest is as it was."""
    random = np.random.default_rng(0)
    rgb = random.integers(0, 100, (8, HEIGHT, 2 * HEIGHT, 3), np.uint8)
    semantic = np.full_like(rgb, dict(CLASSES)["floor"])
    for number, one in enumerate(semantic):
        one[20:30, [*range(5 * number, 5 * number + 4), -1]] = dict(CLASSES)["chair"]
        one[40:50] = dict(CLASSES)["window"]
    given = pictures.partly_hidden({"rgb": rgb, "semantic": semantic})
    assert (given[::2] == pictures.views_on_grey(rgb)[::2]).all()
    hidden = (given == pictures.GREY).all(-1)
    assert (given[1::2] == np.where(hidden[..., None], pictures.GREY, rgb)[1::2]).all()
    for number in (1, 5):
        chairs = (semantic[number - 1] == dict(CLASSES)["chair"]).all(-1)
        near = sum(np.roll(chairs, step, axis) for step in (-1, 1) for axis in (0, 1)) + chairs
        assert (hidden[number] == (near > 0)).all()
    for flags in hidden[3::4]:
        rows, columns = flags.any(1), flags.any(0)
        assert (flags == rows[:, None] & columns).all()
        assert HEIGHT // 4 <= rows.sum() <= HEIGHT * 3 // 4 and HEIGHT // 4 <= columns.sum() <= HEIGHT
        assert (columns != np.roll(columns, 1)).sum() == (rows != np.roll(rows, 1)).sum() == 2


def test_a_room_seen_otherwise_is_a_true_room() -> None:
    rays = ((camera_rays(HEIGHT, 2 * HEIGHT)[None] * 0.5 + 0.5) * 255).round().byte().numpy()
    shown = np.random.default_rng(0).integers(0, 256, rays.shape, np.uint8)
    others = list(pictures.otherwise({"rgb": shown, "normal": rays}))
    for other in others:
        off = np.abs(other["normal"].astype(int) - rays)
        assert off.max() <= 1, "directions are the same in every panorama"
    wanted = [np.roll(shown, quarters * HEIGHT // 2, 2) for quarters in range(4)]
    wanted = [picture for turned in wanted for picture in (turned, np.flip(turned, 2))][1:]
    assert all((other["rgb"] == picture).all() for other, picture in zip(others, wanted, strict=True))


def test_generated_panoramas_are_judged_in_two_parts(tmp_path: Path) -> None:
    true = np.full((HEIGHT, 2 * HEIGHT, 3), 0.5)
    made = true + 0.1
    made[:, :4] += 0.2
    for folder, values in (("true", true), ("made", made)):
        layout.write(layout.place(tmp_path / folder, "rgb", "a"), "rgb", values)
    seen, rest = evaluating.completed(tmp_path / "made", tmp_path / "true", ["a"])
    assert seen == pytest.approx(20, abs=0.3) and rest == pytest.approx(18.9, abs=0.4)
