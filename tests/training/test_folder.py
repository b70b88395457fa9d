"""From a folder to adapters that the loader, the converter and Diffusers accept; and errors in folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import safetensors
import torch
from comfyui_omnix import converters
from comfyui_omnix.lab.host import tiny
from comfyui_omnix.mapfiles import layout
from comfyui_omnix.mapfiles.errors import MapError
from comfyui_omnix.omnix.runtime.adapter import known_tasks, task_files
from comfyui_omnix.omnix.runtime.tasks import Task
from comfyui_omnix.training import data, pictures, saving
from comfyui_omnix.training.__main__ import main
from comfyui_omnix.training.command import from_file
from comfyui_omnix.training.config import Config, TrainingError, plans
from comfyui_omnix.training.host import HostBase
from comfyui_omnix.training.record import read
from comfyui_omnix.training.run import lines, order, run
from folders import small_run, write_rooms
from made_up import SMALL
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
Shop = tuple[Path, Config]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A folder of rooms and a configuration that trains shading on them."""
    root = tmp_path_factory.mktemp("training")
    often = {"save_every": 2, "sample_every": 2, "sample_steps": 2}
    return root, small_run(root, alpha=8.0, steps=4, save_dtype="float32", held_out=1, **often)


@pytest.fixture(scope="module")
def trained(shop: Shop) -> Path:
    """The last save of a run."""
    _, config = shop
    (result,) = run(config, show=False)
    assert result.step == 4 and not result.stopped
    return result.folder


def test_a_run_leaves_saves_sheets_curves_and_latents(shop: Shop, trained: Path) -> None:
    output = trained.parent
    assert [path.name for path in saving.saves(output)] == ["step-000002", "step-000004"]
    for step in (0, 2, 4):
        with Image.open(output / "samples" / f"step-{step:06d}.png") as sheet:
            assert sheet.width > 3 * 300
    assert [row["step"] for row in read(output / "loss.csv")] == [1, 2, 3, 4]
    figures = read(output / "figures.csv")
    assert [row["step"] for row in figures] == [0, 2, 4] and {"shading psnr", "shading ssim"} <= set(figures[0])
    assert all("<polyline" in (output / name).read_text() for name in ("loss.svg", "figures.svg"))
    assert len(list((output / "latents").iterdir())) == 2 * 4 + 1


def test_the_vae_is_not_asked_again(shop: Shop, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents and prompts are on the disk; a changed picture is encoded again, and the run can't be resumed with it."""
    _, config = shop
    asked: list[tuple[int, ...]] = []
    encode = HostBase.encode
    monkeypatch.setattr(HostBase, "encode", lambda base, image: asked.append(image.shape) or encode(base, image))
    run(config, resume=True, show=False)
    assert not asked
    path = layout.find(Path(config.data), "rgb", "0002")
    before = path.read_bytes()
    layout.write(path, "rgb", layout.read(path, "rgb") * 0.5)
    try:
        with pytest.raises(TrainingError, match="have changed since this save"):
            run(replace(config, steps=6), resume=True, show=False)
    finally:
        path.write_bytes(before)
    assert len(asked) == 1


def test_trained_files_load_in_the_loader(trained: Path) -> None:
    names = [path.relative_to(trained).as_posix() for path in sorted(trained.rglob("*.safetensors"))]
    known = known_tasks(names, lambda name: str(trained / name))
    assert known["rgb_to_shading"] == Task("rgb_to_shading", ("rgb", "shading"))
    found = task_files(lambda name: str(trained / name) if name in names else None, ".", known["rgb_to_shading"])
    assert [file.name for file in found] == ["rgb.safetensors", "shading.safetensors"]


@pytest.mark.parametrize("stream", ["rgb", "shading"])
def test_trained_files_round_trip_in_the_converter(trained: Path, stream: str, tmp_path: Path) -> None:
    original = trained / "rgb_to_shading" / stream / saving.PUBLISHED
    converted = trained / "rgb_to_shading" / f"{stream}.safetensors"
    report = converters.split(converted, tmp_path / "split.safetensors")
    assert report.exact and report.identical
    assert (tmp_path / "split.safetensors").read_bytes() == original.read_bytes()
    assert all(layer.exact for layer in converters.verify(original, converted))
    assert len(load_file(original)) == 2 * (6 * SMALL.double + 3 * SMALL.single)


def test_trained_files_load_in_diffusers(trained: Path) -> None:
    """Every reader gets exactly the trained deltas, because alpha is folded."""
    state = load_file(trained / "rgb_to_shading" / "shading" / saving.PUBLISHED)
    model = oracle.transformer(tiny.flux(SMALL))
    model.load_lora_adapter(dict(state), prefix="transformer", adapter_name="trained")
    layer = dict(model.named_modules())["transformer_blocks.0.attn.to_q"]
    key = "transformer.transformer_blocks.0.attn.to_q"
    want = state[f"{key}.lora_B.weight"] @ state[f"{key}.lora_A.weight"]
    assert want.norm() > 0
    assert torch.allclose(layer.get_delta_weight("trained"), want)
    factors = load_file(trained / saving.STATE)
    down, up = (factors[f"factor.1.double_blocks/0/img_attn/qkv.{name}"] for name in ("down", "up_0"))
    assert torch.allclose(want, 2.0 * up @ down[:4])  # alpha / rank = 8 / 4


def test_python_m_training_in_a_clone(
    shop: Shop, comfyui: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command as people call it, with a TOML file; flags win; --dry-run writes nothing."""
    _, config = shop
    lines = {name: getattr(config, name) for name in ("data", "target", "size", "rank", "model", "vae", "conditioning")}
    text = "\n".join(f"{name} = {json.dumps(value)}" for name, value in lines.items())
    (tmp_path / "run.toml").write_text(f'{text}\noutput = "{tmp_path / "out"}"\nsteps = 50\n')
    command = [sys.executable, "-m", "training", str(tmp_path / "run.toml"), "--steps", "1", "--held-out", "0"]
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui)}
    dry = subprocess.run([*command, "--dry-run"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "rgb_to_shading: rgb -> shading" in dry.stdout and "4 trained on, 0 held out" in dry.stdout
    assert "2 x 12 layers of rank 4" in dry.stdout and not (tmp_path / "out").exists()
    done = subprocess.run([*command, "--device", "cpu"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "done after step 1" in done.stdout and (tmp_path / "out" / "step-000001" / saving.STATE).is_file()
    assert main([*command[3:], "--device", "cpu"]) == 1  # once more, without waiting for another Python
    assert capsys.readouterr().err.strip().endswith("or use another --output.")


def test_no_comfyui(shop: Shop, tmp_path: Path) -> None:
    _, config = shop
    environment = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    given = ["--data", config.data, "--target", "shading", "--output", str(tmp_path), "--held-out", "0"]
    command = [sys.executable, "-m", "training", *given]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "set COMFYUI_PATH or --comfyui to the folder of your ComfyUI" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_gpu(shop: Shop, comfyui: Path, tmp_path: Path) -> None:
    """The host asks torch for a GPU while it is imported, and torch says in a traceback that there is none."""
    if torch.cuda.is_available() or not torch.backends.cuda.is_built():
        pytest.skip("needs a torch that is built for GPUs, and no GPU")
    _, config = shop
    given = ["--data", config.data, "--target", "shading", "--output", str(tmp_path), "--held-out", "0"]
    command = [sys.executable, "-m", "training", *given]
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "ComfyUI found no GPU" in done.stderr and "--device cpu" in done.stderr


def test_several_targets_several_conditions_and_channels(shop: Shop) -> None:
    _, config = shop
    given = replace(config, conditions=("rgb", "camray"), target=("depth", "two=shading+shading"))
    first, second = plans(given)
    assert first.task == Task("rgb_camray_to_depth", ("rgb", "camray", "depth"))
    assert second.task.streams == ("rgb", "camray", "two")
    sources = data.find(given, second)
    packed = pictures.picture(given, second.streams[2], sources.files["0001", "two"])
    assert torch.equal(packed[..., 0], packed[..., 1]) and not packed[..., 2].any()
    rays = pictures.picture(given, second.streams[1], sources.files["0001", "camray"])
    assert rays.shape == (64, 128, 3) and abs(float(rays[32, 64, 0]) - 1) < 0.01


@pytest.mark.parametrize(
    ("conditions", "target", "turned"),
    [
        (("rgb",), "depth", True),
        (("rgb",), "normal", False),
        (("rgb", "camray"), "normal", True),
        (("normal",), "shading", False),
        (("rgb",), "both=normal", False),
    ],
)
def test_directions_turn_only_with_their_rays(
    shop: Shop, tmp_path: Path, conditions: tuple[str, ...], target: str, turned: bool
) -> None:
    """A normal map that is rolled but not turned shows walls ahead as if they faced sideways."""
    _, config = shop
    rooms = shutil.copytree(config.data, tmp_path / "rooms")
    for path in sorted((rooms / "shading").iterdir()):
        facing = np.broadcast_to(np.array([1, 0, 0], np.float32), (64, 128, 3))
        layout.write(layout.place(rooms, "normal", path.stem), "normal", facing)
    told = {"data": str(rooms), "output": str(tmp_path / "out"), "steps": 1, "held_out": 0}
    given = replace(config, conditions=conditions, target=(target,), **told)
    (plan,) = plans(given)
    assert any("roll            on" in line for line in lines(given, order(given, plan), None)) == turned
    (result,) = run(given, show=False)
    assert rolled(result.folder) == turned


def rolled(save: Path) -> bool:
    """Return whether a save's run rolled its streams."""
    with safetensors.safe_open(save / saving.STATE, "pt") as file:
        return json.loads(file.metadata()[saving.RUN_KEY])["config"]["roll"]


def test_depth_is_relative_to_the_farthest(shop: Shop) -> None:
    _, config = shop
    given = replace(config, target=("depth",))
    (plan,) = plans(given)
    files = data.find(given, plan).files["0001", "depth"]
    shown, metres = pictures.picture(given, plan.streams[1], files)[..., 0], layout.read(files[0], "depth")
    assert torch.allclose(shown, torch.from_numpy(metres / metres.max()), atol=1e-6)
    ranged = pictures.picture(replace(given, range=("depth=1:3",)), plan.streams[1], files)[..., 0]
    assert torch.allclose(ranged, torch.from_numpy(((metres - 1) / 2).clip(0, 1)), atol=1e-6)


@pytest.mark.parametrize("value", [1e10, 65504.0, np.inf, np.nan, 0.0, 1000.0])
@pytest.mark.parametrize("folder", ["depth", "far"])
def test_sky_is_farthest_and_the_room_keeps_its_range(shop: Shop, tmp_path: Path, value: float, folder: str) -> None:
    """Values that renderers write where nothing is, a far plane too: with them as distances the room would be black."""
    _, config = shop
    rooms = write_rooms(tmp_path / "rooms", 1)
    metres = layout.read(rooms / "depth" / "0000.exr", "depth")
    metres[:9] = value
    layout.save(rooms / folder / "0000.exr", metres)
    given = replace(config, data=str(rooms), target=(folder,), range=(f"{folder}=max",))
    (plan,) = plans(given)
    files = data.find(given, plan).files["0000", folder]
    shown = pictures.picture(given, plan.streams[1], files)[..., 0].numpy()
    assert (shown[:9] == 1).all()
    np.testing.assert_allclose(shown[9:], metres[9:] / metres[9:].max(), atol=1e-6)
    if folder == "depth":
        ranged = pictures.picture(replace(given, range=("depth=1:3",)), plan.streams[1], files)[..., 0].numpy()
        np.testing.assert_allclose(
            ranged, np.concatenate([np.ones((9, 128)), (metres[9:] - 1) / 2]).clip(0, 1), atol=1e-6
        )


BAD: dict[str, tuple[Any, str]] = {
    "missing": (lambda folder: (folder / "shading" / "0001.png").unlink(), r"got none for 1 \(0001\); add them"),
    "no panorama": (
        lambda folder: layout.write(folder / "shading" / "0001.png", "roughness", np.zeros((64, 100), np.float32)),
        "0001.png: expected a panorama twice as wide as high, got 100x64",
    ),
    "no folder": (
        lambda folder: (folder / "shading").rename(folder / "shadow"),
        "no folder shading, only depth, rgb, shadow",
    ),
    "twice": (
        lambda folder: (folder / "shading" / "0001.webp").write_bytes((folder / "shading" / "0001.png").read_bytes()),
        "keep one file of a name",
    ),
    "out of range": (
        lambda folder: (
            layout.write(folder / "shading" / "0001.exr", "depth", np.full((64, 128), 7, np.float32))
            or (folder / "shading" / "0001.png").unlink()
        ),
        "set with --range shading=LOW:HIGH",
    ),
    "damaged": (
        lambda folder: (folder / "shading" / "0001.png").write_bytes(
            (folder / "shading" / "0001.png").read_bytes()[:99]
        ),
        "0001.png: the picture is damaged",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_folders(shop: Shop, tmp_path: Path, name: str) -> None:
    _, config = shop
    spoil, words = BAD[name]
    spoil(write_rooms(tmp_path / "rooms", 2))
    with pytest.raises((TrainingError, MapError), match=words):
        run(replace(config, data=str(tmp_path / "rooms"), output=str(tmp_path / "out"), held_out=0), show=False)
    assert not list((tmp_path / "out").glob("step-*"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": "1000x512"}, "expected a panorama's width x height"),
        ({"size": "72x36"}, "multiple of 16"),
        ({"target": ()}, "Nothing to learn"),
        ({"target": ("rgb",)}, "must have different names"),
        ({"task": "rgb_to_depth"}, "OmniX has a task rgb_to_depth"),
        ({"rank": 0}, "rank is 0; it must be at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"modules": ("attn.to_x",)}, "it must be some of attn.to_q"),
        ({"held_out": 4}, "leaves nothing to train on"),
        ({"range": ("shading=3:1",)}, "expected FOLDER=LOW:HIGH"),
        ({"range": ("shadnig=0:1",)}, "--range shadnig=0:1: no stream reads a folder of this name"),
        ({"range": ("shading=0:1", "shading=0:2")}, "shading has two ranges"),
        ({"keep": -1}, "keep is -1; it must be 0 or more"),
        ({"model": ""}, "--model is missing"),
        ({"model": "gone.safetensors"}, "no such file, nor below ComfyUI's models/diffusion_models"),
        ({"conditioning": ""}, "--clip-l is missing"),
        ({"prompt": "a room"}, "contains only the prompt"),
        ({"data": "gone"}, "--data gone"),
        ({"output": ""}, "--output is missing"),
    ],
)
def test_bad_configurations(shop: Shop, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    _, config = shop
    changes = {"output": str(tmp_path), "held_out": 0, "data": str(Path(config.data)), **changes}
    with pytest.raises(TrainingError, match=words):
        run(replace(config, **changes), show=False)


def test_yaml_reads_a_number_without_a_point_as_one(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("learning_rate: 1e-4\nweight_decay: 5E-2\nclip: '2'\ntarget: shading\n")
    config = from_file(tmp_path / "run.yaml")
    assert (config.learning_rate, config.weight_decay, config.clip) == (1e-4, 5e-2, 2.0)
    (tmp_path / "run.yaml").write_text("learning_rate: 1e-4 or so\n")
    with pytest.raises(TrainingError, match="learning_rate is '1e-4 or so'; it must be a number"):
        from_file(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("run.yaml", "rank: 8\nsteps: 1\nrank: 16\n", "rank is set twice"),
        ("run.toml", "rank = 8\nrank = 16\n", r"run\.toml: .*correct the file"),
        ("run.toml", "[loss]\nmask = 'seen'\n", "there is no field loss; the fields are data"),
        ("run.yaml", "loss:\n  mask: seen\n", "there is no field loss; the fields are data"),
        ("run.yaml", "range: [depth=0:3]\nranks: 8\n", "there is no field ranks"),
        ("run.yaml", "range:\n  depth: '0:3'\n", "range is {'depth': '0:3'}; it must be a list of words"),
    ],
)
def test_a_file_with_names_that_are_unknown_or_set_twice(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TrainingError, match=words):
        from_file(tmp_path / name)


@pytest.mark.parametrize(("name", "text"), [("run.toml", "rank = 8"), ("run.yaml", "rank: 8")])
def test_a_file_as_windows_saves_it(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8-sig")
    assert from_file(tmp_path / name).rank == 8
    (tmp_path / name).write_text(text, "utf-16")
    with pytest.raises(ValueError, match=rf"{name}: expected text in UTF-8"):
        from_file(tmp_path / name)


def test_every_path_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("USERPROFILE", "/home/somebody")
    names = ("data", "output", "model", "vae", "clip_l", "t5", "conditioning", "comfyui", "init")
    config = Config(**{name: f"~/{name}" for name in names})  # type: ignore[arg-type]
    assert [Path(getattr(config, name)) for name in names] == [Path("/home/somebody", name) for name in names]


@pytest.mark.parametrize(("name", "package"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_an_optimiser_without_its_package(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    _, config = shop
    for module in (package, f"{package}.optim"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TrainingError, match=f"pip install {package}, or use adamw"):
        run(replace(config, optimizer=name, output=str(tmp_path), held_out=0), show=False)


@pytest.mark.parametrize("kind", ["vae", "unet"])
def test_a_base_that_is_no_flux(shop: Shop, tmp_path: Path, kind: str) -> None:
    _root, config = shop
    other = Path(config.vae)
    if kind == "unet":  # FLUX without its guidance and vector is another model
        state = {name: tensor for name, tensor in tiny.flux(SMALL).items() if "text_embedder" not in name}
        other = tiny.save(state, tmp_path / "other.safetensors")
    with pytest.raises(TrainingError, match=r"FLUX\.1-dev"):
        run(replace(config, model=str(other), output=str(tmp_path / "out"), held_out=0), show=False)


@pytest.mark.parametrize(("size", "noted"), [(1.0, False), (0.3611 / 1.5305, True)])
def test_another_vae_of_the_same_shape_is_noted(
    shop: Shop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    size: float,
    noted: bool,
) -> None:
    """Latents as large as FLUX.1's, and as those of Stable Diffusion 3's VAE when the host scales them for FLUX.1."""
    _root, config = shop
    monkeypatch.setattr(HostBase, "encode", lambda _self, image: size * torch.randn(1, 16, *_latent(image)))
    run(replace(config, output=str(tmp_path), steps=1, held_out=0, sample_every=0), show=False)
    assert ("check that this is not the VAE of Stable Diffusion 3" in caplog.text) == noted


def _latent(image: torch.Tensor) -> tuple[int, int]:
    return image.shape[1] // 8, image.shape[2] // 8
